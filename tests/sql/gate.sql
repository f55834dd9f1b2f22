-- The gate as SQL sees it: who a transaction acts as, what is asked of it, and rate limits.
\set VERBOSITY default
\set SHOW_CONTEXT never
\pset null (null)
SET api_key.argon2_memory_kib = 64;
SET api_key.argon2_iterations = 1;
SET client_min_messages = error;
SELECT api_key.setup_postgrest('regress_anon', 'regress_user', 'regress_service', 'regress_authenticator', p_create_roles => true);
DO $$ BEGIN CREATE ROLE regress_robot; EXCEPTION WHEN duplicate_object THEN END $$;
RESET client_min_messages;
SET api_key.authenticated_role = 'regress_user';
\set ada '''00000000-0000-4000-8000-00000000aa01'''
\set bob '''00000000-0000-4000-8000-00000000bb01'''
\set tenant '''00000000-0000-4000-8000-00000000ee01'''
SELECT api_key.define_tier('gate');
SELECT api_key.issue_api_key(:ada, 'ada', 'gate', p_tenant_id => :tenant, p_scopes => '{articles:read,users:*}') AS issued \gset
SELECT :'issued'::jsonb ->> 'api_key' AS ada_key, :'issued'::jsonb ->> 'key_id' AS ada_id \gset
SELECT api_key.issue_api_key(:bob, 'bob', 'gate', p_scopes => '{admin}') AS issued \gset
SELECT :'issued'::jsonb ->> 'api_key' AS bob_key, :'issued'::jsonb ->> 'key_id' AS bob_id \gset
SELECT json_build_object('x-api-key', :'ada_key', 'host', 'example.com') AS of_ada, json_build_object('X-API-Key', :'bob_key') AS of_bob \gset
CREATE FUNCTION pg_temp.who() RETURNS text LANGUAGE sql AS
    $$ SELECT coalesce(api_key.current_api_key() ->> 'name', 'nobody') $$;

-- Without a key all is NULL, and no scope is had.
SELECT api_key.current_api_key(), api_key.current_key_id(), api_key.current_user_id(), api_key.current_tenant_id(),
       api_key.current_scopes(), api_key.has_scope('articles:read'), api_key.has_scope(NULL);

-- With one, it is known until the end of the transaction.
BEGIN;
SELECT set_config('request.headers', :'of_ada', true) IS NOT NULL AS set;
SELECT api_key.authenticate_request();
SELECT current_user, api_key.current_key_id() = :'ada_id' AS key_id, api_key.current_user_id(), api_key.current_tenant_id(), api_key.current_scopes();
SELECT api_key.current_api_key() = api_key.verify_api_key(:'ada_key') AS as_verified;
SELECT current_setting('request.jwt.claims')::jsonb - 'key_id' AS claims,
       current_setting('request.jwt.claims')::jsonb ->> 'key_id' = :'ada_id' AS key_id;
SELECT current_setting('request.headers') AS headers;
-- The role was set as set_config does it: the transaction has it, and may leave it.
RESET ROLE;
SELECT pg_temp.who();
COMMIT;

-- Whoever runs SQL may change the claims, but not whose keys the key manages, nor with which scopes.
SELECT json_build_object('x-api-key', api_key.issue_api_key(:ada, 'manager', 'gate', p_tenant_id => :tenant, p_scopes => '{api_keys:manage}') ->> 'api_key') AS of_manager \gset
BEGIN;
SELECT set_config('request.headers', :'of_manager', true) IS NOT NULL AS set;
SELECT api_key.authenticate_request();
SELECT set_config('request.jwt.claims', json_build_object('sub', :bob, 'tenant_id', :bob, 'tier', 'gate', 'scopes', '{admin}'::text[])::text, true) IS NOT NULL AS set;
SELECT DISTINCT user_id, tenant_id FROM api_key.list_api_keys();
SAVEPOINT before;
SELECT api_key.issue_api_key(p_tier => 'gate', p_scopes => '{admin}');
ROLLBACK TO before;
SELECT api_key.revoke_api_key(:'bob_id');
ROLLBACK TO before;
SELECT api_key.issue_api_key(p_name => 'made', p_tier => 'gate') ->> 'tenant_id' AS tenant_id;
SELECT name, user_id FROM api_key.list_api_keys() WHERE name = 'made';
ROLLBACK;
SELECT pg_temp.who(), current_user = session_user AS as_before, coalesce(current_setting('request.jwt.claims', true), '') AS claims, current_setting('request.headers', true) AS headers;

-- Scopes: itself, a wildcard of its resource, and what admin grants.
CREATE TEMP TABLE asked AS SELECT * FROM (VALUES (1, 'articles:read'), (2, 'articles:write'), (3, 'articles:*'), (4, 'users:read'),
    (5, 'users:*'), (6, 'users'), (7, 'users:'), (8, 'admin'), (9, ''), (10, NULL), (11, 'ARTICLES:READ'), (12, 'articles:read '),
    (13, '*'), (14, 'usersx:read')) AS a (n, scope);
