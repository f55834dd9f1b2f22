CREATE FUNCTION api_key.require_scope(VARIADIC p_scopes text[])
RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_granted text[] := api_key.current_scopes();
BEGIN
    IF p_scopes IS NULL THEN
        PERFORM api_key_internal.refuse_argument('p_scopes', 'It is NULL.',
            'Pass the scopes that the key must have.');
    ELSIF v_granted IS NULL THEN
        PERFORM api_key_internal.refuse('KEY_REQUIRED');
    ELSIF EXISTS (SELECT FROM unnest(p_scopes) AS required WHERE NOT api_key.has_scope(required)) THEN
        PERFORM api_key_internal.refuse('INSUFFICIENT_SCOPE', p_required_scopes => p_scopes);
    END IF;
END
$$;
COMMENT ON FUNCTION api_key.require_scope IS
$$Refuses the request unless its key has all of these scopes.

Use it in a function: PERFORM api_key.require_scope('articles:write');

Errors: 42501 with required_scopes and granted_scopes in DETAIL (HTTP 403), 28000 without a key (HTTP 401),
22023.$$;

-- The decision of authenticate_request. It reads the settings request.headers, request.method and
-- request.path, so that a caller can only be who it has the key of. In Rust (src/pg/gate.rs).
CREATE FUNCTION api_key.admit_request() RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'admit_request';
COMMENT ON FUNCTION api_key.admit_request IS
$$Does what authenticate_request does, but returns a refusal instead of raising it.

Result: NULL, or {message, detail}: the texts with which PostgREST wants SQLSTATE PGRST raised.$$;

-- SECURITY INVOKER, or the role could not be set. The settings that are set last to the end of the
-- transaction, not of the function.
CREATE FUNCTION api_key.authenticate_request()
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_refusal jsonb := api_key.admit_request();
BEGIN
    IF v_refusal IS NOT NULL THEN
        RAISE SQLSTATE 'PGRST' USING
            MESSAGE = v_refusal ->> 'message', DETAIL = v_refusal ->> 'detail';
    END IF;
END
$$;
COMMENT ON FUNCTION api_key.authenticate_request IS
$$Makes a request of PostgREST act as its API key. Set it as PostgREST's db-pre-request.

It takes the key from the header X-API-Key (api_key.header_names) and verifies it. If you trust proxies
(api_key.trusted_proxies), it also checks the address of the client. Then it applies the rate limits that
count requests by key, user, tenant, tier or client.

Until the transaction ends, current_key_id and its like return the identity of the key. The role is
authenticated (api_key.authenticated_role) or the key's own, request.jwt.claims has sub, role, tenant_id,
scopes, tier and key_id, and request.headers no longer has the key.

A request without a key continues unchanged, unless api_key.require_key is on.

Errors: PGRST with an HTTP status: 401 no valid key, 400 several keys, 403 address not allowed, 429 too many
requests or wrong secrets, 503 no room to hash.$$;

CREATE FUNCTION api_key_internal.is_key_role(p_role text) RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_key_role';
COMMENT ON FUNCTION api_key_internal.is_key_role IS 'Tells whether a role is in api_key.key_roles; NULL for NULL.';

CREATE FUNCTION api_key.set_api_key_role(p_key_id api_key.id, p_role name)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_key api_key_internal.keys := api_key_internal.locked_key(p_key_id, api_key_internal.caller());
BEGIN
    IF NOT api_key_internal.is_key_role(p_role::text) THEN
        PERFORM api_key_internal.refuse_argument('p_role',
            'It is not in api_key.key_roles.',
            'Pass one that is, or NULL for the usual one; a superuser can add it with ALTER DATABASE ... SET api_key.key_roles, which holds for new connections.');
    END IF;
    UPDATE api_key_internal.keys SET role = p_role, updated_at = clock_timestamp()
    WHERE key_id = p_key_id;
    PERFORM api_key_internal.audit('updated', p_key_id, v_key.user_id, v_key.tenant_id,
        jsonb_build_object('role', jsonb_build_array(v_key.role, p_role)));
END
$$;
COMMENT ON FUNCTION api_key.set_api_key_role IS
$$Gives a key a database role of its own, as which its requests run.

p_role: one of api_key.key_roles, of which PostgREST's login must be a member; NULL for the usual role.

Errors: 22023, P0002 no such key.$$;
