-- In Rust (src/pg/verify.rs), not SECURITY DEFINER: the row is read by index scan, without the
-- caller's privileges, and nothing else is.
CREATE FUNCTION api_key.verify_api_key(
    p_api_key text, p_required_scopes text[] = NULL, p_client_ip inet = NULL,
    p_resource_id text = NULL)
RETURNS jsonb
LANGUAGE c STABLE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'verify_api_key';
COMMENT ON FUNCTION api_key.verify_api_key IS
$$Tells whether a text is a key that may be used now; the answer is an object, which every language takes for true: test its member valid, or code.

It never raises because the answer is no. For callers that test the answer itself there is verify_api_key_row, which answers no with no row.

p_required_scopes: scopes the key must have, all of them. p_client_ip: the client's address; a key with allowed_ips is refused without one. p_resource_id: the resource the request is about; NULL leaves that to the caller, who finds the key's in the answer.
Result: {valid:true, code:"VALID", key_id, user_id, tenant_id, name, tier, environment, kind, scopes, resource_id, metadata, expires_at, secret_version, grace_expires_at}, or {valid:false, code, message}. code, in the order in which they are decided: MALFORMED, NOT_FOUND, THROTTLED, OVERLOADED, REVOKED, DISABLED, NOT_YET_VALID, EXPIRED, IP_NOT_ALLOWED, RESOURCE_MISMATCH, INSUFFICIENT_SCOPE (with required_scopes, granted_scopes), VALID. grace_expires_at is set when the secret is the one before the last rotation.$$;

CREATE FUNCTION api_key.verify_api_key_hash(p_api_key text)
RETURNS jsonb
LANGUAGE c STABLE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'verify_api_key_hash';
COMMENT ON FUNCTION api_key.verify_api_key_hash IS
$$Tells whether a text is a key that may be used now; the answer is an object, which every language takes for true: test its member success, or valid.

It has the shape that hand-written functions of this name have.

Result: {success, valid, code, key_id, api_key_id, user_id, name, tier, data:{user_id, key_id, tier, environment}}, or {success:false, valid:false, code, error, message}. Codes as of verify_api_key.$$;

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
$$The key whose text is given, as a row if it may be used now, else no row.

Verifies as verify_api_key does, without scopes, address or resource.$$;
