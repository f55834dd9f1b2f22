-- References to rows of isolated and protected tables: what is hidden is like what is not there, and what
-- the owner of the table has written gets nobody's rights but the owner's.
\i tests/preamble.sql
\i tests/roles.sql
SET client_min_messages = error;
CREATE ROLE regress_parent;
CREATE ROLE regress_child;
GRANT USAGE ON SCHEMA api_key TO regress_parent;
GRANT EXECUTE ON FUNCTION api_key.issue_api_key(api_key.id, text, text, text, text[], api_key.id, text,
    text, text, text, timestamptz, timestamptz, inet[], jsonb, text),
    api_key.list_api_keys(api_key.id, api_key.id, boolean) TO regress_parent;
-- In this order: since PostgreSQL 16, a grant is inherited if the role inherits when it is made.
ALTER ROLE regress_parent NOINHERIT;
GRANT regress_service TO regress_parent;
SET api_key.authenticated_role = 'regress_user';
\set a '''00000000-0000-4000-8000-00000000000a'''
\set b '''00000000-0000-4000-8000-00000000000b'''
SELECT api_key.define_tier('regress', 9);
CREATE TEMP TABLE keys AS
SELECT name, api_key.issue_api_key(user_id, p_tier => 'regress', p_tenant_id => tenant_id,
    p_scopes => scopes) ->> 'api_key' AS text
FROM (VALUES ('ada', :ada::uuid, :a::uuid, '{}'::text[]), ('bob', :bob, :b, '{}'), ('admin of b', NULL, :b,
    '{admin}')) AS k (name, user_id, tenant_id, scopes);
CREATE SCHEMA app;
-- Where nobody but the owner of the parents can put a function.
CREATE SCHEMA code AUTHORIZATION regress_parent;
GRANT USAGE ON SCHEMA code TO PUBLIC;
GRANT USAGE, CREATE ON SCHEMA app TO regress_parent, regress_child;
GRANT USAGE ON SCHEMA app TO regress_user, regress_service;
GRANT CREATE ON SCHEMA app TO regress_user;
GRANT USAGE ON SCHEMA api_key TO regress_child;
GRANT EXECUTE ON FUNCTION api_key.current_tenant_id() TO regress_child;

