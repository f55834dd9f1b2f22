-- The caller of a command. The role is the one of the request (SET ROLE, else the login), also within
-- SECURITY DEFINER functions of ours and of applications; user, tenant, scopes and tier are those of
-- the key that the transaction acts as, else what PostgREST put into `request.jwt.claims`.
CREATE TYPE api_key_internal.caller AS (
    role_name name,
    user_id uuid,
    tenant_id uuid,
    scopes text[],
    tier text,
    -- May act for every user: has been granted what administers the extension.
    administrator boolean
);
COMMENT ON TYPE api_key_internal.caller IS 'The caller of a command.';

-- Within its own keys, a caller with a tenant reaches that tenant's and those of none.
CREATE FUNCTION api_key_internal.in_tenant(p_tenant_id uuid, p_caller api_key_internal.caller)
RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_caller.administrator OR p_caller.tenant_id IS NULL OR p_tenant_id IS NULL
        OR p_tenant_id = p_caller.tenant_id
$$;
COMMENT ON FUNCTION api_key_internal.in_tenant IS 'Tells whether the caller may reach keys of a tenant.';

CREATE FUNCTION api_key_internal.caller(p_takes_away boolean = false)
RETURNS api_key_internal.caller
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_identity jsonb := api_key_internal.request_identity();
    v_malformed jsonb := v_identity -> 'malformed';
    v_caller api_key_internal.caller;
BEGIN
    v_caller.role_name := api_key_internal.request_role();
    PERFORM api_key_internal.refuse_restricted(p_takes_away);
    v_caller.administrator := has_function_privilege(
        v_caller.role_name, 'api_key.define_tier(text, integer, text)', 'EXECUTE');
    -- Tokens of services may have a "sub" that is not a user's.
    IF v_malformed ? 'tenant_id' OR v_malformed ? 'sub' AND NOT v_caller.administrator THEN
        PERFORM api_key_internal.refuse_argument('request.jwt.claims',
            format('The claim %s is not a UUID.',
                   CASE WHEN v_malformed ? 'sub' AND NOT v_caller.administrator
                        THEN 'sub' ELSE 'tenant_id' END),
            'Users and tenants are identified by UUIDs; have your tokens carry them.');
    ELSIF v_malformed ? 'scopes' THEN
        PERFORM api_key_internal.refuse_argument('request.jwt.claims',
            'The claim "scopes" is neither an array nor a string.',
            'Have your tokens carry an array of scopes.');
    END IF;
    v_caller.user_id := (v_identity ->> 'user_id')::uuid;
    v_caller.tenant_id := (v_identity ->> 'tenant_id')::uuid;
    v_caller.scopes := CASE jsonb_typeof(v_identity -> 'scopes') WHEN 'array'
        THEN ARRAY(SELECT jsonb_array_elements_text(v_identity -> 'scopes')) END;
    v_caller.tier := v_identity ->> 'tier';
    -- Or a key that leaks could make others that outlive its revocation.
    IF api_key.current_key_id() IS NOT NULL AND NOT api_key.has_scope('api_keys:manage') THEN
        PERFORM api_key_internal.refuse('MANAGING_NOT_ALLOWED');
    END IF;
    RETURN v_caller;
END
$$;
COMMENT ON FUNCTION api_key_internal.caller IS 'Returns the caller of a command.';

CREATE FUNCTION api_key_internal.require_user(p_caller api_key_internal.caller)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT p_caller.administrator AND p_caller.user_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'the request names no user',
            DETAIL = 'request.jwt.claims has no "sub", and the role may not act for others.',
            HINT = 'Send a token with the claim "sub", or call as the service role.';
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.require_user IS 'Refuses a caller that is neither a user nor an administrator.';

-- The filter of list and of commands on many keys: an administrator names any user, a user only
-- itself. Returns the user whose keys are meant; NULL means everybody's.
CREATE FUNCTION api_key_internal.subject(p_caller api_key_internal.caller, p_user_id uuid)
RETURNS uuid
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM api_key_internal.require_user(p_caller);
    IF p_caller.administrator THEN
        RETURN p_user_id;
    END IF;
    IF p_user_id <> p_caller.user_id THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'not allowed for another user',
            DETAIL = 'p_user_id differs from the "sub" of the request.',
            HINT = 'Leave p_user_id out, or call as the service role.';
    END IF;
    RETURN p_caller.user_id;
END
$$;
COMMENT ON FUNCTION api_key_internal.subject IS 'Returns the user that p_user_id means, or refuses another user than the caller (42501).';
