-- What becomes of a key: issued, listed, updated, rotated, revoked, deleted, purged. All as the
-- administrator; caller.sql has what users may do. Secrets stay in psql variables: not echoed.
\set VERBOSITY default
\set SHOW_CONTEXT never
\pset null (null)
SET api_key.argon2_memory_kib = 64;
SET api_key.argon2_iterations = 1;
\set ada '''00000000-0000-4000-8000-0000000000a1'''
\set bob '''00000000-0000-4000-8000-0000000000b1'''
\set tenant '''00000000-0000-4000-8000-0000000000e1'''
\set nobodys_key '''00000000-0000-4000-8000-000000000000'''
-- plpgsql sees what the running statement has done; verify_api_key alone is STABLE and does not.
CREATE FUNCTION pg_temp.code(p_api_key text) RETURNS text LANGUAGE plpgsql
AS $$ BEGIN RETURN api_key.verify_api_key(p_api_key) ->> 'code'; END $$;
CREATE FUNCTION pg_temp.fields(p_object jsonb) RETURNS text LANGUAGE sql
AS $$ SELECT string_agg(key, ' ' ORDER BY key) FROM jsonb_object_keys(p_object) AS key $$;
SELECT api_key.define_tier('many');

-- The text of a new key has the documented form, and verifies; one changed character does not.
SELECT api_key.issue_api_key(p_user_id => :ada, p_tier => 'many') AS issued \gset
SELECT :'issued'::jsonb ->> 'api_key' AS key, :'issued'::jsonb ->> 'key_id' AS key_id \gset
SELECT :'key' ~ '^sk_live_[0-9A-Za-z]{60}$' AS text_form, pg_temp.code(:'key') AS code,
       api_key.verify_api_key(:'key') ->> 'key_id' = :'key_id' AS same_id;
SELECT pg_temp.code(overlay(:'key' PLACING
           CASE substr(:'key', at, 1) WHEN 'a' THEN 'b' ELSE 'a' END FROM at FOR 1)) AS code, count(*)
FROM generate_series(1, 68) AS at GROUP BY 1;

-- What issue answers, with the defaults.
SELECT pg_temp.fields(:'issued');
SELECT :'issued'::jsonb - '{api_key,key_id,masked_key,created_at}'::text[] AS issued;
SELECT :'issued'::jsonb ->> 'masked_key' = left(:'key', 14) || '...' AS masked_shows_prefix_and_six_digits,
       (:'issued'::jsonb ->> 'created_at')::timestamptz BETWEEN now() - interval '1 minute' AND clock_timestamp() AS created_now;
-- NULL means the default, as callers by name send it.
SELECT api_key.issue_api_key(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)
    - '{api_key,key_id,masked_key,created_at}'::text[] AS issued;

-- Every argument arrives.
SELECT api_key.issue_api_key(p_user_id => :ada, p_name => 'Full', p_tier => 'many',
    p_description => 'With everything', p_scopes => '{articles:read,articles:read,users:*}',
    p_tenant_id => :tenant, p_resource_id => 'site-1', p_environment => 'test',
    p_kind => 'publishable', p_expires_at => '2999-01-01 00:00Z', p_not_before => '2001-01-01 00:00Z',
    p_allowed_ips => '{192.0.2.0/24,2001:db8::1}', p_metadata => '{"plan": "pro"}') AS issued \gset full_
SELECT :'full_issued'::jsonb - '{api_key,key_id,masked_key,created_at}'::text[] AS issued;
SELECT user_id, tenant_id, name, description, tier, environment, kind, key_prefix, scopes, resource_id,
       allowed_ips, metadata, status, expires_at, not_before, last_used_at, usage_count, revoked_at, revoked_reason
FROM api_key.list_api_keys(p_tenant_id => :tenant) \gx

-- The prefix follows kind and environment, or is the caller's own.
SELECT kind, environment, issued ->> 'key_prefix' AS key_prefix,
       starts_with(issued ->> 'api_key', issued ->> 'key_prefix') AS begins_with_it,
       pg_temp.code(issued ->> 'api_key') AS code
FROM (VALUES ('secret', 'live'), ('secret', 'test'), ('publishable', 'live'), ('publishable', 'test')) AS c (kind, environment),
     LATERAL (SELECT api_key.issue_api_key(p_kind => kind, p_environment => environment) AS issued OFFSET 0) AS i;
