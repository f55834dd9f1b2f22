-- Issuing a key: its text, what is stored, each argument and what is refused, and retries with p_request_id.
-- All as the administrator; caller.sql has what users may do. Secrets stay in psql variables: not echoed.
\i tests/preamble.sql
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
       (:'issued'::jsonb ->> 'created_at')::timestamptz BETWEEN now() - interval '1 minute'
           AND clock_timestamp() AS created_now;
-- NULL means the default, as callers by name send it.
SELECT api_key.issue_api_key(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL)
    - '{api_key,key_id,masked_key,created_at}'::text[] AS issued;

-- Every argument arrives.
SELECT api_key.issue_api_key(p_user_id => :ada, p_name => 'Full', p_tier => 'many',
    p_description => 'With everything', p_scopes => '{articles:read,articles:read,users:*}',
    p_tenant_id => :tenant, p_resource_id => 'site-1', p_environment => 'test',
    p_kind => 'publishable', p_expires_at => '2999-01-01 00:00Z', p_not_before => '2001-01-01 00:00Z',
    p_allowed_ips => '{192.0.2.0/24,2001:db8::1}', p_metadata => '{"plan": "pro"}') AS issued \gset full_
SELECT :'full_issued'::jsonb - '{api_key,key_id,masked_key,created_at}'::text[] AS issued;
SELECT user_id, tenant_id, name, description, tier, environment, kind, key_prefix, scopes, resource_id,
       allowed_ips, metadata, status, expires_at, not_before, last_used_at, usage_count, revoked_at,
           revoked_reason
FROM api_key.list_api_keys(p_tenant_id => :tenant) \gx

-- The prefix follows kind and environment, or is the caller's own.
SELECT kind, environment, issued ->> 'key_prefix' AS key_prefix,
       starts_with(issued ->> 'api_key', issued ->> 'key_prefix') AS begins_with_it,
       pg_temp.code(issued ->> 'api_key') AS code
FROM (VALUES ('secret', 'live'), ('secret', 'test'), ('publishable', 'live'), ('publishable',
    'test')) AS c (kind, environment),
     LATERAL (SELECT api_key.issue_api_key(p_kind => kind,
         p_environment => environment) AS issued OFFSET 0) AS i;
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
SELECT * FROM pg_temp.cases('SELECT api_key.issue_api_key(%)', $$
    p_name => ''
    p_name => repeat('x', 201)
    p_name => E'a\nb'
    p_description => repeat('x', 2001)
    p_tier => 'gold'
    p_resource_id => ''
    p_environment => 'staging'
    p_kind => 'public'
    p_prefix => 'sk-live-'
    p_expires_at => now()
    p_expires_at => '2999-01-01', p_not_before => '2999-01-01'
    p_allowed_ips => '{}'
    p_allowed_ips => '{192.0.2.1,NULL}'
    p_metadata => '[]'
    p_metadata => jsonb_build_object('x', repeat('x', 16384))
    p_request_id => ''
    p_request_id => repeat('x', 201)
$$);
-- Every prefix that the form does not allow.
SELECT prefix, pg_temp.outcome(format('SELECT api_key.issue_api_key(p_prefix => %L)', prefix))
FROM (VALUES (''), ('_'), ('a'), ('Sk_'), ('1a_'), ('sk_live'), ('sk live_'), ('é_'), (E'sk_\n'),
             ('a23456789_123456789_123456789_12_')) AS c (prefix);
-- Sizes at the limit and over it, arrays of the wrong shape, times without end.
SELECT argument, pg_temp.outcome(format('SELECT api_key.issue_api_key(%s)', argument))
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
SELECT api_key.issue_api_key(p_user_id => :ada, p_tier => 'many',
    p_request_id => 'r1') AS issued \gset first_
SELECT api_key.issue_api_key(p_user_id => :ada, p_tier => 'many',
    p_request_id => 'r1') AS issued \gset again_
SELECT :'first_issued'::jsonb ? 'api_key' AS first_has_text,
    :'first_issued'::jsonb ? 'replayed' AS first_replayed,
       :'again_issued'::jsonb ? 'api_key' AS again_has_text,
       :'again_issued'::jsonb = :'first_issued'::jsonb - 'api_key' || '{"replayed": true}' AS
           again_is_the_same_key;
SELECT count(*) FROM api_key_internal.issue_requests WHERE request_id = 'r1';
-- Another request is another key.
SELECT api_key.issue_api_key(p_user_id => :ada, p_tier => 'many',
    p_request_id => 'r2') ? 'replayed' AS replayed;
-- A failed first try does not use the request up.
SELECT api_key.issue_api_key(p_tier => 'gold', p_request_id => 'r3');
SELECT api_key.issue_api_key(p_request_id => 'r3') ? 'api_key' AS has_text;
-- Deleting the key does not make its request new again.
SELECT api_key.delete_api_key((:'first_issued'::jsonb ->> 'key_id')::uuid);
SELECT pg_temp.fields(api_key.issue_api_key(p_user_id => :ada, p_tier => 'many', p_request_id => 'r1'));
\i tests/cleanup.sql
