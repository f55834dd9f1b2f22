-- The calling conventions of hand-written functions: each function of each profile, what stands in
-- its place, and that nothing is left of them.
\i tests/preamble.sql
SET api_key.failure_limit = 1000000;
-- The members of an object and their types.
CREATE FUNCTION pg_temp.shape(p_value jsonb) RETURNS text LANGUAGE sql AS $$
    SELECT CASE jsonb_typeof(p_value)
        WHEN 'object' THEN '{' || (SELECT string_agg(key || ':' || CASE jsonb_typeof(value) WHEN 'object'
            THEN
                '{' || (SELECT string_agg(key, ',' ORDER BY key)
                    FROM jsonb_object_keys(value) AS key) || '}'
                ELSE jsonb_typeof(value) END, ', ' ORDER BY key) FROM jsonb_each(p_value)) || '}'
        ELSE jsonb_typeof(p_value) END
$$;
\i tests/roles.sql
SELECT api_key.define_tier('many');
CREATE SCHEMA regress_rows;
CREATE SCHEMA regress_json;
CREATE SCHEMA "Regress ""Odd";
GRANT USAGE ON SCHEMA regress_rows, regress_json, "Regress ""Odd" TO PUBLIC;
CREATE TEMP TABLE before AS SELECT oid, proname, pronamespace, prosrc, proacl FROM pg_proc;
CREATE TEMP VIEW changed AS
SELECT 'added' AS change, proname FROM pg_proc WHERE oid NOT IN (SELECT oid FROM before)
    AND pronamespace <> pg_my_temp_schema()
UNION ALL
SELECT 'gone or changed', b.proname FROM before AS b LEFT JOIN pg_proc AS p USING (oid)
WHERE (b.proname, b.pronamespace, b.prosrc, b.proacl::text) IS DISTINCT FROM (p.proname, p.pronamespace,
    p.prosrc, p.proacl::text);
SELECT api_key.issue_api_key(:ada, 'CI', 'many',
    p_metadata => '{"tier_limit": 100, "rate_limit": {"rpm": 5}}') AS issued \gset
SELECT :'issued'::jsonb ->> 'api_key' AS key, :'issued'::jsonb ->> 'key_id' AS key_id \gset
SELECT api_key.import_api_key_hash(md5('old key'), 'md5', :ada, p_name => 'Old',
    p_tier => 'many') AS old_id \gset

