\set ECHO none
-- What every SQL test ends with: \i tests/cleanup.sql. The next one finds neither its roles nor its rows.
RESET ROLE;
SET client_min_messages = error;
DO $$
DECLARE
    v_role name;
BEGIN
    FOR v_role IN SELECT rolname FROM pg_roles WHERE starts_with(rolname, 'regress_') LOOP
        EXECUTE format('DROP OWNED BY %I CASCADE; DROP ROLE %1$I', v_role);
    END LOOP;
END
$$;
-- In the order in which the worker locks them.
TRUNCATE api_key_internal.audit_log,
    api_key_internal.keys,
    api_key_internal.compat_functions,
    api_key_internal.protected_tables,
    api_key_internal.issue_requests,
    api_key_internal.migration_runs,
    api_key_internal.resources,
    api_key_internal.root_key,
    api_key_internal.scopes,
    api_key_internal.tiers,
    api_key_internal.key_usage;
