-- What verify_api_key answers: each code, and which of them wins.
\i tests/preamble.sql
SELECT api_key.issue_api_key(p_user_id => :ada, p_name => 'CI', p_tenant_id => :tenant,
    p_resource_id => 'site-1',
    p_scopes => '{articles:read,users:*}', p_allowed_ips => '{192.0.2.0/24,198.51.100.7,2001:db8::/32}',
    p_metadata => '{"plan": "pro"}', p_expires_at => '2999-01-01 00:00Z') AS issued \gset
SELECT :'issued'::jsonb ->> 'api_key' AS key, :'issued'::jsonb ->> 'key_id' AS key_id \gset

-- VALID, with what is known of the key.
SELECT api_key.verify_api_key(:'key', '{articles:read,users:write}', '192.0.2.9', 'site-1') AS answer \gset
SELECT :'answer'::jsonb - '{key_id,expires_at}'::text[] AS answer;
SELECT :'answer'::jsonb ->> 'key_id' = :'key_id' AS key_id,
       (:'answer'::jsonb ->> 'expires_at')::timestamptz = '2999-01-01 00:00Z' AS expires_at;
-- The jsonb is the very one that PostgreSQL makes of its text, in which each name is found.
SELECT api_key.issue_api_key(p_name => 'Zoë "x"',
    p_metadata => '{"a": [1, {"b": null}], "c": -1.50, "d": {}}', p_user_id => :ada,
    p_scopes => ARRAY(SELECT 'resource' || n || ':read' FROM generate_series(1, 100) AS n),
        p_not_before => '2001-01-01Z') ->> 'api_key' AS wide \gset
CREATE TEMP TABLE answers AS SELECT what, answer, answer::text::jsonb AS again
FROM (VALUES ('all fields', api_key.verify_api_key(:'key', '{users:write}', '192.0.2.9', 'site-1')),
             ('wide', api_key.verify_api_key(:'wide')),
             ('hash', api_key.verify_api_key_hash(:'wide')),
             ('scopes', api_key.verify_api_key(:'wide', ARRAY[NULL] || ARRAY(SELECT 'a:' || n
                 FROM generate_series(1, 100) AS n))),
             ('malformed', api_key.verify_api_key(''))) AS a (what, answer);
SELECT what, answer = again AS equal, pg_column_size(answer) = pg_column_size(again) AS as_long,
       jsonb_hash(answer) = jsonb_hash(again) AS same_hash,
       (SELECT bool_and(answer -> name = again -> name) FROM jsonb_object_keys(again) AS name) AS found
FROM answers;
-- A key with nothing but the defaults.
SELECT api_key.issue_api_key(p_name => 'plain') AS issued \gset plain_
SELECT :'plain_issued'::jsonb ->> 'api_key' AS plain, :'plain_issued'::jsonb ->> 'key_id' AS plain_id \gset
SELECT api_key.verify_api_key(:'plain') - 'key_id' AS answer;

-- MALFORMED: what cannot be the text of a key.
SELECT api_key.verify_api_key('hello') AS answer;
SELECT what, api_key.verify_api_key(presented) ->> 'code' AS code
FROM (VALUES ('NULL', NULL), ('empty', ''), ('1 MB', repeat('x', 1048576)), ('prefix only', 'sk_live_'),
             ('a space before', ' ' || :'plain'), ('a space behind', :'plain' || ' '),
             ('a line feed behind', :'plain' || E'\n'), ('twice', :'plain' || :'plain'),
             ('without its last character', left(:'plain', -1)), ('one more character', :'plain' || '0'),
             ('upper case', upper(:'plain')), ('quoted', '"' || :'plain' || '"'),
             ('as a Bearer', 'Bearer ' || :'plain'), ('control characters', repeat(E'\001', 68)),
             ('other alphabets', repeat('ё', 68)), ('another prefix', overlay(:'plain' PLACING 'test'
                 FROM 4 FOR 4)),
             ('no prefix', right(:'plain', 60))) AS c (what, presented);

-- NOT_FOUND: one answer for an unknown id, a wrong secret and another prefix.
SELECT what, api_key.verify_api_key(presented) AS answer
FROM (VALUES ('unknown id', api_key_internal.mint('sk_live_', gen_random_uuid()) ->> 'api_key'),
             ('wrong secret', api_key_internal.mint('sk_live_', :'plain_id') ->> 'api_key')) AS c (what,
                 presented);
