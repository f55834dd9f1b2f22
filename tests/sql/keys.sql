-- What becomes of a key: listed, updated, rotated, revoked, deleted, purged. All as the administrator;
-- caller.sql has what users may do, issue.sql how keys are made.
\i tests/preamble.sql
\set nobodys_key '''00000000-0000-4000-8000-000000000000'''
CREATE FUNCTION pg_temp.fields(p_object jsonb) RETURNS text LANGUAGE sql
AS $$ SELECT string_agg(key, ' ' ORDER BY key) FROM jsonb_object_keys(p_object) AS key $$;
SELECT api_key.define_tier('many');

-- list_api_keys: its columns, its filters, newest first, each status.
SELECT string_agg(a.name || ' ' || a.type::regtype, ', ' ORDER BY a.n) AS columns
FROM pg_proc AS p,
     LATERAL unnest(p.proargnames, p.proallargtypes, p.proargmodes) WITH ORDINALITY AS a (name, type, mode,
         n)
WHERE p.oid = 'api_key.list_api_keys'::regproc AND a.mode = 't';
SELECT api_key.issue_api_key(p_user_id => :ada, p_name => name, p_tier => 'many') ->> 'success' AS success,
    name
FROM (VALUES ('one'), ('disabled'), ('expired'), ('revoked'), ('not_yet_valid')) AS c (name);
SELECT api_key.issue_api_key(p_user_id => :bob, p_name => 'of bob',
    p_tenant_id => :tenant) ->> 'name' AS name;
UPDATE api_key_internal.keys SET enabled = false WHERE name = 'disabled';
UPDATE api_key_internal.keys SET expires_at = now() - interval '1 day' WHERE name = 'expired';
UPDATE api_key_internal.keys SET revoked_at = now(), revoked_reason = 'test' WHERE name = 'revoked';
UPDATE api_key_internal.keys SET not_before = now() + interval '1 day' WHERE name = 'not_yet_valid';
SELECT name, status FROM api_key.list_api_keys();
SELECT name FROM api_key.list_api_keys(p_user_id => :ada);
SELECT name FROM api_key.list_api_keys(p_tenant_id => :tenant);
SELECT name FROM api_key.list_api_keys(p_user_id => :ada, p_tenant_id => :tenant);
SELECT name FROM api_key.list_api_keys(p_include_inactive => false);
SELECT name FROM api_key.list_api_keys(NULL, NULL, NULL) WHERE status = 'revoked';
-- The use counts are those of key_usage.
INSERT INTO api_key_internal.key_usage (key_id, usage_count, last_used_at)
SELECT key_id, 3, '2020-01-01 00:00Z' FROM api_key_internal.keys WHERE name = 'one';
SELECT usage_count, last_used_at = '2020-01-01 00:00Z' AS last_used FROM api_key.list_api_keys()
    WHERE name = 'one';

-- update_api_key: each field, alone and together; the answer is the row as listed.
SELECT api_key.issue_api_key(p_user_id => :ada, p_name => 'before', p_tier => 'many',
    p_metadata => '{"a": 1}') AS issued \gset
SELECT :'issued'::jsonb ->> 'api_key' AS key, :'issued'::jsonb ->> 'key_id' AS key_id \gset
SELECT field, api_key.update_api_key(:'key_id', jsonb_build_object(field, value::jsonb)) -> field AS now
FROM (VALUES ('name', '"after"'), ('description', '"words"'),
             ('scopes', '["a:read", "a:read", "b:*"]'), ('allowed_ips', '["192.0.2.1", "10.0.0.0/8"]'),
             ('metadata', '{"b": 2}'), ('expires_at', '"2999-01-01T00:00:00Z"'),
             ('not_before', '"2001-01-01T00:00:00Z"'), ('tier', '"free"'), ('tier', '"many"'),
             ('resource_id', '"site-1"')) AS changed (field, value);