SELECT * FROM api_key.compat_profiles ORDER BY profile, function_name, arguments;
-- What is not there.
SELECT pg_temp.outcome(command) FROM unnest(ARRAY[
    'SELECT api_key.install_compat(''no_such'')', 'SELECT api_key.install_compat(NULL)',
    'SELECT api_key.install_compat(''table_row'', ''no_such_schema'')',
        'SELECT api_key.install_compat(''table_row'', NULL)',
    'SELECT api_key.install_compat(''table_row'', ''api_key'')',
        'SELECT api_key.install_compat(''table_row'', ''api_key_internal'')',
    'SELECT api_key.install_compat(''jsonb_envelope'', ''regress_json'', ''Bad-'')',
  'SELECT api_key.install_compat(''jsonb_envelope'', ''regress_json'', ''x'''')$body$; DROP TABLE a; --_'')',
    'SELECT api_key.remove_compat(''no_such'')',
        'SELECT api_key.remove_compat(''table_row'', ''no_such_schema'')']) AS command;
SELECT * FROM changed;
-- Nothing to remove.
SELECT api_key.remove_compat('table_row');
SELECT * FROM changed;

-- bearer_row: one row, or none. "Bearer " in any case, or nothing, before the key.
SELECT api_key.install_compat('bearer_row', 'regress_rows');
SELECT parameter_mode, parameter_name, data_type FROM information_schema.parameters
WHERE specific_schema = 'regress_rows' ORDER BY ordinal_position;
SELECT header, count(r.key_id) AS rows, bool_and(r.key_id = :'key_id') AS key_id,
    min(user_tier) AS user_tier, min(tier_limit) AS tier_limit
FROM (VALUES (1, 'Bearer '), (2, 'bearer '), (3, 'BEARER   '), (4, ''), (5, 'Bearer'), (6, 'Basic '), (7,
    NULL)) AS c (n, header)
LEFT JOIN LATERAL regress_rows.verify_api_key_hash(auth_header => header || :'key') AS r ON true
    GROUP BY n, header ORDER BY n;
SELECT count(*) AS rows FROM regress_rows.verify_api_key_hash(auth_header => 'Bearer sk_live_no_such');
SELECT key_id = :'old_id' AS key_id, user_tier, tier_limit
    FROM regress_rows.verify_api_key_hash('Bearer old key');

-- jsonb_envelope.
SELECT api_key.install_compat('jsonb_envelope', 'regress_json', 'mine_');
SELECT name, pg_temp.shape(answer), answer ->> 'error' AS error
FROM (VALUES
    (1, 'verify_api_key_hash', regress_json.verify_api_key_hash(p_api_key => :'key')),
    (2, 'verify_api_key_hash', regress_json.verify_api_key_hash(p_api_key => 'old key')),
    (3, 'verify_api_key_hash', regress_json.verify_api_key_hash(p_api_key => 'x')),
    (4, 'verify_api_key_hash', regress_json.verify_api_key_hash(p_api_key => NULL)),
    (5, 'verify_api_key_bcrypt', regress_json.verify_api_key_bcrypt(p_api_key => :'key')),
    (6, 'verify_api_key_bcrypt', regress_json.verify_api_key_bcrypt(p_api_key => 'x')),
    (7, 'verify_api_key_complete_v2', regress_json.verify_api_key_complete_v2(p_api_key => :'key')),
    (8, 'verify_api_key_complete_v2', regress_json.verify_api_key_complete_v2(p_api_key => 'x'))) AS c (n,
        name, answer) ORDER BY n;
SELECT regress_json.verify_api_key_hash(:'key') #- '{data,key_id}' AS answer;
SELECT regress_json.verify_api_key_bcrypt(:'key') - 'key_id' - 'api_key_id' AS answer;
SELECT regress_json.verify_api_key_complete_v2(:'key') - 'key_id' AS answer;
-- As a user, through the names of the arguments.
SET ROLE regress_user;
SELECT set_config('request.jwt.claims', '{"sub": "00000000-0000-4000-8000-0000000000a1"}', false)
    IS NOT NULL AS is_ada;
SELECT name, pg_temp.shape(answer), answer ->> 'error' AS error, coalesce(answer ->> 'api_key',
    answer #>> '{data,api_key}') ~ '^mine_[0-9A-Za-z]{60}$' AS has_prefix,
       answer ->> 'full_key' = answer ->> 'api_key' AS full_key
FROM (VALUES
    (1, 'issue_api_key', regress_json.issue_api_key(p_user_id => :ada, p_name => 'N', p_tier => 'free',
        p_description => 'D')),
    (2, 'issue_api_key', regress_json.issue_api_key(p_user_id => :ada, p_name => 'N', p_tier => 'no such',
        p_description => NULL)),
    (3, 'issue_api_key', regress_json.issue_api_key(p_user_id => '00000000-0000-4000-8000-0000000000b1',
        p_name => 'N', p_tier => 'free', p_description => NULL)),
    (4, 'create_api_key_complete_v2', regress_json.create_api_key_complete_v2(p_user_id => :ada,
        p_name => 'N', p_tier => 'free', p_description => 'D')),
    (5, 'create_api_key_complete_v2', regress_json.create_api_key_complete_v2(p_user_id => :ada,
        p_name => '', p_tier => 'free', p_description => 'D')),
    (6, 'create_api_key_bcrypt', regress_json.create_api_key_bcrypt(p_user_id => :ada, p_name => 'N',
        p_tier => 'free', p_description => 'D')),
    (7, 'create_api_key_bcrypt', regress_json.create_api_key_bcrypt(p_user_id => :ada, p_name => repeat('x',
        1000), p_tier => 'free', p_description => 'D')),
    (8, 'generate_my_api_key', regress_json.generate_my_api_key(p_name => 'N', p_tier => 'free')),
    (9, 'generate_my_api_key', regress_json.generate_my_api_key(p_name => 'N',
        p_tier => 'no such'))) AS c (n, name, answer) ORDER BY n;
SELECT regress_json.create_api_key(p_user_id => :ada, p_name => 'N',
    p_environment => 'test') ~ '^mine_[0-9A-Za-z]{60}$' AS text_form;
SELECT pg_temp.outcome('SELECT regress_json.create_api_key(' || arguments || ')')
FROM (VALUES ('NULL, ''N'', ''moon'''), ('''00000000-0000-4000-8000-0000000000b1'', ''N'', ''live''')) AS c
    (arguments);
