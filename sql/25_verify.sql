-- In Rust (src/pg/verify.rs), not SECURITY DEFINER: the row is read by index scan, without the
-- caller's privileges, and nothing else is.
CREATE FUNCTION api_key.verify_api_key(
    p_api_key text, p_required_scopes text[] = NULL, p_client_ip inet = NULL,
    p_resource_id text = NULL)
RETURNS jsonb
LANGUAGE c STABLE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'verify_api_key';
COMMENT ON FUNCTION api_key.verify_api_key IS
$$Verifies a key. The answer is an object, which every language takes for true: test its member valid, or code.

It never raises an error because the answer is no. If your code tests the answer itself, call
verify_api_key_row, which returns no row for no.

p_required_scopes: scopes that the key must have, all of them.
p_client_ip: the address of the client. A key with allowed_ips is refused without it.
p_resource_id: the resource of the request. With NULL the key's resource is not compared; it is in the answer.

Result: {valid, code, key_id, user_id, tenant_id, name, tier, environment, kind, scopes, resource_id, metadata, expires_at, secret_version, grace_expires_at}
of a valid key, else {valid, code, message}. The code is the first that applies of MALFORMED, NOT_FOUND,
THROTTLED, OVERLOADED, REVOKED, DISABLED, NOT_YET_VALID, EXPIRED, IP_NOT_ALLOWED, RESOURCE_MISMATCH and
INSUFFICIENT_SCOPE (with required_scopes and granted_scopes), or VALID. grace_expires_at is set if the secret
is the one from before the last rotation.$$;

CREATE FUNCTION api_key.verify_api_key_hash(p_api_key text)
RETURNS jsonb
LANGUAGE c STABLE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'verify_api_key_hash';
COMMENT ON FUNCTION api_key.verify_api_key_hash IS
$$Verifies a key for callers of hand-written functions of this name. The answer is an object, which every language takes for true: test its member success, or valid.

It answers in the form that those functions have, and never raises an error because the answer is no.

Result: {success, valid, code, key_id, api_key_id, user_id, name, tier, data: {user_id, key_id, tier, environment}}
of a valid key, else {success, valid, code, error, message}. The codes are those of verify_api_key.$$;

-- A row and not an object, so that a caller who asks whether there is an answer gets the right one.
CREATE FUNCTION api_key.verify_api_key_row(p_api_key text)
RETURNS TABLE (key_id uuid, user_id uuid, name text, tier text, created_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_answer jsonb := api_key.verify_api_key(p_api_key);
BEGIN
    IF (v_answer ->> 'valid')::boolean THEN
        RETURN QUERY SELECT k.key_id, k.user_id, k.name, k.tier, k.created_at
            FROM api_key_internal.keys AS k WHERE k.key_id = (v_answer ->> 'key_id')::uuid;
    END IF;
END
$$;
COMMENT ON FUNCTION api_key.verify_api_key_row IS
$$Verifies a key, and returns its row if it is valid, else no row.

It calls verify_api_key without scopes, address or resource.$$;