SELECT api_key.update_api_key(:'key_id', '{"enabled": false}') ->> 'status' AS status;
SELECT pg_temp.code(:'key') AS code;
SELECT api_key.update_api_key(:'key_id', '{"enabled": true}') ->> 'status' AS status;
SELECT api_key.update_api_key(:'key_id', '{"description": null, "resource_id": null, "allowed_ips": null,
    "expires_at": null, "not_before": null, "scopes": [], "name": "several"}')
    - '{key_id,masked_key,created_at,updated_at,usage_count,last_used_at}'::text[] AS row;
-- The answer has the fields of list_api_keys.
SELECT api_key.update_api_key(:'key_id', '{}') - '{usage_count,last_used_at}'::text[]
           = to_jsonb(listed) - '{usage_count,last_used_at}'::text[] AS as_listed,
       pg_temp.fields(api_key.update_api_key(:'key_id',
           '{}')) = pg_temp.fields(to_jsonb(listed)) AS same_fields
FROM api_key.list_api_keys(p_user_id => :ada) AS listed WHERE listed.key_id = :'key_id';
-- What does not change is not touched: the secret and its hash, owner, creation.
SELECT pg_temp.code(:'key') AS code;
-- updated_at moves with a change, and only then.
SELECT updated_at AS before FROM api_key.list_api_keys() WHERE key_id = :'key_id' \gset
SELECT (api_key.update_api_key(:'key_id', '{"name": "several"}') ->> 'updated_at')::timestamptz = :'before'
    AS unchanged;
SELECT (api_key.update_api_key(:'key_id', '{"name": "changed"}') ->> 'updated_at')::timestamptz > :'before'
    AS changed;

-- What update refuses.
SELECT * FROM pg_temp.cases('SELECT api_key.update_api_key(%)', $$
    {id}, NULL
    {id}, '[]'
    {id}, '{"name": "x", "surprise": 1}'
    {id}, '{"expires_at": "soon"}'
    {id}, '{"allowed_ips": ["home"]}'
    {id}, '{"expires_at": "2001-01-01"}'
    {id}, '{"tier": "gold"}'
    {id}, '{"not_before": "2999-01-01", "expires_at": "2998-01-01"}'
    '00000000-0000-4000-8000-000000000000', '{"name": "x"}'
    NULL, '{"name": "x"}'
$$, :'key_id');
-- No other column, and no value of another type.
SELECT field, pg_temp.outcome(format('SELECT api_key.update_api_key(%L, %L)', :'key_id',
    jsonb_build_object(field, value::jsonb)))
FROM (VALUES ('user_id', 'null'), ('tenant_id', 'null'), ('key_id', 'null'), ('secret_hash', '"x"'),
             ('environment', '"test"'), ('kind', '"publishable"'), ('key_prefix', '"x_"'),
             ('revoked_at', 'null'), ('secret_version', '1'),
             ('name', 'null'), ('name', '1'), ('name', '""'), ('tier', 'null'), ('description', '1'),
             ('enabled', '"true"'), ('enabled', 'null'), ('metadata', 'null'), ('metadata', '[]'),
             ('scopes', 'null'), ('scopes', '"a:read"'), ('scopes', '[1]'), ('scopes', '[null]'),
             ('scopes', '[["a:read"]]'), ('allowed_ips', '[]'), ('allowed_ips', '[null]'),
             ('allowed_ips', '"10.0.0.1"'), ('expires_at', '1'), ('not_before', '""'),
             ('resource_id', '""')) AS c (field, value);
SELECT name, tier, enabled FROM api_key_internal.keys WHERE key_id = :'key_id';

-- An expired key can be given a new expiry, and other fields while it is expired.
UPDATE api_key_internal.keys SET expires_at = now() - interval '1 day' WHERE key_id = :'key_id';
SELECT api_key.update_api_key(:'key_id', '{"name": "late"}') ->> 'status' AS status;
SELECT api_key.update_api_key(:'key_id', '{"expires_at": "2999-01-01"}') ->> 'status' AS status,
    pg_temp.code(:'key') AS code;
SELECT api_key.update_api_key(:'key_id', '{"expires_at": null}') ->> 'status' AS status;