SELECT prefix, issued ->> 'api_key' ~ ('^' || prefix || '[0-9A-Za-z]{60}$') AS text_form,
       pg_temp.code(issued ->> 'api_key') AS code
FROM (VALUES ('xbrl_v1_'), ('mcp_live_'), ('a_'), ('a23456789_123456789_123456789_1_')) AS c (prefix),
     LATERAL (SELECT api_key.issue_api_key(p_prefix => prefix) AS issued OFFSET 0) AS i;

-- Two keys share neither id nor secret, and nothing of a secret is stored.
SELECT count(DISTINCT k ->> 'key_id') AS ids, count(DISTINCT substr(k ->> 'api_key', 31, 32)) AS secrets
FROM (SELECT api_key.issue_api_key() AS k FROM generate_series(1, 20)) AS issued;
SELECT secret_hash ~ '^\$argon2id\$v=19\$m=64,t=1,p=1\$[^$]{22}\$[^$]{43}$' AS phc,
       strpos(k::text, substr(:'key', 31, 32)) AS secret_at
FROM api_key_internal.keys AS k WHERE key_id = :'key_id';

-- What issue refuses (22023), one argument after the other.
SELECT api_key.issue_api_key(p_name => '');
\echo :SQLSTATE
SELECT api_key.issue_api_key(p_name => repeat('x', 201));
\echo :SQLSTATE
SELECT api_key.issue_api_key(p_name => E'a\nb');
\echo :SQLSTATE
SELECT api_key.issue_api_key(p_description => repeat('x', 2001));
\echo :SQLSTATE
SELECT api_key.issue_api_key(p_tier => 'gold');
\echo :SQLSTATE
SELECT api_key.issue_api_key(p_resource_id => '');
\echo :SQLSTATE
SELECT api_key.issue_api_key(p_environment => 'staging');
\echo :SQLSTATE
SELECT api_key.issue_api_key(p_kind => 'public');
\echo :SQLSTATE
SELECT api_key.issue_api_key(p_prefix => 'sk-live-');
\echo :SQLSTATE
SELECT api_key.issue_api_key(p_expires_at => now());
\echo :SQLSTATE
SELECT api_key.issue_api_key(p_expires_at => '2999-01-01', p_not_before => '2999-01-01');
\echo :SQLSTATE
SELECT api_key.issue_api_key(p_allowed_ips => '{}');
\echo :SQLSTATE
SELECT api_key.issue_api_key(p_allowed_ips => '{192.0.2.1,NULL}');
\echo :SQLSTATE
SELECT api_key.issue_api_key(p_metadata => '[]');
\echo :SQLSTATE
SELECT api_key.issue_api_key(p_metadata => jsonb_build_object('x', repeat('x', 16384)));
\echo :SQLSTATE
SELECT api_key.issue_api_key(p_request_id => '');
\echo :SQLSTATE
SELECT api_key.issue_api_key(p_request_id => repeat('x', 201));
\echo :SQLSTATE
-- Every prefix that the form does not allow.
CREATE FUNCTION pg_temp.sqlstate_of(p_statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE p_statement;
    RETURN '00000';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END
$$;
SELECT prefix, pg_temp.sqlstate_of(format('SELECT api_key.issue_api_key(p_prefix => %L)', prefix))
FROM (VALUES (''), ('_'), ('a'), ('Sk_'), ('1a_'), ('sk_live'), ('sk live_'), ('é_'), (E'sk_\n'),
             ('a23456789_123456789_123456789_12_')) AS c (prefix);
-- Sizes at the limit and over it, arrays of the wrong shape, times without end.
SELECT argument, pg_temp.sqlstate_of(format('SELECT api_key.issue_api_key(%s)', argument))
FROM (VALUES ('p_name => repeat(''x'', 200)'), ('p_description => repeat(''x'', 2000)'),
             ('p_resource_id => repeat(''x'', 500)'), ('p_resource_id => repeat(''x'', 501)'),
             ('p_request_id => repeat(''x'', 200)'),
             ('p_allowed_ips => array_fill(inet ''192.0.2.1'', ARRAY[256])'),
             ('p_allowed_ips => array_fill(inet ''192.0.2.1'', ARRAY[257])'),
             ('p_allowed_ips => ''{{192.0.2.1,192.0.2.2}}'''),
             ('p_expires_at => ''infinity'''), ('p_expires_at => ''-infinity'''),
             ('p_expires_at => ''infinity'', p_not_before => ''infinity''')) AS c (argument);
-- A refused issue leaves nothing behind.
SELECT count(*) FROM api_key_internal.keys WHERE name = '' OR key_prefix IN ('', '_', 'a') OR tier = 'gold';
SELECT count(*) FROM api_key_internal.issue_requests WHERE request_id = '' OR length(request_id) > 200;

-- p_request_id makes a retry safe.
SELECT api_key.issue_api_key(p_user_id => :ada, p_tier => 'many', p_request_id => 'r1') AS issued \gset first_
SELECT api_key.issue_api_key(p_user_id => :ada, p_tier => 'many', p_request_id => 'r1') AS issued \gset again_
SELECT :'first_issued'::jsonb ? 'api_key' AS first_has_text, :'first_issued'::jsonb ? 'replayed' AS first_replayed,
       :'again_issued'::jsonb ? 'api_key' AS again_has_text,
       :'again_issued'::jsonb = :'first_issued'::jsonb - 'api_key' || '{"replayed": true}' AS again_is_the_same_key;
SELECT count(*) FROM api_key_internal.issue_requests WHERE request_id = 'r1';
-- Another request is another key.
SELECT api_key.issue_api_key(p_user_id => :ada, p_tier => 'many', p_request_id => 'r2') ? 'replayed' AS replayed;
-- A failed first try does not use the request up.
SELECT api_key.issue_api_key(p_tier => 'gold', p_request_id => 'r3');
SELECT api_key.issue_api_key(p_request_id => 'r3') ? 'api_key' AS has_text;
-- Deleting the key does not make its request new again.
SELECT api_key.delete_api_key((:'first_issued'::jsonb ->> 'key_id')::uuid);
SELECT pg_temp.fields(api_key.issue_api_key(p_user_id => :ada, p_tier => 'many', p_request_id => 'r1'));

-- list_api_keys: its columns, its filters, newest first, each status.
TRUNCATE api_key_internal.keys, api_key_internal.issue_requests;
SELECT string_agg(a.name || ' ' || a.type::regtype, ', ' ORDER BY a.n) AS columns
FROM pg_proc AS p,
     LATERAL unnest(p.proargnames, p.proallargtypes, p.proargmodes) WITH ORDINALITY AS a (name, type, mode, n)
WHERE p.oid = 'api_key.list_api_keys'::regproc AND a.mode = 't';
SELECT api_key.issue_api_key(p_user_id => :ada, p_name => name, p_tier => 'many') ->> 'success' AS success, name
FROM (VALUES ('one'), ('disabled'), ('expired'), ('revoked'), ('not_yet_valid')) AS c (name);
SELECT api_key.issue_api_key(p_user_id => :bob, p_name => 'of bob', p_tenant_id => :tenant) ->> 'name' AS name;
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
SELECT usage_count, last_used_at = '2020-01-01 00:00Z' AS last_used FROM api_key.list_api_keys() WHERE name = 'one';

-- update_api_key: each field, alone and together; the answer is the row as listed.
SELECT api_key.issue_api_key(p_user_id => :ada, p_name => 'before', p_tier => 'many', p_metadata => '{"a": 1}') AS issued \gset
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
       pg_temp.fields(api_key.update_api_key(:'key_id', '{}')) = pg_temp.fields(to_jsonb(listed)) AS same_fields
FROM api_key.list_api_keys(p_user_id => :ada) AS listed WHERE listed.key_id = :'key_id';
-- What does not change is not touched: the secret and its hash, owner, creation.
SELECT pg_temp.code(:'key') AS code;
-- updated_at moves with a change, and only then.
SELECT updated_at AS before FROM api_key.list_api_keys() WHERE key_id = :'key_id' \gset
SELECT (api_key.update_api_key(:'key_id', '{"name": "several"}') ->> 'updated_at')::timestamptz = :'before' AS unchanged;
SELECT (api_key.update_api_key(:'key_id', '{"name": "changed"}') ->> 'updated_at')::timestamptz > :'before' AS changed;

-- What update refuses.
SELECT api_key.update_api_key(:'key_id', NULL);
\echo :SQLSTATE
SELECT api_key.update_api_key(:'key_id', '[]');
\echo :SQLSTATE
SELECT api_key.update_api_key(:'key_id', '{"name": "x", "surprise": 1}');
\echo :SQLSTATE
SELECT api_key.update_api_key(:'key_id', '{"expires_at": "soon"}');
\echo :SQLSTATE
SELECT api_key.update_api_key(:'key_id', '{"allowed_ips": ["home"]}');
\echo :SQLSTATE
SELECT api_key.update_api_key(:'key_id', '{"expires_at": "2001-01-01"}');
\echo :SQLSTATE
SELECT api_key.update_api_key(:'key_id', '{"tier": "gold"}');
\echo :SQLSTATE
SELECT api_key.update_api_key(:'key_id', '{"not_before": "2999-01-01", "expires_at": "2998-01-01"}');
\echo :SQLSTATE
SELECT api_key.update_api_key(:nobodys_key, '{"name": "x"}');
\echo :SQLSTATE
SELECT api_key.update_api_key(NULL, '{"name": "x"}');
\echo :SQLSTATE
-- No other column, and no value of another type.
SELECT field, pg_temp.sqlstate_of(format('SELECT api_key.update_api_key(%L, %L)', :'key_id',
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
SELECT api_key.update_api_key(:'key_id', '{"expires_at": "2999-01-01"}') ->> 'status' AS status, pg_temp.code(:'key') AS code;
SELECT api_key.update_api_key(:'key_id', '{"expires_at": null}') ->> 'status' AS status;

-- rotate_api_key: the same id, a new secret, and the old one good until the grace ends.
SELECT api_key.rotate_api_key(:'key_id') AS rotated \gset
SELECT :'rotated'::jsonb ->> 'api_key' AS second \gset
SELECT pg_temp.fields(:'rotated');
SELECT :'rotated'::jsonb ->> 'key_id' = :'key_id' AS same_id, :'second' <> :'key' AS new_text,
       :'rotated'::jsonb ->> 'secret_version' AS secret_version,
       (:'rotated'::jsonb ->> 'grace_expires_at')::timestamptz - now() BETWEEN '23 hours 59 minutes' AND '24 hours 1 minute' AS a_day_of_grace;
SELECT secret, answer ->> 'code' AS code, answer ->> 'secret_version' AS secret_version,
       answer ->> 'key_id' = :'key_id' AS same_id,
       answer -> 'grace_expires_at' = :'rotated'::jsonb -> 'grace_expires_at' AS grace_named,
       jsonb_typeof(answer -> 'grace_expires_at') AS grace
FROM (VALUES ('old', api_key.verify_api_key(:'key')), ('new', api_key.verify_api_key(:'second'))) AS v (secret, answer);
-- There is one old secret at a time.
SELECT api_key.rotate_api_key(:'key_id', '1 hour') ->> 'api_key' AS third \gset
SELECT pg_temp.code(:'key') AS first, pg_temp.code(:'second') AS second, pg_temp.code(:'third') AS third;
-- The end of the grace.
UPDATE api_key_internal.keys SET grace_expires_at = now() WHERE key_id = :'key_id';
SELECT pg_temp.code(:'second') AS second, pg_temp.code(:'third') AS third;
-- No grace ends the old secret at once; NULL means the default.
SELECT api_key.rotate_api_key(:'key_id', '0') AS rotated \gset
SELECT :'rotated'::jsonb ->> 'api_key' AS fourth \gset
SELECT :'rotated'::jsonb -> 'grace_expires_at' AS grace, :'rotated'::jsonb -> 'secret_version' AS secret_version,
       pg_temp.code(:'third') AS third, pg_temp.code(:'fourth') AS fourth;
SELECT (api_key.rotate_api_key(:'key_id', NULL) ->> 'grace_expires_at')::timestamptz > now() + interval '23 hours' AS default_grace;
SELECT api_key.rotate_api_key(:'key_id', '-1 second');
\echo :SQLSTATE
SELECT api_key.rotate_api_key(:'key_id', '366 days');
\echo :SQLSTATE
SELECT api_key.rotate_api_key(:nobodys_key);
\echo :SQLSTATE
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
SELECT status, revoked_reason, revoked_at IS NOT NULL AS has_time FROM api_key.list_api_keys() WHERE key_id = :'key_id';
SELECT pg_temp.code(:'newest') AS newest, pg_temp.code(:'key') AS old_secret_ends_with_it;
SELECT api_key.rotate_api_key(:'key_id');
\echo :SQLSTATE
SELECT api_key.update_api_key(:'key_id', '{"enabled": true}') ->> 'status' AS for_good;
SELECT api_key.revoke_api_key(:nobodys_key);
\echo :SQLSTATE
SELECT api_key.revoke_api_key(:'key_id', repeat('x', 501));
\echo :SQLSTATE

-- revoke_api_keys: of a user, of a tenant, of a user in a tenant; each key once.
TRUNCATE api_key_internal.key_usage, api_key_internal.keys, api_key_internal.issue_requests;
SELECT api_key.issue_api_key(p_user_id => user_id::uuid, p_name => name, p_tier => 'many', p_tenant_id => tenant_id::uuid) ->> 'name' AS name
FROM (VALUES (:ada, NULL, 'ada'), (:ada, :tenant, 'ada in tenant'), (:bob, :tenant, 'bob in tenant'), (:bob, NULL, 'bob')) AS c (user_id, tenant_id, name);
SELECT api_key.revoke_api_keys(:ada, :tenant, 'both') AS revoked;
SELECT api_key.revoke_api_keys(p_tenant_id => :tenant) AS revoked;
SELECT api_key.revoke_api_keys(p_user_id => :bob) AS revoked;
SELECT api_key.revoke_api_keys(p_user_id => :bob) AS revoked;
SELECT name, status, revoked_reason FROM api_key.list_api_keys() ORDER BY name;
SELECT api_key.revoke_api_keys();
\echo :SQLSTATE
SELECT api_key.revoke_api_keys(:ada, NULL, repeat('x', 501));
\echo :SQLSTATE

-- revoke_own_api_key: whoever holds a key can kill it, whatever its state, and only with its secret.
SELECT api_key.issue_api_key() AS issued \gset
SELECT :'issued'::jsonb ->> 'api_key' AS key, :'issued'::jsonb ->> 'key_id' AS key_id \gset
SELECT api_key.revoke_own_api_key(NULL) AS "null", api_key.revoke_own_api_key('') AS empty,
       api_key.revoke_own_api_key('sk_live_x') AS malformed,
       api_key.revoke_own_api_key(api_key_internal.mint('sk_live_', :'key_id') ->> 'api_key') AS wrong_secret,
       api_key.revoke_own_api_key(api_key_internal.mint('sk_live_', :nobodys_key) ->> 'api_key') AS unknown_id;
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
FROM (VALUES ('live'), ('expired long ago'), ('expired lately'), ('revoked long ago'), ('revoked lately'), ('disabled')) AS c (name);
UPDATE api_key_internal.keys SET
    expires_at = CASE name WHEN 'expired long ago' THEN now() - interval '31 days' WHEN 'expired lately' THEN now() - interval '29 days' END,
    revoked_at = CASE name WHEN 'revoked long ago' THEN now() - interval '31 days' WHEN 'revoked lately' THEN now() - interval '29 days' END,
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
SELECT api_key.purge_api_keys('-1 day');
\echo :SQLSTATE
SELECT api_key.purge_api_keys(NULL);
\echo :SQLSTATE

-- A key made under other parameters still verifies; the settings have bounds.
TRUNCATE api_key_internal.keys, api_key_internal.issue_requests;
SELECT api_key.issue_api_key() ->> 'api_key' AS cheap \gset
SET api_key.argon2_memory_kib = 128;
SET api_key.argon2_iterations = 3;
SET api_key.argon2_parallelism = 2;
SELECT api_key.issue_api_key() ->> 'api_key' AS dear \gset
SELECT pg_temp.code(:'cheap') AS cheap, pg_temp.code(:'dear') AS dear;
SELECT substring(secret_hash FROM 'm=\d+,t=\d+,p=\d+') AS parameters FROM api_key_internal.keys ORDER BY created_at;
RESET api_key.argon2_memory_kib;
RESET api_key.argon2_iterations;
RESET api_key.argon2_parallelism;
SELECT pg_temp.code(:'cheap') AS cheap, pg_temp.code(:'dear') AS dear;
SELECT name, boot_val, min_val, max_val, context, unit FROM pg_settings WHERE name LIKE 'api\_key.argon2%' ORDER BY name;
-- The defaults are OWASP's.
SELECT api_key.issue_api_key(p_name => 'default cost') ->> 'name' AS name;
SELECT substring(secret_hash FROM 'm=\d+,t=\d+,p=\d+') AS parameters FROM api_key_internal.keys WHERE name = 'default cost';
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

TRUNCATE api_key_internal.key_usage, api_key_internal.keys, api_key_internal.issue_requests, api_key_internal.tiers, api_key_internal.audit_log;
