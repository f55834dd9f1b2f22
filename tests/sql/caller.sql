-- Who may do what to whose key, as the claims of the request say.
\i tests/preamble.sql
\i tests/roles.sql
\set other_tenant '''00000000-0000-4000-8000-0000000000e2'''
\set as_ada 'SET request.jwt.claims = ''{"sub": "00000000-0000-4000-8000-0000000000a1"}'';'
\set as_bob 'SET request.jwt.claims = ''{"sub": "00000000-0000-4000-8000-0000000000b1"}'';'
SELECT api_key.define_tier('pro', 10);
SELECT api_key.define_tier('team', 10);
SELECT api_key.issue_api_key(p_name => 'nobody''s') ->> 'key_id' AS nobodys_id \gset

-- A user issues for itself, whether it says so or not, and for nobody else.
SET ROLE regress_user;
:as_ada
SELECT api_key.issue_api_key(p_name => 'by default') ->> 'success' AS success;
SELECT api_key.issue_api_key(:ada, p_name => 'by name') ->> 'key_id' AS ada_id \gset
SELECT api_key.issue_api_key(:bob);
\echo :SQLSTATE
:as_bob
SELECT api_key.issue_api_key(p_name => 'of bob') AS issued \gset
SELECT :'issued'::jsonb ->> 'key_id' AS bob_id, :'issued'::jsonb ->> 'api_key' AS bob_key \gset
RESET ROLE;
SELECT name, user_id FROM api_key_internal.keys ORDER BY name;

-- A user sees its own keys only.
SET ROLE regress_user;
:as_ada
SELECT name FROM api_key.list_api_keys() ORDER BY name;
SELECT name FROM api_key.list_api_keys(:ada) ORDER BY name;
SELECT name FROM api_key.list_api_keys(p_tenant_id => :tenant);
SELECT name FROM api_key.list_api_keys(:bob);
\echo :SQLSTATE

-- Someone else's key is as if it did not exist: the same error as for an id of no key.
SELECT * FROM pg_temp.cases('SELECT api_key.%', $$
    update_api_key({id}, '{"name": "x"}')
    rotate_api_key({id})
    revoke_api_key({id})
    delete_api_key({id})
    update_api_key('00000000-0000-4000-8000-000000000000', '{"name": "x"}')
$$, :'bob_id');
-- Nor is a bad argument answered before it, which would tell that the key is there.
SELECT api_key.update_api_key(:'bob_id', '{"surprise": 1}');
SELECT api_key.rotate_api_key(:'bob_id', '-1 day');
SELECT api_key.revoke_api_key(:'bob_id', repeat('x', 501));
-- A key of no user is nobody's.
SELECT api_key.delete_api_key(:'nobodys_id');
-- Nor are the keys of others revoked with one's own.
SELECT api_key.revoke_api_keys(:bob);
\echo :SQLSTATE
SELECT api_key.revoke_api_keys(p_tenant_id => :tenant);
SELECT api_key.verify_api_key(:'bob_key') ->> 'code' AS code;
-- Its own it may change, and the claim decides, not the session.
SELECT api_key.update_api_key(:'ada_id', '{"name": "mine"}') ->> 'name' AS name;
SELECT api_key.rotate_api_key(:'ada_id') ->> 'secret_version' AS secret_version;
:as_bob
SELECT api_key.revoke_api_key(:'ada_id');
SELECT api_key.revoke_api_key(:'bob_id');
:as_ada
SELECT api_key.revoke_api_keys(:ada);
SELECT api_key.delete_api_key(:'ada_id');
-- By possession anybody may revoke, whose key it is: anon too.
RESET ROLE;
SELECT api_key.issue_api_key(:bob) ->> 'api_key' AS bob_key \gset
SET ROLE regress_user;
SELECT api_key.revoke_own_api_key(:'bob_key');
RESET ROLE;
SELECT api_key.issue_api_key(:bob) ->> 'api_key' AS bob_key \gset
SET ROLE regress_anon;
SET request.jwt.claims = '';
SELECT api_key.revoke_own_api_key(:'bob_key');
SELECT api_key.verify_api_key(:'bob_key') ->> 'code' AS code;