-- rotate_api_key: the same id, a new secret, and the old one good until the grace ends.
SELECT api_key.rotate_api_key(:'key_id') AS rotated \gset
SELECT :'rotated'::jsonb ->> 'api_key' AS second \gset
SELECT pg_temp.fields(:'rotated');
SELECT :'rotated'::jsonb ->> 'key_id' = :'key_id' AS same_id, :'second' <> :'key' AS new_text,
       :'rotated'::jsonb ->> 'secret_version' AS secret_version,
       (:'rotated'::jsonb ->> 'grace_expires_at')::timestamptz - now() BETWEEN '23 hours 59 minutes'
           AND '24 hours 1 minute' AS a_day_of_grace;
SELECT secret, answer ->> 'code' AS code, answer ->> 'secret_version' AS secret_version,
       answer ->> 'key_id' = :'key_id' AS same_id,
       answer -> 'grace_expires_at' = :'rotated'::jsonb -> 'grace_expires_at' AS grace_named,
       jsonb_typeof(answer -> 'grace_expires_at') AS grace
FROM (VALUES ('old', api_key.verify_api_key(:'key')), ('new',
    api_key.verify_api_key(:'second'))) AS v (secret, answer);
-- There is one old secret at a time.
SELECT api_key.rotate_api_key(:'key_id', '1 hour') ->> 'api_key' AS third \gset
SELECT pg_temp.code(:'key') AS first, pg_temp.code(:'second') AS second, pg_temp.code(:'third') AS third;
-- The end of the grace.
UPDATE api_key_internal.keys SET grace_expires_at = now() WHERE key_id = :'key_id';
SELECT pg_temp.code(:'second') AS second, pg_temp.code(:'third') AS third;
-- No grace ends the old secret at once; NULL means the default.
SELECT api_key.rotate_api_key(:'key_id', '0') AS rotated \gset
SELECT :'rotated'::jsonb ->> 'api_key' AS fourth \gset
SELECT :'rotated'::jsonb -> 'grace_expires_at' AS grace,
    :'rotated'::jsonb -> 'secret_version' AS secret_version,
       pg_temp.code(:'third') AS third, pg_temp.code(:'fourth') AS fourth;
SELECT (api_key.rotate_api_key(:'key_id', NULL) ->> 'grace_expires_at')::timestamptz > now() + interval
    '23 hours' AS default_grace;
SELECT * FROM pg_temp.cases('SELECT api_key.rotate_api_key(%)', $$
    {id}, '-1 second'
    {id}, '366 days'
    '00000000-0000-4000-8000-000000000000'
$$, :'key_id');
SELECT pg_temp.code(:'fourth') AS a_refused_rotation_changes_nothing;
-- A key that is gone for good is not rotated; one that is switched off is, and stays off.
UPDATE api_key_internal.keys SET expires_at = now() WHERE key_id = :'key_id';
SELECT api_key.rotate_api_key(:'key_id');
\echo :SQLSTATE
UPDATE api_key_internal.keys SET expires_at = NULL, enabled = false WHERE key_id = :'key_id';
SELECT pg_temp.code(api_key.rotate_api_key(:'key_id') ->> 'api_key') AS code;
UPDATE api_key_internal.keys SET enabled = true WHERE key_id = :'key_id';

-- revoke_api_key: true if it was live.
SELECT api_key.rotate_api_key(:'key_id') ->> 'api_key' AS key \gset
SELECT api_key.rotate_api_key(:'key_id') ->> 'api_key' AS newest \gset
SELECT api_key.revoke_api_key(:'key_id', 'lost') AS revoked;
SELECT api_key.revoke_api_key(:'key_id', 'again') AS revoked;
SELECT status, revoked_reason, revoked_at IS NOT NULL AS has_time FROM api_key.list_api_keys()
    WHERE key_id = :'key_id';
