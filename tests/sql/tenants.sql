-- isolate_tenants: each tenant's keys see and change that tenant's rows only; and the way back.
\i tests/preamble.sql
\i tests/roles.sql
SET api_key.authenticated_role = 'regress_user';
\set a '''00000000-0000-4000-8000-00000000000a'''
\set b '''00000000-0000-4000-8000-00000000000b'''
SELECT api_key.issue_api_key(p_tenant_id => :a) ->> 'api_key' AS key_a \gset
SELECT api_key.issue_api_key(p_tenant_id => :b) ->> 'api_key' AS key_b \gset
SELECT api_key.issue_api_key() ->> 'api_key' AS key_of_none \gset
-- A request of PostgREST's; it ends with the transaction.
PREPARE request (text) AS SELECT FROM set_config('request.headers', json_build_object('x-api-key',
    $1)::text, true), api_key.authenticate_request();
\set request_a 'BEGIN; EXECUTE request(:''key_a'');'
\set request_b 'BEGIN; EXECUTE request(:''key_b'');'

CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO regress_user, regress_anon;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO regress_user,
    regress_anon;
CREATE TABLE app.folders (id integer PRIMARY KEY, tenant_id uuid NOT NULL, name text);
CREATE TABLE app."Notes" (
    id integer PRIMARY KEY,
    "Tenant" uuid DEFAULT gen_random_uuid(),
    folder_id integer CONSTRAINT folder REFERENCES app.folders ON DELETE CASCADE,
    parent_id integer CONSTRAINT parent REFERENCES app."Notes",
    code text UNIQUE,
    uid uuid DEFAULT gen_random_uuid() UNIQUE,
    UNIQUE ("Tenant", folder_id));
CREATE VIEW app.all_notes AS SELECT * FROM app."Notes";
CREATE VIEW app.my_notes WITH (security_invoker = true) AS SELECT * FROM app."Notes";
GRANT TRUNCATE ON app."Notes" TO regress_user;
INSERT INTO app.folders VALUES (1, :a, 'a'), (2, :b, 'b'), (3, :a, 'a3'), (4, :b, 'b4');
INSERT INTO app."Notes" (id, "Tenant", folder_id) VALUES (1, :a, 1), (2, :b, 2), (3, NULL, NULL), (4, :b,
    1);

-- It tells what it did, and what it cannot see to.
SELECT jsonb_pretty(api_key.isolate_tenants('app.folders'));
SELECT jsonb_pretty(api_key.isolate_tenants('app."Notes"', 'Tenant')) AS isolated \gset
\echo :isolated
UPDATE app."Notes" SET folder_id = 4 WHERE id = 4;
DELETE FROM app."Notes" WHERE id = 3;
DROP VIEW app.all_notes;
REVOKE TRUNCATE ON app."Notes" FROM regress_user;
ALTER TABLE app."Notes" DROP CONSTRAINT "Notes_pkey" CASCADE, DROP CONSTRAINT "Notes_code_key";
ALTER TABLE app."Notes" ADD PRIMARY KEY ("Tenant", id), ADD UNIQUE ("Tenant", code), ADD UNIQUE (uid, id);
ALTER TABLE app.folders DROP CONSTRAINT folders_pkey CASCADE;
ALTER TABLE app.folders ADD PRIMARY KEY (id);
ALTER TABLE app."Notes" ADD CONSTRAINT folder FOREIGN KEY (folder_id)
    REFERENCES app.folders ON DELETE CASCADE;
-- Again, it does what is left to do, and changes nothing else.
SELECT r ->> 'index_made' AS index_made, r -> 'policies' AS policies, r -> 'unique_without_tenant' AS u,
    r -> 'views' AS v, r -> 'privileges' AS p
FROM api_key.isolate_tenants('app."Notes"', 'Tenant') AS r;
SELECT polname, polcmd, polpermissive, polroles, pg_get_expr(polqual, polrelid) AS qual,
    pg_get_expr(polwithcheck, polrelid) AS with_check
FROM pg_policy WHERE polrelid = 'app."Notes"'::regclass ORDER BY polname;

