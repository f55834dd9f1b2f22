-- Keys that come with hashes from elsewhere: imported, found, wrapped, upgraded, rotated, revoked.
\i tests/preamble.sql
SET api_key.failure_limit = 1000000;
CREATE FUNCTION pg_temp.in_grace(p_api_key text) RETURNS boolean LANGUAGE plpgsql
AS $$ BEGIN RETURN (api_key.verify_api_key(p_api_key) ->> 'grace_expires_at')::timestamptz > now(); END $$;
-- Digests that are not argon2's and bcrypt's, whichever column they are in.
CREATE TEMP VIEW fast_digests AS
SELECT key_id FROM api_key_internal.keys AS k, unnest(ARRAY[secret_hash, previous_secret_hash]) AS hash
WHERE hash NOT LIKE '%$argon2%';

-- Before anything was imported, no text but ours can be a key.
SELECT api_key.verify_api_key('some legacy key') ->> 'code' AS code;
SELECT * FROM api_key.legacy_hash_progress;

-- Hashes of other people's libraries (tests/vectors/legacy.txt says which), each alone: right and
-- wrong texts, as imported and as wrapped, with the scheme named.
\set vectors `cat "$PG_ABS_SRCDIR/vectors/legacy.txt"`
CREATE TEMP TABLE vectors AS
SELECT n, f[1] AS scheme, f[2] AS hash, f[3] AS text
FROM string_to_table(:'vectors', E'\n') WITH ORDINALITY AS lines (line, n),
     LATERAL regexp_match(line, '^([a-z0-9]+) ([^ ]+) (.+)$') AS f
WHERE line !~ '^#' AND f IS NOT NULL;
CREATE FUNCTION pg_temp.lived(p_scheme text, p_hash text, p_text text, OUT bare text, OUT bare_wrong text,
    OUT wrapped text, OUT wrapped_wrong text)
LANGUAGE plpgsql AS $$
DECLARE
    v_id uuid := api_key.import_api_key_hash(p_hash, p_scheme, NULL, left(p_text, 4));
BEGIN
    bare := pg_temp.code(p_text);
    bare_wrong := pg_temp.code('no' || p_text) || ' ' || pg_temp.code(left(p_text, 4) || 'no');
    UPDATE api_key_internal.keys SET secret_hash = api_key_internal.wrap_hash(secret_hash)
    WHERE key_id = v_id AND secret_hash LIKE '{%';
    wrapped := pg_temp.code(p_text);
    wrapped_wrong := pg_temp.code('no' || p_text) || ' ' || pg_temp.code(left(p_text, 4) || 'no');
    PERFORM api_key.delete_api_key(v_id);
END
$$;
-- (One is kept for later, when nothing in memory knows it.)
\set unseen '''$argon2i$v=16$m=64,t=2,p=2$c29tZXNhbHQ$ptgBvVrEnCDIIGH6EdBpbQ'''
SELECT scheme, count(*) > 2 AS some, l.* FROM vectors, LATERAL pg_temp.lived(scheme, hash, text) AS l
WHERE hash <> :unseen
GROUP BY scheme, bare, bare_wrong, wrapped, wrapped_wrong ORDER BY scheme;
-- Its hash is no key: what is in the old table does not let anyone in.
SELECT scheme, count(DISTINCT pg_temp.code(hash)) AS codes, min(pg_temp.code(hash)) AS code FROM vectors
    GROUP BY scheme ORDER BY scheme;

-- What is no hash of its scheme.
SELECT what, pg_temp.outcome(format('SELECT api_key.import_api_key_hash(%L, %L, NULL)', hash,
    scheme)) AS outcome