SELECT regress_json.generate_my_api_key('Mine', 'free') -> 'data' AS mine \gset
SELECT regress_json.verify_api_key_hash(:'mine'::jsonb ->> 'api_key') #>> '{data,user_id}' AS user_id;
SELECT pg_temp.shape(answer), jsonb_typeof(answer -> 'data') AS data,
    jsonb_array_length(answer -> 'data') > 1 AS several,
       (SELECT count(DISTINCT k ->> 'user_id') FROM jsonb_array_elements(answer -> 'data') AS k) AS users,
       answer::text LIKE '%secret%hash%' AS shows_hashes
FROM regress_json.get_my_api_keys() AS answer;
SELECT regress_json.revoke_my_api_key(p_key_id => (:'mine'::jsonb ->> 'key_id')::uuid) #- '{data,key_id}' AS
    answer;
SELECT regress_json.revoke_my_api_key(p_key_id => (:'mine'::jsonb ->> 'key_id')::uuid) #- '{data,key_id}' AS
    again;
SELECT regress_json.verify_api_key_hash(:'mine'::jsonb ->> 'api_key');
SELECT regress_json.revoke_my_api_key('00000000-0000-4000-8000-000000000000');
SELECT regress_json.revoke_my_api_key(NULL);
-- Another user's are not there; without a user there is nothing; PostgREST gets the same answers.
SELECT set_config('request.jwt.claims', '{"sub": "00000000-0000-4000-8000-0000000000b1"}', false)
    IS NOT NULL AS is_bob;
SELECT regress_json.get_my_api_keys();
SELECT regress_json.revoke_my_api_key(:'key_id');
SELECT set_config('request.method', 'POST', false);
SELECT regress_json.revoke_my_api_key(:'key_id');
SELECT regress_json.generate_my_api_key('N', 'no such');
SELECT regress_json.issue_api_key(:ada, 'N', 'free', NULL);
SELECT set_config('request.jwt.claims', '{}', false);
SELECT regress_json.get_my_api_keys();
SELECT regress_json.generate_my_api_key('N', 'free');
SELECT regress_json.revoke_my_api_key(:'key_id');
RESET request.method;
RESET request.jwt.claims;
RESET ROLE;
SELECT api_key.verify_api_key(:'key') ->> 'code' AS untouched;

-- table_row, any_name and stored_hash_pair; the schema's name needs quotes.
SELECT api_key.install_compat('table_row', 'Regress "Odd');
SELECT id = :'key_id' AS id, name, tier, created_at = (:'issued'::jsonb ->> 'created_at')::timestamptz AS
    created_at,
       pg_typeof(name) AS name_type, pg_typeof(tier) AS tier_type, pg_typeof(created_at) AS created_type
FROM "Regress ""Odd".verify_api_key_hash(input_api_key => :'key');
SELECT count(*) FROM "Regress ""Odd".verify_api_key_hash(input_api_key => 'x');
SELECT api_key.install_compat('any_name', 'Regress "Odd');
SELECT argument, pg_temp.shape("Regress ""Odd".verify_api_key_hash(argument::jsonb)),
    "Regress ""Odd".verify_api_key_hash(argument::jsonb) ->> 'code' AS code
FROM (VALUES ('{"whatever": "old key"}'), ('{"key": "x"}'), ('{"key": null}'), ('{}'),
    ('{"a": "old key", "b": "old key"}'),
             ('"old key"'), ('["old key"]'), ('null'), ('{"key": {"a": 1}}'), (NULL)) AS c (argument);
SELECT api_key.install_compat('stored_hash_pair', 'Regress "Odd');
SELECT what, "Regress ""Odd".verify_api_key_hash(plain_key => plain, stored_hash => stored) AS matches,
       "Regress ""Odd".verify_api_key_hash(plain_key => plain || 'x', stored_hash => stored) AS another
