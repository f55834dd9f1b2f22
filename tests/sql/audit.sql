-- The audit log: every change, in its transaction, and never a secret or a hash.
\i tests/preamble.sql
\i tests/roles.sql
-- Changes only: the worker adds verifies that were refused, when it flushes.
CREATE TEMP VIEW changes AS SELECT * FROM api_key.audit_log WHERE event <> 'refused';

-- Each kind of change leaves one row.
SELECT api_key.define_tier('many');
SELECT api_key.define_scope('articles:read', 'Read articles');
SELECT api_key.issue_api_key(p_user_id => :ada, p_name => 'CI', p_tier => 'many', p_tenant_id => :tenant,
    p_scopes => '{articles:read}') AS issued \gset
SELECT :'issued'::jsonb ->> 'api_key' AS key, :'issued'::jsonb ->> 'key_id' AS key_id \gset
SELECT api_key.update_api_key(:'key_id', '{"name": "CD", "description": "x", "metadata": {"a": 1}}') ->>
    'name' AS name;
SELECT api_key.rotate_api_key(:'key_id') ->> 'api_key' AS second \gset
SELECT api_key.revoke_own_api_key(:'key');
SELECT api_key.revoke_api_key(:'key_id', 'lost');
SELECT api_key.delete_api_key(:'key_id');
SELECT event, key_id = :'key_id' AS of_this_key, user_id = :ada AS of_ada, tenant_id = :tenant AS of_tenant,
       details - 'grace_expires_at' AS details
FROM changes ORDER BY audit_id;
-- What changes nothing leaves nothing.
SELECT count(*) AS before FROM changes \gset
SELECT api_key.issue_api_key(p_user_id => :ada, p_tier => 'many',
    p_request_id => 'r1') ->> 'key_id' AS key_id \gset
SELECT api_key.issue_api_key(p_user_id => :ada, p_tier => 'many',
    p_request_id => 'r1') ->> 'replayed' AS replayed;
SELECT api_key.update_api_key(:'key_id', '{"name": "API Key"}') ->> 'name' AS name;
SELECT api_key.revoke_api_key(:'key_id');
SELECT api_key.revoke_api_key(:'key_id');
SELECT api_key.revoke_own_api_key('x');
SELECT api_key.issue_api_key(p_tier => 'gold');
SELECT api_key.verify_api_key(:'key') ->> 'code' AS code;
SELECT event FROM changes ORDER BY audit_id OFFSET :before;
-- An undone change leaves nothing either.
BEGIN;
SELECT api_key.delete_api_key(:'key_id');
SELECT event FROM changes ORDER BY audit_id DESC LIMIT 1;
ROLLBACK;
SELECT event FROM changes ORDER BY audit_id DESC LIMIT 1;
-- Changes of many keys leave a row for each; so do deactivation by a tier and purge.
TRUNCATE api_key_internal.key_usage, api_key_internal.keys, api_key_internal.audit_log;
SELECT count(api_key.issue_api_key(p_user_id => :ada, p_name => 'k' || n, p_tenant_id => :tenant))
    FROM generate_series(1, 2) AS n;
SELECT api_key.revoke_api_keys(:ada, p_reason => 'left');
SELECT api_key.purge_api_keys('0');
SELECT event, user_id = :ada AS of_ada, tenant_id = :tenant AS of_tenant,
       details - '{key_prefix,scopes,kind,environment,expires_at,resource_id}'::text[] AS details
FROM changes ORDER BY event, details ->> 'name';

-- Actor: the role and the user of the request.
TRUNCATE api_key_internal.audit_log;
SET ROLE regress_service;
SELECT api_key.define_tier('many', 5);
SET ROLE regress_user;
SET request.jwt.claims = '{"sub": "00000000-0000-4000-8000-0000000000a1"}';
SELECT api_key.issue_api_key() ->> 'key_id' AS key_id \gset
SELECT api_key.update_api_key(:'key_id', '{"name": "mine"}') ->> 'name' AS name;
SET ROLE regress_service;
SET request.jwt.claims = '';
SELECT api_key.rotate_api_key(:'key_id') ->> 'api_key' AS key \gset
SET ROLE regress_anon;
SELECT api_key.revoke_own_api_key(:'key');
RESET ROLE;
SELECT event, actor_role, actor_user_id, user_id FROM changes ORDER BY audit_id;
SELECT count(*) AS written_lately FROM changes WHERE occurred_at BETWEEN now() - interval '1 minute'
    AND clock_timestamp();

-- Never a secret or a hash: neither of the texts that were given out, nor of what is stored.
SELECT count(*) FROM changes WHERE details::text LIKE '%argon2%' OR strpos(details::text, substr(:'key', 31,
    32)) > 0
    OR details ?| '{api_key,secret_hash,previous_secret_hash}';

-- The service role reads it; nobody changes it.
SET ROLE regress_service;
SELECT count(*) > 0 AS readable FROM api_key.audit_log;
DELETE FROM api_key.audit_log;
\echo :SQLSTATE
UPDATE api_key.audit_log SET event = 'x';
INSERT INTO api_key.audit_log (event, actor_role) VALUES ('x', 'x');
DELETE FROM api_key_internal.audit_log;
\echo :SQLSTATE
SET ROLE regress_user;
SELECT * FROM api_key.audit_log;
\echo :SQLSTATE
SET ROLE regress_anon;
SELECT * FROM api_key.audit_log;
\echo :SQLSTATE

RESET ROLE;
\i tests/cleanup.sql
