CREATE FUNCTION api_key.update_api_key(p_key_id api_key.id, p_changes jsonb)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_caller api_key_internal.caller := api_key_internal.caller();
    v_old api_key_internal.keys := api_key_internal.locked_key(p_key_id, v_caller);
    v_new api_key_internal.keys := v_old;
    v_field text;
    v_value jsonb;
    v_type text;
    v_details jsonb;
BEGIN
    PERFORM api_key_internal.check_grantable(v_old.scopes, v_caller);
    IF p_changes IS NULL OR jsonb_typeof(p_changes) <> 'object' THEN
        PERFORM api_key_internal.refuse_argument('p_changes', 'It is not a JSON object.',
            'Pass only the fields that change, such as {"name": "CI"}.');
    END IF;
    FOR v_field, v_value IN SELECT key, value FROM jsonb_each(p_changes) LOOP
        v_type := jsonb_typeof(v_value);
        IF NOT (CASE
            WHEN v_field IN ('name', 'tier') THEN v_type = 'string'
            WHEN v_field IN ('description', 'resource_id', 'expires_at', 'not_before')
                THEN v_type IN ('string', 'null')
            WHEN v_field = 'enabled' THEN v_type = 'boolean'
            WHEN v_field = 'metadata' THEN v_type = 'object'
            WHEN v_field = 'scopes' THEN v_type = 'array'
            WHEN v_field = 'allowed_ips' THEN v_type IN ('array', 'null')
            ELSE false
        END) OR v_type = 'array'
            AND jsonb_path_exists(v_value, 'strict $[*] ? (@.type() != "string")')
        THEN
            PERFORM api_key_internal.refuse_argument('p_changes',
                'It has a field that cannot be changed, or one with a value of the wrong type.',
                'Fields: name, tier (string); description, resource_id, expires_at, not_before (string or null); enabled (boolean); scopes (array of strings); allowed_ips (array of strings, or null); metadata (object).');
        END IF;
        BEGIN
            v_new := jsonb_populate_record(v_new, jsonb_build_object(v_field, v_value));
        EXCEPTION WHEN data_exception THEN
            PERFORM api_key_internal.refuse_argument(v_field, 'Its text cannot be read.',
                'Pass times as ISO 8601, addresses as 192.0.2.1 or 192.0.2.0/24.');
        END;
    END LOOP;

    PERFORM api_key_internal.check_key(v_new);
    -- One that stays as it is may have passed.
    IF v_new.expires_at IS DISTINCT FROM v_old.expires_at THEN
        PERFORM api_key_internal.check_expiry(v_new.expires_at);
    END IF;
    IF p_changes ? 'tier' THEN
        PERFORM api_key_internal.check_tier(v_new.tier, v_caller);
    END IF;
    IF p_changes ? 'scopes' THEN
        v_new.scopes := api_key_internal.checked_scopes(v_new.scopes, v_caller);
    END IF;
    IF api_key_internal.status(v_new) IN ('active', 'not_yet_valid')
        AND (v_new.tier <> v_old.tier
             OR api_key_internal.status(v_old) NOT IN ('active', 'not_yet_valid'))
    THEN
        PERFORM api_key_internal.make_room(v_new.user_id, v_new.tier, p_key_id);
    END IF;

    SELECT jsonb_object_agg(key, jsonb_build_array(before.value, after.value)) INTO v_details
    FROM jsonb_each(to_jsonb(v_old)) AS before
    JOIN jsonb_each(to_jsonb(v_new)) AS after USING (key)
    WHERE before.value <> after.value;
    IF v_details IS NOT NULL THEN
        v_new.updated_at := clock_timestamp();
        UPDATE api_key_internal.keys SET
            name = v_new.name, description = v_new.description, enabled = v_new.enabled,
            scopes = v_new.scopes, allowed_ips = v_new.allowed_ips, metadata = v_new.metadata,
            expires_at = v_new.expires_at, not_before = v_new.not_before, tier = v_new.tier,
            resource_id = v_new.resource_id, updated_at = v_new.updated_at
        WHERE key_id = p_key_id;
        PERFORM api_key_internal.audit('updated', p_key_id, v_new.user_id, v_new.tenant_id, v_details);
    END IF;
    RETURN (SELECT to_jsonb(k) FROM api_key_internal.listed_keys AS k WHERE k.key_id = p_key_id);