FROM (VALUES
    ('NULL', NULL, 'md5'), ('empty', '', 'md5'), ('one digit short', repeat('a', 31), 'md5'),
    ('one digit more', repeat('a', 33), 'md5'), ('no hexadecimal digit', repeat('a', 31) || 'g', 'md5'),
    ('a prefix of PostgreSQL', '\x' || repeat('a', 32), 'md5'), ('a space behind', repeat('a', 32) || ' ',
        'md5'),
    ('of another length', repeat('a', 40), 'md5'), ('an md5', repeat('a', 32), 'sha1'), ('an md5',
        repeat('a', 32), 'sha256'),
    ('a sha256', repeat('a', 64), 'sha512'), ('a sha512', repeat('a', 128), 'sha256'),
    ('wrong base64', repeat('?', 44), 'sha256'), ('both alphabets of base64',
        '4+6R9zdsmzfiw3Ols4wxJhshL58-K2EpSdBQhJ60K0o=', 'sha256'),
    ('base64 with too much padding', '4+6R9zdsmzfiw3Ols4wxJhshL58+K2EpSdBQhJ60K0o==', 'sha256'),
    ('base64 with a line feed', E'4+6R9zdsmzfiw3Ols4wx\nJhshL58+K2EpSdBQhJ60K0o=', 'sha256'),
    ('base64 whose last digit has bits to spare', '4+6R9zdsmzfiw3Ols4wxJhshL58+K2EpSdBQhJ60K0p=', 'sha256'),
    ('too short', '$2b$04$tooshort', 'bcrypt'), ('of no variant',
        '$2c$04$abcdefghijklmnopqrstuu7e.qfVSCmpizAx7IiFi9tgEOIPJB1Au', 'bcrypt'),
    ('cost 3', '$2b$03$abcdefghijklmnopqrstuu7e.qfVSCmpizAx7IiFi9tgEOIPJB1Au', 'bcrypt'),
    ('cost 31', '$2b$31$abcdefghijklmnopqrstuu7e.qfVSCmpizAx7IiFi9tgEOIPJB1Au', 'bcrypt'),
    ('cost xx', '$2b$xx$abcdefghijklmnopqrstuu7e.qfVSCmpizAx7IiFi9tgEOIPJB1Au', 'bcrypt'),
    ('a digit of no alphabet', '$2b$04$abcdefghijklmnopqrstuu7e.qfVSCmpizAx7IiFi9tgEOIPJB1A!', 'bcrypt'),
    ('no PHC string', 'plain', 'argon2'), ('without its hash', '$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ',
        'argon2'),
    ('scrypt', '$scrypt$ln=4,r=8,p=1$c29tZXNhbHQ$' || repeat('a', 43), 'argon2'),
    ('empty', '', 'plaintext'), ('513 bytes', repeat('x', 513), 'plaintext'), ('513 bytes', repeat('é',
        256) || 'x', 'plaintext'),
    ('unknown scheme', repeat('a', 32), 'md4'), ('scheme in upper case', repeat('a', 32), 'MD5'),
    ('no scheme', repeat('a', 32), NULL), ('empty scheme', repeat('a', 32), ''), ('auto is for tables',
        repeat('a', 32), 'auto'),
    ('what is stored of it', '{md5}' || repeat('a', 32), 'md5'), ('1 MB', repeat('a', 1048576),
        'md5')) AS c (what, hash, scheme);
SELECT pg_temp.outcome(format('SELECT api_key.import_api_key_hash(%L, %L, NULL)', hash, scheme)) AS outcome
FROM (VALUES (repeat('x', 512), 'plaintext'), (repeat('aA', 16), 'md5')) AS c (hash, scheme);
SELECT what, pg_temp.outcome('SELECT api_key.import_api_key_hash(repeat(''a'', 32), ''md5'', NULL, ' ||
    arguments || ')') AS outcome
FROM (VALUES ('key prefix', 'repeat(''p'', 65)'), ('tier', 'p_tier => ''no such tier'''), ('scope',
    'p_scopes => ''{not a scope}'''),
             ('environment', 'p_environment => ''moon'''), ('kind', 'p_kind => ''odd'''), ('metadata',
                 'p_metadata => ''[]'''),
             ('name', 'p_name => '''''), ('name', 'p_name => repeat(''x'', 10000)'),
             ('period', 'p_expires_at => ''2001-01-01'', p_not_before => ''2002-01-01''')) AS c (what,
                 arguments);
-- An error shows nothing of the hash.
DO $$
DECLARE
    v_detail text;
    v_hint text;
BEGIN
    PERFORM api_key.import_api_key_hash('c0ffee00c0ffee00c0ffee00c0ffee0', 'md5', NULL);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_detail = PG_EXCEPTION_DETAIL, v_hint = PG_EXCEPTION_HINT;
    RAISE NOTICE 'shown: %', concat(SQLERRM, v_detail, v_hint) ILIKE '%c0ffee%';
END
$$;

-- Every argument arrives, and the text is a key like any other.
SELECT api_key.import_api_key_hash('900150983cd24fb0d6963f7d28e17f72', 'md5', :ada, 'ab', 'Old', 'free',
    'From before',
    '{articles:read}', :tenant, 'site-1', 'test', 'publishable', '2999-01-01 00:00Z', '2001-01-01 00:00Z',
        '{192.0.2.0/24}',
    '{"plan": "pro"}', true, '2011-02-03 04:05Z') AS key_id \gset
SELECT user_id, tenant_id, name, description, tier, environment, kind, key_prefix, masked_key, scopes,
    resource_id,
       allowed_ips, metadata, status, expires_at, not_before, usage_count, created_at, revoked_at
FROM api_key.list_api_keys(:ada) \gx
SELECT api_key.verify_api_key('abc', '{articles:read}', '192.0.2.9', 'site-1') - 'key_id' AS answer;
SELECT api_key.verify_api_key('abc', '{articles:read}', '192.0.2.9',
    'site-1') ->> 'key_id' = :'key_id' AS key_id,
       api_key.verify_api_key('abc') ->> 'code' AS from_nowhere,
       api_key.verify_api_key('abc', '{articles:write}', '192.0.2.9', 'site-1') ->> 'code' AS scope;
SELECT event, details FROM api_key.audit_log WHERE key_id = :'key_id';
SELECT api_key.update_api_key(:'key_id', '{"enabled": false, "allowed_ips": null}') ->> 'masked_key' AS
    masked_key;