-- Each tenant sees its rows, and no others.
:request_a
TABLE app.folders ORDER BY id;
SELECT id, "Tenant", folder_id FROM app.my_notes ORDER BY id;
SELECT count(*) FROM app.folders;
UPDATE app.folders SET name = 'taken' WHERE id IN (1, 2) RETURNING id;
DELETE FROM app.folders WHERE id IN (3, 4) RETURNING id;
ROLLBACK;
-- The column fills itself, and takes no other tenant.
:request_b
INSERT INTO app.folders (id, name) VALUES (10, 'mine') RETURNING *;
SAVEPOINT s;
INSERT INTO app.folders VALUES (11, :a, 'theirs');
\echo :SQLSTATE
ROLLBACK TO s;
UPDATE app.folders SET tenant_id = :a WHERE id = 2;
\echo :SQLSTATE
ROLLBACK TO s;
INSERT INTO app."Notes" (id, "Tenant") VALUES (12, NULL);
\echo :SQLSTATE
ROLLBACK;
-- Without a key, or with one of no tenant, nothing is seen.
BEGIN;
SET LOCAL ROLE regress_user;
SET LOCAL request.jwt.claims =
    '{"sub": "00000000-0000-4000-8000-0000000000a1", "tenant_id": "00000000-0000-4000-8000-00000000000a"}';
SELECT count(*) FROM app.folders;
ROLLBACK;
BEGIN;
EXECUTE request(:'key_of_none');
SELECT count(*) FROM app.folders;
SELECT count(*) FROM app.my_notes;
INSERT INTO app.folders (id) VALUES (13);
\echo :SQLSTATE
ROLLBACK;
-- The owner of the table is held as well.
CREATE ROLE regress_owner;
ALTER TABLE app.folders OWNER TO regress_owner;
GRANT USAGE ON SCHEMA app, api_key TO regress_owner;
GRANT EXECUTE ON FUNCTION api_key.current_tenant_id() TO regress_owner;
SET ROLE regress_owner;
SELECT count(*) FROM app.folders;
RESET ROLE;
ALTER TABLE app.folders OWNER TO CURRENT_USER;
-- Nor does a permissive policy of the application open it.
CREATE POLICY open ON app.folders USING (true);
:request_a
SELECT count(*) FROM app.folders;
ROLLBACK;
DROP POLICY open ON app.folders;
-- The tenant is asked once a statement, and the index is used.
CREATE FUNCTION app.plan(p_query text) RETURNS SETOF text
    LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN (COSTS off) ' || p_query; END $$;
SET enable_seqscan = off;
:request_a
SELECT count(*) FILTER (WHERE line LIKE '%InitPlan 1%') > 0 AS once,
    count(*) FILTER (WHERE line LIKE '%Index Cond: (tenant_id = %') AS by_index
FROM app.plan('SELECT FROM app.folders') AS line;
ROLLBACK;
RESET enable_seqscan;
-- A condition that tells what it sees sees no other tenant's row, however cheap it says it is.
CREATE FUNCTION app.tell(p_name text) RETURNS boolean
    LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE 'sees %', p_name; RETURN true; END $$;
:request_a
SELECT count(*) FROM app.folders WHERE app.tell(name);
SELECT count(*) FROM app.folders WHERE 1 / (id - 2) > -10;
ROLLBACK;

-- A reference to another tenant's row is one to no row: 2 is there, 99 is not.
:request_a
SAVEPOINT s;
INSERT INTO app."Notes" (id, folder_id) VALUES (20, 2);
\echo :SQLSTATE
ROLLBACK TO s;
INSERT INTO app."Notes" (id, folder_id) VALUES (20, 99);
\echo :SQLSTATE
ROLLBACK TO s;
UPDATE app."Notes" SET folder_id = 2 WHERE id = 1;
ROLLBACK TO s;
UPDATE app."Notes" SET folder_id = 99 WHERE id = 1;
ROLLBACK TO s;
INSERT INTO app."Notes" (id, folder_id) VALUES (1, 2) ON CONFLICT ("Tenant", id) DO UPDATE
    SET folder_id = excluded.folder_id;