GRANT SELECT ON asked TO regress_user;
BEGIN;
SET LOCAL request.headers = :'of_ada';
SELECT api_key.authenticate_request();
SELECT scope, api_key.has_scope(scope) FROM asked ORDER BY n;
SELECT api_key.require_scope('articles:read', 'users:write');
SELECT api_key.require_scope(VARIADIC '{}'::text[]);
SAVEPOINT refused;
SELECT api_key.require_scope('articles:read', 'articles:write', 'say "x"\', E'new\nline');
\echo :SQLSTATE
ROLLBACK TO refused;
-- No list of scopes is not an empty one.
SELECT api_key.require_scope(NULL);
\echo :SQLSTATE
ROLLBACK TO refused;
SELECT api_key.require_scope(VARIADIC NULL::text[]);
\echo :SQLSTATE
ROLLBACK TO refused;
-- In a request it is an answer to HTTP.
SET LOCAL request.method = 'POST';
SELECT api_key.require_scope('articles:write', 'say "x"\', E'new\nline');
\echo :SQLSTATE
ROLLBACK;
BEGIN;
SET LOCAL request.headers = :'of_bob';
SELECT api_key.authenticate_request();
SELECT bool_and(api_key.has_scope(scope)) AS all, count(*) FROM asked WHERE scope IS NOT NULL;
SELECT api_key.has_scope(NULL);
COMMIT;
SELECT api_key.require_scope('articles:read');
\echo :SQLSTATE
SELECT api_key.require_scope(VARIADIC '{}'::text[]);
\echo :SQLSTATE

-- What is refused, as PostgREST is to answer it; who acts stays.
CREATE FUNCTION pg_temp.refusal(p_headers text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_message text;
    v_detail text;
BEGIN
    PERFORM set_config('request.headers', p_headers, true);
    PERFORM api_key.authenticate_request();
    RETURN 'as ' || pg_temp.who();
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_message = MESSAGE_TEXT, v_detail = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(E'\n', SQLSTATE, v_message, v_detail);
END
$$;
SELECT pg_temp.refusal(NULL), pg_temp.refusal(''), pg_temp.refusal('{}');
SELECT pg_temp.refusal('{"x-api-key": "x"}');
SELECT pg_temp.refusal(format('{"x-api-key": "%sx"}', :'ada_key'));
SELECT pg_temp.refusal('{');
SELECT pg_temp.refusal('[]'), pg_temp.refusal('{"x-api-key": 1}'), pg_temp.refusal('{"x-api-key": null}');
SELECT pg_temp.who();
SET api_key.require_key = on;
SELECT pg_temp.refusal('{}');
RESET api_key.require_key;
SET api_key.header_names = ' apikey , X-Other,';
SELECT pg_temp.refusal(format('{"x-api-key": "%s"}', :'ada_key'));
SELECT pg_temp.refusal(format('{"APIKEY": "%s"}', :'ada_key'));
RESET ROLE;
SELECT pg_temp.refusal(format('{"apikey": "%s", "x-other": "%1$s"}', :'ada_key'));
RESET ROLE;
SELECT pg_temp.refusal(format('{"apikey": "%s", "x-other": "%s"}', :'ada_key', :'bob_key'));
SELECT pg_temp.refusal(format('{"apikey": "%s", "apikey": "%s"}', :'ada_key', :'bob_key'));
RESET ROLE;
RESET api_key.header_names;

-- Savepoints: who was set is gone with them, and who was replaced is back.
BEGIN;
SAVEPOINT one;
SET LOCAL request.headers = :'of_ada';
SELECT api_key.admit_request(), pg_temp.who();
ROLLBACK TO one;
SELECT pg_temp.who(), current_user = session_user AS as_before;
SET LOCAL request.headers = :'of_ada';
SELECT api_key.admit_request(), pg_temp.who();
RELEASE one;
SELECT pg_temp.who(), current_user;
SAVEPOINT two;
SET LOCAL request.headers = :'of_bob';
SELECT api_key.admit_request(), pg_temp.who();
SAVEPOINT three;
SELECT 1 / 0;
ROLLBACK TO three;
SELECT pg_temp.who();
ROLLBACK TO two;
SELECT pg_temp.who(), api_key.has_scope('admin'), current_user, current_setting('request.jwt.claims')::jsonb ->> 'sub' AS sub;
COMMIT;
SELECT pg_temp.who();
-- A role cannot be set where rights are lent, and then nobody is made of the key.
CREATE FUNCTION pg_temp.lend() RETURNS jsonb LANGUAGE sql SECURITY DEFINER AS 'SELECT api_key.admit_request()';
BEGIN;
SET LOCAL request.headers = :'of_ada';
SAVEPOINT lent;
SELECT pg_temp.lend();
ROLLBACK TO lent;
SELECT pg_temp.who();
ROLLBACK;

-- A key with a role of its own.
SELECT api_key.set_api_key_role(:'ada_id', 'regress_robot');
\echo :SQLSTATE
SET api_key.key_roles = 'regress_robot, regress_service';
SELECT api_key.set_api_key_role(:'ada_id', 'regress_robot');
SELECT api_key.set_api_key_role('00000000-0000-4000-8000-000000000000', 'regress_robot');
\echo :SQLSTATE
BEGIN;
SET LOCAL request.headers = :'of_ada';
SELECT api_key.authenticate_request();
SELECT current_user, current_setting('request.jwt.claims')::jsonb ->> 'role' AS role;
ROLLBACK;
SET api_key.key_roles = '';
SELECT pg_temp.refusal(:'of_ada');
SELECT api_key.set_api_key_role(:'ada_id', NULL);
SELECT pg_temp.refusal(:'of_ada');
RESET ROLE;
RESET api_key.key_roles;
SELECT event, details FROM api_key.audit_log WHERE key_id = :'ada_id' AND details ? 'role' ORDER BY audit_id;
SET ROLE regress_user;
SELECT api_key.set_api_key_role(:'ada_id', NULL);
\echo :SQLSTATE
RESET ROLE;

-- Rate limits: as they are defined, and what is no definition.
SELECT api_key.define_rate_limit('gate-plain', 10, '1 minute');
SELECT api_key.define_rate_limit('gate-full', 5, '1 day', 2, 'key', 'gate', 'POST', '/rpc/%');
SELECT api_key.define_rate_limit('gate-client', 5, '1 hour', p_per => 'client');
SELECT * FROM api_key.rate_limits WHERE name LIKE 'gate-%' ORDER BY name;
CREATE FUNCTION pg_temp.defined(p_name text = 'gate-x', p_limit integer = 1, p_period interval = '1 hour', p_burst integer = NULL, p_per text = NULL,
    p_tier text = NULL, p_method text = NULL, p_path text = NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_message text;
    v_detail text;
    v_hint text;
BEGIN
    PERFORM api_key.define_rate_limit(p_name, p_limit, p_period, p_burst, p_per, p_tier, p_method, p_path);
    RETURN 'defined';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_message = MESSAGE_TEXT, v_detail = PG_EXCEPTION_DETAIL, v_hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', SQLSTATE, v_message, v_detail, v_hint);
END
$$;
SELECT pg_temp.defined(p_name => NULL);
SELECT pg_temp.defined(p_limit => 0);
SELECT pg_temp.defined(p_burst => 0);
SELECT pg_temp.defined(p_per => 'planet');
SELECT pg_temp.defined(p_method => 'POST');
SELECT pg_temp.defined(p_per => 'key', p_method => 'post');
SELECT pg_temp.defined(p_per => 'key', p_path => 'rpc');
SET client_min_messages = error;
SELECT what, split_part(result, E'\n', 2) AS refusal FROM (VALUES
    ('empty name', pg_temp.defined('')), ('long name', pg_temp.defined(repeat('x', 64))), ('space', pg_temp.defined('a b')), ('newline', pg_temp.defined(E'a\n')),
    ('quote', pg_temp.defined('a"')), ('NULL limit', pg_temp.defined(p_limit => NULL)), ('less than none', pg_temp.defined(p_limit => -1)),
    ('NULL period', pg_temp.defined(p_period => NULL)), ('no period', pg_temp.defined(p_period => '0')), ('back in time', pg_temp.defined(p_period => '-1 day')),
    ('too long', pg_temp.defined(p_period => '367 days')), ('14 months', pg_temp.defined(p_period => '14 months')),
    ('a longer year', pg_temp.defined(p_period => '12 months 6 days')),
    ('faster than a clock', pg_temp.defined(p_limit => 2, p_period => '1 microsecond')), ('tier of a client', pg_temp.defined(p_per => 'client', p_tier => 'gate')),
    ('path of none', pg_temp.defined(p_path => '/x')), ('escape at the end', pg_temp.defined(p_per => 'key', p_path => '/x\')), ('empty path', pg_temp.defined(p_per => 'key', p_path => '')))
    AS t (what, result);
SELECT what, result FROM (VALUES
    ('longest name', pg_temp.defined(repeat('x', 63))), ('longest period', pg_temp.defined(p_period => '366 days')), ('a year', pg_temp.defined(p_period => '1 year')),
    ('most', pg_temp.defined(p_limit => 2147483647, p_period => '1 day', p_burst => 2147483647)), ('escaped escape', pg_temp.defined(p_per => 'key', p_path => '/x\\')),
    ('any path', pg_temp.defined(p_per => 'tier', p_path => '%'))) AS t (what, result);
RESET client_min_messages;
SELECT api_key.remove_rate_limit(repeat('x', 63)), api_key.remove_rate_limit('gate-x'), api_key.remove_rate_limit('gate-client'), api_key.remove_rate_limit('gate-none'), api_key.remove_rate_limit(NULL);
SET ROLE regress_user;
SELECT api_key.define_rate_limit('gate-mine', 10, '1 minute');
SELECT api_key.remove_rate_limit('gate-plain');
SELECT api_key.check_rate_limit('gate-plain', 'x');
SELECT * FROM api_key.rate_limits;
RESET ROLE;

-- What check_rate_limit answers. An hour a request: no time passes meanwhile.
SELECT api_key.define_rate_limit('gate-check', 2, '2 hours', 3);
SELECT api_key.check_rate_limit('gate-check', 'ada') - '{reset}'::text[] AS answer FROM generate_series(1, 3);
SELECT answer - '{reset,retry_after}'::text[] AS answer, (answer ->> 'retry_after')::integer BETWEEN 3500 AND 3600 AS retry_after,
       (answer ->> 'reset')::integer BETWEEN 10700 AND 10800 AS reset
FROM api_key.check_rate_limit('gate-check', 'ada') AS answer;
SELECT api_key.check_rate_limit('gate-check', 'bob', 2) AS answer;
-- More than there is now, and more than there ever is at once.
SELECT answer - '{reset,retry_after}'::text[] AS answer, (answer ->> 'retry_after')::integer BETWEEN 3500 AND 3600 AS retry_after
FROM api_key.check_rate_limit('gate-check', 'bob', 2) AS answer;
SELECT api_key.check_rate_limit('gate-check', 'cy', 4) AS answer;
SELECT api_key.check_rate_limit('gate-check', 'cy', 2147483647) AS answer;
SELECT api_key.check_rate_limit('gate-check', 'cy', 3) - '{reset}'::text[] AS answer;
SELECT api_key.check_rate_limit('gate-check', '') ->> 'remaining' AS empty_subject, api_key.check_rate_limit('gate-check', repeat('x', 100000)) ->> 'remaining' AS long_subject;
SELECT api_key.check_rate_limit('gate-check', NULL);
\echo :SQLSTATE
SELECT api_key.check_rate_limit('gate-check', 'x', 0);
SELECT api_key.check_rate_limit('gate-check', 'x', -1);
SELECT api_key.check_rate_limit('gate-check', 'x', NULL);
SELECT api_key.check_rate_limit('gate-none', 'x');
\echo :SQLSTATE
SELECT api_key.check_rate_limit(NULL, 'x');

-- Requests are counted by what they are of. A refusal of one limit leaves the others as they were.
SELECT api_key.define_rate_limit('gate-a', 3, '1 day', p_per => 'user'), api_key.define_rate_limit('gate-b', 1, '1 day', p_per => 'key', p_method => 'POST');
CREATE FUNCTION pg_temp.requested(p_headers text, p_method text, p_path text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_refusal jsonb;
BEGIN
    PERFORM set_config('response.headers', '', true), set_config('request.method', p_method, true), set_config('request.path', p_path, true),
        set_config('request.headers', p_headers, true);
    v_refusal := api_key.admit_request();
    PERFORM set_config('role', 'none', true);
    RETURN regexp_replace(coalesce((v_refusal ->> 'message')::jsonb ->> 'details', current_setting('response.headers')), ';t=\d+', '', 'g');
END
$$;
SELECT pg_temp.requested(:'of_bob', 'GET', '/x');
SELECT pg_temp.requested(:'of_bob', 'POST', '/x');
SELECT pg_temp.requested(:'of_bob', 'POST', '/x');
SELECT pg_temp.requested(:'of_bob', 'GET', '/x');
SELECT pg_temp.requested(:'of_bob', 'GET', '/x');
SELECT pg_temp.requested(:'of_ada', 'POST', '/rpc/x');
SELECT count(*), min(api_key.remove_rate_limit(name)::text) AS removed FROM api_key.rate_limits WHERE name LIKE 'gate-%';
SELECT event, count(*) FROM api_key.audit_log WHERE event LIKE 'rate_limit%' AND details ->> 'name' LIKE 'gate-%' GROUP BY event ORDER BY event;

-- A NUL in a token ends no scope.
BEGIN;
SET LOCAL api_key.trust_token_claims = on;
SET LOCAL request.headers = '{}';
SET LOCAL request.jwt.claims = '{"sub": "00000000-0000-4000-8000-0000000000a1", "scopes": ["admin\u0000", "a:read"]}';
SELECT api_key.admit_request(), api_key.current_scopes(), api_key.has_scope('admin') AS admin, api_key.has_scope('a:read') AS a_read;
ROLLBACK;
