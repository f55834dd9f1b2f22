-- A row that a policy of ours refuses: HTTP 403 in a request of PostgREST with a key (SQLSTATE PGRST),
-- 42501
-- everywhere else. No row that another policy admits is refused by it, and none gets in by it.
\i tests/preamble.sql
\i tests/roles.sql
SET client_min_messages = error;
SET api_key.authenticated_role = 'regress_user';
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO regress_user, regress_anon;
\set a '''00000000-0000-4000-8000-00000000000a'''
CREATE TEMP TABLE given AS SELECT api_key.issue_api_key(:ada, p_tenant_id => :a) ->> 'api_key' AS text;
CREATE TABLE app.notes (id integer PRIMARY KEY, tenant_id uuid, owner_id uuid);
CREATE TABLE app.docs (id integer PRIMARY KEY, owner_id uuid);
CREATE TABLE app.own (id integer PRIMARY KEY, tenant_id uuid);
CREATE TABLE app.days (id integer, tenant_id uuid) PARTITION BY RANGE (id);
CREATE TABLE app.days_1 PARTITION OF app.days DEFAULT;
CREATE VIEW app.note_view WITH (security_invoker = true) AS TABLE app.notes;
CREATE FUNCTION app.add(p_id integer, p_tenant uuid) RETURNS void LANGUAGE sql SECURITY DEFINER
    AS 'INSERT INTO app.notes VALUES (p_id, p_tenant)';
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO regress_user, regress_anon;
INSERT INTO app.notes VALUES (1, :a, :ada), (2, NULL, NULL);
INSERT INTO app.docs VALUES (1, :ada), (2, NULL);
ALTER TABLE app.own ENABLE ROW LEVEL SECURITY;
CREATE POLICY small ON app.own USING (id < 10);
SELECT count(api_key.isolate_tenants(name::regclass)) AS isolated
    FROM unnest('{app.notes,app.own,app.days}'::text[]) AS name;
SELECT api_key.define_resource('doc', 'app.docs'), api_key.protect_resource('doc') IS NOT NULL AS protected;

-- With a key and without, in a request of PostgREST and not.
CREATE FUNCTION pg_temp.try(p_key boolean, p_method text, p_statement text) RETURNS text
    LANGUAGE plpgsql AS $$
BEGIN
    IF p_key THEN
        PERFORM set_config('request.headers', json_build_object('x-api-key', text)::text, true),
            api_key.authenticate_request() FROM given;
    ELSE
        PERFORM set_config('role', 'regress_anon', true);
    END IF;
    PERFORM set_config('request.method', p_method, true);
    EXECUTE p_statement;
    RAISE EXCEPTION USING ERRCODE = 'ZZZZZ';
EXCEPTION WHEN OTHERS THEN
    RETURN CASE SQLSTATE WHEN 'ZZZZZ' THEN 'done' WHEN 'PGRST' THEN 'PGRST ' || (SQLERRM::json ->> 'code')
        ELSE SQLSTATE END;