ROLLBACK TO s;
-- Its own rows may be referred to, also those of the same statement, and none.
WITH folder AS (INSERT INTO app.folders (id) VALUES (30) RETURNING id)
INSERT INTO app."Notes" (id, folder_id) SELECT 30, id FROM folder;
INSERT INTO app."Notes" (id, folder_id) VALUES (31, NULL), (32, 3);
UPDATE app."Notes" SET code = 'x' WHERE id = 1;
ROLLBACK;
-- What was found before is found again under another name, and for another role.
ALTER TABLE app.folders RENAME TO moved;
ALTER TABLE app.moved RENAME id TO key;
CREATE TABLE app.folders AS SELECT 98 AS id;
:request_a
INSERT INTO app."Notes" (id, folder_id) VALUES (20, 3);
SAVEPOINT s;
INSERT INTO app."Notes" (id, folder_id) VALUES (21, 98);
ROLLBACK TO s;
INSERT INTO app."Notes" (id, folder_id) VALUES (21, 2);
ROLLBACK;
DROP TABLE app.folders;
ALTER TABLE app.moved RENAME key TO id;
ALTER TABLE app.moved RENAME TO folders;
BEGIN;
INSERT INTO app."Notes" (id, "Tenant", folder_id) VALUES (22, :a, 2);
SAVEPOINT s;
INSERT INTO app."Notes" (id, "Tenant", folder_id) VALUES (23, :a, 98);
ROLLBACK;
:request_b
INSERT INTO app."Notes" (id, folder_id) VALUES (24, 4) ON CONFLICT DO NOTHING;
INSERT INTO app."Notes" (id, folder_id) VALUES (24, 3);
ROLLBACK;
-- Foreign keys to a partitioned table.
CREATE TABLE app.shelves (id integer PRIMARY KEY, tenant_id uuid) PARTITION BY RANGE (id);
CREATE TABLE app.shelves_1 PARTITION OF app.shelves FOR VALUES FROM (1) TO (10);
CREATE TABLE app.shelves_2 PARTITION OF app.shelves FOR VALUES FROM (10) TO (20);
CREATE TABLE app.boxes (id integer PRIMARY KEY, tenant_id uuid, shelf_id integer CONSTRAINT shelf
    REFERENCES app.shelves);
INSERT INTO app.shelves VALUES (1, :a), (11, :a), (12, :b);
SET client_min_messages = error;
SELECT api_key.isolate_tenants('app.shelves') -> 'partitions' AS partitions,
    api_key.isolate_tenants('app.boxes') -> 'foreign_keys' AS foreign_keys;
RESET client_min_messages;
:request_a
INSERT INTO app.boxes (id, shelf_id) VALUES (1, 1), (2, 11);
SAVEPOINT s;
INSERT INTO app.boxes (id, shelf_id) VALUES (3, 12);
ROLLBACK TO s;
INSERT INTO app.boxes (id, shelf_id) VALUES (3, 13);
ROLLBACK;
SELECT api_key.remove_tenant_isolation('app.boxes') ->> 'row_security' AS boxes,
    api_key.remove_tenant_isolation('app.shelves') ->> 'row_security' AS shelves;

-- A table that refers to itself, by several columns.
CREATE TABLE app.tree (tenant_id uuid, a integer, b integer, up_a integer, up_b integer, PRIMARY KEY (a, b),
    CONSTRAINT up FOREIGN KEY (up_a, up_b) REFERENCES app.tree DEFERRABLE);
INSERT INTO app.tree VALUES (:b, 1, 1);
SET client_min_messages = error;
SELECT api_key.isolate_tenants('app.tree') -> 'foreign_keys' AS foreign_keys;
RESET client_min_messages;
:request_a
INSERT INTO app.tree (a, b, up_a, up_b) VALUES (2, 2, 3, 3), (3, 3, 3, 3), (4, 4, 1, NULL);
SET CONSTRAINTS ALL DEFERRED;
SAVEPOINT s;
INSERT INTO app.tree (a, b, up_a, up_b) VALUES (5, 5, 1, 1);
ROLLBACK TO s;
INSERT INTO app.tree (a, b, up_a, up_b) VALUES (5, 5, 99, 1);
ROLLBACK TO s;
UPDATE app.tree SET up_a = 1, up_b = 1 WHERE a = 2;
ROLLBACK;

