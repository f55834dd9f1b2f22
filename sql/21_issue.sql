-- Makes a retry of issue_api_key safe. Apart from the key, so that after the key is deleted its request
-- is still known.
CREATE TABLE api_key_internal.issue_requests (
    caller text NOT NULL,
    request_id text NOT NULL,
    key_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (caller, request_id)
);
COMMENT ON TABLE api_key_internal.issue_requests IS 'The p_request_id of issued keys, by caller.';
SELECT pg_catalog.pg_extension_config_dump('api_key_internal.issue_requests', '');

-- In Rust (src/pg/keys.rs): so the plaintext comes out once, and goes nowhere else.
CREATE FUNCTION api_key_internal.mint(p_prefix text, p_key_id uuid) RETURNS jsonb
LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mint';
COMMENT ON FUNCTION api_key_internal.mint IS 'Returns {api_key, secret_hash}: the text of a key with a new secret, to be shown once, and its argon2id hash as a PHC string; NULL if there is no room to hash.';

CREATE FUNCTION api_key_internal.minted(p_key api_key_internal.keys) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_minted jsonb := api_key_internal.mint(p_key.key_prefix, p_key.key_id);
BEGIN
    IF v_minted IS NULL THEN
        PERFORM api_key_internal.refuse('NO_ROOM_TO_HASH');
    END IF;
    RETURN v_minted;
END
$$;
COMMENT ON FUNCTION api_key_internal.minted IS 'Calls mint, and raises 53400 if there is no room to hash.';