END
$$;
COMMENT ON FUNCTION api_key.update_api_key IS
$$Changes fields of a key.

p_changes: an object with only the fields to change, of name, description, enabled, scopes, allowed_ips,
metadata, expires_at, not_before, tier and resource_id. The value null clears a field.

Result: the row of the key, as listed.
Errors: 22023 unknown field or bad value, 42501 more rights than the caller's, 53400 too many active keys,
P0002 no such key.$$;

CREATE FUNCTION api_key.rotate_api_key(p_key_id api_key.id, p_grace interval = '24 hours')
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_caller api_key_internal.caller := api_key_internal.caller();
    v_key api_key_internal.keys := api_key_internal.locked_key(p_key_id, v_caller);
    v_grace interval := coalesce(p_grace, '24 hours');
    v_minted jsonb;
BEGIN
    PERFORM api_key_internal.check_grantable(v_key.scopes, v_caller);
    IF v_grace < interval '0' OR v_grace > interval '1 year' THEN
        PERFORM api_key_internal.refuse_argument('p_grace', 'It is negative or more than a year.',
            'Pass for how long the old secret stays good; 0 ends it at once.');
    ELSIF api_key_internal.status(v_key) IN ('revoked', 'expired') THEN
        PERFORM api_key_internal.refuse_argument('p_key_id', 'The key is revoked or has expired.',
            'Issue a new key, or give an expired one a new expires_at with update_api_key first.');
    END IF;
    v_minted := api_key_internal.minted(v_key);
    v_key.updated_at := clock_timestamp();
    v_key.secret_version := v_key.secret_version + 1;
    IF v_grace > interval '0' THEN
        -- A fast digest does not stay behind with the old secret.
        v_key.previous_secret_hash := CASE api_key_internal.hash_stage(v_key.secret_hash)
            WHEN 'bare' THEN api_key_internal.wrap_hash(v_key.secret_hash) ELSE v_key.secret_hash END;
        v_key.grace_expires_at := v_key.updated_at + v_grace;
    ELSE
        v_key.previous_secret_hash := NULL;
        v_key.grace_expires_at := NULL;
    END IF;
    UPDATE api_key_internal.keys SET
        secret_hash = v_minted ->> 'secret_hash',
        secret_version = v_key.secret_version,
        previous_secret_hash = v_key.previous_secret_hash,
        grace_expires_at = v_key.grace_expires_at, updated_at = v_key.updated_at
    WHERE key_id = p_key_id;
    PERFORM api_key_internal.audit('rotated', p_key_id, v_key.user_id, v_key.tenant_id,
        jsonb_build_object('secret_version', v_key.secret_version,
                           'grace_expires_at', v_key.grace_expires_at));
    RETURN api_key_internal.issued(v_key) || jsonb_build_object(
'api_key', v_minted ->> 'api_key', 'secret_version', v_key.secret_version,
        'grace_expires_at', v_key.grace_expires_at);
END
$$;
COMMENT ON FUNCTION api_key.rotate_api_key IS
$$Gives a key a new secret under the same id. The answer holds the new text as api_key, which is never shown again.

p_grace: how long the old secret keeps working, up to a year; 0 ends it at once. A key has one old secret at
a time: if you rotate again within the grace period, the older one stops working.

Result: as of issue_api_key, with secret_version and grace_expires_at.
Errors: 22023, 42501 a key with more scopes than the caller's, 53400 no room to hash, P0002 no such key.$$;
