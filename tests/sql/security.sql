-- What an attacker has tried and must not get. Each begins with who the attacker is.
\i tests/preamble.sql
\set database :DBNAME

-- Someone who may make schemas, before the extension is there: what stands in the way of its
-- schemas is an error, and not taken for the extension's own.
CREATE DATABASE regress_security;
\c regress_security
SET client_min_messages = warning;
CREATE ROLE regress_attacker;
RESET client_min_messages;
CREATE SCHEMA api_key AUTHORIZATION regress_attacker;
CREATE EXTENSION api_key;
\echo :SQLSTATE
DROP SCHEMA api_key;
CREATE SCHEMA api_key_internal AUTHORIZATION regress_attacker;
CREATE FUNCTION api_key_internal.caller() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE EXTENSION IF NOT EXISTS api_key;
\echo :SQLSTATE
CREATE EXTENSION api_key SCHEMA public;
\echo :SQLSTATE
DROP FUNCTION api_key_internal.caller;
DROP SCHEMA api_key_internal;
-- Nor do names in public or in pg_temp get into its script.
CREATE FUNCTION public.format(text, VARIADIC "any") RETURNS text LANGUAGE internal AS 'text_format_nv';
CREATE TABLE public.keys (key_id uuid);
CREATE TABLE pg_temp.keys (key_id uuid);
CREATE EXTENSION api_key;
SELECT extnamespace::regnamespace AS schema, extrelocatable AS relocatable FROM pg_extension
    WHERE extname = 'api_key';
SELECT nspname, pg_get_userbyid(nspowner) = current_user AS is_ours FROM pg_namespace
    WHERE nspname LIKE 'api\_key%' ORDER BY 1;
SELECT api_key.issue_api_key() ->> 'api_key' AS key \gset
SELECT api_key.verify_api_key(:'key') ->> 'code' AS code;
\c :database
DROP DATABASE regress_security;
\set VERBOSITY default
\set SHOW_CONTEXT never
SET api_key.argon2_memory_kib = 64;
SET api_key.argon2_iterations = 1;

\i tests/roles.sql
CREATE SCHEMA regress_attack;
GRANT USAGE, CREATE ON SCHEMA regress_attack TO regress_user, regress_service;
SELECT api_key.define_tier('many');
SELECT count(api_key.issue_api_key(user_id, 'Secret of ' || user_id, 'many')) AS issued
FROM (VALUES ('00000000-0000-4000-8000-0000000000a1'::uuid), ('00000000-0000-4000-8000-0000000000b1'),
    ('00000000-0000-4000-8000-0000000000c1')) AS u (user_id);