END
$$;
CREATE TEMP TABLE statements (n integer GENERATED ALWAYS AS IDENTITY, what text, statement text);
INSERT INTO statements (what, statement) VALUES
    ('own row', 'INSERT INTO app.notes (id) VALUES (3)'),
    ('of no tenant', 'INSERT INTO app.notes VALUES (3, NULL)'),
    ('of another', 'INSERT INTO app.notes VALUES (3, gen_random_uuid())'),
    ('second of two', 'INSERT INTO app.notes VALUES (3, api_key.current_tenant_id()), (4, NULL)'),
    ('of a select', 'INSERT INTO app.notes SELECT n, NULL FROM generate_series(3, 4) AS n'),
    ('returning', 'INSERT INTO app.notes VALUES (3, NULL) RETURNING id'),
    ('upsert that inserts', 'INSERT INTO app.notes VALUES (3, NULL) ON CONFLICT (id) DO UPDATE
        SET owner_id = NULL'),
    ('upsert that updates', 'INSERT INTO app.notes VALUES (1) ON CONFLICT (id) DO UPDATE
        SET tenant_id = NULL'),
    ('upsert that does nothing', 'INSERT INTO app.notes VALUES (1, NULL) ON CONFLICT DO NOTHING'),
    ('given away', 'UPDATE app.notes SET tenant_id = NULL'),
    ('given away unseen', 'UPDATE app.notes SET tenant_id = gen_random_uuid() WHERE id = 2'),
    ('given away by merge', 'MERGE INTO app.notes AS t
        USING (SELECT 1 AS id) AS s ON s.id = t.id WHEN MATCHED THEN UPDATE SET tenant_id = NULL'),
    ('inserted by merge', 'MERGE INTO app.notes AS t
        USING (SELECT 3 AS id) AS s ON s.id = t.id WHEN NOT MATCHED THEN INSERT VALUES (3, NULL)'),
    ('through a view', 'INSERT INTO app.note_view VALUES (3, NULL)'),
    ('by a function of a superuser', 'SELECT app.add(3, NULL)'),
    ('within a WITH', 'WITH w AS (INSERT INTO app.notes VALUES (3, NULL) RETURNING id) TABLE w'),
    ('caught and done again', 'DO $d$ BEGIN INSERT INTO app.notes VALUES (3, NULL);
        EXCEPTION WHEN SQLSTATE ''PGRST'' OR insufficient_privilege THEN INSERT INTO app.notes VALUES (3,
        NULL); END $d$'),
    ('partitioned', 'INSERT INTO app.days VALUES (1, NULL)'),
    ('partition', 'INSERT INTO app.days_1 VALUES (1, NULL)'),
    ('own document', 'INSERT INTO app.docs VALUES (3, api_key.current_user_id())'),
    ('document of nobody', 'INSERT INTO app.docs VALUES (3, NULL)'),
    ('document given away', 'UPDATE app.docs SET owner_id = gen_random_uuid() WHERE id = 1'),
    ('document by upsert', 'INSERT INTO app.docs VALUES (1, api_key.current_user_id()) ON CONFLICT (id)
        DO UPDATE SET owner_id = NULL'),
    ('admitted by the application and us', 'INSERT INTO app.own (id) VALUES (1)'),
    ('admitted by the application', 'INSERT INTO app.own VALUES (1, NULL)'),
    ('admitted by us', 'INSERT INTO app.own (id) VALUES (11)'),
    ('deleted', 'DELETE FROM app.notes');
\set outcomes 'SELECT what, pg_temp.try(true, ''POST'', statement) AS key_in_request, pg_temp.try(true, NULL, statement) AS key_in_sql, pg_temp.try(false, ''POST'', statement) AS request, pg_temp.try(false, NULL, statement) AS sql FROM statements'
:outcomes ORDER BY n;
-- What PostgREST answers.
BEGIN;
SELECT set_config('request.headers', json_build_object('x-api-key', text)::text, true) IS NULL AS x,
    set_config('request.method', 'POST', true), api_key.authenticate_request() FROM given \gset
INSERT INTO app.notes VALUES (3, NULL);
\echo :SQLSTATE
ROLLBACK;
-- A role that has only what writing takes.
CREATE ROLE regress_writer;
GRANT USAGE ON SCHEMA app TO regress_writer;
GRANT INSERT ON app.notes TO regress_writer;
GRANT EXECUTE ON FUNCTION api_key.current_tenant_id() TO regress_writer;
SET ROLE regress_writer;
INSERT INTO app.notes VALUES (3, NULL);
\echo :SQLSTATE
RESET ROLE;
-- COPY is refused by PostgreSQL.
GRANT pg_read_server_files TO regress_user;
SET ROLE regress_user;
COPY app.notes FROM '/dev/null';
\echo :SQLSTATE
RESET ROLE;
-- A policy that admits more in the application is not overruled by a permissive one of ours; where the
-- restriction is gone or altered, nobody gets in by its being gone.
BEGIN;
DROP POLICY api_key_tenant ON app.notes;
:outcomes WHERE what IN ('of no tenant', 'given away', 'upsert that updates') ORDER BY n;
CREATE POLICY open ON app.notes USING (true);
:outcomes WHERE what IN ('of no tenant', 'given away', 'upsert that updates') ORDER BY n;
ROLLBACK;
BEGIN;
ALTER POLICY api_key_tenant ON app.notes WITH CHECK (true);
:outcomes WHERE what IN ('of no tenant', 'given away', 'upsert that updates') ORDER BY n;
ROLLBACK;
BEGIN;
ALTER POLICY api_key_tenant ON app.notes TO regress_service;
:outcomes WHERE what IN ('of no tenant', 'given away', 'upsert that updates') ORDER BY n;
ROLLBACK;
BEGIN;
DROP POLICY api_key_resource_insert_only ON app.docs;
DROP POLICY api_key_resource_update_only ON app.docs;
:outcomes WHERE what LIKE '%document%' ORDER BY n;
ROLLBACK;

SET client_min_messages = error;
DROP SCHEMA app CASCADE;
\i tests/cleanup.sql