FROM (VALUES ('md5', 'abc', '900150983cd24fb0d6963f7d28e17f72'), ('MD5', 'abc',
    '900150983CD24FB0D6963F7D28E17F72'),
             ('sha1', 'abc', 'a9993e364706816aba3e25717850c26c9cd0d89d'), ('sha256', 'abc',
                 encode(sha256('abc'), 'base64')),
             ('sha512', 'abc', encode(sha512('abc'), 'hex')),
             ('bcrypt', 'sk_live_legacy-key.0001',
                 '$2b$04$9WGB9f8D8rZ97bQTkPeUMemdUDYP0m2dpbxLqCzTapcpST8JgeEbC'),
             ('argon2', 'sk_live_legacy-key.0001',
                 '$argon2i$v=16$m=64,t=2,p=2$c29tZXNhbHQ$ptgBvVrEnCDIIGH6EdBpbQ'),
             ('no hash', 'abc', 'abc'), ('empty', '', ''), ('NULL', NULL, md5('')), ('NULL', 'abc',
                 NULL)) AS c (what, plain, stored);

-- Who may call them: those who may call what is behind them.
SELECT schema, function, has_function_privilege('regress_anon', oid, 'EXECUTE') AS anon,
    has_function_privilege('regress_user', oid, 'EXECUTE') AS authenticated,
       has_function_privilege('regress_service', oid, 'EXECUTE') AS service,
           has_function_privilege('regress_authenticator', oid, 'EXECUTE') AS authenticator
FROM (SELECT oid, pronamespace::regnamespace AS schema, proname || '(' || pg_get_function_arguments(oid) ||
    ')' AS function FROM pg_proc
      WHERE pronamespace::regnamespace::text ~* 'regress') AS f ORDER BY schema::text, function;
SELECT proname, prosecdef, proconfig FROM pg_proc
WHERE pronamespace::regnamespace::text ~* 'regress' AND (prosecdef
    OR proconfig <> '{"search_path=pg_catalog, pg_temp"}');
SET ROLE regress_anon;
SELECT regress_json.verify_api_key_hash('old key') #- '{data,key_id}' AS answer;
SELECT count(*) FROM regress_rows.verify_api_key_hash('old key');
SELECT pg_temp.outcome('SELECT regress_json.generate_my_api_key(''N'', ''free'')');
SELECT pg_temp.outcome('SELECT regress_json.get_my_api_keys()');
SELECT pg_temp.outcome('SELECT "Regress ""Odd".verify_api_key_hash(''a'', ''b'')');
RESET ROLE;
SELECT profile, function_name, installed_in FROM api_key.compat_profiles WHERE installed_in <> '{}'
    ORDER BY profile, function_name;

-- Twice is as once; with another prefix, it is another.
SELECT api_key.install_compat('jsonb_envelope', 'regress_json', 'other_');
SELECT regress_json.create_api_key(NULL, 'N', 'live') ~ '^other_[0-9A-Za-z]{60}$' AS other_prefix;
SELECT api_key.install_compat('jsonb_envelope', 'regress_json');
SELECT regress_json.create_api_key(NULL, 'N', 'live') ~ '^sk_live_[0-9A-Za-z]{60}$' AS default_prefix,
       regress_json.create_api_key(NULL, 'N', 'test') ~ '^sk_test_[0-9A-Za-z]{60}$' AS of_its_environment;
SELECT count(*) AS functions FROM pg_proc WHERE pronamespace = 'regress_json'::regnamespace;
-- One profile in two schemas: each is removed for itself.
SELECT api_key.install_compat('bearer_row', 'regress_json', p_replace => true);
SELECT count(*) AS rows FROM regress_json.verify_api_key_hash('old key');
SELECT api_key.remove_compat('bearer_row', 'regress_json');
SELECT regress_json.verify_api_key_hash('x');
SELECT count(*) AS rows FROM regress_rows.verify_api_key_hash('old key');
-- Two profiles, one put in the other's place, and that one removed first: what the second has made stays,
-- and goes when it is removed.
SELECT api_key.install_compat('bearer_row', 'regress_json', p_replace => true);
SELECT api_key.remove_compat('jsonb_envelope', 'regress_json');
SELECT count(*) AS rows FROM regress_json.verify_api_key_hash('old key');
SELECT api_key.remove_compat('bearer_row', 'regress_json');
SELECT proname, pg_get_function_arguments(oid) AS left FROM pg_proc
    WHERE pronamespace = 'regress_json'::regnamespace ORDER BY 1;