-- A role of users that owns a table: its code runs whenever an administrator maintains that table,
-- and must not be an administrator there. It tries what only administrators may.
SET ROLE regress_user;
CREATE TABLE regress_attack.seen (during text, tried text, outcome text);
CREATE FUNCTION regress_attack.try(p_tried text, p_command text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_outcome text;
BEGIN
    BEGIN
        EXECUTE p_command INTO v_outcome;
    EXCEPTION WHEN OTHERS THEN
        v_outcome := SQLSTATE || ' ' || SQLERRM;
    END;
    INSERT INTO regress_attack.seen VALUES (current_setting('regress.during', true), p_tried, v_outcome);
END
$$;
CREATE FUNCTION regress_attack.attack() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM regress_attack.try('list', 'SELECT string_agg(name, '','') FROM api_key.list_api_keys()');
    PERFORM set_config('request.jwt.claims', '{"sub": "00000000-0000-4000-8000-0000000000b1"}', true);
    PERFORM regress_attack.try('list as b1', 'SELECT string_agg(name, '','') FROM api_key.list_api_keys()');
    PERFORM regress_attack.try('list a1 as b1',
        'SELECT string_agg(name, '','')
        FROM api_key.list_api_keys(''00000000-0000-4000-8000-0000000000a1'')');
    PERFORM regress_attack.try('issue for a1',
        'SELECT api_key.issue_api_key(''00000000-0000-4000-8000-0000000000a1'') ->> ''name''');
    PERFORM regress_attack.try('issue admin',
        'SELECT api_key.issue_api_key(p_scopes => ''{admin}'') ->> ''name''');
    PERFORM regress_attack.try('revoke all of a1',
        'SELECT api_key.revoke_api_keys(''00000000-0000-4000-8000-0000000000a1'')');
    PERFORM regress_attack.try('define_tier', 'SELECT api_key.define_tier(''mine'')');
    PERFORM regress_attack.try('role', 'SELECT set_config(''role'', ''none'', true)');
    PERFORM regress_attack.try('role', 'SELECT set_config(''role'', ''regress_service'', true)');
    PERFORM set_config('request.jwt.claims', '', true);
END
$$;
-- Claims to be IMMUTABLE, as an index needs; what it calls is not.
CREATE FUNCTION regress_attack.indexed(p_n integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF current_setting('regress.during', true) <> '' THEN
        PERFORM regress_attack.attack();
    END IF;
    RETURN p_n;
END
$$;
CREATE TABLE regress_attack.bait (n integer);
INSERT INTO regress_attack.bait VALUES (1);
CREATE INDEX bait_index ON regress_attack.bait (regress_attack.indexed(n));
CREATE MATERIALIZED VIEW regress_attack.viewed AS SELECT regress_attack.indexed(1) AS n;
RESET ROLE;
SET regress.during = 'ANALYZE';
ANALYZE regress_attack.bait;
SET regress.during = 'VACUUM FULL';
VACUUM FULL regress_attack.bait;
SET regress.during = 'REINDEX';
REINDEX TABLE regress_attack.bait;
SET regress.during = 'REFRESH';
REFRESH MATERIALIZED VIEW regress_attack.viewed;
RESET regress.during;
SELECT tried, outcome, string_agg(DISTINCT during, ', ' ORDER BY during) AS during FROM regress_attack.seen
    GROUP BY tried, outcome ORDER BY tried, outcome;
SELECT count(*) AS live_keys FROM api_key.list_api_keys() WHERE status = 'active'
    AND name LIKE 'Secret of %';
SELECT count(*) AS tiers FROM api_key_internal.tiers WHERE name = 'mine';

-- The service role, which may import and is no superuser: what it gives import_api_keys to read
-- runs none of its code as the extension's owner.
SET ROLE regress_service;
CREATE TABLE regress_attack.runs (what text, as_role text);
GRANT INSERT ON regress_attack.runs TO PUBLIC;
CREATE FUNCTION regress_attack.hash(p_what text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO regress_attack.runs VALUES (p_what, current_user);
    RETURN md5(p_what);
END
$$;
CREATE VIEW regress_attack.view_of_keys AS SELECT regress_attack.hash('a view') AS hash;
CREATE TYPE regress_attack.odd AS (n integer);
CREATE FUNCTION regress_attack.to_uuid(regress_attack.odd) RETURNS uuid LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO regress_attack.runs VALUES ('a cast', current_user);
    RETURN NULL;
END
$$;
CREATE CAST (regress_attack.odd AS uuid) WITH FUNCTION regress_attack.to_uuid(regress_attack.odd);
CREATE TABLE regress_attack.cast_of_keys (hash text, owner regress_attack.odd);
INSERT INTO regress_attack.cast_of_keys VALUES (md5('cast'), ROW(1));
-- A table whose rows its owner decides by a policy.
CREATE TABLE regress_attack.policed (hash text);
INSERT INTO regress_attack.policed VALUES (md5('policed'));
CREATE POLICY policed ON regress_attack.policed USING (regress_attack.hash('a policy') IS NOT NULL);
ALTER TABLE regress_attack.policed ENABLE ROW LEVEL SECURITY;
ALTER TABLE regress_attack.policed FORCE ROW LEVEL SECURITY;
CREATE FUNCTION regress_attack.import(p_source regclass, p_columns jsonb) RETURNS text
    LANGUAGE plpgsql AS $$
BEGIN
    RETURN 'imported ' || api_key.import_api_keys(p_source, p_columns, 'md5');
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SET client_min_messages = warning;
SELECT regress_attack.import('regress_attack.view_of_keys', '{"hash": "hash"}') IS NOT NULL AS tried;
SELECT regress_attack.import('regress_attack.cast_of_keys', '{"hash": "hash", "user_id": "owner"}')
    IS NOT NULL AS tried;
SELECT regress_attack.import('regress_attack.policed', '{"hash": "hash"}') IS NOT NULL AS tried;
RESET client_min_messages;
RESET ROLE;
SELECT what, as_role FROM regress_attack.runs WHERE as_role <> 'regress_service';
DELETE FROM api_key_internal.keys WHERE legacy_scheme IS NOT NULL;

-- Whoever writes the claims: what is odd in them is 22023, or names no user. Never another error,
-- and never somebody.
CREATE FUNCTION pg_temp.with_claims(p_claims text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_outcome text;
    v_seen bigint;
BEGIN
    BEGIN
        PERFORM set_config('request.jwt.claims', p_claims, true);
        PERFORM set_config('role', 'regress_user', true);
        SELECT count(*) INTO v_seen FROM api_key.list_api_keys();
        PERFORM api_key.issue_api_key();
        RAISE EXCEPTION USING ERRCODE = 'ZZZZZ';
    EXCEPTION WHEN OTHERS THEN
        v_outcome := CASE SQLSTATE WHEN 'ZZZZZ' THEN 'sees ' || v_seen ELSE SQLSTATE || ' ' || SQLERRM END;
    END;
    RETURN v_outcome;
END
$$;
SELECT what, pg_temp.with_claims(claims) AS outcome
FROM (VALUES
    ('as usual', '{"sub": "00000000-0000-4000-8000-0000000000a1"}'), ('upper case',
        '{"sub": "00000000-0000-4000-8000-0000000000A1"}'),
    ('empty', ''), ('a space', ' '), ('no JSON', 'x'), ('half of JSON', '{"sub": '), ('two values',
        '{} {}'), ('single quotes', '{''sub'': 1}'),
    ('an array', '[]'), ('a string', '"00000000-0000-4000-8000-0000000000a1"'), ('a number', '1'), ('null',
        'null'), ('true', 'true'),
    ('sub null', '{"sub": null}'), ('sub empty', '{"sub": ""}'), ('sub a number', '{"sub": 1}'),
        ('sub true', '{"sub": true}'),
    ('sub an array', '{"sub": ["00000000-0000-4000-8000-0000000000a1"]}'), ('sub an object', '{"sub": {}}'),
    ('sub no UUID', '{"sub": "ada"}'), ('sub with a space',
        '{"sub": " 00000000-0000-4000-8000-0000000000a1"}'),
    ('sub in braces', '{"sub": "{00000000-0000-4000-8000-0000000000a1}"}'), ('sub without dashes',
        '{"sub": "000000000000400080000000000000a1"}'),
    ('sub twice', '{"sub": "00000000-0000-4000-8000-0000000000a1",
        "sub": "00000000-0000-4000-8000-0000000000b1"}'),
    ('sub of 1 MB', '{"sub": "' || repeat('a', 1048576) || '"}'),
    ('NUL', '{"sub": "\u0000"}'), ('NUL elsewhere', '{"other": "\u0000"}'), ('half a surrogate',
        '{"other": "\ud800"}'), ('bad escape', '{"other": "\x"}'),
    ('control character', E'{"other": "\001"}'), ('number beyond all', '{"other": 1e999999}'),
        ('long number', '{"other": ' || repeat('9', 200000) || '}'),
    ('deep', repeat('[', 100000) || repeat(']', 100000)), ('deep in a member',
        '{"other": ' || repeat('{"a":', 50000) || '1' || repeat('}', 50001)),
    ('NaN', '{"other": NaN}'), ('tenant empty',
        '{"sub": "00000000-0000-4000-8000-0000000000a1", "tenant_id": ""}'),
    ('tenant a number', '{"sub": "00000000-0000-4000-8000-0000000000a1", "tenant_id": 1}'),
    ('tenant an object', '{"sub": "00000000-0000-4000-8000-0000000000a1", "tenant_id": {"a": 1}}'),
    ('scopes an object', '{"sub": "00000000-0000-4000-8000-0000000000a1", "scopes": {"admin": true}}'),
    ('scopes a number', '{"sub": "00000000-0000-4000-8000-0000000000a1", "scopes": 1}'),
    ('scopes true', '{"sub": "00000000-0000-4000-8000-0000000000a1", "scopes": true}'),
    ('scopes null', '{"sub": "00000000-0000-4000-8000-0000000000a1", "scopes": null}'),
    ('scopes odd elements', '{"sub": "00000000-0000-4000-8000-0000000000a1", "scopes": [1, null, {}, [],
        true]}'),
    ('tier an object', '{"sub": "00000000-0000-4000-8000-0000000000a1", "tier": {}}'),
    ('tier unknown', '{"sub": "00000000-0000-4000-8000-0000000000a1", "tier": "no such"}'),
    ('role of service', '{"role": "regress_service"}'), ('administrator',
        '{"administrator": true}')) AS c (what, claims);

-- A client that reads backslashes as escapes: what the extension does with texts does not depend on it.
CREATE SCHEMA regress_compat;
CREATE SCHEMA regress_before;
SELECT api_key.install_compat('bearer_row', 'regress_before');
\c -
\set VERBOSITY default
\set SHOW_CONTEXT never
SET api_key.argon2_memory_kib = 64;
SET api_key.argon2_iterations = 1;
SET standard_conforming_strings = off;
SET escape_string_warning = off;
SELECT api_key.define_scope('articles:read', 'd');
SELECT api_key.issue_api_key(p_scopes => '{articles:read}', p_tier => 'many',
    p_prefix => 'abc_1_') AS issued \gset
SELECT :'issued'::jsonb -> 'scopes' AS scopes, api_key.verify_api_key(:'issued'::jsonb ->> 'api_key',
    '{articles:read}') ->> 'code' AS code;
SELECT api_key.update_api_key((:'issued'::jsonb ->> 'key_id')::uuid,
    '{"scopes": ["articles:read"], "name": "n"}') -> 'scopes' AS scopes;
SELECT api_key.issue_api_key(p_scopes => '{"articlesXread"}');
SELECT api_key.issue_api_key(p_name => E'a\nb');
SELECT api_key.rotate_api_key((:'issued'::jsonb ->> 'key_id')::uuid) ->> 'masked_key' LIKE 'abc_1_%' AS
    rotated;
SELECT api_key.import_api_key_hash(md5('escaped'), 'md5', NULL, p_scopes => '{articles:read}')
    IS NOT NULL AS imported;
SELECT api_key.verify_api_key('escaped', '{articles:read}') ->> 'code' AS code;
CALL api_key.migrate_legacy_hashes();
SELECT count(api_key.install_compat(profile, 'regress_compat')) AS installed
    FROM unnest('{jsonb_envelope,any_name,stored_hash_pair}'::text[]) AS profile;
SELECT count(api_key.install_compat(profile, 'regress_compat')) AS again
    FROM unnest('{jsonb_envelope,any_name,stored_hash_pair}'::text[]) AS profile;
SELECT regress_compat.verify_api_key_hash('escaped'::text) -> 'success' AS success;
SELECT count(api_key.remove_compat(profile, 'regress_compat')) AS removed
    FROM unnest('{jsonb_envelope,any_name,stored_hash_pair}'::text[]) AS profile;
SELECT api_key.install_compat('bearer_row', 'regress_compat');
SELECT count(*) AS rows FROM regress_compat.verify_api_key_hash('Bearer  escaped');
SELECT count(*) AS made_before FROM regress_before.verify_api_key_hash('Bearer  escaped');
SELECT api_key.remove_compat('bearer_row', 'regress_before');
SELECT api_key.remove_compat('bearer_row', 'regress_compat');
SELECT count(*) AS functions_left FROM pg_proc WHERE pronamespace IN ('regress_compat'::regnamespace,
    'regress_before'::regnamespace);
SELECT set_config('request.jwt.claims',
    '{"sub": "00000000-0000-4000-8000-0000000000a1", "scopes": "articles:read"}', false)
    IS NOT NULL AS is_a1;
SET ROLE regress_user;
SELECT api_key.issue_api_key(p_scopes => '{articles:read}') -> 'scopes' AS scopes;
RESET ROLE;

SET client_min_messages = warning;
DROP SCHEMA regress_attack, regress_compat, regress_before CASCADE;
\i tests/cleanup.sql