-- Acts as a key and undoes what was done.
CREATE FUNCTION pg_temp.as_key(p_key text, p_statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('request.headers', json_build_object('x-api-key', text)::text, true),
        api_key.authenticate_request()
    FROM keys WHERE name = p_key;
    EXECUTE p_statement;
    RAISE EXCEPTION USING ERRCODE = 'ZZZZZ', MESSAGE = 'done';
EXCEPTION WHEN OTHERS THEN
    RETURN CASE SQLSTATE WHEN 'ZZZZZ' THEN 'done' ELSE SQLSTATE || ' ' || SQLERRM END;
END
$$;

-- The writer. The parents are somebody else's; the writer needs no privilege on them.
SET ROLE regress_parent;
CREATE TABLE app.folders (id integer PRIMARY KEY, tenant_id uuid, a integer, b integer, UNIQUE (a, b));
CREATE TABLE app.days (id integer, tenant_id uuid, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE app.days_low PARTITION OF app.days FOR VALUES FROM (0) TO (50) PARTITION BY RANGE (id);
CREATE TABLE app.days_1 PARTITION OF app.days_low FOR VALUES FROM (0) TO (10);
CREATE TABLE app.docs (id integer, owner_id uuid, n integer, published boolean, PRIMARY KEY (id))
    PARTITION BY RANGE (id);
CREATE TABLE app.docs_1 PARTITION OF app.docs FOR VALUES FROM (0) TO (100);
CREATE TABLE app.files (id integer PRIMARY KEY, owner_id uuid, n integer);
CREATE TABLE app.scans (PRIMARY KEY (id)) INHERITS (app.files);
CREATE TABLE app.lost (id integer PRIMARY KEY, tenant_id uuid);
CREATE TABLE app.off (id integer PRIMARY KEY, owner_id uuid);
INSERT INTO app.folders VALUES (1, :a, 1, 1), (2, :b, 2, 2), (3, :a, 3, 3), (4, NULL, 4, 4);
INSERT INTO app.days VALUES (1, :a), (2, :b);
INSERT INTO app.docs VALUES (1, :ada, 1), (2, :bob, 0);
INSERT INTO app.files VALUES (1, :ada, 1), (2, :bob, 0);
INSERT INTO app.scans VALUES (1, :ada, 1), (2, :bob, 0);
INSERT INTO app.lost VALUES (1, :a), (2, :b);
INSERT INTO app.off VALUES (1, :ada), (2, :bob);
GRANT REFERENCES ON ALL TABLES IN SCHEMA app TO regress_child;
RESET ROLE;
SET ROLE regress_child;
CREATE TABLE app.notes (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id uuid, up integer
        REFERENCES app.notes, a integer, b integer,
    folder integer REFERENCES app.folders, late integer
        REFERENCES app.folders DEFERRABLE INITIALLY DEFERRED,
    day integer REFERENCES app.days, low integer REFERENCES app.days_low, day_1 integer
        REFERENCES app.days_1,
    doc integer REFERENCES app.docs, doc_1 integer REFERENCES app.docs_1,
    file integer REFERENCES app.files, scan integer REFERENCES app.scans,
    lost integer REFERENCES app.lost, off integer REFERENCES app.off,
    FOREIGN KEY (a, b) REFERENCES app.folders (a, b));
CREATE TABLE app.slips (id integer PRIMARY KEY, tenant_id uuid, folder integer REFERENCES app.folders)
    PARTITION BY RANGE (id);
CREATE TABLE app.slips_1 PARTITION OF app.slips FOR VALUES FROM (0) TO (100);
CREATE VIEW app.note_view WITH (security_invoker = true) AS SELECT * FROM app.notes;
CREATE VIEW app.owned_view AS SELECT folder FROM app.notes;
CREATE VIEW app.instead AS SELECT 1 AS folder;
CREATE FUNCTION app.instead() RETURNS trigger
    LANGUAGE plpgsql AS $$ BEGIN INSERT INTO app.notes (folder) VALUES (NEW.folder); RETURN NEW; END $$;
CREATE TRIGGER instead INSTEAD OF INSERT ON app.instead FOR EACH ROW EXECUTE FUNCTION app.instead();
CREATE FUNCTION app.add(p_folder integer) RETURNS void LANGUAGE sql SECURITY DEFINER
    AS 'INSERT INTO app.notes (folder) VALUES (p_folder)';
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO regress_user, regress_service;
RESET ROLE;
INSERT INTO app.notes (tenant_id, folder) VALUES (:a, 1), (:b, 2);
SELECT count(api_key.isolate_tenants(name::regclass)) AS isolated
    FROM unnest('{app.notes,app.slips,app.folders,app.days,app.lost}'::text[]) AS name;
-- Of the row with n = 0 the condition is an error.
SELECT api_key.define_resource('doc', 'app.docs', p_public_when => '1 / n > 1'),
    api_key.protect_resource('doc') IS NOT NULL,
       api_key.define_resource('file', 'app.files', p_public_when => 'length(n::text) > 9'),
           api_key.protect_resource('file') IS NOT NULL,
       api_key.define_resource('off', 'app.off'), api_key.protect_resource('off') IS NOT NULL;
-- What a tool that knows nothing of it does.
DROP POLICY api_key_tenant ON app.lost;
ALTER TABLE app.off DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
DROP POLICY api_key_resource_select_only ON app.off;
-- Names that the writer puts in the way of a condition.
SET ROLE regress_user;
CREATE FUNCTION app.length(text) RETURNS integer
    LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE EXCEPTION 'runs as %', current_user; END $$;
RESET ROLE;

-- Each with a row of one's own (1), a hidden one (2) and none (99).
CREATE TEMP TABLE attempts (n integer GENERATED ALWAYS AS IDENTITY, what text, statement text);
INSERT INTO attempts (what, statement) VALUES
    ('insert', 'INSERT INTO app.notes (folder) VALUES (%s)'),
    ('insert of a select', 'INSERT INTO app.notes (folder) SELECT x FROM generate_series(%1$s, %1$s) AS x'),
    ('several rows', 'INSERT INTO app.notes (folder) VALUES (1), (NULL), (%s)'),
    ('update', 'UPDATE app.notes SET folder = %s + 0, up = up'),
    ('upsert', 'INSERT INTO app.notes (id, folder) OVERRIDING SYSTEM VALUE VALUES (1, 3) ON CONFLICT (id)
        DO UPDATE SET folder = %s'),
    ('upsert that does nothing', 'INSERT INTO app.notes (folder) VALUES (%s) ON CONFLICT DO NOTHING'),
    ('merge', 'MERGE INTO app.notes AS t USING (SELECT 7 AS id) AS s ON t.id = s.id WHEN NOT MATCHED
        THEN INSERT (folder) VALUES (%s)'),
    ('merge that updates', 'MERGE INTO app.notes AS t
        USING (SELECT 1 AS id) AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET folder = %s'),
    ('within a WITH', 'WITH w AS (INSERT INTO app.notes (folder) VALUES (%s) RETURNING id) SELECT count(*)
        FROM w'),
    ('deferred', 'INSERT INTO app.notes (late) VALUES (%s)'),
    ('deferred later', 'SET CONSTRAINTS ALL DEFERRED; INSERT INTO app.notes (late) VALUES (NULL);
        UPDATE app.notes SET late = %s'),
    ('itself', 'INSERT INTO app.notes (up) VALUES (%s)'),
    ('two columns', 'INSERT INTO app.notes (a, b) VALUES (%1$s, %1$s)'),
    ('partitioned', 'INSERT INTO app.notes (day) VALUES (%s)'),
    ('partitioned partition', 'INSERT INTO app.notes (low) VALUES (%s)'),
    ('partition', 'INSERT INTO app.notes (day_1) VALUES (%s)'),
    ('partitioned resource', 'INSERT INTO app.notes (doc) VALUES (%s)'),
    ('partition of a resource', 'INSERT INTO app.notes (doc_1) VALUES (%s)'),
    ('resource', 'INSERT INTO app.notes (file) VALUES (%s)'),
    ('child of a resource', 'INSERT INTO app.notes (scan) VALUES (%s)'),
    ('policy dropped', 'INSERT INTO app.notes (lost) VALUES (%s)'),
    ('row security disabled', 'INSERT INTO app.notes (off) VALUES (%s)'),
    ('child partitioned', 'INSERT INTO app.slips (id, folder) VALUES (1, %s)'),
    ('child partition', 'INSERT INTO app.slips_1 (id, folder) VALUES (1, %s)'),
    ('view', 'INSERT INTO app.note_view (folder) VALUES (%s)'),
    ('view of the owner', 'INSERT INTO app.owned_view VALUES (%s)'),
    ('view with INSTEAD OF', 'INSERT INTO app.instead VALUES (%s)'),
    ('function of the owner', 'SELECT app.add(%s)'),
    ('block that goes on', 'DO $d$ BEGIN INSERT INTO app.notes (folder) VALUES (3); BEGIN INSERT
        INTO app.notes (folder) VALUES (99); EXCEPTION WHEN foreign_key_violation THEN NULL; END; INSERT
        INTO app.notes (folder) VALUES (%s); END $d$'),
    ('names in the way', 'SET LOCAL search_path = app, pg_catalog; INSERT INTO notes (file) VALUES (%s)'),
    ('custom plans', 'SET LOCAL plan_cache_mode = force_custom_plan; INSERT INTO app.notes (folder)
        VALUES (%s)'),
    ('cursor', 'DO $d$ DECLARE c CURSOR FOR SELECT * FROM app.notes FOR UPDATE; BEGIN OPEN c; MOVE c;
        UPDATE app.notes SET folder = %s WHERE CURRENT OF c; END $d$'),
    ('claims of another', 'SELECT set_config(''request.jwt.claims'',
        ''{"tenant_id": "00000000-0000-4000-8000-00000000000b", "scopes": ["admin"]}'', true); INSERT
        INTO app.notes (folder) VALUES (%s)'),
    ('row of the statement', 'INSERT INTO app.notes (up) VALUES (NULL), (%s)');
CREATE TEMP TABLE seen AS
SELECT n, what, pg_temp.as_key('ada', format(statement, 1)) AS own, pg_temp.as_key('ada', format(statement,
    2)) AS hidden,
       pg_temp.as_key('ada', format(statement, 99)) AS absent
FROM attempts;
SELECT what, own, hidden, absent FROM seen WHERE (own, hidden) IS DISTINCT FROM ('done', absent)
    OR hidden NOT LIKE '23503 insert or update on table%';
SELECT count(*) AS attempts FROM seen;
-- Who sees a row may refer to it, after others could not, by the same plan.
SELECT pg_temp.as_key('bob', 'INSERT INTO app.notes (folder, day_1, file) VALUES (2, 2, 2)') AS bob,
       pg_temp.as_key('admin of b',
           'INSERT INTO app.notes (folder, day_1, doc_1, file) VALUES (2, 2, 1, 1)') AS admin,
       pg_temp.as_key('ada', 'INSERT INTO app.notes (folder) VALUES (4)') AS of_no_tenant;
-- So do roles that see all, and what keys do themselves.
INSERT INTO app.notes (tenant_id, folder, doc) VALUES (:a, 2, 2) RETURNING folder;
-- A change of the rule counts at once, in its own transaction and when it is undone.
SELECT pg_temp.as_key('ada', 'INSERT INTO app.notes (folder) VALUES (2)') AS before;
BEGIN;
SELECT api_key.remove_tenant_isolation('app.folders') IS NOT NULL AS removed;
SAVEPOINT s;
SELECT api_key.isolate_tenants('app.folders') IS NOT NULL AS isolated;
SELECT pg_temp.as_key('ada', 'INSERT INTO app.notes (folder) VALUES (2)') AS isolated;
ROLLBACK TO s;
SELECT pg_temp.as_key('ada', 'INSERT INTO app.notes (folder) VALUES (2)') AS removed;
ROLLBACK;
SELECT pg_temp.as_key('ada', 'INSERT INTO app.notes (folder) VALUES (2)') AS after;
ALTER SCHEMA app RENAME TO elsewhere;
ALTER TABLE elsewhere.folders RENAME tenant_id TO org;
ALTER TABLE elsewhere.folders OWNER TO regress_child;
SELECT pg_temp.as_key('ada', 'INSERT INTO elsewhere.notes (folder) VALUES (1)') AS own,
    pg_temp.as_key('ada', 'INSERT INTO elsewhere.notes (folder) VALUES (2)') AS hidden;
ALTER TABLE elsewhere.folders OWNER TO regress_parent;
ALTER TABLE elsewhere.folders RENAME org TO tenant_id;
ALTER SCHEMA elsewhere RENAME TO app;
-- A definition that names what is no more refuses; the log says why.
BEGIN;
ALTER TABLE app.files RENAME owner_id TO author_id;
SELECT pg_temp.as_key('ada', 'INSERT INTO app.notes (file) VALUES (1)') AS stale;
ROLLBACK;
-- Cancelled is cancelled.
ALTER TABLE app.files ADD COLUMN slow boolean DEFAULT true;
CREATE FUNCTION code.wait(boolean) RETURNS boolean LANGUAGE sql AS 'SELECT pg_sleep(60) IS NULL';
SELECT api_key.define_resource('file', 'app.files', p_public_when => 'code.wait(slow)');
SELECT set_config('request.headers', json_build_object('x-api-key', text)::text, false) IS NULL AS x
    FROM keys WHERE name = 'ada' \gset
BEGIN;
SELECT api_key.authenticate_request();
SET LOCAL statement_timeout = '200ms';
INSERT INTO app.notes (file) VALUES (2);
\echo :SQLSTATE
ROLLBACK;
RESET request.headers;

-- The owner of a parent: the condition of its table and the function of its index try what they can while
-- somebody refers to a row.
CREATE TABLE app.private (secret text);
INSERT INTO app.private VALUES ('secret');
GRANT SELECT ON app.private TO regress_user, regress_service;
CREATE TABLE app.outcomes (writer text, tried text, outcome text);
GRANT INSERT ON app.outcomes TO PUBLIC;
CREATE TABLE app.tries (tried text, command text);
GRANT SELECT ON app.tries TO PUBLIC;
INSERT INTO app.tries VALUES
    ('runs as', 'SELECT current_user'), ('private', 'SELECT secret FROM app.private'), ('keys',
        'SELECT count(*) FROM api_key_internal.keys'),
    ('issue', 'SELECT api_key.issue_api_key(p_scopes => ''{admin}'') ->> ''api_key'''), ('list',
        'SELECT count(*) FROM api_key.list_api_keys()'),
    ('tier', 'SELECT api_key.define_tier(''mine'')'), ('audit', 'SELECT count(*) FROM api_key.audit_log'),
    ('authenticate', 'SELECT api_key.authenticate_request()'), ('identity',
        'SELECT api_key.current_tenant_id()'),
    ('claims, then issue', 'SELECT set_config(''request.jwt.claims'', ''{"role": "regress_service"}'',
        false), api_key.issue_api_key()'),
    ('role', 'SELECT set_config(''role'', ''regress_service'', true)'), ('role none',
        'SELECT set_config(''role'', ''none'', true)'),
    ('set role', 'SET ROLE regress_service'), ('reset role', 'RESET ROLE'), ('session',
        'SET SESSION AUTHORIZATION regress_service'),
    ('reset all', 'RESET ALL'), ('leave a setting', 'SELECT set_config(''app.left'', ''behind'', false)'),
    ('leave a path', 'SELECT set_config(''search_path'', ''app'', false)'), ('leave row_security',
        'SELECT set_config(''row_security'', ''off'', false)'),
    ('temporary table', 'CREATE TEMP TABLE trap (n integer)'), ('prepare', 'PREPARE trap AS SELECT 1'),
        ('listen', 'LISTEN trap'),
    ('cursor that stays', 'DECLARE trap CURSOR WITH HOLD FOR SELECT current_user'), ('discard',
        'DISCARD ALL'),
    ('the child', 'INSERT INTO app.kids VALUES (1, NULL)'), ('the child, no policies',
        'ALTER TABLE app.kids DISABLE ROW LEVEL SECURITY'),
    ('its own table', 'DROP TABLE app.parents CASCADE'), ('its own policy',
        'CREATE POLICY other ON app.parents USING (true)'),
    ('registry', 'DELETE FROM api_key_internal.resources'), ('deferred', 'UPDATE app.later SET n = n + 1');
SET ROLE regress_parent;
CREATE TABLE app.parents (id integer PRIMARY KEY, owner_id uuid, code text);
INSERT INTO app.parents VALUES (1), (2);
CREATE TABLE app.later (n integer);
INSERT INTO app.later VALUES (1);
CREATE FUNCTION app.later() RETURNS trigger
    LANGUAGE plpgsql AS $$ BEGIN INSERT INTO app.outcomes VALUES ('the end', 'deferred', current_user);
    RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON app.later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION app.later();
CREATE FUNCTION code.attack() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_try record;
    v_outcome text;
    v_writer text := current_setting('app.writer', true);
BEGIN
    IF v_writer <> '' THEN
        FOR v_try IN SELECT * FROM app.tries LOOP
            BEGIN
                v_outcome := 'done';
                IF v_try.command LIKE 'SELECT %' THEN
                    EXECUTE v_try.command INTO v_outcome;
                ELSE
                    EXECUTE v_try.command;
                END IF;
            EXCEPTION WHEN OTHERS THEN
                v_outcome := SQLSTATE || ' ' || SQLERRM;
            END;
            INSERT INTO app.outcomes VALUES (v_writer, v_try.tried, v_outcome);
        END LOOP;
    END IF;
    RETURN true;
END
$$;
CREATE POLICY trap ON app.parents USING (code.attack());
RESET ROLE;
SELECT api_key.define_resource('parent', 'app.parents', p_public_when => 'code.attack()')
    IS NOT NULL AS defined, api_key.protect_resource('parent') IS NOT NULL AS protected;
CREATE TABLE app.kids (parent integer REFERENCES app.parents, tenant_id uuid);
GRANT INSERT ON app.kids TO regress_user, regress_service;
SELECT api_key.isolate_tenants('app.kids') -> 'foreign_keys' AS checked;
-- For writers without a key.
DROP POLICY api_key_tenant ON app.kids;
CREATE POLICY anyone ON app.kids USING (true);
SET app.writer = 'user';
BEGIN;
SET LOCAL ROLE regress_user;
INSERT INTO app.kids (parent, tenant_id) VALUES (1, NULL);
COMMIT;
SET app.writer = 'service';
BEGIN;
SET LOCAL ROLE regress_service;
INSERT INTO app.kids (parent, tenant_id) VALUES (1, NULL);
COMMIT;
SET app.writer = 'key';
BEGIN;
SELECT set_config('request.headers', json_build_object('x-api-key', text)::text, true) IS NULL AS x,
    api_key.authenticate_request() FROM keys WHERE name = 'ada' \gset
INSERT INTO app.kids (parent, tenant_id) VALUES (2, NULL);
COMMIT;
RESET app.writer;
SELECT tried, outcome, string_agg(DISTINCT writer, ', ' ORDER BY writer) AS during FROM app.outcomes
    GROUP BY tried, outcome ORDER BY tried, outcome;
SELECT current_setting('app.left', true) AS "left", current_setting('search_path') AS search_path,
    current_setting('row_security') AS row_security;
SELECT count(*) AS attempts FROM app.outcomes;
SELECT count(*) AS issued FROM api_key.list_api_keys() WHERE created_at > now() AND scopes @> '{admin}';

-- PostgreSQL's own check plans as the owner of the parent, and runs the function of an index by it. Without
-- a restricted operation: it may leave settings, but makes no keys.
TRUNCATE app.outcomes;
DELETE FROM app.tries WHERE tried NOT IN ('runs as', 'private', 'issue', 'list', 'role',
    'claims, then issue');
SET ROLE regress_parent;
CREATE FUNCTION app.indexed(text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM code.attack(); RETURN $1; END $$;
CREATE INDEX ON app.parents (id, app.indexed('planned'));
RESET ROLE;
SET app.writer = 'service';
BEGIN;
SET LOCAL ROLE regress_service;
INSERT INTO app.kids (parent, tenant_id) VALUES (1, NULL);
COMMIT;
RESET app.writer;
SELECT DISTINCT tried, outcome FROM app.outcomes ORDER BY tried, outcome;
RESET request.jwt.claims;

-- A condition may come to the same foreign key again, and make the plan under way invalid.
SET ROLE regress_parent;
CREATE OR REPLACE FUNCTION code.attack() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('app.depth', true) IS DISTINCT FROM '1' THEN
        PERFORM set_config('app.depth', '1', true);
        CREATE POLICY other ON app.later USING (true);
        DROP POLICY other ON app.later;
        INSERT INTO app.kids VALUES (2, NULL);
        PERFORM (SELECT string_agg(repeat('x', 100 * n), '') FROM generate_series(1, 300) AS n);
        PERFORM set_config('app.depth', '', true);
    END IF;
    RETURN true;
END $$;
RESET ROLE;
GRANT INSERT ON app.kids TO regress_parent;
GRANT EXECUTE ON FUNCTION api_key.current_tenant_id() TO regress_parent;
TRUNCATE app.kids;
SET ROLE regress_user;
INSERT INTO app.kids SELECT 1, NULL FROM generate_series(1, 5);
RESET ROLE;
SELECT count(*) FROM app.kids;

SET client_min_messages = error;
DROP SCHEMA app, code CASCADE;
\i tests/cleanup.sql