SELECT pg_temp.code(:'newest') AS newest, pg_temp.code(:'key') AS old_secret_ends_with_it;
SELECT api_key.rotate_api_key(:'key_id');
\echo :SQLSTATE
SELECT api_key.update_api_key(:'key_id', '{"enabled": true}') ->> 'status' AS for_good;
SELECT * FROM pg_temp.cases('SELECT api_key.revoke_api_key(%)', $$
    '00000000-0000-4000-8000-000000000000'
    {id}, repeat('x', 501)
$$, :'key_id');

-- revoke_api_keys: of a user, of a tenant, of a user in a tenant; each key once.
TRUNCATE api_key_internal.key_usage, api_key_internal.keys, api_key_internal.issue_requests;
SELECT api_key.issue_api_key(p_user_id => user_id::uuid, p_name => name, p_tier => 'many',
    p_tenant_id => tenant_id::uuid) ->> 'name' AS name
FROM (VALUES (:ada, NULL, 'ada'), (:ada, :tenant, 'ada in tenant'), (:bob, :tenant, 'bob in tenant'), (:bob,
    NULL, 'bob')) AS c (user_id, tenant_id, name);
SELECT api_key.revoke_api_keys(:ada, :tenant, 'both') AS revoked;
SELECT api_key.revoke_api_keys(p_tenant_id => :tenant) AS revoked;
SELECT api_key.revoke_api_keys(p_user_id => :bob) AS revoked;
SELECT api_key.revoke_api_keys(p_user_id => :bob) AS revoked;
SELECT name, status, revoked_reason FROM api_key.list_api_keys() ORDER BY name;
SELECT * FROM pg_temp.cases('SELECT api_key.%', $$
    revoke_api_keys()
    revoke_api_keys('00000000-0000-4000-8000-0000000000a1', NULL, repeat('x', 501))
$$);

-- revoke_own_api_key: whoever holds a key can kill it, whatever its state, and only with its secret.
SELECT api_key.issue_api_key() AS issued \gset
SELECT :'issued'::jsonb ->> 'api_key' AS key, :'issued'::jsonb ->> 'key_id' AS key_id \gset
SELECT api_key.revoke_own_api_key(NULL) AS "null", api_key.revoke_own_api_key('') AS empty,
       api_key.revoke_own_api_key('sk_live_x') AS malformed,
       api_key.revoke_own_api_key(api_key_internal.mint('sk_live_',
           :'key_id') ->> 'api_key') AS wrong_secret,
       api_key.revoke_own_api_key(api_key_internal.mint('sk_live_',
           :nobodys_key) ->> 'api_key') AS unknown_id;
SELECT pg_temp.code(:'key') AS code;
SELECT api_key.revoke_own_api_key(:'key') AS revoked;
SELECT api_key.revoke_own_api_key(:'key') AS revoked;
SELECT pg_temp.code(:'key') AS code, revoked_reason FROM api_key.list_api_keys() WHERE key_id = :'key_id';
SELECT api_key.issue_api_key() ->> 'api_key' AS key \gset
UPDATE api_key_internal.keys SET enabled = false, expires_at = now() WHERE revoked_at IS NULL;
SELECT api_key.revoke_own_api_key(:'key') AS disabled_and_expired;
-- With the secret of before a rotation, it ends that secret's grace; the new one stays.
SELECT api_key.issue_api_key() AS issued \gset
SELECT :'issued'::jsonb ->> 'api_key' AS key, :'issued'::jsonb ->> 'key_id' AS key_id \gset
SELECT api_key.rotate_api_key(:'key_id') ->> 'api_key' AS newest \gset
SELECT api_key.revoke_own_api_key(:'key') AS revoked;
SELECT pg_temp.code(:'key') AS old, pg_temp.code(:'newest') AS new;
SELECT api_key.revoke_own_api_key(:'key') AS revoked;
SELECT api_key.revoke_own_api_key(:'newest') AS revoked;
SELECT pg_temp.code(:'newest') AS new;

