-- What the fuzzers of SQL find in their database: the roles of PostgREST, keys of each kind,
-- isolated and protected tables, and values of every type that the functions take.
CREATE EXTENSION api_key;
SELECT api_key.setup_postgrest(p_create_roles => true);
SELECT api_key.define_tier('many'), api_key.define_scope('articles:read', 'Reads'),
    api_key.define_rate_limit('fuzz', 5, '1 second'),
    api_key.define_rate_limit('each', 1000000, '1 second', p_per => 'client');

DO $$ BEGIN CREATE ROLE fuzz_owner; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
CREATE SCHEMA fuzz AUTHORIZATION fuzz_owner;
GRANT USAGE ON SCHEMA fuzz TO anon, authenticated, service_role;
GRANT USAGE ON SCHEMA api_key TO fuzz_owner;
GRANT EXECUTE ON FUNCTION api_key.current_tenant_id() TO fuzz_owner;
SET ROLE fuzz_owner;
CREATE TABLE fuzz.authors (
    id integer PRIMARY KEY, tenant_id uuid NOT NULL, name text NOT NULL);
CREATE TABLE fuzz.books (
    id integer PRIMARY KEY, tenant_id uuid NOT NULL, title text,
    author_id integer REFERENCES fuzz.authors ON DELETE CASCADE);
CREATE TABLE fuzz.documents (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id uuid, owner_id uuid, public boolean, body text);
CREATE TABLE fuzz.parted (id integer, tenant_id uuid NOT NULL, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE fuzz.part PARTITION OF fuzz.parted FOR VALUES FROM (0) TO (1000);
CREATE TABLE fuzz.bare (id integer PRIMARY KEY, tenant_id uuid, owner_id uuid, tags text[]);
CREATE VIEW fuzz.titles AS SELECT title FROM fuzz.books;
CREATE TABLE fuzz.big (n integer, kept text);
CREATE TABLE fuzz.old_keys (hash text, prefix text, owner uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA fuzz TO anon, authenticated;
RESET ROLE;
-- Kept compressed, kept elsewhere, and both.
ALTER TABLE fuzz.big ALTER kept SET STORAGE EXTERNAL;
INSERT INTO fuzz.big VALUES (1, repeat('x', 10485760)), (2, repeat('legacy_', 80));
ALTER TABLE fuzz.big ALTER kept SET STORAGE EXTENDED;
INSERT INTO fuzz.big VALUES (3, repeat('y', 10485760)), (4, repeat('z', 4000));
INSERT INTO fuzz.old_keys SELECT md5('old ' || n), 'old_', NULLIF(md5('user ' || n)::uuid, md5('user 2')::uuid)
    FROM generate_series(1, 3) AS n;
INSERT INTO fuzz.authors SELECT n, md5('tenant ' || n % 2)::uuid, 'Author ' || n FROM generate_series(1, 6) AS n;
INSERT INTO fuzz.books SELECT n, md5('tenant ' || n % 2)::uuid, 'Book ' || n, n FROM generate_series(1, 6) AS n;
INSERT INTO fuzz.documents SELECT md5(n::text)::uuid, md5('tenant ' || n % 2)::uuid, md5('user ' || n)::uuid, n = 1
    FROM generate_series(1, 4) AS n;
INSERT INTO fuzz.parted SELECT n, md5('tenant ' || n % 2)::uuid FROM generate_series(1, 4) AS n;
SELECT api_key.isolate_tenants('fuzz.authors'), api_key.isolate_tenants('fuzz.books'),
    api_key.isolate_tenants('fuzz.parted'),
    api_key.define_resource('document', 'fuzz.documents', 'id', 'owner_id', 'tenant_id', 'public');
SELECT api_key.protect_resource('document');

-- Keys that live, are bound, have ended, and were imported; texts and ids are in fuzz.specimens.
CREATE TABLE fuzz.keys AS
SELECT n, api_key.issue_api_key(
    p_user_id => md5('user ' || n)::uuid, p_name => 'Key ' || n, p_tier => 'many',
    p_tenant_id => md5('tenant ' || n % 2)::uuid, p_scopes => '{articles:read}',
    p_resource_id => CASE n WHEN 2 THEN 'document-1' END,
    p_allowed_ips => CASE n WHEN 3 THEN '{10.0.0.0/8,2001:db8::/32}'::inet[] END) AS key
FROM generate_series(1, 5) AS n;
SELECT api_key.revoke_api_key((key ->> 'key_id')::uuid, 'fuzz') FROM fuzz.keys WHERE n = 4;
SELECT api_key.rotate_api_key((key ->> 'key_id')::uuid) FROM fuzz.keys WHERE n = 5;
SELECT api_key.import_api_key_hash(hash, scheme, gen_random_uuid(), p_key_prefix => 'legacy_', p_tier => 'many')
FROM (VALUES ('md5', md5('legacy_planted-text-of-a-legacy-key')),
    ('sha256', encode(sha256('legacy_planted-text-of-another-key'), 'hex')),
    ('bcrypt', '$2b$04$abcdefghijklmnopqrstuuyMXVZJLDMDPRKFGpbYmLZkYXCSB0J6.'),
    ('plaintext', 'legacy_planted-plain-text-of-a-key')) AS of (scheme, hash);

-- A value of each kind in a row, the sensible beside the hostile, for joins with each other.
CREATE TABLE fuzz.specimens (
    t text, n name, j jsonb, u uuid, i integer, b bigint, ts timestamptz, iv interval, ip inet,
    ta text[], ua uuid[], ia inet[], ba bigint[], na name[], rc regclass, o oid, f boolean);
INSERT INTO fuzz.specimens
SELECT key ->> 'api_key', 'tenant_id', key - 'api_key', (key ->> 'key_id')::uuid, n, n, now(), '1 day', '10.0.0.1',
    '{articles:read}', ARRAY[(key ->> 'key_id')::uuid], '{10.0.0.1}', '{1,2}', '{authenticated,id}',
    'fuzz.bare', 'fuzz.bare'::regclass, true
FROM fuzz.keys;
INSERT INTO fuzz.specimens VALUES
    ('document', 'authenticated', '{"name": "n", "scopes": ["admin"], "expires_at": "infinity"}', md5('user 1')::uuid, 0, 0,
     'infinity', '-1 second', '::1', '{}', '{}', '{}', '{}', '{}', 'fuzz.parted', 0, false),
    ('fuzz', 'no such name', '[[[1e400, null]]]', md5('tenant 1')::uuid, 2147483647, 9223372036854775807,
     '-infinity', '178956970 years 7 mons 2147483647 days', '0.0.0.0/0', '{{a,NULL},{b,c}}', ARRAY[NULL::uuid],
     '[5:6]={::/0,NULL}', '[-3:-2]={1,NULL}', ARRAY[NULL::name], 'pg_catalog.pg_class', 1259, NULL),
    (repeat('x', 3000000), '', jsonb_build_object('metadata', repeat('y', 3000000)), '00000000-0000-0000-0000-000000000000',
     -2147483648, (-9223372036854775807)::bigint - 1, '294276-12-31 23:59:59+00', '-178956970 years', 'ffff::/0',
     array_fill('articles:read'::text, ARRAY[5000]), array_fill('ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid, ARRAY[3000]),
     array_fill('::/1'::inet, ARRAY[3000]), array_fill(1::bigint, ARRAY[3000]), '[0:1]={a,b}', 4294967295, 4294967295, true),
    (NULL, NULL, 'null', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
GRANT SELECT ON fuzz.specimens TO PUBLIC;
