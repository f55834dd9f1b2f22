-- setup_postgrest: grants to PostgREST's roles, and makes them when asked.
\i tests/preamble.sql
-- Roles must exist, unless they are to be created; a refusal creates and grants nothing.
CREATE ROLE regress_anon;
SELECT api_key.setup_postgrest('regress_anon', 'regress_user', 'regress_service', 'regress_authenticator');
\echo :SQLSTATE
SELECT has_schema_privilege('regress_anon', 'api_key', 'USAGE') AS granted;
DROP ROLE regress_anon;
SELECT api_key.setup_postgrest(p_anon => NULL);
\echo :SQLSTATE
SELECT api_key.setup_postgrest('regress_anon', 'regress_anon', 'regress_service', 'regress_authenticator',
    true);
\echo :SQLSTATE
SELECT api_key.setup_postgrest('regress_anon', 'regress_user', 'regress_user', 'regress_authenticator',
    true);
\echo :SQLSTATE
SELECT * FROM pg_temp.cases('SELECT api_key.setup_postgrest(%)', $$
    'regress_anon', 'regress_user', 'regress_service', 'regress_service', true
    'regress_anon', 'regress_user', 'regress_service', 'regress_anon', true
$$);
SELECT count(*) FROM pg_roles WHERE rolname IN ('regress_anon', 'regress_user', 'regress_service',
    'regress_authenticator');

-- Created roles: only the authenticator logs in; it inherits nothing and may become the others.
SELECT api_key.setup_postgrest('regress_anon', 'regress_user', 'regress_service', 'regress_authenticator',
    true);
SELECT rolname, rolcanlogin, rolinherit, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls
FROM pg_roles WHERE rolname ~ '^regress_(anon|user|service|authenticator)$' ORDER BY rolname;
SELECT r.rolname AS role, m.rolname AS member, admin_option
FROM pg_auth_members AS a JOIN pg_roles AS r ON r.oid = a.roleid JOIN pg_roles AS m ON m.oid = a.member
WHERE m.rolname = 'regress_authenticator' ORDER BY 1, 2;
-- It can be called again, and makes no difference.
SELECT string_agg(proacl::text, ' ' ORDER BY oid) AS before FROM pg_proc
    WHERE pronamespace = 'api_key'::regnamespace \gset
SELECT api_key.setup_postgrest('regress_anon', 'regress_user', 'regress_service', 'regress_authenticator',
    true);
SELECT api_key.setup_postgrest('regress_anon', 'regress_user', 'regress_service', 'regress_authenticator');
SELECT string_agg(proacl::text, ' ' ORDER BY oid) = :'before' AS unchanged FROM pg_proc
    WHERE pronamespace = 'api_key'::regnamespace;

-- Left out, the roles are those of PostgREST's documentation.
SELECT pg_get_function_arguments('api_key.setup_postgrest'::regproc);

-- Only the owner of the extension may call it.
SET ROLE regress_service;
SELECT api_key.setup_postgrest('regress_anon', 'regress_user', 'regress_service', 'regress_authenticator');
\echo :SQLSTATE
RESET ROLE;
-- Whoever is lent EXECUTE grants nothing: the function has no more rights than its caller.
GRANT EXECUTE ON FUNCTION api_key.setup_postgrest TO regress_user;
SET client_min_messages = error;
SET ROLE regress_user;
SELECT api_key.setup_postgrest('regress_user', 'regress_anon', 'regress_service', 'regress_authenticator');
\echo :SQLSTATE
RESET ROLE;
RESET client_min_messages;
SELECT has_function_privilege('regress_anon', 'api_key.issue_api_key'::regproc, 'EXECUTE') AS anon_issues;

-- As PostgREST does it: the authenticator switches to the role of the token.
SET SESSION AUTHORIZATION regress_authenticator;
SELECT api_key.verify_api_key('x') ->> 'code' AS code;
\echo :SQLSTATE
SET ROLE regress_anon;
SELECT api_key.verify_api_key('x') ->> 'code' AS code;
SELECT api_key.list_api_keys();
\echo :SQLSTATE
SET ROLE regress_user;
SELECT set_config('request.jwt.claims', '{"sub": "00000000-0000-4000-8000-0000000000a1"}', false)
    IS NOT NULL AS claims;
SELECT count(*) FROM api_key.list_api_keys();
SELECT api_key.purge_api_keys();
\echo :SQLSTATE
SET ROLE regress_service;
SELECT api_key.purge_api_keys();
RESET SESSION AUTHORIZATION;
RESET ROLE;
DROP OWNED BY regress_anon, regress_user, regress_service, regress_authenticator;
DROP ROLE regress_anon, regress_user, regress_service, regress_authenticator;

-- Names that need quotes.
SELECT api_key.setup_postgrest('regress "Anon"', 'regress user; x', 'regress-service',
    'regress.authenticator', true);
SET ROLE "regress ""Anon""";
SELECT api_key.verify_api_key('x') ->> 'code' AS code;
SET ROLE "regress user; x";
SELECT count(*) FROM api_key.list_api_keys();
SET ROLE "regress-service";
RESET request.jwt.claims;
SELECT count(*) FROM api_key.list_api_keys();
RESET ROLE;
DROP OWNED BY "regress ""Anon""", "regress user; x", "regress-service", "regress.authenticator";
DROP ROLE "regress ""Anon""", "regress user; x", "regress-service", "regress.authenticator";