SELECT pg_temp.code('abc');
-- Not enabled from the start, or expired: adopted, but not good.
SELECT api_key.import_api_key_hash(md5('disabled'), 'md5', NULL, p_enabled => false)
    IS NOT NULL AS imported;
SELECT api_key.import_api_key_hash(md5('expired'), 'md5', NULL, p_expires_at => '2001-01-01')
    IS NOT NULL AS imported;
SELECT pg_temp.code('disabled'), pg_temp.code('expired');
-- The limits of tiers are for new keys.
SELECT count(api_key.import_api_key_hash(md5('of ada ' || n), 'md5', :ada)) AS imported
    FROM generate_series(1, 3) AS n;
SELECT pg_temp.code('of ada ' || n) FROM generate_series(1, 3) AS n;
-- Texts of any form up to 512 bytes.
SELECT what, pg_temp.outcome(format('SELECT api_key.import_api_key_hash(md5(%L), ''md5'', NULL)', text),
    true) AS import, pg_temp.code(text) AS code
FROM (VALUES ('one byte', 'k'), ('512 bytes', repeat('k', 512)), ('spaces', '  k  '), ('a line feed',
    E'k\n'), ('Unicode', 'ключ 世 🔑'),
             ('control characters', E'\001\002'), ('as SQL', $$'; DROP TABLE keys; --$$), ('513 bytes',
                 repeat('k', 513)),
             ('empty', '')) AS c (what, text);
SELECT what, pg_temp.code(text) AS code
FROM (VALUES ('unknown', 'unknown'), ('513 bytes', repeat('k', 513)), ('1 MB', repeat('k', 1048576)),
    ('NULL', NULL)) AS c (what, text);
TRUNCATE api_key_internal.key_usage, api_key_internal.keys, api_key_internal.audit_log;

-- The same hash twice, in whatever form, and the same salted hash.
SELECT what, pg_temp.outcome(format('SELECT api_key.import_api_key_hash(%L, %L, NULL)', hash, scheme),
    true) AS outcome
FROM (VALUES ('md5', md5('twice'), 'md5'), ('again', md5('twice'), 'md5'), ('upper case',
    upper(md5('twice')), 'md5'),
             ('base64', encode(decode(md5('twice'), 'hex'), 'base64'), 'md5'),
             ('bcrypt', '$2b$04$9WGB9f8D8rZ97bQTkPeUMemdUDYP0m2dpbxLqCzTapcpST8JgeEbC', 'bcrypt'),
             ('again', '$2b$04$9WGB9f8D8rZ97bQTkPeUMemdUDYP0m2dpbxLqCzTapcpST8JgeEbC', 'bcrypt'),
             ('plaintext', 'twice plain', 'plaintext'), ('again', 'twice plain', 'plaintext')) AS c (what,
                 hash, scheme);
-- Under several schemes, one text has several rows; the first of text, md5, sha1, sha256, sha512 answers.
SELECT scheme, api_key.import_api_key_hash(hash, scheme, NULL, p_name => scheme) IS NOT NULL AS imported
FROM (VALUES ('sha512', encode(sha512('many'), 'hex')), ('sha256', encode(sha256('many'), 'hex')),
             ('md5', md5('many')), ('plaintext', 'many')) AS c (scheme, hash);
