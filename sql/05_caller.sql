-- Who calls. The role is the one of the request (SET ROLE, else the login), also within
-- SECURITY DEFINER functions of ours and of applications; user, tenant, scopes and tier are what
-- PostgREST put into `request.jwt.claims`.
CREATE TYPE api_key_internal.caller AS (
    role_name name,
    user_id uuid,
    tenant_id uuid,
    scopes text[],
    tier text,
    -- May act for every user: has been granted what administers the extension.
    administrator boolean
);
COMMENT ON TYPE api_key_internal.caller IS 'Who calls, as the request says.';

-- PostgREST answers 500 to P0002 and 503 to 53400. In its requests the error is raised its way
-- (SQLSTATE PGRST), with the same code in the body and the status that fits.
CREATE FUNCTION api_key_internal.refuse(
    p_sqlstate text, p_status integer, p_message text, p_detail text, p_hint text,
    -- In the body, where the SQLSTATE says less.
    p_code text = NULL, p_headers json = '{}')
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(current_setting('request.method', true), '') <> '' THEN
        RAISE SQLSTATE 'PGRST' USING
            MESSAGE = json_build_object('code', coalesce(p_code, p_sqlstate), 'message', p_message,
                                        'details', p_detail, 'hint', p_hint),
            DETAIL = json_build_object('status', p_status, 'headers', p_headers);
    END IF;
    RAISE EXCEPTION USING ERRCODE = p_sqlstate, MESSAGE = p_message, DETAIL = p_detail,
        HINT = p_hint;
END
$$;
COMMENT ON FUNCTION api_key_internal.refuse IS 'Raises an error; in a request of PostgREST with the given HTTP status.';

CREATE FUNCTION api_key_internal.claims()
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_claims jsonb;
BEGIN
    v_claims := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
    RETURN CASE WHEN jsonb_typeof(v_claims) = 'object' THEN v_claims ELSE '{}' END;
EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid request.jwt.claims',
        DETAIL = 'The setting is not JSON.',
        HINT = 'PostgREST sets it; elsewhere SET it to the claims as a JSON object.';
END
$$;
COMMENT ON FUNCTION api_key_internal.claims IS 'The claims of the request; an empty object when there are none.';

CREATE FUNCTION api_key_internal.claim_uuid(p_claims jsonb, p_name text)
RETURNS uuid
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (p_claims ->> p_name)::uuid;
EXCEPTION WHEN invalid_text_representation THEN
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid request.jwt.claims',
        DETAIL = format('The claim %I is not a UUID.', p_name),
        HINT = 'Users and tenants are identified by UUIDs; have your tokens carry them.';
END
$$;
COMMENT ON FUNCTION api_key_internal.claim_uuid IS 'One claim as a UUID; NULL when it is missing.';

CREATE FUNCTION api_key_internal.request_role()
RETURNS name
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(nullif(current_setting('role', true), 'none')::name, session_user)
$$;
COMMENT ON FUNCTION api_key_internal.request_role IS 'The role of the request: what SET ROLE chose, else the login.';

-- Triggers of ON DELETE CASCADE run as the owner of the table, and may revoke the keys of what is deleted.
CREATE FUNCTION api_key_internal.in_restricted_operation(p_takes_away boolean) RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'in_restricted_operation_wrapper';
COMMENT ON FUNCTION api_key_internal.in_restricted_operation IS 'Whether code of a table''s owner runs in a session of someone else, so that a command is refused.';

-- While ANALYZE, authorize and the like run code of a table's owner, neither the session's rights
-- nor its user are lent.
CREATE FUNCTION api_key_internal.refuse_restricted(p_takes_away boolean = false) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF api_key_internal.in_restricted_operation(p_takes_away) THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'keys cannot be managed here',
            DETAIL = 'Code of a table''s owner runs, in the session of somebody else.',
            HINT = 'Call it in a statement of its own.';
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.refuse_restricted IS 'Refuses (42501) commands of code of a table''s owner in a session of someone else.';

-- Within its own keys, a caller with a tenant reaches that tenant's and those of none.
CREATE FUNCTION api_key_internal.in_tenant(p_tenant_id uuid, p_caller api_key_internal.caller)
RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_caller.administrator OR p_caller.tenant_id IS NULL OR p_tenant_id IS NULL
        OR p_tenant_id = p_caller.tenant_id
$$;
COMMENT ON FUNCTION api_key_internal.in_tenant IS 'Whether a key of this tenant is within the caller''s reach.';

CREATE FUNCTION api_key_internal.caller(p_takes_away boolean = false)
RETURNS api_key_internal.caller
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_claims jsonb := api_key_internal.claims();
    v_caller api_key_internal.caller;
BEGIN
    v_caller.role_name := api_key_internal.request_role();
    PERFORM api_key_internal.refuse_restricted(p_takes_away);
    v_caller.administrator := has_function_privilege(
        v_caller.role_name, 'api_key.define_tier(text, integer, text)', 'EXECUTE');
    -- Tokens of services may have a "sub" that is not a user's.
    IF NOT v_caller.administrator OR v_claims ->> 'sub' ~ '^[0-9A-Fa-f-]{36}$' THEN
        v_caller.user_id := api_key_internal.claim_uuid(v_claims, 'sub');
    END IF;
    v_caller.tenant_id := api_key_internal.claim_uuid(v_claims, 'tenant_id');
    CASE jsonb_typeof(v_claims -> 'scopes')
        WHEN 'array' THEN
            v_caller.scopes := ARRAY(SELECT jsonb_array_elements_text(v_claims -> 'scopes'));
        WHEN 'string' THEN
            v_caller.scopes := string_to_array(v_claims ->> 'scopes', ' ');
        WHEN 'null' THEN NULL;
        ELSE
            IF v_claims ? 'scopes' THEN
                RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid request.jwt.claims',
                    DETAIL = 'The claim "scopes" is neither an array nor a string.',
                    HINT = 'Have your tokens carry an array of scopes.';
            END IF;
    END CASE;
    v_caller.tier := v_claims ->> 'tier';
    -- Or a key that leaks could make others that outlive its revocation.
    IF api_key.current_key_id() IS NOT NULL AND NOT api_key.has_scope('api_keys:manage') THEN
        -- PostgREST would answer 401 to a plain 42501 of a request without a token.
        PERFORM api_key_internal.refuse('42501', 403, 'this API key may not manage keys',
            'The request was authenticated by a key without the scope api_keys:manage.',
            'Send the token of a user instead, or a key with that scope.');
    END IF;
    -- Whoever runs SQL may change the claims, but not whose key it is.
    IF api_key.current_key_id() IS NOT NULL THEN
        v_caller.user_id := api_key.current_user_id();
        v_caller.tenant_id := api_key.current_tenant_id();
        v_caller.scopes := api_key.current_scopes();
        v_caller.tier := api_key.current_api_key() ->> 'tier';
    END IF;
    RETURN v_caller;
END
$$;
COMMENT ON FUNCTION api_key_internal.caller IS 'Who calls, as the request says.';

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
COMMENT ON FUNCTION api_key_internal.require_user IS 'Refuses callers who are neither a user nor an administrator.';

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
COMMENT ON FUNCTION api_key_internal.subject IS 'The user whose keys the caller may mean with p_user_id.';