-- Partitions: through the table and by themselves, those that come later when it is called again.
CREATE TABLE app.events (tenant_id uuid NOT NULL, day integer, folder_id integer CONSTRAINT folder
    REFERENCES app.folders, PRIMARY KEY (tenant_id, day)) PARTITION BY RANGE (day);
CREATE TABLE app.events_1 PARTITION OF app.events FOR VALUES FROM (1) TO (10);
SELECT api_key.isolate_tenants('app.events_1');
\echo :SQLSTATE
SELECT r -> 'partitions' AS partitions, r ->> 'index' AS index, r -> 'foreign_keys' AS foreign_keys
    FROM api_key.isolate_tenants('app.events') AS r;
CREATE TABLE app.events_2 PARTITION OF app.events FOR VALUES FROM (10) TO (20);
SELECT r -> 'partitions' AS partitions FROM api_key.isolate_tenants('app.events') AS r;
INSERT INTO app.events VALUES (:a, 1), (:b, 1), (:a, 11), (:b, 12);
:request_a
SELECT count(*) FROM app.events;
SELECT count(*) FROM app.events_1;
SELECT count(*) FROM app.events_2;
SAVEPOINT s;
INSERT INTO app.events (day, folder_id) VALUES (13, 2);
ROLLBACK TO s;
INSERT INTO app.events_2 (day, folder_id) VALUES (13, 2);
ROLLBACK TO s;
INSERT INTO app.events (day, folder_id) VALUES (13, 99);
ROLLBACK;
SELECT api_key.remove_tenant_isolation('app.events');
SELECT relname, relrowsecurity, relforcerowsecurity, (SELECT count(*) FROM pg_policy
    WHERE polrelid = c.oid) AS policies, (SELECT count(*) FROM pg_trigger WHERE tgrelid = c.oid
    AND NOT tgisinternal) AS triggers, api_key_internal.column_default(c.oid, 'tenant_id') AS "default"
FROM pg_class AS c WHERE relname LIKE 'events%' AND relkind IN ('r', 'p') ORDER BY relname;

-- Where an application has decided who may do what, nobody may do more than before.
CREATE TABLE app.own (id integer PRIMARY KEY,
    tenant_id uuid DEFAULT '00000000-0000-4000-8000-00000000000a');
INSERT INTO app.own VALUES (1, :a), (2, :a), (3, :b);
CREATE INDEX mine ON app.own (tenant_id);
ALTER TABLE app.own ENABLE ROW LEVEL SECURITY;
CREATE POLICY odd ON app.own FOR SELECT USING (id % 2 = 1);
SET client_min_messages = error;
SELECT r -> 'policies' AS policies, r -> 'own_policies' AS own_policies, r ->> 'index' AS index,
    r ->> 'index_made' AS index_made, r ->> 'not_null' AS not_null
    FROM api_key.isolate_tenants('app.own') AS r;
SELECT api_key.isolate_tenants('app.own') IS NOT NULL AS again;
RESET client_min_messages;
:request_a
TABLE app.own;
ROLLBACK;
-- The way back: everything as it was, whatever was renamed meanwhile.
ALTER TABLE app.own RENAME COLUMN tenant_id TO org;
ALTER TABLE app.own RENAME TO owned;
SELECT api_key.isolate_tenants('app.owned', 'id');
SELECT jsonb_pretty(api_key.remove_tenant_isolation('app.owned'));
SELECT polname FROM pg_policy WHERE polrelid = 'app.owned'::regclass;
SELECT api_key.remove_tenant_isolation('app.owned');
\echo :SQLSTATE
SELECT jsonb_pretty(api_key.remove_tenant_isolation('app."Notes"'));
SELECT tgname FROM pg_trigger WHERE tgrelid = 'app."Notes"'::regclass AND NOT tgisinternal;
-- A default that somebody has set since stays.
ALTER TABLE app.folders ALTER tenant_id SET DEFAULT '00000000-0000-4000-8000-00000000000b';
SELECT jsonb_pretty(api_key.remove_tenant_isolation('app.folders'));
SELECT indexname FROM pg_indexes WHERE schemaname = 'app' AND tablename IN ('Notes', 'folders') ORDER BY 1;
SELECT api_key.remove_tenant_isolation('app.tree') ->> 'row_security' AS row_security;
SELECT count(*) FROM api_key_internal.protected_tables;
:request_a
SELECT count(*) FROM app.folders;
ROLLBACK;

