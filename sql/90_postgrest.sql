CREATE FUNCTION api_key.setup_postgrest(
    p_anon name = 'anon', p_authenticated name = 'authenticated', p_service name = 'service_role',
    p_authenticator name = 'authenticator', p_create_roles boolean = false)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_role name;
    -- The functions of each role; a role also has those of the roles above it.
    v_anon regprocedure[] := ARRAY[
        'api_key.verify_api_key(text, text[], inet, text)',
        'api_key.verify_api_key_hash(text)',
        'api_key.verify_api_key_row(text)',
        'api_key.revoke_own_api_key(text)',
        'api_key.authenticate_request()',
        'api_key.admit_request()',
        'api_key.current_api_key()',
        'api_key.current_key_id()',
        'api_key.current_user_id()',
        'api_key.current_tenant_id()',
        'api_key.current_scopes()',
        'api_key.has_scope(text)',
        'api_key.require_scope(text[])',
        'api_key.authorize(text, text, text)',
        'api_key.require_authorization(text, text, text)',
        'api_key.refuse_row(regclass, name)',
        'api_key.is_left_to(regclass, name)'];
    v_authenticated regprocedure[] := ARRAY[
        'api_key.issue_api_key(api_key.id, text, text, text, text[], api_key.id, text, text, text, text, timestamptz, timestamptz, inet[], jsonb, text)',
        'api_key.list_api_keys(api_key.id, api_key.id, boolean)',
        'api_key.update_api_key(api_key.id, jsonb)',
        'api_key.rotate_api_key(api_key.id, interval)',
        'api_key.revoke_api_key(api_key.id, text)',
        'api_key.revoke_api_keys(api_key.id, api_key.id, text)',
        'api_key.delete_api_key(api_key.id)'];
    v_service regprocedure[] := ARRAY[
        'api_key.purge_api_keys(interval)',
        'api_key.define_tier(text, integer, text)',
        'api_key.define_scope(text, text)',
        'api_key.flush_usage()',
        'api_key.counters()',
        'api_key.export_usage()',
        'api_key.import_usage(jsonb)',
        'api_key.import_api_key_hash(text, text, api_key.id, text, text, text, text, text[], api_key.id, text, text, text, timestamptz, timestamptz, inet[], jsonb, boolean, timestamptz)',
        'api_key.matches_hash(text, text)',
        'api_key.legacy_hash_counts()',
        'api_key.import_api_keys(regclass, jsonb, text)',
        'api_key.import_key_rows(jsonb, text, text, bigint)',
        'api_key.read_key_rows(regclass, jsonb)',
        'api_key.set_api_key_role(api_key.id, name)',
        'api_key.define_rate_limit(text, integer, interval, integer, text, text, text, text)',
        'api_key.remove_rate_limit(text)',
        'api_key.check_rate_limit(text, text, integer)'];