-- A user without "sub" is nobody, and is refused rather than taken for everybody.
SET ROLE regress_user;
SET request.jwt.claims = '';
SELECT api_key.issue_api_key();
\echo :SQLSTATE
SELECT count(*) FROM api_key.list_api_keys();
\echo :SQLSTATE
SELECT * FROM pg_temp.cases('SELECT api_key.%', $$
    update_api_key({id}, '{}')
    rotate_api_key({id})
    revoke_api_key({id})
    revoke_api_keys('00000000-0000-4000-8000-0000000000a1')
    delete_api_key({id})
$$, :'nobodys_id');
-- Claims of any shape: an error of the caller's, or no user.
CREATE FUNCTION pg_temp.refusal(p_claims text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('request.jwt.claims', p_claims, true);
    PERFORM api_key.list_api_keys();
    RETURN '00000';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;
SELECT claims, pg_temp.refusal(claims)
FROM (VALUES ('{}'), ('null'), ('[]'), ('"x"'), ('1'), ('{"sub": null}'), ('{"role": "regress_service"}'),
             ('{"sub": ""}'), ('{"sub": "ada"}'), ('{"sub": 1}'), ('{"sub": {}}'), ('{sub}'),
                 ('{"sub": "\u0000"}'),
             ('{"sub": "00000000-0000-4000-8000-0000000000a1", "tenant_id": "x"}'),
             ('{"sub": "00000000-0000-4000-8000-0000000000a1"}')) AS c (claims);
SET request.jwt.claims = '{sub}';
SELECT count(*) FROM api_key.list_api_keys();
\echo :SQLSTATE
SET request.jwt.claims = '{"sub": "ada"}';
SELECT count(*) FROM api_key.list_api_keys();
\echo :SQLSTATE
-- To verify and to revoke by possession, no user has to be named, nor named well.
RESET ROLE;
RESET request.jwt.claims;
SELECT api_key.issue_api_key(:bob) ->> 'api_key' AS bob_key \gset
SET ROLE regress_user;
SET request.jwt.claims = '{"sub": "auth0|1234"}';
SELECT api_key.verify_api_key(:'bob_key') ->> 'code' AS code;
SELECT api_key.revoke_own_api_key(:'bob_key') AS revoked;

-- Tenants: a key is of the tenant of the request, and of no other.
SET request.jwt.claims = '{"sub": "00000000-0000-4000-8000-0000000000a1",
    "tenant_id": "00000000-0000-4000-8000-0000000000e1"}';
SELECT api_key.issue_api_key(p_name => 'tenant by default', p_tier => 'free') ->> 'tenant_id' AS tenant_id;
SELECT api_key.issue_api_key(p_name => 'tenant by name',
    p_tenant_id => :tenant) ->> 'tenant_id' AS tenant_id;
SELECT api_key.issue_api_key(p_tenant_id => :other_tenant);
\echo :SQLSTATE
:as_ada
SELECT api_key.issue_api_key(p_tenant_id => :tenant);
\echo :SQLSTATE
-- In another tenant, a user does not reach its own keys of this one.
RESET ROLE;
SELECT key_id AS in_tenant_id FROM api_key.list_api_keys(:ada) WHERE name = 'tenant by name' \gset
SET ROLE regress_user;
SET request.jwt.claims = '{"sub": "00000000-0000-4000-8000-0000000000a1",
    "tenant_id": "00000000-0000-4000-8000-0000000000e2"}';
SELECT name FROM api_key.list_api_keys() WHERE tenant_id IS NOT NULL;
SELECT api_key.update_api_key(:'in_tenant_id', '{"name": "x"}');
\echo :SQLSTATE
SELECT api_key.rotate_api_key(:'in_tenant_id');
SELECT api_key.revoke_api_key(:'in_tenant_id');
SELECT api_key.delete_api_key(:'in_tenant_id');
SELECT api_key.revoke_api_keys(:ada) AS revoked;
SET request.jwt.claims = '{"sub": "00000000-0000-4000-8000-0000000000a1",
    "tenant_id": "00000000-0000-4000-8000-0000000000e1"}';