SELECT api_key.remove_compat('bearer_row', 'regress_rows'), api_key.remove_compat('table_row',
    'Regress "Odd'),
       api_key.remove_compat('any_name', 'Regress "Odd'), api_key.remove_compat('stored_hash_pair',
           'Regress "Odd');
SELECT * FROM changed;
SELECT count(*) AS remembered FROM api_key_internal.compat_functions;

SET client_min_messages = warning;
DROP SCHEMA regress_json CASCADE;
RESET client_min_messages;
CREATE SCHEMA regress_json;
GRANT USAGE ON SCHEMA regress_json TO PUBLIC;

-- What someone else has made is not replaced unasked: all or nothing.
CREATE FUNCTION regress_rows.verify_api_key_complete_v2(p_api_key text) RETURNS jsonb
    LANGUAGE sql AS $$ SELECT to_jsonb('mine: ' || p_api_key) $$;
COMMENT ON FUNCTION regress_rows.verify_api_key_complete_v2 IS 'Mine.';
GRANT EXECUTE ON FUNCTION regress_rows.verify_api_key_complete_v2 TO regress_anon;
CREATE FUNCTION regress_rows.verify_api_key_complete_v2(p_api_key text, p_more text) RETURNS text
    LANGUAGE sql AS $$ SELECT 'not concerned' $$;
TRUNCATE before;
INSERT INTO before SELECT oid, proname, pronamespace, prosrc, proacl FROM pg_proc;
SELECT pg_temp.outcome('SELECT api_key.install_compat(''jsonb_envelope'', ''regress_rows'')');
SELECT api_key.install_compat('jsonb_envelope', 'regress_rows');
\echo :SQLSTATE
SELECT pg_temp.outcome('SELECT api_key.install_compat(''jsonb_envelope'', ''regress_rows'',
    p_replace => NULL)');
SELECT * FROM changed;
-- Asked for, it is kept aside, also when installed twice, and comes back as it was.
SELECT api_key.install_compat('jsonb_envelope', 'regress_rows', p_replace => true);
SELECT pg_temp.shape(regress_rows.verify_api_key_complete_v2('old key'::text));
SELECT regress_rows.verify_api_key_complete_v2_before_api_key('x');
SELECT api_key.install_compat('jsonb_envelope', 'regress_rows');
SELECT api_key.install_compat('jsonb_envelope', 'regress_rows', p_replace => true);
SELECT regress_rows.verify_api_key_complete_v2('x', 'y');
SELECT api_key.remove_compat('jsonb_envelope', 'regress_rows');
SELECT * FROM changed;
SELECT regress_rows.verify_api_key_complete_v2('x'),
    obj_description('regress_rows.verify_api_key_complete_v2(text)'::regprocedure) AS comment;
-- What its callers would not know again is not replaced: they would take a refusal for a key. Each of these
-- is
-- refused by each profile whose function has its arguments.
CREATE FUNCTION pg_temp.replacing(p_profile text, p_arguments text, p_rest text) RETURNS text
    LANGUAGE plpgsql AS $$
DECLARE
    v_detail text;
BEGIN
    EXECUTE format('CREATE FUNCTION regress_json.verify_api_key_hash(%s) %s', p_arguments, p_rest);
    PERFORM api_key.install_compat(p_profile, 'regress_json', p_replace => true);
    RAISE EXCEPTION USING ERRCODE = 'ZZZZZ';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_detail = PG_EXCEPTION_DETAIL;
    RETURN CASE SQLSTATE WHEN 'ZZZZZ' THEN 'replaced' ELSE SQLSTATE || ' ' || split_part(v_detail, '. ', 1)
        END;
END
$$;
SELECT profile, arguments, returns, pg_temp.replacing(profile, arguments,
    'RETURNS ' || returns || ' LANGUAGE sql AS ' || quote_literal(body)) AS outcome