BEGIN
    IF p_anon IS NULL OR p_authenticated IS NULL OR p_service IS NULL OR p_authenticator IS NULL THEN
        PERFORM api_key_internal.refuse_argument('arguments',
            'The name of a role is NULL.',
            'Leave it out for the usual name.');
    ELSIF p_service IN (p_anon, p_authenticated, p_authenticator) OR p_anon = p_authenticated
        OR p_authenticator IN (p_anon, p_authenticated)
    THEN
        PERFORM api_key_internal.refuse_argument('arguments',
            'Two of the roles are the same.',
            'Name four different roles.');
    END IF;
    FOREACH v_role IN ARRAY ARRAY[p_anon, p_authenticated, p_service, p_authenticator] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = v_role) THEN
            CONTINUE;
        ELSIF NOT coalesce(p_create_roles, false) THEN
            RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('role %I does not exist', v_role),
                DETAIL = 'setup_postgrest grants to roles that exist.',
                HINT = 'Create it, or call setup_postgrest(p_create_roles => true).';
        ELSIF v_role = p_authenticator THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOINHERIT', v_role);
        ELSE
            EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
        END IF;
    END LOOP;
    FOREACH v_role IN ARRAY ARRAY[p_anon, p_authenticated, p_service] LOOP
        IF p_create_roles AND NOT pg_has_role(p_authenticator, v_role, 'MEMBER') THEN
            EXECUTE format('GRANT %I TO %I', v_role, p_authenticator);
        END IF;
    END LOOP;
    EXECUTE format('GRANT USAGE ON SCHEMA api_key TO %I, %I, %I',
        p_anon, p_authenticated, p_service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I, %I, %I',
        array_to_string(v_anon, ', '), p_anon, p_authenticated, p_service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I, %I',
        array_to_string(v_authenticated, ', '), p_authenticated, p_service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I',
        array_to_string(v_service, ', '), p_service);
    PERFORM api_key_internal.grant_compat(profile, schema_name)
    FROM (SELECT DISTINCT profile, schema_name FROM api_key_internal.compat_functions) AS installed;
    IF p_authenticated <> coalesce(current_setting('api_key.authenticated_role', true), 'authenticated') THEN
        RAISE NOTICE USING
            MESSAGE = format('requests with a key do not run as %I', p_authenticated),
            DETAIL = 'authenticate_request makes them run as the role in api_key.authenticated_role.',
            HINT = format('ALTER DATABASE %I SET api_key.authenticated_role = %L;',
                          current_database(), p_authenticated);
    END IF;
    EXECUTE format('GRANT SELECT ON api_key.audit_log, api_key.stats, api_key.legacy_hash_progress, api_key.rate_limits, api_key.resources, api_key.protection TO %I', p_service);
    EXECUTE format('GRANT EXECUTE ON FUNCTION api_key.unprotected() TO %I', p_service);
END
$$;
COMMENT ON FUNCTION api_key.setup_postgrest IS
$$Grants to the roles of PostgREST what each of them may do.

p_anon: may verify keys, and revoke a key by presenting its text.
p_authenticated: may also manage its own keys.
p_service: may also act for every user, define tiers, scopes and rate limits, import keys, and read the views.
p_authenticator: the login of PostgREST. It gets no privilege of its own.
p_create_roles: creates the roles that do not exist, and makes p_authenticator (LOGIN, without a password) a
member of the others.

You may call it again at any time.

Errors: 55000 a role is missing, 42501 if you are not the owner of the extension.$$;

-- Only the owner may do anything before setup_postgrest: neither PUBLIC, to whom PostgreSQL
-- grants EXECUTE on functions and USAGE on types, nor roles that ALTER DEFAULT PRIVILEGES names.
DO $$
DECLARE
    v_revoke text;
BEGIN
    FOR v_revoke IN
        WITH objects (kind, name, owner, acl) AS (
            SELECT CASE prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
                   oid::regprocedure::text, proowner, coalesce(proacl, acldefault('f', proowner))
            FROM pg_proc
            WHERE pronamespace IN ('api_key'::regnamespace, 'api_key_internal'::regnamespace)
            UNION ALL
            SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, oid::regclass::text,
                   relowner, relacl
            FROM pg_class
            WHERE relnamespace IN ('api_key'::regnamespace, 'api_key_internal'::regnamespace)
              AND relkind IN ('r', 'v', 'S')
            UNION ALL
            SELECT 'TYPE', oid::regtype::text, typowner, coalesce(typacl, acldefault('T', typowner))
            FROM pg_type
            WHERE typnamespace IN ('api_key'::regnamespace, 'api_key_internal'::regnamespace)
              AND typelem = 0 AND (typrelid = 0 OR (SELECT relkind FROM pg_class WHERE oid = typrelid) = 'c')
            UNION ALL
            SELECT 'SCHEMA', oid::regnamespace::text, nspowner, nspacl
            FROM pg_namespace WHERE nspname IN ('api_key', 'api_key_internal')
        )
        SELECT DISTINCT format('REVOKE ALL ON %s %s FROM %s', kind, name,
            CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
        FROM objects, aclexplode(acl)
        WHERE grantee <> owner
    LOOP
        EXECUTE v_revoke;
    END LOOP;
END
$$;