BEGIN;
UPDATE api_key_internal.keys SET key_prefix = 'other_' WHERE key_id = :'plain_id';
SELECT api_key.verify_api_key(:'plain') AS answer;
ROLLBACK;
-- What a key's state is, only a caller with its right secret learns.
BEGIN;
UPDATE api_key_internal.keys SET revoked_at = now() WHERE key_id = :'plain_id';
SELECT api_key.verify_api_key(api_key_internal.mint('sk_live_',
    :'plain_id') ->> 'api_key') ->> 'code' AS wrong_secret,
       api_key.verify_api_key(:'plain') ->> 'code' AS right_secret;
ROLLBACK;

-- THROTTLED: more wrong secrets for one key id than its failure budget. Neither the secret that is
-- known to be right nor any other key is affected; what the key's state is does not matter.
SET api_key.failure_limit = 2;
SELECT api_key.issue_api_key(p_name => 'attacked') AS issued \gset attacked_
SELECT :'attacked_issued'::jsonb ->> 'api_key' AS attacked,
    :'attacked_issued'::jsonb ->> 'key_id' AS attacked_id \gset
SELECT n, api_key.verify_api_key(api_key_internal.mint('sk_live_', :'attacked_id') ->> 'api_key') AS answer
    FROM generate_series(1, 4) AS n;
SELECT api_key.verify_api_key(:'attacked') ->> 'code' AS right_but_not_seen_before;
SELECT api_key.verify_api_key_hash(:'attacked') ->> 'code' AS hash_code;
UPDATE api_key_internal.keys SET revoked_at = now() WHERE key_id = :'attacked_id';
SELECT api_key.verify_api_key(:'attacked') ->> 'code' AS before_its_state;
SELECT api_key.verify_api_key(api_key_internal.mint('other_',
    :'attacked_id') ->> 'api_key') ->> 'code' AS another_prefix;
SELECT api_key.issue_api_key(p_name => 'known') AS issued \gset known_
SELECT :'known_issued'::jsonb ->> 'api_key' AS known, :'known_issued'::jsonb ->> 'key_id' AS known_id \gset
SELECT api_key.verify_api_key(:'known') ->> 'code' AS known;
SELECT n, api_key.verify_api_key(api_key_internal.mint('sk_live_',
    :'known_id') ->> 'api_key') ->> 'code' AS wrong,
       api_key.verify_api_key(:'known') ->> 'code' AS known FROM generate_series(1, 4) AS n;
RESET api_key.failure_limit;

-- The codes in their order: a key with every fault, of which one after the other is mended.
-- (A key cannot both have expired and not be valid yet.)
CREATE FUNCTION pg_temp.answer(p_api_key text) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN api_key.verify_api_key(p_api_key, '{articles:write}', '203.0.113.1', 'site-2');
END
$$;
UPDATE api_key_internal.keys SET revoked_at = now(), enabled = false, not_before = now() + interval '1 day'
    WHERE key_id = :'key_id';
SELECT pg_temp.answer(:'key');
UPDATE api_key_internal.keys SET revoked_at = NULL WHERE key_id = :'key_id';
SELECT pg_temp.answer(:'key');
UPDATE api_key_internal.keys SET enabled = true WHERE key_id = :'key_id';
SELECT pg_temp.answer(:'key');
UPDATE api_key_internal.keys SET not_before = NULL, expires_at = now() WHERE key_id = :'key_id';
SELECT pg_temp.answer(:'key');
UPDATE api_key_internal.keys SET expires_at = NULL WHERE key_id = :'key_id';
SELECT pg_temp.answer(:'key');
UPDATE api_key_internal.keys SET allowed_ips = NULL WHERE key_id = :'key_id';
SELECT pg_temp.answer(:'key');
UPDATE api_key_internal.keys SET resource_id = 'site-2' WHERE key_id = :'key_id';
SELECT pg_temp.answer(:'key');
UPDATE api_key_internal.keys SET scopes = '{articles:*}' WHERE key_id = :'key_id';
SELECT pg_temp.answer(:'key') ->> 'code' AS code;
-- Expiry and revocation beside each other, and a disabled key that has expired.
BEGIN;
UPDATE api_key_internal.keys SET revoked_at = now(), expires_at = now() WHERE key_id = :'key_id';
SELECT pg_temp.answer(:'key') ->> 'code' AS code;
UPDATE api_key_internal.keys SET revoked_at = NULL, enabled = false WHERE key_id = :'key_id';
SELECT pg_temp.answer(:'key') ->> 'code' AS code;
ROLLBACK;