-- delete_api_key: the key is as if it had never been, and so is its use.
SELECT api_key.issue_api_key() AS issued \gset
SELECT :'issued'::jsonb ->> 'api_key' AS key, :'issued'::jsonb ->> 'key_id' AS key_id \gset
INSERT INTO api_key_internal.key_usage (key_id, usage_count) VALUES (:'key_id', 1);
SELECT api_key.delete_api_key(:'key_id') AS deleted;
SELECT pg_temp.code(:'key') AS code;
SELECT count(*) FROM api_key_internal.key_usage WHERE key_id = :'key_id';
SELECT api_key.delete_api_key(:'key_id');
\echo :SQLSTATE

-- purge_api_keys: what expired or was revoked longer ago than that.
TRUNCATE api_key_internal.keys, api_key_internal.issue_requests;
SELECT api_key.issue_api_key(p_name => name, p_request_id => name) ->> 'name' AS name
FROM (VALUES ('live'), ('expired long ago'), ('expired lately'), ('revoked long ago'), ('revoked lately'),
    ('disabled')) AS c (name);
UPDATE api_key_internal.keys SET
    expires_at = CASE name WHEN 'expired long ago' THEN now() - interval '31 days' WHEN 'expired lately'
        THEN now() - interval '29 days' END,
    revoked_at = CASE name WHEN 'revoked long ago' THEN now() - interval '31 days' WHEN 'revoked lately'
        THEN now() - interval '29 days' END,
    enabled = name <> 'disabled';
SELECT api_key.purge_api_keys() AS purged;
SELECT name FROM api_key.list_api_keys() ORDER BY name;
SELECT api_key.purge_api_keys('1000000 years') AS purged;
SELECT api_key.purge_api_keys('0') AS purged;
SELECT name FROM api_key.list_api_keys() ORDER BY name;
-- The requests of purged keys go with them in time; those of keys that exist stay.
UPDATE api_key_internal.issue_requests SET created_at = created_at - interval '31 days';
SELECT api_key.purge_api_keys() AS purged;
SELECT request_id FROM api_key_internal.issue_requests ORDER BY request_id;
SELECT * FROM pg_temp.cases('SELECT api_key.purge_api_keys(%)', $$
    '-1 day'
    NULL
$$);

-- A key made under other parameters still verifies; the settings have bounds.
TRUNCATE api_key_internal.keys, api_key_internal.issue_requests;
SELECT api_key.issue_api_key() ->> 'api_key' AS cheap \gset
SET api_key.argon2_memory_kib = 128;
SET api_key.argon2_iterations = 3;
SET api_key.argon2_parallelism = 2;
SELECT api_key.issue_api_key() ->> 'api_key' AS dear \gset
SELECT pg_temp.code(:'cheap') AS cheap, pg_temp.code(:'dear') AS dear;
SELECT substring(secret_hash FROM 'm=\d+,t=\d+,p=\d+') AS parameters FROM api_key_internal.keys
    ORDER BY created_at;
RESET api_key.argon2_memory_kib;
RESET api_key.argon2_iterations;
RESET api_key.argon2_parallelism;
SELECT pg_temp.code(:'cheap') AS cheap, pg_temp.code(:'dear') AS dear;
SELECT name, boot_val, min_val, max_val, context, unit FROM pg_settings WHERE name LIKE 'api\_key.argon2%'
    ORDER BY name;
-- The defaults are OWASP's.
SELECT api_key.issue_api_key(p_name => 'default cost') ->> 'name' AS name;
SELECT substring(secret_hash FROM 'm=\d+,t=\d+,p=\d+') AS parameters FROM api_key_internal.keys
    WHERE name = 'default cost';
SET api_key.argon2_memory_kib = 7;
SET api_key.argon2_iterations = 0;
SET api_key.argon2_parallelism = 65;
-- Each lane needs 8 KiB: known only when all three are.
SET api_key.argon2_memory_kib = 8;
SET api_key.argon2_parallelism = 2;
SELECT api_key.issue_api_key();
\echo :SQLSTATE
-- The prefix of the settings is reserved.
SET api_key.no_such_setting = 1;
\echo :SQLSTATE
\i tests/cleanup.sql