-- A policy that comes later takes nothing away when the table is isolated again.
CREATE TABLE app.later (tenant_id uuid, n integer);
SELECT api_key.isolate_tenants('app.later') -> 'policies' AS policies;
CREATE POLICY writers ON app.later FOR INSERT WITH CHECK (true);
SELECT r -> 'policies' AS policies, r -> 'own_policies' AS own
    FROM api_key.isolate_tenants('app.later') AS r;
-- What is guessable: not what is generated, nor what others may not write.
CREATE TABLE app.chosen (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id uuid,
    code text UNIQUE, slug text UNIQUE, t text);
REVOKE ALL ON app.chosen FROM regress_user, regress_anon;
GRANT SELECT, INSERT (slug, t) ON app.chosen TO regress_user;
SELECT u ->> 'index' AS index, u -> 'guessable' AS guessable
FROM api_key.isolate_tenants('app.chosen') AS r, jsonb_array_elements(r -> 'unique_without_tenant') AS u
    ORDER BY 1;

-- What cannot be isolated.
SELECT * FROM pg_temp.cases('SELECT api_key.isolate_tenants(%)', $$
    'app.my_notes', 'Tenant'
    'app.folders', 'name'
    'app.folders', 'nothing'
    'app.folders', NULL
    'pg_catalog.pg_class', 'oid'
    'api_key_internal.keys'
    NULL
    'app.folders_pkey'
$$);
-- The owner of a table, whose functions planning may run, does not get at the rights of the caller.
CREATE SCHEMA theirs AUTHORIZATION regress_owner;
GRANT regress_anon TO regress_owner;
SET ROLE regress_owner;
CREATE FUNCTION theirs.rise(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        RAISE EXCEPTION 'runs as a superuser';
    END IF;
    RETURN 1;
END $$;
CREATE TABLE theirs.parent (id integer PRIMARY KEY, tenant_id uuid, owner_id uuid, shown boolean);
CREATE TABLE theirs.child (id integer, tenant_id uuid, parent_id integer REFERENCES theirs.parent);
CREATE INDEX ON theirs.parent ((id + theirs.rise(1)));
INSERT INTO theirs.parent SELECT n FROM generate_series(1, 3) AS n;
CREATE INDEX ON theirs.child ((id + theirs.rise(1)));
-- A new session has not yet planned with these indexes. What a superuser does there himself runs them.
\c -
SET client_min_messages = error;
SELECT FROM theirs.parent WHERE shown;
SELECT api_key.isolate_tenants('theirs.parent') ->> 'row_security' AS row_security;
SELECT api_key.isolate_tenants('theirs.child') ->> 'row_security' AS row_security;
SELECT api_key.define_resource('theirs', 'theirs.parent', p_public_when => 'shown');
SELECT api_key.authorize('theirs', '1', 'read');
SELECT api_key.remove_resource('theirs');
RESET client_min_messages;
CREATE TABLE theirs.divided (id integer, tenant_id uuid) PARTITION BY RANGE ((id + 1));
ALTER TABLE theirs.divided OWNER TO regress_owner;
SELECT api_key.isolate_tenants('theirs.divided');
SELECT api_key.isolate_tenants('theirs.parent') -> 'policies' AS policies;
SET client_min_messages = error;
DROP SCHEMA theirs CASCADE;
REVOKE regress_anon FROM regress_owner;
RESET client_min_messages;

-- Each change is in the audit.
SELECT event, details ->> 'table' AS "table" FROM api_key.audit_log WHERE event LIKE 'tenant%'
    ORDER BY audit_id;

SET client_min_messages = error;
DROP SCHEMA app CASCADE;
\i tests/cleanup.sql