-- IP_NOT_ALLOWED: addresses, networks, both families; an unknown address is not an allowed one.
UPDATE api_key_internal.keys SET allowed_ips = '{192.0.2.0/24,198.51.100.7,2001:db8::/32}'
    WHERE key_id = :'key_id';
SELECT ip, api_key.verify_api_key(:'key', NULL, ip::inet) ->> 'code' AS code
FROM (VALUES ('192.0.2.0'), ('192.0.2.255'), ('192.0.3.0'), ('198.51.100.7'), ('198.51.100.8'),
    ('2001:db8::1'),
             ('2001:db9::1'), ('::ffff:198.51.100.8'), ('192.0.2.0/23'), (NULL)) AS c (ip);
SELECT api_key.verify_api_key(:'plain', NULL, '203.0.113.1') ->> 'code' AS a_key_without_a_list;
UPDATE api_key_internal.keys SET allowed_ips = NULL WHERE key_id = :'key_id';

-- RESOURCE_MISMATCH: NULL asks nothing; a key of no resource is good for each.
SELECT asked, api_key.verify_api_key(:'key', NULL, NULL, asked) ->> 'code' AS bound,
       api_key.verify_api_key(:'plain', NULL, NULL, asked) ->> 'code' AS unbound
FROM (VALUES ('site-2'), ('site-1'), ('SITE-2'), (''), (NULL)) AS c (asked);

-- INSUFFICIENT_SCOPE: all of the required ones are needed; resource:* grants its actions, admin all.
CREATE FUNCTION pg_temp.with_scopes(p_key text, p_id uuid, p_granted text[], p_required text[]) RETURNS text
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE api_key_internal.keys SET scopes = p_granted WHERE key_id = p_id;
    RETURN api_key.verify_api_key(p_key, p_required) ->> 'code';
END
$$;
SELECT granted, required, pg_temp.with_scopes(:'plain', :'plain_id', granted::text[],
    required::text[]) AS code
FROM (VALUES ('{}', NULL), ('{}', '{}'), ('{}', '{articles:read}'), ('{}', '{NULL}'),
             ('{articles:read}', '{articles:read}'), ('{articles:read}', '{articles:write}'),
             ('{articles:read}', '{articles:*}'), ('{articles:read}', '{articles}'),
             ('{articles:read}', '{articles:read,users:read}'), ('{articles:read,users:read}',
                 '{users:read,articles:read}'),
             ('{articles:read}', '{articles:read,NULL}'), ('{articles:read}', '{ARTICLES:READ}'),
                 ('{articles:read}', '{""}'),
             ('{articles:*}', '{articles:read}'), ('{articles:*}', '{articles:*}'), ('{articles:*}',
                 '{articles2:read}'),
             ('{articles:*}', '{users:read}'), ('{articles:*}', '{admin}'), ('{admin}',
                 '{articles:read,users:*}'),
             ('{admin}', '{admin}'), ('{users:admin}', '{articles:read}')) AS c (granted, required);
SELECT api_key.verify_api_key(:'plain', ARRAY(SELECT 'r' || n || ':read'
    FROM generate_series(1, 10000) AS n)) ->> 'code' AS ten_thousand_scopes;
UPDATE api_key_internal.keys SET scopes = '{}' WHERE key_id = :'plain_id';

-- A change is visible in the next statement of its own transaction, and gone when that is undone.
BEGIN;
SELECT api_key.revoke_api_key(:'plain_id');
SELECT api_key.verify_api_key(:'plain') ->> 'code' AS code;
ROLLBACK;
SELECT api_key.verify_api_key(:'plain') ->> 'code' AS code;
BEGIN;
SAVEPOINT before;
SELECT api_key.delete_api_key(:'plain_id');
SELECT api_key.verify_api_key(:'plain') ->> 'code' AS code;
ROLLBACK TO before;
SELECT api_key.verify_api_key(:'plain') ->> 'code' AS code;
COMMIT;