CREATE FUNCTION api_key_internal.active_keys(p_user_id uuid, p_tier text) RETURNS uuid[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ARRAY(
        SELECT key_id FROM api_key_internal.keys AS k
        WHERE user_id = p_user_id AND tier = p_tier
          AND api_key_internal.status(k) IN ('active', 'not_yet_valid')
        ORDER BY created_at, key_id)
$$;
COMMENT ON FUNCTION api_key_internal.active_keys IS 'Returns a user''s active keys in a tier, including those that are not valid yet, oldest first.';

-- As the newest committed state has them, whatever the isolation level: a key that a REPEATABLE
-- READ snapshot cannot see still counts against the limit.
CREATE FUNCTION api_key_internal.count_active_keys_now(p_user_id uuid, p_tier text) RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'count_active_keys_now';
COMMENT ON FUNCTION api_key_internal.count_active_keys_now IS 'Counts active_keys under a snapshot of this moment.';

-- Not pg_advisory_xact_lock: whoever may call that could take the same lock, and hold it.
CREATE FUNCTION api_key_internal.lock_tier(p_user_id uuid, p_tier text) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'lock_tier';
COMMENT ON FUNCTION api_key_internal.lock_tier IS 'Lets one transaction at a time make room among a user''s keys in a tier.';

-- Makes room for one more active key of a user in a tier, or refuses. Callers that make a key
-- active call it first.
CREATE FUNCTION api_key_internal.make_room(p_user_id uuid, p_tier text, p_except uuid)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_tier api_key_internal.known_tiers;
    v_active uuid[];
    v_excess integer;
    v_key api_key_internal.keys;
BEGIN
    SELECT * INTO v_tier FROM api_key_internal.known_tiers WHERE name = p_tier;
    IF p_user_id IS NULL OR v_tier.max_active_keys IS NULL THEN
        RETURN;
    END IF;
    -- Held to the end of the transaction: two issues for one user and tier take turns.
    PERFORM api_key_internal.lock_tier(p_user_id, p_tier);
    v_active := api_key_internal.active_keys(p_user_id, p_tier);
    IF current_setting('transaction_isolation') NOT LIKE 'read %'
        AND cardinality(v_active) <> api_key_internal.count_active_keys_now(p_user_id, p_tier)
    THEN
        RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'could not serialize access due to concurrent issue',
            DETAIL = 'Another transaction changed the active keys of this user since this one began.',
            HINT = 'Try the transaction again.';
    END IF;
    v_active := array_remove(v_active, p_except);
    v_excess := cardinality(v_active) + 1 - v_tier.max_active_keys;
    IF v_excess > 0 AND v_tier.on_excess = 'reject' THEN
        PERFORM api_key_internal.refuse('TOO_MANY_ACTIVE_KEYS',
            format('max_active_keys of the tier is %s.', v_tier.max_active_keys));
    END IF;
    FOR v_key IN
        UPDATE api_key_internal.keys SET enabled = false, updated_at = clock_timestamp()
        WHERE key_id = ANY (v_active[1:greatest(v_excess, 0)])
        RETURNING *
    LOOP
        PERFORM api_key_internal.audit('updated', v_key.key_id, v_key.user_id, v_key.tenant_id,
            '{"enabled": [true, false], "cause": "tier limit"}');
    END LOOP;
END
$$;
COMMENT ON FUNCTION api_key_internal.make_room IS 'Keeps a user within the active keys that a tier allows.';

CREATE FUNCTION api_key_internal.issued(p_key api_key_internal.keys) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object(
        'success', true, 'key_id', p_key.key_id, 'key_prefix', p_key.key_prefix,
        'masked_key', api_key_internal.masked(p_key), 'name', p_key.name,
        'tier', p_key.tier, 'environment', p_key.environment, 'kind', p_key.kind,
        'scopes', p_key.scopes, 'tenant_id', p_key.tenant_id, 'resource_id', p_key.resource_id,
        'expires_at', p_key.expires_at, 'created_at', p_key.created_at)
$$;
COMMENT ON FUNCTION api_key_internal.issued IS 'Returns the answer of issue_api_key for a key, without its text.';

CREATE FUNCTION api_key.issue_api_key(
    p_user_id api_key.id = NULL,
    p_name text = 'API Key',
    p_tier text = 'free',
    p_description text = NULL,
    p_scopes text[] = '{}',
    p_tenant_id api_key.id = NULL,
    p_resource_id text = NULL,
    p_environment text = 'live',
    p_kind text = 'secret',
    p_prefix text = NULL,
    p_expires_at timestamptz = NULL,
    p_not_before timestamptz = NULL,
    p_allowed_ips inet[] = NULL,
    p_metadata jsonb = '{}',
    p_request_id text = NULL)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_caller api_key_internal.caller := api_key_internal.caller();
    v_key api_key_internal.keys;
    v_minted jsonb;
    v_requester text;
    v_replayed api_key_internal.issue_requests;
BEGIN
    v_key.user_id := coalesce(api_key_internal.subject(v_caller, p_user_id), v_caller.user_id);
    v_key.tenant_id := p_tenant_id;
    IF NOT v_caller.administrator THEN
        IF p_tenant_id <> v_caller.tenant_id OR p_tenant_id IS NOT NULL AND v_caller.tenant_id IS NULL
        THEN
            RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'not allowed for another tenant',
                DETAIL = 'p_tenant_id differs from the "tenant_id" of the request.',
                HINT = 'Leave p_tenant_id out, or call as the service role.';
        END IF;
        v_key.tenant_id := v_caller.tenant_id;
    END IF;

    IF p_request_id = '' OR length(p_request_id) > 200 THEN
        PERFORM api_key_internal.refuse_argument('p_request_id', 'It is empty or longer than 200 characters.',
            'Pass a UUID made for this request.');
    ELSIF p_request_id IS NOT NULL THEN
        v_requester := coalesce(v_caller.user_id::text, 'role ' || v_caller.role_name);
        v_key.key_id := gen_random_uuid();
        -- Waits for a concurrent first try to commit or to abort.
        INSERT INTO api_key_internal.issue_requests (caller, request_id, key_id)
        VALUES (v_requester, p_request_id, v_key.key_id)
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            SELECT * INTO v_replayed FROM api_key_internal.issue_requests
            WHERE caller = v_requester AND request_id = p_request_id;
            SELECT * INTO v_key FROM api_key_internal.keys WHERE key_id = v_replayed.key_id;
            RETURN CASE WHEN FOUND THEN api_key_internal.issued(v_key)
                        ELSE jsonb_build_object('success', true, 'key_id', v_replayed.key_id) END
                || jsonb_build_object('replayed', true);
        END IF;
    END IF;

    v_key.key_id := coalesce(v_key.key_id, gen_random_uuid());
    v_key.name := p_name;
    v_key.tier := p_tier;
    v_key.environment := p_environment;
    v_key.kind := p_kind;
    v_key.key_prefix := p_prefix;
    v_key.description := p_description;
    v_key.resource_id := p_resource_id;
    v_key.expires_at := p_expires_at;
    v_key.not_before := p_not_before;
    v_key.allowed_ips := p_allowed_ips;
    v_key.metadata := p_metadata;
    v_key := api_key_internal.completed_key(v_key);
    PERFORM api_key_internal.check_key(v_key);
    PERFORM api_key_internal.check_expiry(v_key.expires_at);
    PERFORM api_key_internal.check_tier(v_key.tier, v_caller);
    v_key.scopes := api_key_internal.checked_scopes(coalesce(p_scopes, '{}'), v_caller);
    PERFORM api_key_internal.make_room(v_key.user_id, v_key.tier, NULL);

    v_minted := api_key_internal.minted(v_key);
    v_key.secret_hash := v_minted ->> 'secret_hash';
    INSERT INTO api_key_internal.keys VALUES (v_key.*);
    PERFORM api_key_internal.audit('issued', v_key.key_id, v_key.user_id, v_key.tenant_id,
        api_key_internal.issued(v_key)
            - '{success,key_id,tenant_id,masked_key,created_at}'::text[]);
    RETURN api_key_internal.issued(v_key) || (v_minted - 'secret_hash');
END
$$;
COMMENT ON FUNCTION api_key.issue_api_key IS
$$Issues a key. The answer holds the text of the key as api_key, which is never shown again.

p_user_id: the owner of the key; NULL for the caller (the claim "sub" of the request).
p_tier: a tier made by define_tier, or free.
p_scopes: up to 256 of the forms resource:action, resource:* and admin.
p_tenant_id: the tenant of the key; NULL for the caller's.
p_resource_id: the resource that the key is bound to.
p_environment: live or test.
p_kind: secret or publishable.
p_prefix: replaces sk_live_ and the like; it must match ^[a-z][a-z0-9_]{0,30}_$
p_expires_at, p_not_before: limit when the key is valid.
p_allowed_ips: addresses and networks from which the key may be used; NULL for any.
p_metadata: a JSON object that verify_api_key returns.
p_request_id: makes a retry safe. A second call by the same caller with the same id makes no key, and
answers with replayed, and without api_key.

Result: {success, api_key, key_id, key_prefix, masked_key, name, tier, environment, kind, scopes, tenant_id, resource_id, expires_at, created_at}.
Errors: 22023 bad argument, 42501 for another user or tenant or with more rights than the caller's, 53400 too
many active keys or no room to hash.$$;