SELECT name, status FROM api_key.list_api_keys(p_tenant_id => :tenant) ORDER BY name;

-- Tiers: a user may choose free and the one of its claims.
RESET ROLE;
TRUNCATE api_key_internal.keys, api_key_internal.issue_requests;
SET ROLE regress_user;
SET request.jwt.claims = '{"sub": "00000000-0000-4000-8000-0000000000a1", "tier": "pro"}';
SELECT api_key.issue_api_key(p_tier => 'pro') ->> 'tier' AS tier;
SELECT api_key.issue_api_key(p_tier => 'free') ->> 'key_id' AS key_id \gset
SELECT * FROM pg_temp.cases('SELECT api_key.%', $$
    issue_api_key(p_tier => 'team')
    update_api_key({id}, '{"tier": "team"}')
$$, :'key_id');
SELECT api_key.update_api_key(:'key_id', '{"tier": "pro"}') ->> 'tier' AS tier;
:as_ada
SELECT api_key.issue_api_key(p_tier => 'pro');
\echo :SQLSTATE

-- Scopes: a user gives what it has, and admin only if it has that.
SET request.jwt.claims = '{"sub": "00000000-0000-4000-8000-0000000000a1", "scopes": ["articles:*",
    "users:read"]}';
SELECT api_key.issue_api_key(p_scopes => '{users:read,articles:write,articles:*}') ->> 'scopes' AS scopes;
SELECT * FROM pg_temp.cases('SELECT api_key.issue_api_key(%)', $$
    p_scopes => '{users:write}'
    p_scopes => '{users:*}'
    p_scopes => '{admin}'
$$);
SELECT api_key.issue_api_key() ->> 'key_id' AS key_id \gset
SELECT api_key.update_api_key(:'key_id', '{"scopes": ["users:write"]}');
\echo :SQLSTATE
SELECT api_key.update_api_key(:'key_id', '{"scopes": ["users:read"]}') ->> 'scopes' AS scopes;
-- Nor does it take over a key that may do more than it may: only revoke and delete it.
RESET ROLE;
RESET request.jwt.claims;
SELECT api_key.issue_api_key(:ada, p_tier => 'team',
    p_scopes => '{users:write}') ->> 'key_id' AS stronger_id \gset
SET ROLE regress_user;
SET request.jwt.claims = '{"sub": "00000000-0000-4000-8000-0000000000a1", "scopes": ["articles:*",
    "users:read"]}';
SELECT * FROM pg_temp.cases('SELECT api_key.%', $$
    rotate_api_key({id})
    update_api_key({id}, '{"expires_at": null}')
$$, :'stronger_id');
SELECT api_key.revoke_api_key(:'stronger_id');
SELECT api_key.delete_api_key(:'stronger_id');
-- Of someone else's key it still learns nothing.
RESET ROLE;
RESET request.jwt.claims;
SELECT api_key.issue_api_key(:bob, p_tier => 'team',
    p_scopes => '{users:write}') ->> 'key_id' AS stronger_id \gset
SET ROLE regress_user;
SET request.jwt.claims = '{"sub": "00000000-0000-4000-8000-0000000000a1", "scopes": ["articles:*",
    "users:read"]}';
SELECT api_key.rotate_api_key(:'stronger_id');
\echo :SQLSTATE
CREATE FUNCTION pg_temp.given(p_claim text, p_scopes text[]) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('request.jwt.claims',
        '{"sub": "00000000-0000-4000-8000-0000000000a1"' || coalesce(', "scopes": ' || p_claim, '') || '}',
            true);
    RETURN api_key.issue_api_key(p_scopes => p_scopes) ->> 'scopes';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END
$$;
-- Without the claim, any but admin.
SELECT claim, pg_temp.given(claim, '{articles:read}') AS articles_read, pg_temp.given(claim,
    '{admin}') AS admin
FROM (VALUES ('["articles:read"]'), ('["admin"]'), ('[]'), ('[null]'), ('["users:read"]'),
    (NULL)) AS c (claim);