FROM (VALUES
    (1, 'bearer_row', 'auth_header text', 'TABLE (key_id uuid, user_tier text, tier_limit text)',
        'SELECT NULL::uuid, '''', '''''),
    (2, 'bearer_row', 'auth_header text, OUT key_id uuid, OUT user_tier text, OUT tier_limit text',
        'SETOF record', 'SELECT NULL::uuid, '''', '''''),
    (3, 'bearer_row', 'auth_header text, OUT key_id uuid, OUT user_tier text, OUT tier_limit text',
        'record', 'SELECT NULL::uuid, '''', '''''),
    (4, 'bearer_row', 'auth_header text', 'TABLE (key_id uuid, user_tier text)', 'SELECT NULL::uuid, '''''),
    (5, 'bearer_row', 'auth_header text', 'TABLE (key_id text, user_tier text, tier_limit text)',
        'SELECT '''', '''', '''''),
    (6, 'bearer_row', 'auth_header text', 'TABLE (id uuid, user_tier text, tier_limit text)',
        'SELECT NULL::uuid, '''', '''''),
    (7, 'bearer_row', 'p_key text', 'TABLE (key_id uuid, user_tier text, tier_limit text)',
        'SELECT NULL::uuid, '''', '''''),
    (8, 'bearer_row', 'text', 'TABLE (key_id uuid, user_tier text, tier_limit text)',
        'SELECT NULL::uuid, '''', '''''),
    (9, 'bearer_row', 'auth_header text = NULL', 'TABLE (key_id uuid, user_tier text, tier_limit text)',
        'SELECT NULL::uuid, '''', '''''),
    (10, 'jsonb_envelope', 'p_api_key text', 'jsonb', 'SELECT ''{}''::jsonb'),
    (11, 'jsonb_envelope', 'p_api_key text', 'json', 'SELECT ''{}''::json'),
    (12, 'jsonb_envelope', 'p_api_key text', 'SETOF jsonb', 'SELECT ''{}''::jsonb'),
    (13, 'jsonb_envelope', 'p_api_key text', 'boolean', 'SELECT false'),
    (14, 'jsonb_envelope', 'p_api_key text', 'uuid', 'SELECT NULL::uuid'),
    (15, 'jsonb_envelope', 'p_api_key text', 'TABLE (id uuid, plan text, api_key_hash text)',
        'SELECT NULL::uuid, '''', '''''),
    (16, 'jsonb_envelope', 'p_api_key text', 'TABLE (is_valid boolean)', 'SELECT false'),
    (17, 'jsonb_envelope', 'p_api_key text', 'pg_am', 'SELECT * FROM pg_am LIMIT 0'),
    (18, 'jsonb_envelope', 'api_key text', 'jsonb', 'SELECT ''{}''::jsonb'),
    (19, 'table_row', 'input_api_key text',
        'TABLE (id uuid, name varchar(255), tier varchar(50), created_at timestamptz)',
        'SELECT NULL::uuid, ''''::varchar, ''''::varchar, now()'),
    (20, 'table_row', 'input_api_key text',
        'TABLE (id uuid, name text, tier varchar, created_at timestamptz)',
        'SELECT NULL::uuid, '''', ''''::varchar, now()'),
    (21, 'table_row', 'input_api_key text', 'boolean', 'SELECT false'),
    (22, 'any_name', 'jsonb', 'jsonb', 'SELECT $1'),
    (23, 'any_name', 'body jsonb', 'jsonb', 'SELECT $1'),
    (24, 'any_name', 'jsonb', 'TABLE (id uuid)', 'SELECT NULL::uuid'),
    (25, 'stored_hash_pair', 'plain_key text, stored_hash text', 'boolean', 'SELECT false'),
    (26, 'stored_hash_pair', 'p_api_key text, p_stored_hash text', 'boolean', 'SELECT false'),
    (27, 'stored_hash_pair', 'stored_hash text, plain_key text', 'boolean', 'SELECT false'),
    (28, 'stored_hash_pair', 'plain_key text, stored_hash text', 'uuid', 'SELECT NULL::uuid')) AS c (n,
        profile, arguments, returns, body)
