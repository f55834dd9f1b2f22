-- The type of ids that callers pass: a uuid in every respect, but for an error that repeats nothing.
\i tests/preamble.sql
\set a1 '00000000-0000-4000-8000-0000000000a1'

-- Each form that uuid reads is read as it reads it, and what it refuses is refused.
CREATE FUNCTION pg_temp.read(p_type text, p_text text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_value text;
BEGIN
    EXECUTE format('SELECT %L::%s::text', p_text, p_type) INTO v_value;
    RETURN v_value;
EXCEPTION WHEN invalid_text_representation THEN
    RETURN SQLSTATE;
END
$$;
SELECT text, pg_temp.read('api_key.id', text) AS read, pg_temp.read('api_key.id',
    text) = pg_temp.read('uuid', text) AS as_uuid
FROM unnest(ARRAY['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11',
    '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}',
    'a0eebc999c0b4ef8bb6d6bb9bd380a11', 'a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11',
        '{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}',
    '', '{}', ' ', 'null', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a111',
        ' a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11 ', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-',
        '-a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
    'a0e-ebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'a0eebc99--9c0b-4ef8-bb6d-6bb9bd380a11',
        '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', '{{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}}',
        'g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11']) AS text;
SELECT bool_and(pg_temp.read('api_key.id', text) IS NOT DISTINCT FROM pg_temp.read('uuid', text)) AS alike,
    count(*)
FROM (SELECT md5(n::text) AS text FROM generate_series(1, 500) AS n
      UNION ALL SELECT overlay(gen_random_uuid()::text PLACING substr('-{}g ', n % 5 + 1, 1)
          FROM n % 37 + 1 FOR n % 3) FROM generate_series(1, 2000) AS n) AS texts;
-- The error says what to do, and not what was passed.
SELECT 'sk_live_0123456789'::api_key.id;
\echo :SQLSTATE :LAST_ERROR_MESSAGE
SELECT typlen, typbyval, typalign, typstorage, typcategory, typispreferred FROM pg_type
    WHERE oid = 'api_key.id'::regtype
EXCEPT SELECT typlen, typbyval, typalign, typstorage, typcategory, typispreferred FROM pg_type
    WHERE oid = 'uuid'::regtype;

-- Callers with a uuid, an unknown literal, a parameter, a variable, a column, a default or NULL.
SELECT api_key.issue_api_key(:'a1') ->> 'success' AS literal,
    api_key.issue_api_key(:'a1'::uuid) ->> 'success' AS uuid,
       api_key.issue_api_key(p_tenant_id => NULL, p_user_id => (jsonb_build_object('u',
           :'a1') ->> 'u')::uuid) ->> 'success' AS named;
PREPARE inferred AS SELECT count(*) FROM api_key.list_api_keys($1);
PREPARE of_uuid (uuid) AS SELECT count(*) FROM api_key.list_api_keys($1, p_include_inactive => false);
SELECT name, parameter_types FROM pg_prepared_statements ORDER BY name;
EXECUTE inferred (:'a1');
EXECUTE of_uuid (:'a1');
EXECUTE inferred ('sk_live_0123456789');
SET plan_cache_mode = force_generic_plan;
EXECUTE inferred (:'a1');
EXECUTE of_uuid (:'a1');
RESET plan_cache_mode;
DEALLOCATE ALL;
DO $$
DECLARE
    v_uuid uuid := '00000000-0000-4000-8000-0000000000a1';
    v_id api_key.id := v_uuid;
    v_text text := v_uuid;
BEGIN
    v_uuid := v_id;
    v_id := v_text;
    RAISE NOTICE '% %', v_id = v_uuid, (SELECT count(*) FROM api_key.list_api_keys(v_uuid));
    RAISE NOTICE '%', api_key.revoke_api_keys(v_id);
END
$$;
CREATE TEMP TABLE ids (u uuid DEFAULT api_key.current_user_id(), i api_key.id PRIMARY KEY);
INSERT INTO ids VALUES (:'a1', :'a1'), (:'a1', gen_random_uuid());
CREATE TEMP VIEW listed AS SELECT l.status FROM ids, api_key.list_api_keys(ids.u) AS l WHERE ids.i = ids.u;
SELECT status, count(*) FROM listed GROUP BY 1;
-- It compares, sorts, groups and joins as a uuid.
SELECT count(*) FILTER (WHERE u = i) AS equal, count(DISTINCT i) AS ids, bool_or(i < u) AS less FROM ids
    WHERE i IN (SELECT u FROM ids) OR i <> u;
SELECT pg_typeof(coalesce(u, i)), pg_typeof(CASE WHEN true THEN i ELSE u END) FROM ids LIMIT 1;
SELECT array_agg(x ORDER BY x) = ARRAY(SELECT u FROM ids UNION SELECT i FROM ids ORDER BY 1) AS united
    FROM (SELECT i::uuid AS x FROM ids) AS s;
SELECT json_build_object('id', i), to_jsonb(i), i::text = u::text AS text FROM ids WHERE i = u;
SELECT * FROM jsonb_to_record('{"id": "a0eebc999c0b4ef8bb6d6bb9bd380a11"}') AS r (id api_key.id);
SELECT * FROM jsonb_to_record('{"id": "sk_live_0123456789"}') AS r (id api_key.id);
SELECT * FROM jsonb_to_record('{"id": {"sk_live_0123456789": 1}}') AS r (id api_key.id);
-- Arrays; the error of an array's element does not repeat it either.
SELECT '{a0eebc999c0b4ef8bb6d6bb9bd380a11,NULL}'::api_key.id[];
SELECT '{sk_live_0123456789}'::api_key.id[];
-- In binary.
SELECT api_key_internal.id_send(i) = uuid_send(i) AS binary FROM ids LIMIT 1;
-- A text is none unless it is cast, as with uuid.
SELECT api_key.revoke_api_key(:'a1'::text);
SELECT api_key.revoke_api_key(1);
-- Callers without a privilege on the type call all the same.
SET client_min_messages = warning;
SELECT api_key.setup_postgrest('regress_anon', 'regress_user', 'regress_service', 'regress_authenticator',
    p_create_roles => true);
RESET client_min_messages;
SET request.jwt.claims = '{"sub": "00000000-0000-4000-8000-0000000000a1"}';
SET ROLE regress_user;
SELECT api_key.issue_api_key(:'a1') ->> 'key_id' AS key_id \gset
SELECT api_key.revoke_api_key(:'key_id') AS literal, (api_key.rotate_api_key((api_key.issue_api_key() ->>
    'key_id')::uuid)) ->> 'success' AS uuid;
SELECT api_key.revoke_api_key('sk_live_0123456789');
SELECT has_type_privilege('api_key.id', 'USAGE') AS usage;
RESET ROLE;
DROP TABLE ids CASCADE;
\i tests/cleanup.sql