-- Verify never writes: STABLE, in READ ONLY transactions, without a transaction id.
SELECT proname, provolatile FROM pg_proc
WHERE oid IN ('api_key.verify_api_key'::regproc, 'api_key.verify_api_key_hash'::regproc) ORDER BY proname;
BEGIN READ ONLY;
SELECT api_key.verify_api_key(:'plain') ->> 'code' AS code,
    api_key.verify_api_key_hash(:'plain') ->> 'code' AS hash_code;
SELECT pg_current_xact_id_if_assigned() AS transaction_id;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT api_key.verify_api_key(:'plain') ->> 'code' AS code;
COMMIT;

-- As a prepared statement, in a set, through other search paths.
PREPARE verify(text) AS SELECT api_key.verify_api_key($1) ->> 'code' AS code;
EXECUTE verify(:'plain');
EXECUTE verify('x');
SET search_path = '';
EXECUTE verify(:'plain');
RESET search_path;
CREATE TABLE pg_temp.keys (key_id uuid);
SELECT api_key.verify_api_key(k) ->> 'code' AS code FROM unnest(ARRAY[:'plain', :'key', 'x', NULL]) AS k;

-- In one session, the table that is read may go away and come back.
BEGIN;
SET LOCAL client_min_messages = error;
-- In the order in which the worker locks, so that the two cannot deadlock.
LOCK TABLE api_key_internal.audit_log, api_key_internal.keys, api_key_internal.key_usage;
DROP EXTENSION api_key CASCADE;
CREATE EXTENSION api_key;
SELECT api_key.verify_api_key(:'plain') ->> 'code' AS code;
SELECT api_key.issue_api_key() ->> 'api_key' AS other \gset
SELECT api_key.verify_api_key(:'other') ->> 'code' AS code;
ROLLBACK;
SELECT api_key.verify_api_key(:'plain') ->> 'code' AS plain,
    api_key.verify_api_key(:'other') ->> 'code' AS other;

-- A stored hash that is damaged is an error that shows nothing of it.
BEGIN;
UPDATE api_key_internal.keys SET secret_hash = 'damaged' WHERE key_id = :'plain_id';
SELECT api_key.verify_api_key(:'plain');
\echo :SQLSTATE
ROLLBACK;

-- verify_api_key_hash: the same answers in the shape of the hand-written functions.
SELECT api_key.verify_api_key_hash(:'key') #- '{key_id}' #- '{api_key_id}' #- '{data,key_id}' AS answer;
SELECT answer ->> 'key_id' = :'key_id' AS key_id, answer ->> 'api_key_id' = :'key_id' AS api_key_id,
       answer #>> '{data,key_id}' = :'key_id' AS data_key_id
FROM api_key.verify_api_key_hash(:'key') AS answer;
SELECT api_key.verify_api_key_hash(NULL) AS answer;
SELECT api_key.verify_api_key_hash(api_key_internal.mint('sk_live_', :'plain_id') ->> 'api_key') AS answer;
SELECT api_key.verify_api_key_hash(:'plain') ->> 'code' AS code;
UPDATE api_key_internal.keys SET allowed_ips = '{192.0.2.1}' WHERE key_id = :'plain_id';
SELECT api_key.verify_api_key_hash(:'plain') ->> 'code' AS code;
UPDATE api_key_internal.keys SET expires_at = now() WHERE key_id = :'plain_id';
SELECT api_key.verify_api_key_hash(:'plain') ->> 'code' AS code;
UPDATE api_key_internal.keys SET expires_at = NULL, not_before = now() + interval '1 day'
    WHERE key_id = :'plain_id';
SELECT api_key.verify_api_key_hash(:'plain') ->> 'code' AS code;
UPDATE api_key_internal.keys SET enabled = false WHERE key_id = :'plain_id';
SELECT api_key.verify_api_key_hash(:'plain') ->> 'code' AS code;
SELECT api_key.revoke_api_key(:'plain_id');
SELECT api_key.verify_api_key_hash(:'plain') ->> 'code' AS code;
\i tests/cleanup.sql