ORDER BY n;
SELECT * FROM changed;
-- Ids were uuids: replaced as well, and brought back. Who leaves an argument out still can.
CREATE FUNCTION regress_json.revoke_my_api_key(p_key_id uuid) RETURNS jsonb
    LANGUAGE sql AS $$ SELECT '"mine"'::jsonb $$;
CREATE FUNCTION regress_json.issue_api_key(p_user_id uuid, p_name text, p_tier text = 'gold',
    p_description text = NULL) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"mine"'::jsonb $$;
SELECT pg_temp.outcome('SELECT api_key.install_compat(''jsonb_envelope'', ''regress_json'')');
SELECT api_key.install_compat('jsonb_envelope', 'regress_json', p_replace => true);
SELECT regress_json.issue_api_key(:ada::uuid, 'N') ->> 'tier' AS tier;
SELECT regress_json.revoke_my_api_key(gen_random_uuid()) ->> 'error' AS error;
SELECT api_key.remove_compat('jsonb_envelope', 'regress_json');
SELECT regress_json.revoke_my_api_key(NULL), regress_json.issue_api_key(NULL, 'N');
DROP FUNCTION regress_json.revoke_my_api_key, regress_json.issue_api_key;
-- Other kinds of things of the same name.
CREATE PROCEDURE regress_json.create_api_key_bcrypt(p_user_id uuid, p_name text, p_tier text,
    p_description text) LANGUAGE sql AS 'SELECT 1';
SELECT pg_temp.outcome('SELECT api_key.install_compat(''jsonb_envelope'', ''regress_json'')');
DROP PROCEDURE regress_json.create_api_key_bcrypt;
CREATE PROCEDURE regress_json.revoke_my_api_key(p_key_id uuid) LANGUAGE sql AS 'SELECT 1';
SELECT pg_temp.outcome('SELECT api_key.install_compat(''jsonb_envelope'', ''regress_json'',
    p_replace => true)');
DROP PROCEDURE regress_json.revoke_my_api_key;
CREATE AGGREGATE regress_json.verify_api_key_hash(text) (SFUNC = textcat, STYPE = text);
SELECT pg_temp.outcome('SELECT api_key.install_compat(''jsonb_envelope'', ''regress_json'',
    p_replace => true)');
DROP AGGREGATE regress_json.verify_api_key_hash(text);

-- Whoever ALTER DEFAULT PRIVILEGES names gets nothing of what is made: only who may call what is behind it.
CREATE TEMP VIEW granted AS
SELECT grantee, string_agg(DISTINCT privilege, ' ') AS privileges, count(DISTINCT oid) AS functions
FROM (SELECT p.oid, CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(acl.grantee) END AS grantee,
             privilege_type || CASE WHEN is_grantable THEN '*' ELSE '' END AS privilege
      FROM pg_proc AS p, aclexplode(coalesce(proacl, acldefault('f', proowner))) AS acl
      WHERE pronamespace = 'regress_json'::regnamespace AND acl.grantee <> p.proowner) AS g
          GROUP BY grantee;
CREATE ROLE regress_nobody;
BEGIN;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO regress_nobody WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO regress_anon WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES IN SCHEMA regress_json GRANT ALL ON FUNCTIONS TO PUBLIC, regress_authenticator,
    regress_user;
SELECT api_key.install_compat(profile, 'regress_json')
    FROM unnest('{jsonb_envelope,any_name,stored_hash_pair}'::text[]) AS profile;
SELECT * FROM granted ORDER BY 1;
SET LOCAL ROLE regress_anon;
SAVEPOINT called;
SELECT regress_json.verify_api_key_hash('text',
    '$argon2id$v=19$m=1048576,t=64,p=1$c29tZXNhbHQ$ptgBvVrEnCDIIGH6EdBpbQ');
ROLLBACK TO called;
-- Even who is granted it later hashes nothing without the right to.
RESET ROLE;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA regress_json TO regress_anon;
SET LOCAL ROLE regress_anon;
SELECT regress_json.verify_api_key_hash('text',
    '$argon2id$v=19$m=1048576,t=64,p=1$c29tZXNhbHQ$ptgBvVrEnCDIIGH6EdBpbQ');
