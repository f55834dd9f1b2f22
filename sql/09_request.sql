-- In Rust (src/pg/caller.rs).
CREATE FUNCTION api_key_internal.request_identity() RETURNS jsonb
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'request_identity';
COMMENT ON FUNCTION api_key_internal.request_identity IS 'Returns {subject, user_id, tenant_id, scopes, tier, malformed} of the key that the transaction acts as, or else of the token''s claims.';

CREATE FUNCTION api_key_internal.request_role()
RETURNS name
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(nullif(current_setting('role', true), 'none')::name, session_user)
$$;
COMMENT ON FUNCTION api_key_internal.request_role IS 'Returns the role of the request: the one that SET ROLE chose, or else the login.';

-- Triggers of ON DELETE CASCADE run as the owner of the table, and may revoke the keys of what is deleted.
CREATE FUNCTION api_key_internal.in_restricted_operation(p_takes_away boolean) RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'in_restricted_operation';
COMMENT ON FUNCTION api_key_internal.in_restricted_operation IS 'Tells whether the code of a table''s owner runs in another user''s session, where commands are refused.';

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
COMMENT ON FUNCTION api_key_internal.refuse_restricted IS 'Refuses commands (42501) from the code of a table''s owner in another user''s session.';
