CREATE FUNCTION api_key_internal.check_reason(p_reason text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF length(p_reason) > 500 THEN
        PERFORM api_key_internal.refuse_argument('p_reason', 'It is longer than 500 characters.',
            'Shorten it.');
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.check_reason IS 'Refuses a reason that is too long (22023).';

CREATE FUNCTION api_key_internal.revoke(p_key api_key_internal.keys, p_reason text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE api_key_internal.keys SET
        revoked_at = clock_timestamp(), revoked_reason = p_reason, updated_at = clock_timestamp(),
        previous_secret_hash = NULL, grace_expires_at = NULL
    WHERE key_id = p_key.key_id;
    PERFORM api_key_internal.audit('revoked', p_key.key_id, p_key.user_id, p_key.tenant_id,
        jsonb_build_object('reason', p_reason));
END
$$;
COMMENT ON FUNCTION api_key_internal.revoke IS 'Revokes a locked key, and its old secret with it.';

CREATE FUNCTION api_key.revoke_api_key(p_key_id api_key.id, p_reason text = NULL)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_key api_key_internal.keys := api_key_internal.locked_key(p_key_id, api_key_internal.caller(p_takes_away => true));
BEGIN
    PERFORM api_key_internal.check_reason(p_reason);
    IF v_key.revoked_at IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM api_key_internal.revoke(v_key, p_reason);
    RETURN true;
END
$$;
COMMENT ON FUNCTION api_key.revoke_api_key IS
$$Revokes a key permanently. Verify refuses it from the next statement on.

Result: true, or false if the key was revoked before.
Errors: 22023, P0002 no such key.$$;

CREATE FUNCTION api_key.revoke_api_keys(
    p_user_id api_key.id = NULL, p_tenant_id api_key.id = NULL, p_reason text = NULL)
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_caller api_key_internal.caller := api_key_internal.caller(p_takes_away => true);
    v_user_id uuid;
    v_key api_key_internal.keys;
    v_revoked integer := 0;
BEGIN
    PERFORM api_key_internal.check_reason(p_reason);
    IF p_user_id IS NULL AND p_tenant_id IS NULL THEN
        PERFORM api_key_internal.refuse_argument('arguments', 'Neither p_user_id nor p_tenant_id is given.',
            'Name the user or the tenant whose keys are to be revoked.');
    END IF;
    v_user_id := api_key_internal.subject(v_caller, p_user_id);
    FOR v_key IN
        SELECT * FROM api_key_internal.keys AS k
        WHERE (v_user_id IS NULL OR k.user_id = v_user_id)
          AND (p_tenant_id IS NULL OR k.tenant_id = p_tenant_id)
          AND api_key_internal.in_tenant(k.tenant_id, v_caller)
          AND k.revoked_at IS NULL
        -- In one order, so that two of these calls wait for each other and do not deadlock.
        ORDER BY k.key_id
        FOR UPDATE
    LOOP
        PERFORM api_key_internal.revoke(v_key, p_reason);
        v_revoked := v_revoked + 1;
    END LOOP;
    RETURN v_revoked;
END
$$;
COMMENT ON FUNCTION api_key.revoke_api_keys IS
$$Revokes all keys of a user, of a tenant, or of a user in a tenant.

Result: how many keys this call revoked.
Errors: 22023 if neither is given, 42501 for another user's keys.$$;

-- In Rust (src/pg/verify.rs).
CREATE FUNCTION api_key_internal.prove_possession(p_api_key text) RETURNS jsonb
LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'prove_possession';
COMMENT ON FUNCTION api_key_internal.prove_possession IS 'Returns {code, key_id, by_previous_secret}. The code is VALID for the text of a key, whatever its state.';

CREATE FUNCTION api_key.revoke_own_api_key(p_api_key text)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_proof jsonb;
    v_key api_key_internal.keys;
BEGIN
    v_proof := api_key_internal.prove_possession(coalesce(p_api_key, ''));
    IF v_proof ->> 'code' IN ('THROTTLED', 'OVERLOADED') THEN
        PERFORM api_key_internal.refuse('CHECK_' || (v_proof ->> 'code'));
    END IF;
    SELECT * INTO v_key FROM api_key_internal.keys
    WHERE key_id = (v_proof ->> 'key_id')::uuid AND revoked_at IS NULL
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- The row may have been rotated between the proof and the lock.
    v_proof := api_key_internal.prove_possession(p_api_key);
    IF v_proof ->> 'code' <> 'VALID' THEN
        RETURN false;
    ELSIF (v_proof ->> 'by_previous_secret')::boolean THEN
        UPDATE api_key_internal.keys SET
            previous_secret_hash = NULL, grace_expires_at = NULL, updated_at = clock_timestamp()
        WHERE key_id = v_key.key_id;
        PERFORM api_key_internal.audit('revoked', v_key.key_id, v_key.user_id, v_key.tenant_id,
            jsonb_build_object('reason', 'revoked by its holder', 'secret', 'previous'));
    ELSE
        PERFORM api_key_internal.revoke(v_key, 'revoked by its holder');
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION api_key.revoke_own_api_key IS
$$Revokes the key whose text you pass, so that anyone who finds a leaked key can disable it.

The old secret of a rotated key ends its own grace period only; the new secret keeps working.

Result: true, or false if the text is not that of a live key.
Errors: 53400 if the text cannot be checked now (THROTTLED, OVERLOADED).$$;

CREATE FUNCTION api_key_internal.delete(p_key api_key_internal.keys, p_details jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM api_key_internal.key_usage WHERE key_id = p_key.key_id;
    DELETE FROM api_key_internal.keys WHERE key_id = p_key.key_id;
    PERFORM api_key_internal.audit('deleted', p_key.key_id, p_key.user_id, p_key.tenant_id,
        jsonb_build_object('name', p_key.name, 'tier', p_key.tier) || p_details);
END
$$;
COMMENT ON FUNCTION api_key_internal.delete IS 'Deletes a locked key.';

CREATE FUNCTION api_key.delete_api_key(p_key_id api_key.id)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM api_key_internal.delete(
        api_key_internal.locked_key(p_key_id, api_key_internal.caller(p_takes_away => true)), '{}');
    RETURN true;
END
$$;
COMMENT ON FUNCTION api_key.delete_api_key IS
$$Deletes a key. Its rows in the audit log remain.

Result: true.
Errors: P0002 no such key.$$;

CREATE FUNCTION api_key.purge_api_keys(p_older_than interval = '30 days')
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_before timestamptz;
    v_key api_key_internal.keys;
    v_purged integer := 0;
BEGIN
    PERFORM api_key_internal.refuse_restricted();
    IF p_older_than IS NULL OR p_older_than < interval '0' THEN
        PERFORM api_key_internal.refuse_argument('p_older_than', 'It is negative or NULL.',
            'Pass for how long expired and revoked keys are kept, such as 30 days.');
    END IF;
    BEGIN
        v_before := clock_timestamp() - p_older_than;
    EXCEPTION WHEN datetime_field_overflow THEN
        RETURN 0;
    END;
    FOR v_key IN
        SELECT * FROM api_key_internal.keys AS k
        WHERE k.revoked_at < v_before OR k.expires_at < v_before
        ORDER BY k.key_id
        FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM api_key_internal.delete(v_key, '{"purged": true}');
        v_purged := v_purged + 1;
    END LOOP;
    DELETE FROM api_key_internal.audit_log
    WHERE event = 'refused' AND occurred_at < v_before;
    DELETE FROM api_key_internal.issue_requests AS r
    WHERE r.created_at < v_before
      AND NOT EXISTS (SELECT FROM api_key_internal.keys AS k WHERE k.key_id = r.key_id);
    RETURN v_purged;
END
$$;
COMMENT ON FUNCTION api_key.purge_api_keys IS
$$Deletes keys that expired or were revoked longer ago than p_older_than.

It also deletes the audit log's rows about refused verifies, and the request ids of deleted keys, if they are
older than that.

Result: how many keys it deleted.
Errors: 22023.$$;