ROLLBACK;
-- setup_postgrest afterwards grants as well.
BEGIN;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA api_key FROM regress_anon, regress_user, regress_service;
SELECT api_key.install_compat('jsonb_envelope', 'regress_json');
SELECT * FROM granted;
SET LOCAL client_min_messages = warning;
SELECT api_key.setup_postgrest('regress_anon', 'regress_user', 'regress_service', 'regress_authenticator');
RESET client_min_messages;
SELECT * FROM granted ORDER BY 1;
ROLLBACK;
DROP ROLE regress_nobody;

-- DROP EXTENSION takes them along, without CASCADE; what they had replaced stays as it was kept. Nothing
-- that is
-- left calls into a schema that anyone may make then.
CREATE FUNCTION regress_json.verify_api_key_hash(p_api_key text) RETURNS jsonb
    LANGUAGE sql AS $$ SELECT '"mine"'::jsonb $$;
CREATE TABLE regress_rows.isolated (id integer PRIMARY KEY, tenant_id uuid);
BEGIN;
SET LOCAL client_min_messages = warning;
SELECT api_key.install_compat('jsonb_envelope', 'regress_json', p_replace => true);
SELECT api_key.install_compat(profile, 'Regress "Odd')
    FROM unnest('{bearer_row,any_name,stored_hash_pair}'::text[]) AS profile;
SELECT count(*) AS tied FROM pg_depend
WHERE classid = 'pg_proc'::regclass AND deptype = 'x' AND refobjid = (SELECT oid FROM pg_extension
    WHERE extname = 'api_key');
LOCK TABLE api_key_internal.audit_log, api_key_internal.keys, api_key_internal.key_usage;
SAVEPOINT before_drop;
DROP EXTENSION api_key;
SELECT pronamespace::regnamespace AS schema, proname FROM pg_proc
WHERE pronamespace <> pg_my_temp_schema() AND (prosrc LIKE '%api\_key.%'
    OR pronamespace::regnamespace::text ~* 'regress') ORDER BY 1, 2;
ROLLBACK TO before_drop;
-- Who uses one of them is told; and so with what isolate_tenants has made.
CREATE VIEW regress_rows.uses AS SELECT regress_json.verify_api_key_hash('x'::text);
SELECT api_key.isolate_tenants('regress_rows.isolated') IS NOT NULL AS isolated;
SAVEPOINT used;
DROP EXTENSION api_key;
\echo :SQLSTATE
ROLLBACK TO used;
DROP EXTENSION api_key CASCADE;
SELECT proname FROM pg_proc WHERE prosrc LIKE '%api\_key.%' AND pronamespace <> pg_my_temp_schema()
UNION ALL SELECT tgname FROM pg_trigger WHERE tgrelid = 'regress_rows.isolated'::regclass
UNION ALL SELECT polname FROM pg_policy WHERE polrelid = 'regress_rows.isolated'::regclass
UNION ALL SELECT 'default' FROM pg_attrdef WHERE adrelid = 'regress_rows.isolated'::regclass
UNION ALL SELECT relname FROM pg_class WHERE relname = 'uses';
ROLLBACK;
DROP FUNCTION regress_json.verify_api_key_hash;
-- Only the extension's owner.
GRANT USAGE, CREATE ON SCHEMA regress_json TO regress_service;
SET ROLE regress_service;
SELECT pg_temp.outcome('SELECT api_key.install_compat(''table_row'', ''regress_json'')');
SELECT pg_temp.outcome('SELECT api_key.remove_compat(''table_row'', ''regress_json'')');
SELECT pg_temp.outcome('SELECT * FROM api_key.compat_profiles');
RESET ROLE;
-- Undone with its transaction.
BEGIN;
SELECT api_key.install_compat('table_row', 'regress_json');
ROLLBACK;
SELECT count(*) AS remembered FROM api_key_internal.compat_functions;
SELECT event, details, count(*) FROM api_key.audit_log WHERE event LIKE 'compat%' GROUP BY 1, 2
    ORDER BY 1, 2;

SET client_min_messages = warning;
DROP SCHEMA regress_rows, regress_json, "Regress ""Odd" CASCADE;
\i tests/cleanup.sql