CREATE FUNCTION pg_temp.answering(p_text text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_names text := '';
    v_answer jsonb;
BEGIN
    LOOP
        v_answer := api_key.verify_api_key(p_text);
        EXIT WHEN v_answer ->> 'code' <> 'VALID';
        v_names := v_names || (v_answer ->> 'name') || ' ';
        PERFORM api_key.delete_api_key((v_answer ->> 'key_id')::uuid);
    END LOOP;
    RETURN v_names;
END
$$;
SELECT pg_temp.answering('many');
SELECT scheme, api_key.import_api_key_hash(hash, scheme, NULL, 'sk_', p_name => scheme)
    IS NOT NULL AS imported
FROM vectors AS v WHERE v.text = 'sk_live_legacy-key.0001' AND n IN (
    SELECT min(n) FROM vectors AS f WHERE f.text = v.text AND scheme NOT IN ('bcrypt', 'argon2')
        GROUP BY scheme) ORDER BY scheme;
SELECT pg_temp.answering('sk_live_legacy-key.0001');
-- A verify has a better hash waiting, which is to be found by the text; then another row takes
-- that place. The worker copes.
SELECT api_key.import_api_key_hash(md5('taken'), 'md5', NULL, p_name => 'md5') IS NOT NULL AS imported;
SELECT api_key.import_api_key_hash(md5('beside'), 'md5', NULL) IS NOT NULL AS imported;
SELECT pg_temp.code('taken'), pg_temp.code('beside');
SELECT api_key.import_api_key_hash('taken', 'plaintext', NULL, p_name => 'plaintext')
    IS NOT NULL AS imported;
SELECT api_key.flush_usage();
SELECT pg_temp.code('taken'), pg_temp.code('beside');
SELECT api_key.verify_api_key('taken') ->> 'name' AS name;
-- A rehearsal that was undone is no obstacle to the upgrade of what is then imported.
BEGIN;
SELECT api_key.import_api_key_hash(md5('rehearsed'), 'md5', NULL) IS NOT NULL AS imported;
SELECT pg_temp.code('rehearsed');
ROLLBACK;
SELECT api_key.import_api_key_hash(md5('rehearsed'), 'md5', NULL) AS key_id \gset
SELECT pg_temp.code('rehearsed');
SELECT api_key.flush_usage();
SELECT secret_hash LIKE '$argon2id$%' AS upgraded FROM api_key_internal.keys WHERE key_id = :'key_id';
TRUNCATE api_key_internal.key_usage, api_key_internal.keys, api_key_internal.audit_log;

-- The life of keys of each scheme: adopted, verified, wrapped, verified, upgraded, verified.
CREATE TEMP TABLE lives (scheme text, text text, hash text, prefix text, key_id uuid);
INSERT INTO lives
SELECT scheme, text, hash, prefix FROM (VALUES
    ('md5', 'life md5', md5('life md5'), 'life'), ('md5', 'life MD5', upper(md5('life MD5')), NULL),
    ('sha1', 'abc', 'a9993e364706816aba3e25717850c26c9cd0d89d', 'a'),
    ('sha256', 'life sha256', encode(sha256('life sha256'), 'base64'), 'life sha'),
    ('sha512', 'life sha512', translate(encode(sha512('life sha512'), 'base64'), E'+/=\n', '-_'), ''),
    ('bcrypt', 'key é世', '$2b$04$T5zykEJgyg2yAXyWmDlvBeQUnIwRaYwpt.LahKHlo7iDBkL/RKdwK', 'key '),
    ('bcrypt', repeat('x', 80), '$2b$04$VkSZZ/HNyAr7amb/A1wZC.b9RJIBnUMGHxX5Jvqavz3ahoqD9u5pC', 'xx'),
    ('argon2', 'sk_live_legacy-key.0001', :unseen, 'sk_live_'),
    ('plaintext', 'life plain', 'life plain', NULL)) AS c (scheme, text, hash, prefix);
UPDATE lives SET key_id = api_key.import_api_key_hash(hash, scheme, NULL, prefix, p_name => text);
CREATE TEMP VIEW living AS
SELECT l.scheme, l.text, k.masked_key, pg_temp.code(l.text) AS code,
       regexp_replace(i.secret_hash, '^((?:\{\w+\})?)(?:\$2b\$04\$.{22})?(\$argon2id\$)?.*$',
           '\1 \2') AS stored,
       i.lookup_handle IS NOT NULL AS has_handle
FROM lives AS l JOIN api_key_internal.keys AS i USING (key_id) JOIN api_key_internal.listed_keys AS k
    USING (key_id);
SELECT scheme, masked_key, stored, has_handle FROM living ORDER BY scheme, text;
SELECT DISTINCT scheme, total, wrapped, upgraded, remaining FROM api_key.legacy_hash_progress
    ORDER BY scheme;
-- What was rotated before the wrap keeps its old hash for the grace: that is wrapped too.
SELECT api_key.import_api_key_hash(md5('rotated before'), 'md5', NULL) AS early_id \gset
SELECT api_key.rotate_api_key(:'early_id') ->> 'api_key' AS early \gset
SELECT count(*) AS fast_digests FROM fast_digests;
-- Unverified so far. Batch by batch, stopping in between, and to the end.
SELECT pg_temp.outcome('CALL api_key.migrate_legacy_hashes(' || arguments || ')') AS outcome
FROM (VALUES ('0'), ('-1'), ('NULL'), ('1, 0')) AS c (arguments);
CALL api_key.migrate_legacy_hashes(2, 1);
SELECT count(*) AS remain FROM fast_digests;
SELECT sum(remaining) AS remaining FROM api_key.legacy_hash_progress;
CALL api_key.migrate_legacy_hashes(3);
SELECT count(*) AS fast_digests FROM fast_digests;
SELECT scheme, masked_key, code, stored, has_handle FROM living ORDER BY scheme, text;
CALL api_key.migrate_legacy_hashes();
BEGIN;
CALL api_key.migrate_legacy_hashes();
\echo :SQLSTATE
ROLLBACK;
-- Upgraded by the verifies above, when the worker has written.
SELECT api_key.flush_usage();
SELECT scheme, masked_key, code, stored, has_handle FROM living ORDER BY scheme, text;
SELECT text = ANY (SELECT name FROM api_key.list_api_keys() WHERE usage_count > 0) AS counted, count(*)
    FROM lives GROUP BY 1;
SELECT scheme, total, wrapped, upgraded, remaining, per_second > 0 AS has_speed, eta
    FROM api_key.legacy_hash_progress ORDER BY scheme;
-- bcrypt reads 72 bytes. Once upgraded, the whole text counts: the one that came first.
SELECT pg_temp.code(repeat('x', 80)) AS the_same, pg_temp.code(repeat('x', 72)) AS first_72,
    pg_temp.code(repeat('x', 72) || 'y') AS other_rest;
SELECT api_key.import_api_key_hash('$2b$04$Df6MwYvttobivzLF1TbJuevr85EHhEDwOzG2VNjuq1WhViCz7i.Ne', 'bcrypt',
    NULL, 'xxx') IS NOT NULL AS imported;
SELECT pg_temp.code(repeat('x', 71)) AS first_71, pg_temp.code(repeat('x', 72) || 'y') AS other_rest;
-- A READ ONLY transaction upgrades as well.
SELECT api_key.import_api_key_hash(md5('read only'), 'md5', NULL) AS key_id \gset
BEGIN READ ONLY;
SELECT api_key.verify_api_key('read only') ->> 'code' AS code;
COMMIT;
SELECT api_key.flush_usage();
SELECT secret_hash LIKE '$argon2id$%' AS upgraded FROM api_key_internal.keys WHERE key_id = :'key_id';
SELECT pg_temp.code('read only');

-- Rotated: the old text lives through the grace, the new one is ours.
SELECT api_key.verify_api_key('rotated before') ->> 'code' AS old,
       (api_key.verify_api_key('rotated before') ->> 'grace_expires_at')::timestamptz > now() AS in_grace,
       api_key.verify_api_key('rotated before') ->> 'secret_version' AS version,
       api_key.verify_api_key(:'early') ->> 'code' AS new,
           api_key.verify_api_key(:'early') ->> 'grace_expires_at' AS grace_expires_at;
SELECT scheme, rotated ->> 'api_key' ~ '^sk_live_[0-9A-Za-z]{60}$' AS is_ours,
       rotated ->> 'masked_key' ~ '^sk_live_\w{6}\.\.\.$' AS masked,
           rotated ->> 'secret_version' AS version,
       pg_temp.code(rotated ->> 'api_key') AS new, pg_temp.code(text) AS old,
       pg_temp.in_grace(text)
FROM lives, LATERAL (SELECT api_key.rotate_api_key(key_id, interval '1 hour') AS rotated OFFSET 0) AS r
    ORDER BY scheme, text;
SELECT api_key.rotate_api_key(key_id, '0') IS NOT NULL AS rotated_again FROM lives WHERE scheme = 'sha1';
SELECT pg_temp.code('abc');

-- Killed by whoever holds it: in its grace, only the old text; else the key.
SELECT api_key.revoke_own_api_key('rotated before');
SELECT pg_temp.code('rotated before') AS old, pg_temp.code(:'early') AS new;
SELECT api_key.revoke_own_api_key('read only'), api_key.revoke_own_api_key('no such key');
SELECT pg_temp.code('read only');
SELECT api_key.revoke_own_api_key('read only');
TRUNCATE api_key_internal.key_usage, api_key_internal.keys, api_key_internal.audit_log;

-- What would take long to check.
SELECT what, pg_temp.outcome(format('SELECT api_key.import_api_key_hash(%L, %L, NULL)', hash,
    scheme)) AS outcome
FROM (VALUES
    ('bcrypt, cost 14', '$2b$14$abcdefghijklmnopqrstuu7e.qfVSCmpizAx7IiFi9tgEOIPJB1Au', 'bcrypt'),
    ('bcrypt, cost 15', '$2b$15$abcdefghijklmnopqrstuu7e.qfVSCmpizAx7IiFi9tgEOIPJB1Au', 'bcrypt'),
    ('argon2, 256 MiB', '$argon2id$v=19$m=262144,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc', 'argon2'),
    ('argon2, 64 MiB five times',
        '$argon2id$v=19$m=65536,t=5,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc', 'argon2'),
    ('argon2, 65 passes', '$argon2id$v=19$m=64,t=65,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc', 'argon2'),
    ('argon2, 65 lanes', '$argon2id$v=19$m=4096,t=1,p=65$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc', 'argon2'),
    ('argon2, a salt of 49 bytes', '$argon2id$v=19$m=64,t=1,p=1$' || repeat('a',
        66) || '$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc', 'argon2'),
    ('argon2, a hash of 65 bytes', '$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$' || repeat('a', 87),
        'argon2')) AS c (what, hash, scheme);
SELECT api_key.matches_hash('text', '$2b$15$abcdefghijklmnopqrstuu7e.qfVSCmpizAx7IiFi9tgEOIPJB1Au');
SET api_key.argon2_memory_kib = 262144;
SET api_key.argon2_iterations = 2;
SELECT api_key.issue_api_key();
SET api_key.argon2_memory_kib = 64;
SET api_key.argon2_iterations = 1;

-- Found by prefix, the longest ones first, however many share one.
CREATE TEMP TABLE salted AS SELECT hash, text, row_number() OVER (ORDER BY n) AS n FROM vectors
WHERE scheme = 'bcrypt' AND text = 'sk_live_legacy-key.0001';
\set other_salt '$2b$04$T5zykEJgyg2yAXyWmDlvBeQUnIwRaYwpt.LahKHlo7iDBkL/RKdwK'
CREATE TABLE regress_salted AS
SELECT md5(n::text)::uuid AS id, overlay(:'other_salt' PLACING lpad(n::text, 4, '0')
    FROM 50) AS hash, 'sk_'::text AS prefix
FROM generate_series(1, 40) AS n;
SELECT api_key.import_api_keys('regress_salted', '{"key_id": "id", "hash": "hash", "key_prefix": "prefix"}',
    'auto');
CALL api_key.migrate_legacy_hashes();
-- The one that is the text's comes last.
SELECT api_key.import_api_key_hash(hash, 'bcrypt', NULL, 'sk') IS NOT NULL AS imported FROM salted
    WHERE n = 1;
CREATE FUNCTION pg_temp.hashes(p_api_key text, OUT code text, OUT hashes bigint) LANGUAGE plpgsql AS $$
BEGIN
    SELECT -hashes_run INTO hashes FROM api_key.stats;
    code := api_key.verify_api_key(p_api_key) ->> 'code';
    SELECT hashes + hashes_run INTO hashes FROM api_key.stats;
END
$$;
SELECT * FROM pg_temp.hashes('sk_live_legacy-key.0001');
-- From its first success on it has a direct way.
SELECT api_key.flush_usage();
SELECT * FROM pg_temp.hashes('sk_live_legacy-key.0001');
-- Another text of the prefix is hashed for each of the others, also when it is asked again.
SELECT h.* FROM generate_series(1, 2) AS n, pg_temp.hashes('sk_live_legacy-key.0002') AS h;
-- A call that has no time for all of them leaves the rest to the next one, which goes on from there.
SELECT scans_resumed AS resumed, scans_paused AS paused FROM api_key.stats \gset before_
SET api_key.legacy_scan_time = '1ms';
CREATE FUNCTION pg_temp.calls(p_api_key text, OUT codes text[], OUT hashes bigint) LANGUAGE plpgsql AS $$
DECLARE
    v_call record;
BEGIN
    hashes := 0;
    LOOP
        v_call := pg_temp.hashes(p_api_key);
        hashes := hashes + v_call.hashes;
        codes := CASE WHEN v_call.code = ANY (codes) THEN codes ELSE codes || v_call.code END;
        EXIT WHEN v_call.code <> 'OVERLOADED';
    END LOOP;
END
$$;
SELECT * FROM pg_temp.calls('sk_live_legacy-key.0003');
SELECT scans_resumed - :before_resumed > 0 AS resumed, scans_paused - :before_paused > 0 AS paused
    FROM api_key.stats;
RESET api_key.legacy_scan_time;
-- Wrong texts cost no holder his first use: there is no budget of the prefix.
SET api_key.failure_limit = 1;
SELECT pg_temp.code('sk_live_' || n) AS code FROM generate_series(1, 3) AS n;
SELECT api_key.import_api_key_hash(hash, 'bcrypt', NULL, 'sk') IS NOT NULL AS imported FROM salted
    WHERE n = 2;
SELECT pg_temp.code('sk_live_legacy-key.0001');
SET api_key.failure_limit = 1000000;
TRUNCATE api_key_internal.key_usage, api_key_internal.keys, api_key_internal.audit_log;
DROP TABLE regress_salted;

-- A whole table: told by its form, or by a column.
CREATE TABLE regress_old (id serial, owner uuid, key_hash text, algorithm text, prefix text,
    title varchar(20), plan text,
    active boolean, made timestamp, ends timestamptz, ended timestamptz, rights text[], extra jsonb,
        "Odd ""Name" text);
INSERT INTO regress_old (owner, key_hash, algorithm, prefix, title, active, made, ends, ended, rights,
    extra, "Odd ""Name") VALUES
    (:ada, md5('old md5'), 'md5', 'old ', 'first', true, '2011-01-01', NULL, NULL, NULL, NULL, 'd1'),
    (NULL, encode(sha256('old sha256'), 'hex'), 'sha256', 'old ', NULL, NULL, NULL, '2999-01-01', NULL,
        '{a:read}', '{"n": 1}', 'd2'),
    (NULL, encode(sha256('old base64'), 'base64'), 'sha256', NULL, '', false, NULL, NULL, NULL, NULL, NULL,
        NULL),
    (NULL, encode(sha512('old revoked'), 'hex'), 'sha512', 'old ', 'revoked', true, NULL, NULL,
        '2012-01-01', NULL, NULL, NULL),
    (NULL, 'a9993e364706816aba3e25717850c26c9cd0d89d', 'sha1', NULL, 'sha1', true, NULL, NULL, NULL, NULL,
        NULL, NULL),
    (NULL, '$2b$04$9WGB9f8D8rZ97bQTkPeUMemdUDYP0m2dpbxLqCzTapcpST8JgeEbC', 'bcrypt', 'sk_live_', 'bcrypt',
        true, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE TEMP TABLE old_texts (text text);
INSERT INTO old_texts VALUES ('old md5'), ('old sha256'), ('old base64'), ('old revoked'), ('abc'),
    ('sk_live_legacy-key.0001');
\set columns '''{"hash": "key_hash", "user_id": "owner", "key_prefix": "prefix", "name": "title", "enabled": "active", "created_at": "made", "expires_at": "ends", "revoked_at": "ended", "scopes": "rights", "metadata": "extra", "description": "Odd \\"Name"}'''
SELECT api_key.import_api_keys('regress_old', :columns, 'auto');
SELECT text, pg_temp.code(text) AS code, user_id, name, description, status, masked_key, scopes, metadata,
    expires_at,
       created_at = '2011-01-01' AS old, revoked_at
FROM old_texts LEFT JOIN api_key_internal.listed_keys ON key_id = (api_key_internal.prove_possession(text)
    ->> 'key_id')::uuid
ORDER BY text;
SELECT count(*) AS audited FROM api_key.audit_log WHERE event = 'imported';
-- Again: nothing is imported twice.
SELECT pg_temp.outcome('SELECT api_key.import_api_keys(''regress_old'', ''{"hash": "key_hash"}'',
    ''auto'')') AS outcome;
TRUNCATE api_key_internal.key_usage, api_key_internal.keys, api_key_internal.audit_log;
SELECT api_key.import_api_keys('regress_old', '{"hash": "key_hash", "scheme": "algorithm"}', NULL);
TRUNCATE api_key_internal.key_usage, api_key_internal.keys, api_key_internal.audit_log;
-- All or nothing, and the row that is not right is named.
INSERT INTO regress_old (key_hash) VALUES ('not a hash');
SELECT pg_temp.outcome(format('SELECT api_key.import_api_keys(''regress_old'', ''{"hash": "key_hash"}'',
    %L)', scheme), true) AS outcome
FROM unnest('{auto,md5,sha256,no such scheme}'::text[]) AS scheme;
SELECT pg_temp.outcome($$SELECT api_key.import_api_keys('regress_old', '{"hash": "key_hash",
    "scheme": "algorithm"}', NULL)$$, true) AS outcome;
UPDATE regress_old SET key_hash = (SELECT key_hash FROM regress_old WHERE id = 1) WHERE id = 7;
SELECT pg_temp.outcome($$SELECT api_key.import_api_keys('regress_old', '{"hash": "key_hash"}', 'auto')$$,
    true) AS outcome;
UPDATE regress_old SET key_hash = NULL WHERE id = 7;
SELECT pg_temp.outcome($$SELECT api_key.import_api_keys('regress_old', '{"hash": "key_hash"}',
    'plaintext')$$, true) AS outcome;
DELETE FROM regress_old WHERE id = 7;
SELECT pg_temp.outcome($$SELECT api_key.import_api_keys('regress_old', '{"hash": "key_hash",
    "tier": "title"}', 'auto')$$, true) AS outcome;
-- A value of a wrong type: row and field are named, and the value, which may be a key, is not repeated.
SELECT field, pg_temp.outcome(format($$SELECT api_key.import_api_keys('regress_old', '{"hash": "key_hash",
    %s: "title"}', 'auto')$$, to_json(field)), true) AS outcome
FROM unnest('{user_id,enabled,expires_at,scopes,allowed_ips}'::text[]) AS field;
SELECT count(*) AS keys FROM api_key_internal.keys;
SELECT count(*) AS audited FROM api_key.audit_log;
-- What is mapped, and to what.
SELECT columns, pg_temp.outcome(format('SELECT api_key.import_api_keys(''regress_old'', %L, %L)', columns,
    scheme)) AS outcome
FROM (VALUES (NULL, 'auto'), ('{}', 'auto'), ('[]', 'auto'), ('"hash"', 'auto'), ('null', 'auto'),
    ('{"name": "title"}', 'auto'),
             ('{"hash": null}', 'auto'), ('{"hash": 1}', 'auto'), ('{"hash": ["key_hash"]}', 'auto'),
                 ('{"hash": "no_such"}', 'auto'),
             ('{"hash": "ctid"}', 'auto'), ('{"hash": "key_hash; DROP TABLE regress_old"}', 'auto'),
                 ('{"hash": "key_hash", "secret": "title"}', 'auto'),
             ('{"hash": "key_hash", "id": "owner"}', 'auto'), ('{"hash": "key_hash"}', NULL)) AS c (columns,
                 scheme);
SELECT pg_temp.outcome('SELECT api_key.import_api_keys(NULL, ''{"hash": "key_hash"}'', ''auto'')') AS
    outcome;
-- The caller's own right to read decides, not the extension's.
SET client_min_messages = warning;
SELECT api_key.setup_postgrest('regress_anon', 'regress_user', 'regress_service', 'regress_authenticator',
    p_create_roles => true);
RESET client_min_messages;
SET ROLE regress_service;
SELECT pg_temp.outcome($$SELECT api_key.import_api_keys('regress_old', '{"hash": "key_hash"}', 'auto')$$) AS
    outcome;
SELECT pg_temp.outcome($$SELECT api_key.import_api_keys('api_key_internal.keys', '{"hash": "secret_hash"}',
    'auto')$$) AS outcome;
SELECT pg_temp.outcome($$SELECT api_key.import_api_keys('pg_authid', '{"hash": "rolpassword"}', 'auto')$$)
    AS outcome;
RESET ROLE;
GRANT SELECT ON regress_old TO regress_service;
SET ROLE regress_service;
SELECT api_key.import_api_keys('regress_old', '{"hash": "key_hash"}', 'auto');
SELECT scheme, total, wrapped, upgraded, remaining, per_second IS NOT NULL AS has_speed, eta
    IS NOT NULL AS has_eta
FROM api_key.legacy_hash_progress ORDER BY scheme;
SELECT pg_temp.outcome('CALL api_key.migrate_legacy_hashes()') AS outcome;
RESET ROLE;
DROP TABLE regress_old;
DROP OWNED BY regress_anon, regress_user, regress_service, regress_authenticator;
DROP ROLE regress_anon, regress_user, regress_service, regress_authenticator;

-- Without the right root key, legacy keys are not found, and the error says what to do. Keys of
-- ours are not affected. (Files are in the data folder, where COPY's programs run.)
COPY (SELECT repeat('0', 64)) TO PROGRAM 'umask 077; cat > regress_root_key_other';
COPY (SELECT repeat('0', 64)) TO PROGRAM
    'umask 077; cat > regress_root_key_loose; chmod 640 regress_root_key_loose';
COPY (SELECT 'not hexadecimal') TO PROGRAM 'umask 077; cat > regress_root_key_text';
SELECT api_key.issue_api_key() ->> 'api_key' AS ours \gset
-- Waits until this session has read the new setting: between statements, so there are many.
CREATE PROCEDURE pg_temp.await(p_setting text, p_value text) LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting(p_setting) IS DISTINCT FROM p_value THEN
        PERFORM pg_sleep(0.02);
    END IF;
END
$$;
CREATE FUNCTION pg_temp.refused() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT pg_temp.outcome('SELECT api_key.verify_api_key(''abc'')')
    UNION ALL SELECT pg_temp.outcome('SELECT api_key.revoke_own_api_key(''abc'')')
    UNION ALL SELECT pg_temp.outcome('SELECT api_key.import_api_key_hash(md5(''new''), ''md5'', NULL)')
$$;
ALTER SYSTEM SET api_key.root_key_file = 'regress_root_key_missing';
SELECT pg_reload_conf();
\set ECHO none
SELECT 'CALL pg_temp.await(''api_key.root_key_file'', ''regress_root_key_missing'')'
    FROM generate_series(1, 500) \gexec
\set ECHO all
SELECT api_key.verify_api_key('abc');
SELECT pg_temp.outcome('SELECT api_key.revoke_own_api_key(''abc'')') AS outcome;
SELECT pg_temp.code(:'ours') AS ours;
ALTER SYSTEM SET api_key.root_key_file = 'regress_root_key_other';
SELECT pg_reload_conf();
\set ECHO none
SELECT 'CALL pg_temp.await(''api_key.root_key_file'', ''regress_root_key_other'')'
    FROM generate_series(1, 500) \gexec
\set ECHO all
SELECT pg_temp.refused();
SELECT api_key.import_api_key_hash(md5('new'), 'md5', NULL);
\echo :SQLSTATE
SELECT pg_temp.code(:'ours') AS ours;
ALTER SYSTEM SET api_key.root_key_file = 'regress_root_key_loose';
SELECT pg_reload_conf();
\set ECHO none
SELECT 'CALL pg_temp.await(''api_key.root_key_file'', ''regress_root_key_loose'')'
    FROM generate_series(1, 500) \gexec
\set ECHO all
SELECT pg_temp.refused();
ALTER SYSTEM SET api_key.root_key_file = 'regress_root_key_text';
SELECT pg_reload_conf();
\set ECHO none
SELECT 'CALL pg_temp.await(''api_key.root_key_file'', ''regress_root_key_text'')'
    FROM generate_series(1, 500) \gexec
\set ECHO all
SELECT pg_temp.refused();
ALTER SYSTEM RESET api_key.root_key_file;
ALTER SYSTEM SET api_key.root_key_command = 'exit 3';
SELECT pg_reload_conf();
\set ECHO none
SELECT 'CALL pg_temp.await(''api_key.root_key_command'', ''exit 3'')' FROM generate_series(1, 500) \gexec
\set ECHO all
SELECT pg_temp.refused();
ALTER SYSTEM RESET api_key.root_key_command;
SELECT pg_reload_conf();
\set ECHO none
SELECT 'CALL pg_temp.await(''api_key.root_key_command'', '''')' FROM generate_series(1, 500) \gexec
\set ECHO all
-- Nothing was half done; with the right one all is as before.
SELECT pg_temp.code('abc') AS code, pg_temp.code('new') AS not_imported, pg_temp.code(:'ours') AS ours;
SELECT count(*) AS root_keys FROM api_key_internal.root_key;
COPY (SELECT) TO PROGRAM 'cat >/dev/null;
    rm -f regress_root_key_other regress_root_key_loose regress_root_key_text';
SELECT count(*) AS made FROM pg_ls_dir('.') AS f WHERE f LIKE 'regress%';
\i tests/cleanup.sql