-- A claim that is no list of scopes is not taken for none at all.
SELECT claim, pg_temp.given(claim, '{articles:read}') NOT LIKE '[%' AS refused
FROM (VALUES ('"users:read"'), ('{"users": "read"}'), ('1')) AS c (claim);

-- Retries are of a caller: another's request of the same id is another key.
RESET ROLE;
TRUNCATE api_key_internal.keys, api_key_internal.issue_requests;
SET ROLE regress_user;
:as_ada
SELECT api_key.issue_api_key(p_request_id => 'r1') ->> 'key_id' AS ada_id \gset
SELECT api_key.issue_api_key(p_request_id => 'r1') ->> 'key_id' = :'ada_id' AS the_same_key;
:as_bob
SELECT api_key.issue_api_key(p_request_id => 'r1') AS issued \gset
SELECT :'issued'::jsonb ->> 'key_id' = :'ada_id' AS the_same_key, :'issued'::jsonb ? 'replayed' AS replayed;
SET ROLE regress_service;
SET request.jwt.claims = '';
SELECT api_key.issue_api_key(p_request_id => 'r1') ? 'replayed' AS replayed;

-- The service role acts for all, with and without claims.
SELECT count(*) FROM api_key.list_api_keys();
SELECT count(*) FROM api_key.list_api_keys(:ada);
SELECT api_key.issue_api_key(:bob, p_tier => 'team', p_tenant_id => :tenant,
    p_scopes => '{admin}') ->> 'tenant_id' AS tenant_id;
SELECT api_key.update_api_key(:'ada_id', '{"name": "by service", "tier": "pro", "scopes": ["admin"]}') ->>
    'name' AS name;
SELECT api_key.rotate_api_key(:'ada_id') ->> 'secret_version' AS secret_version;
SELECT api_key.revoke_api_keys(p_tenant_id => :tenant);
SELECT api_key.revoke_api_key(:'ada_id');
SELECT api_key.delete_api_key(:'ada_id');
:as_bob
SELECT api_key.issue_api_key(p_name => 'service as bob', p_tier => 'team') ->> 'success' AS success;
SELECT user_id FROM api_key.list_api_keys() WHERE name = 'service as bob';

-- In a request of PostgREST, what it would answer with a status that misleads is raised its way.
CREATE FUNCTION pg_temp.report(p_statement text) RETURNS TABLE (code text, message text, detail text)
    LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE p_statement;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
    RETURN NEXT;
END
$$;
RESET ROLE;
SELECT api_key.define_tier('single', 1);
SET ROLE regress_service;
SELECT api_key.issue_api_key(:bob, p_tier => 'single') ->> 'success' AS success;
SET request.method = 'POST';
SELECT * FROM pg_temp.report('SELECT api_key.delete_api_key(''00000000-0000-4000-8000-000000000000'')') \gx
SELECT * FROM pg_temp.report('SELECT api_key.issue_api_key(''00000000-0000-4000-8000-0000000000b1'',
    p_tier => ''single'')') \gx
SELECT * FROM pg_temp.report('SELECT api_key.issue_api_key(p_kind => ''x'')') \gx
RESET request.method;

-- The role is that of the request, also within a function of the application that is SECURITY
-- DEFINER: being called by one makes nobody an administrator.
RESET ROLE;
CREATE FUNCTION regress_definer() RETURNS text LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT string_agg(name, ', ') FROM api_key.list_api_keys());
END
$$;
SELECT api_key.issue_api_key(:ada, p_name => 'of ada') ->> 'success' AS success;
SET ROLE regress_user;
:as_ada
SELECT regress_definer();
SET request.jwt.claims = '';
SELECT regress_definer();
\echo :SQLSTATE
-- A role that has been granted nothing is stopped at the door.
RESET ROLE;
CREATE ROLE regress_nobody;
SET ROLE regress_nobody;
:as_ada
SELECT api_key.verify_api_key('x');
\echo :SQLSTATE
RESET ROLE;
DROP ROLE regress_nobody;
DROP FUNCTION regress_definer();

RESET ROLE;
\i tests/cleanup.sql
