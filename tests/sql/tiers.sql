-- Tiers: how many active keys a user may have, and what happens to one more.
\i tests/preamble.sql
CREATE FUNCTION pg_temp.issue(p_user_id uuid, p_name text, p_tier text = 'free') RETURNS uuid LANGUAGE sql
AS $$ SELECT (api_key.issue_api_key(p_user_id => p_user_id, p_name => p_name,
    p_tier => p_tier) ->> 'key_id')::uuid $$;

-- The tier free ships: one active key per user, the older one deactivated.
SELECT pg_temp.issue(:ada, 'a1') IS NOT NULL AS issued;
SELECT pg_temp.issue(:ada, 'a2') IS NOT NULL AS issued;
SELECT pg_temp.issue(:bob, 'b1') IS NOT NULL AS issued;
SELECT name, status FROM api_key.list_api_keys() ORDER BY name;
-- The text of the deactivated one says so.
SELECT api_key.issue_api_key(p_user_id => :ada, p_name => 'a3') ->> 'api_key' AS a3 \gset
SELECT pg_temp.issue(:ada, 'a4') IS NOT NULL AS issued;
SELECT api_key.verify_api_key(:'a3') ->> 'code' AS code;
-- Keys of no user are not counted.
SELECT count(pg_temp.issue(NULL, 'n' || n)) FROM generate_series(1, 3) AS n;
SELECT status, count(*) FROM api_key.list_api_keys() WHERE user_id IS NULL GROUP BY 1;
-- Enabling an older key deactivates the one that took its place.
SELECT key_id AS a1_id FROM api_key.list_api_keys() WHERE name = 'a1' \gset
SELECT api_key.update_api_key(:'a1_id', '{"enabled": true}') ->> 'status' AS status;
SELECT name, status FROM api_key.list_api_keys(:ada) ORDER BY name;
-- Enabling an enabled one changes nothing.
SELECT api_key.update_api_key(:'a1_id', '{"enabled": true}') ->> 'status' AS status;
SELECT name, status FROM api_key.list_api_keys(:ada) ORDER BY name;
-- So does giving an expired key a new expiry.
UPDATE api_key_internal.keys SET enabled = true, expires_at = now() WHERE name = 'a2';
SELECT name FROM api_key.list_api_keys(:ada, p_include_inactive => false);
SELECT api_key.update_api_key(key_id, '{"expires_at": null}') ->> 'status' AS status
    FROM api_key.list_api_keys(:ada) WHERE name = 'a2';
SELECT name FROM api_key.list_api_keys(:ada, p_include_inactive => false);

-- A tier that rejects: 53400, and nothing is deactivated.
SELECT api_key.define_tier('team', 2);
SELECT pg_temp.issue(:ada, 't1', 'team') IS NOT NULL AS issued;
SELECT pg_temp.issue(:ada, 't2', 'team') IS NOT NULL AS issued;
SELECT pg_temp.issue(:ada, 't3', 'team');
\echo :SQLSTATE
SELECT name, tier, status FROM api_key.list_api_keys(:ada, p_include_inactive => false) ORDER BY name;
-- Each user has their own room, and keys of other tiers take none.
SELECT pg_temp.issue(:bob, 't1 of bob', 'team') IS NOT NULL AS issued;
-- A revoked, disabled or expired key makes room.
SELECT key_id AS t1_id FROM api_key.list_api_keys(:ada) WHERE name = 't1' \gset
SELECT key_id AS t2_id FROM api_key.list_api_keys(:ada) WHERE name = 't2' \gset
SELECT api_key.update_api_key(:'t1_id', '{"enabled": false}') ->> 'status' AS status;
SELECT pg_temp.issue(:ada, 't3', 'team') IS NOT NULL AS issued;
-- Enabling, a later expiry and a change of tier are refused when there is no room.
SELECT api_key.update_api_key(:'t1_id', '{"enabled": true}');
\echo :SQLSTATE
UPDATE api_key_internal.keys SET enabled = true, expires_at = now() WHERE key_id = :'t1_id';
SELECT api_key.update_api_key(:'t1_id', '{"expires_at": "2999-01-01"}');
\echo :SQLSTATE
SELECT api_key.update_api_key(key_id, '{"tier": "team"}') FROM api_key.list_api_keys(:ada)
    WHERE name = 'a2';
\echo :SQLSTATE
SELECT name, tier, status FROM api_key.list_api_keys(:ada) ORDER BY name;
SELECT api_key.revoke_api_key(:'t2_id');
SELECT api_key.update_api_key(:'t1_id', '{"expires_at": "2999-01-01"}') ->> 'status' AS status;
-- A key that is not valid yet takes room; rotating takes none.
UPDATE api_key_internal.keys SET not_before = now() + interval '1 day' WHERE key_id = :'t1_id';
SELECT pg_temp.issue(:ada, 't4', 'team');
SELECT api_key.rotate_api_key(:'t1_id') ->> 'secret_version' AS secret_version;
-- Other changes of an active key need no room, also when the tier has become smaller since.
SELECT api_key.define_tier('team', 1);
SELECT api_key.update_api_key(:'t1_id', '{"name": "renamed", "enabled": true}') ->> 'name' AS name;
SELECT count(*) FROM api_key.list_api_keys(:ada) WHERE tier = 'team'
    AND status IN ('active', 'not_yet_valid');

-- Redefining deactivates nothing, and deactivate_oldest then keeps the newest.
SELECT api_key.define_tier('team', 2, 'deactivate_oldest');
SELECT pg_temp.issue(:ada, 't5', 'team') IS NOT NULL AS issued;
SELECT name, status FROM api_key.list_api_keys(:ada) WHERE tier = 'team' ORDER BY name;
-- NULL is any number, and free can be redefined as well.
SELECT api_key.define_tier('free');
SELECT count(pg_temp.issue(:bob, 'b' || n)) FROM generate_series(2, 4) AS n;
SELECT count(*) FROM api_key.list_api_keys(:bob, p_include_inactive => false) WHERE tier = 'free';

-- What define_tier refuses.
SELECT * FROM pg_temp.cases('SELECT api_key.define_tier(%)', $$
    NULL
    'two words'
    repeat('x', 64)
    'x', 0
    'x', 1, 'explode'
    'x', 1, NULL
$$);
SELECT * FROM api_key_internal.tiers ORDER BY name;
\i tests/cleanup.sql
