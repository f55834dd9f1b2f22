-- api_key.protection: what tools and nightly jobs do to protected tables is seen, and the hint mends it.
\i tests/preamble.sql
\i tests/roles.sql
SET client_min_messages = error;
SET api_key.authenticated_role = 'regress_user';
CREATE ROLE regress_owner;
CREATE SCHEMA app AUTHORIZATION regress_owner;
GRANT USAGE ON SCHEMA app TO regress_user;
\set a '''00000000-0000-4000-8000-00000000000a'''
SELECT api_key.issue_api_key('00000000-0000-4000-8000-0000000000a1',
    p_tenant_id => :a) ->> 'api_key' AS key_a \gset
PREPARE request (text) AS SELECT FROM set_config('request.headers', json_build_object('x-api-key',
    $1)::text, true), api_key.authenticate_request();
SET ROLE regress_owner;
CREATE TABLE app.notes (id integer PRIMARY KEY, tenant_id uuid, "Owner" uuid, n timestamptz);
CREATE TABLE app.own (id integer PRIMARY KEY, tenant_id uuid);
ALTER TABLE app.own ENABLE ROW LEVEL SECURITY;
CREATE POLICY anyone ON app.own USING (true);
CREATE TABLE app.days (tenant_id uuid, day integer, "Sub" text, PRIMARY KEY (tenant_id, day))
    PARTITION BY RANGE (day);
CREATE TABLE app.days_1 PARTITION OF app.days FOR VALUES FROM (1) TO (10);
CREATE TABLE app.base (id integer PRIMARY KEY, tenant_id uuid);
CREATE TABLE app.derived () INHERITS (app.base);
CREATE TABLE app.docs (id integer, owner_id uuid, title text, shown boolean, PRIMARY KEY (id))
    PARTITION BY RANGE (id);
CREATE TABLE app.docs_1 PARTITION OF app.docs FOR VALUES FROM (1) TO (10);
RESET ROLE;
SELECT count(api_key.isolate_tenants(name::regclass)) AS isolated
    FROM unnest('{app.notes,app.own,app.days,app.base}'::text[]) AS name;
SELECT api_key.define_resource('note', 'app.notes', p_owner_column => 'Owner',
    p_public_when => $$n > '2020-02-01 00:00+01'::timestamptz AND n - '1 day'::interval > 'epoch'$$),
       api_key.define_resource('doc', 'app.docs', p_public_when => 'shown'),
           api_key.define_resource('unprotected', 'app.own', p_owner_column => NULL);
SELECT api_key.protect_resource('note') IS NOT NULL, api_key.protect_resource('doc')
    IS NOT NULL AS protected;

-- Whole as they were made, whatever the session writes dates and names by.
SELECT * FROM api_key.protection ORDER BY 1, 2;
SET datestyle = 'German';
SET timezone = 'Asia/Tokyo';
SET intervalstyle = 'iso_8601';
SET quote_all_identifiers = on;
SET search_path = app, api_key;
SELECT count(*) AS lacking FROM api_key.protection WHERE missing <> '{}';
RESET search_path;
RESET quote_all_identifiers;
RESET intervalstyle;
RESET timezone;
RESET datestyle;
-- Columns, tables and schemas that are renamed stay theirs.
BEGIN;
ALTER TABLE app.days RENAME tenant_id TO "Org Id";
ALTER TABLE app.days RENAME TO "Old Days";
ALTER SCHEMA app RENAME TO elsewhere;
SELECT "table", missing FROM api_key.protection WHERE missing <> '{}';
ROLLBACK;
-- It is for the service role.
SET ROLE regress_service;
SELECT count(*) > 0 AS seen FROM api_key.protection;
SET ROLE regress_user;
SELECT count(*) FROM api_key.protection;
\echo :SQLSTATE
RESET ROLE;

-- Each is done, seen, mended by its hint and gone.
CREATE PROCEDURE pg_temp.do(p_what text) LANGUAGE plpgsql AS $$
DECLARE
    v_found record;
    v_left text;
BEGIN
    EXECUTE p_what;
    FOR v_found IN SELECT * FROM api_key.protection WHERE missing <> '{}' ORDER BY 1, 2 LOOP
        -- Numbers of tables that are gone.
        RAISE INFO '%', regexp_replace(format('%s: %s lacks %s (%s)', v_found."table", v_found.protected_by,
            v_found.missing, v_found.hint), '\d{4,}', '<oid>', 'g');
    END LOOP;
    FOR v_found IN SELECT DISTINCT hint FROM api_key.protection WHERE missing <> '{}' ORDER BY 1 LOOP
        EXECUTE v_found.hint;
    END LOOP;
    SELECT string_agg(format('%s still lacks %s', "table", missing), '; ') INTO v_left
        FROM api_key.protection WHERE missing <> '{}';
    RAISE INFO '%', coalesce(v_left, 'mended');
    RAISE EXCEPTION USING ERRCODE = 'ZZZZZ';
EXCEPTION WHEN SQLSTATE 'ZZZZZ' THEN
    NULL;
END
$$;
\set do 'CALL pg_temp.do'
:do('DROP POLICY api_key_tenant ON app.notes');
:do('DROP POLICY api_key_tenant ON app.own');
:do('DROP POLICY api_key_tenant_insert ON app.days_1');
:do('ALTER POLICY api_key_tenant ON app.notes USING (true)');
:do('ALTER POLICY api_key_tenant ON app.notes WITH
    CHECK (tenant_id = (SELECT api_key.current_tenant_id()))');
:do('ALTER POLICY api_key_tenant ON app.notes USING ("Owner" = (SELECT api_key.current_tenant_id()))');
:do('ALTER POLICY api_key_tenant ON app.notes TO regress_user');
:do('DROP POLICY api_key_tenant ON app.notes; CREATE POLICY api_key_tenant ON app.notes AS PERMISSIVE
    USING (tenant_id = (SELECT api_key.current_tenant_id())) WITH CHECK (CASE WHEN (tenant_id = (
    SELECT api_key.current_tenant_id() AS current_tenant_id)) THEN true
    ELSE api_key.refuse_row(''app.notes'', ''api_key_tenant'') END)');
:do('DO $d$ DECLARE p record; BEGIN FOR p IN SELECT * FROM pg_policies WHERE schemaname = ''app'' LOOP
    EXECUTE format(''DROP POLICY %I ON app.%I'', p.policyname, p.tablename); END LOOP; END $d$');
:do('ALTER TABLE app.notes DISABLE ROW LEVEL SECURITY');
:do('ALTER TABLE app.days_1 DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY');
:do('ALTER TABLE app.docs NO FORCE ROW LEVEL SECURITY');
:do('ALTER TABLE app.notes DISABLE TRIGGER ALL');
:do('ALTER TABLE app.days DISABLE TRIGGER USER');
:do('ALTER TABLE app.days_1 DISABLE TRIGGER USER');
:do('ALTER TABLE app.notes ENABLE REPLICA TRIGGER "API_KEY_references"');
:do('DROP TRIGGER "API_KEY_references" ON app.docs; DROP TRIGGER "~api_key_moves" ON app.docs');
:do('ALTER TABLE app.notes ALTER tenant_id DROP DEFAULT');
:do('ALTER TABLE app.days_1 ALTER tenant_id SET DEFAULT gen_random_uuid()');
:do('ALTER TABLE app.base DROP COLUMN tenant_id CASCADE');
-- To change its type may run code of the owner's, so the hint leaves that to the owner.
BEGIN;
ALTER TABLE app.base DROP COLUMN tenant_id CASCADE;
ALTER TABLE app.base ADD tenant_id text;
SELECT "table", hint FROM api_key.protection WHERE missing <> '{}';
ROLLBACK;
:do('CREATE TABLE app.days_2 PARTITION OF app.days FOR VALUES FROM (10) TO (20)');
:do('CREATE TABLE app.days_2 PARTITION OF app.days FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (day);
    CREATE TABLE app.days_2_x PARTITION OF app.days_2 DEFAULT');
:do('CREATE TABLE app.days_2 (LIKE app.days INCLUDING ALL); ALTER TABLE app.days ATTACH
    PARTITION app.days_2 FOR VALUES FROM (10) TO (20)');
:do('CREATE TABLE app.days_2 (tenant_id uuid NOT NULL, day integer NOT NULL, "Sub" text);
    ALTER TABLE app.days ATTACH PARTITION app.days_2 FOR VALUES FROM (10) TO (20)');
:do('ALTER TABLE app.days DETACH PARTITION app.days_1');
:do('CREATE TABLE app.derived_2 () INHERITS (app.base)');
:do('ALTER TABLE app.derived NO INHERIT app.base');
:do('CREATE TABLE app.docs_2 PARTITION OF app.docs FOR VALUES FROM (10) TO (20)');
:do('DROP POLICY api_key_resource_part ON app.docs_1');
:do('DROP POLICY api_key_resource_select_only ON app.docs');
:do('ALTER POLICY api_key_resource_select ON app.docs USING (true)');
:do('DROP TABLE app.own CASCADE');
:do('DROP TABLE app.own CASCADE; CREATE TABLE app.own (id integer PRIMARY KEY, tenant_id uuid)');
:do('DROP TABLE app.notes CASCADE');
:do('DROP TABLE app.days_1');
:do('TRUNCATE api_key_internal.protected_tables');
CREATE PROCEDURE pg_temp.mend(p_old text, p_new text) LANGUAGE plpgsql AS $$
DECLARE
    v_left bigint;
BEGIN
    EXECUTE (SELECT replace(hint, p_old, p_new) FROM api_key.protection WHERE missing <> '{}' LIMIT 1);
    SELECT count(*) INTO v_left FROM api_key.protection WHERE missing <> '{}';
    RAISE INFO '%', CASE v_left WHEN 0 THEN 'mended' ELSE 'still lacking' END;
END
$$;
-- A column of a resource by another name: the hint has the definition, for the new name to be put in.
BEGIN;
ALTER TABLE app.docs RENAME owner_id TO author_id;
SELECT "table", missing, hint FROM api_key.protection WHERE missing <> '{}';
ROLLBACK;
-- It stands before a comment: with the new name in it, it mends.
BEGIN;
ALTER TABLE app.docs RENAME owner_id TO author_id;
CALL pg_temp.mend('owner_id', 'author_id');
ROLLBACK;
-- So does a column that p_public_when reads.
BEGIN;
ALTER TABLE app.docs RENAME shown TO is_shown;
SELECT "table", missing, hint FROM api_key.protection WHERE missing <> '{}';
CALL pg_temp.mend('shown', 'is_shown');
ROLLBACK;
BEGIN;
ALTER TABLE app.docs DROP shown CASCADE;
SELECT "table", missing, hint FROM api_key.protection WHERE missing <> '{}';
ROLLBACK;
BEGIN;
ALTER TABLE app.docs DROP CONSTRAINT docs_pkey;
SELECT "table", missing FROM api_key.protection WHERE missing <> '{}';
ROLLBACK;
-- Mended, it knows what was before it, and permits what it has permitted.
CREATE POLICY later ON app.notes FOR SELECT USING (true);
DROP POLICY api_key_tenant ON app.notes;
DROP POLICY api_key_tenant_select ON app.notes;
SELECT api_key.isolate_tenants('app.notes') -> 'policies' AS policies;
DROP POLICY later ON app.notes;
SELECT api_key.remove_resource('note'), r ->> 'default' AS "default", r ->> 'row_security' AS row_security
    FROM api_key.remove_tenant_isolation('app.notes') AS r;
SELECT api_key.remove_tenant_isolation('app.notes');

-- What a nightly job does as the owner, who has no right to call anything of ours.
SET ROLE regress_owner;
CREATE TABLE app.days_2 PARTITION OF app.days FOR VALUES FROM (10) TO (20);
CREATE TABLE app.days_3 (LIKE app.days INCLUDING ALL);
ALTER TABLE app.days_3 ADD CHECK (day >= 20 AND day < 30);
ALTER TABLE app.days ATTACH PARTITION app.days_3 FOR VALUES FROM (20) TO (30);
CREATE TABLE app.days_4 PARTITION OF app.days FOR VALUES FROM (30) TO (40) PARTITION BY RANGE (day);
CREATE TABLE app.days_4_1 PARTITION OF app.days_4 FOR VALUES FROM (30) TO (35);
CREATE TABLE app.days_default PARTITION OF app.days DEFAULT;
CREATE TABLE app.docs_2 PARTITION OF app.docs FOR VALUES FROM (10) TO (20);
CREATE TABLE app.derived_3 () INHERITS (app.base);
CREATE INDEX ON app.days (day);
ALTER TABLE app.days ADD COLUMN note text, ALTER COLUMN "Sub" TYPE varchar;
ANALYZE app.days;
VACUUM app.days;
TRUNCATE app.days_2;
ALTER TABLE app.days DETACH PARTITION app.days_3;
ALTER TABLE app.days ATTACH PARTITION app.days_3 FOR VALUES FROM (20) TO (30);
DROP TABLE app.days_default;
ALTER TABLE app.days DETACH PARTITION app.days_1 CONCURRENTLY;
DROP TABLE app.days_1;
CREATE TABLE app.copy AS TABLE app.days WITH NO DATA;
-- To write rows it needs what any writer needs.
INSERT INTO app.days VALUES (:a, 11);
\echo :SQLSTATE
RESET ROLE;
GRANT EXECUTE ON FUNCTION api_key.current_tenant_id() TO regress_owner;
GRANT regress_owner TO regress_user;
BEGIN;
EXECUTE request(:'key_a');
SET LOCAL ROLE regress_owner;
INSERT INTO app.days (day) VALUES (11), (21), (31) RETURNING tenant_id;
ROLLBACK;
REVOKE regress_owner FROM regress_user;
-- Nor can it use the triggers by themselves, or name what policies run.
GRANT USAGE ON SCHEMA api_key TO regress_owner;
SET ROLE regress_owner;
CREATE TRIGGER mine BEFORE INSERT ON app.copy FOR EACH ROW
    EXECUTE FUNCTION api_key_internal.check_references();
\echo :SQLSTATE
CREATE TRIGGER mine BEFORE UPDATE ON app.copy FOR EACH ROW
    EXECUTE FUNCTION api_key_internal.lock_moved_row();
SELECT api_key.refuse_row('app.days', 'api_key_tenant');
SELECT api_key.is_left_to('app.days', 'api_key_tenant');
RESET ROLE;
-- On a table of anybody they do nothing to others.
CREATE TABLE app.strange (id integer, t text);
CREATE TRIGGER a BEFORE INSERT OR UPDATE OR DELETE ON app.strange FOR EACH ROW
    EXECUTE FUNCTION api_key_internal.lock_moved_row();
CREATE TRIGGER b AFTER INSERT OR UPDATE OR DELETE ON app.strange FOR EACH ROW
    EXECUTE FUNCTION api_key_internal.lock_moved_row();
CREATE TRIGGER c AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON app.strange FOR EACH STATEMENT
    EXECUTE FUNCTION api_key_internal.lock_moved_row();
CREATE TRIGGER d AFTER INSERT OR UPDATE OR DELETE ON app.strange FOR EACH ROW
    EXECUTE FUNCTION api_key_internal.check_references();
CREATE TRIGGER e BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON app.strange FOR EACH STATEMENT
    EXECUTE FUNCTION api_key_internal.check_references();
INSERT INTO app.strange VALUES (1, 'a'), (2, 'b');
UPDATE app.strange SET t = 'c' WHERE id = 1;
DELETE FROM app.strange WHERE id = 2;
TABLE app.strange;
CREATE VIEW app.strange_view AS TABLE app.strange;
CREATE TRIGGER f INSTEAD OF UPDATE ON app.strange_view FOR EACH ROW
    EXECUTE FUNCTION api_key_internal.lock_moved_row();
UPDATE app.strange_view SET t = 'd';
SELECT api_key_internal.lock_moved_row();
-- The next call sees to all that has come.
SELECT "table", missing <> '{}' AS lacks FROM api_key.protection ORDER BY 1, 2;
SELECT api_key.isolate_tenants('app.days') -> 'partitions' AS partitions,
    api_key.isolate_tenants('app.base') -> 'partitions' AS derived,
    api_key.protect_resource('doc') -> 'partitions' AS docs;
SELECT count(*) AS lacking FROM api_key.protection WHERE missing <> '{}';

-- Whatever tables and columns are called.
CREATE FUNCTION pg_temp.protect(p_name text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    v_table regclass;
BEGIN
    EXECUTE format('CREATE TABLE app.%I (%I uuid, id integer PRIMARY KEY, owner_id uuid)', p_name, p_name);
    v_table := format('app.%I', p_name);
    PERFORM api_key.isolate_tenants(v_table, p_name::name);
    PERFORM api_key.define_resource('named', v_table, p_tenant_column => p_name::name),
        api_key.protect_resource('named');
    RETURN QUERY SELECT unnest(missing) FROM api_key.protection WHERE "table" = v_table::text;
    RETURN QUERY SELECT count(*)::text FROM api_key.protection WHERE "table" = v_table::text;
    PERFORM api_key.remove_resource('named'), api_key.remove_tenant_isolation(v_table);
END
$$;
SELECT to_json(name) AS name, missing FROM unnest(ARRAY['a\b', 'a\', E'a\nb', E'a\r\n\tb', 'a  b', ' a ',
    'a''b', 'a"b', E'\\''"\n;--', 'the table', '''a''::regclass']) AS name,
    pg_temp.protect(name) AS missing;

-- What the rule reads is what makes a row another's.
SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'app.docs'::regclass
    AND NOT tgisinternal ORDER BY tgname;

SET client_min_messages = error;
DROP SCHEMA app CASCADE;
\i tests/cleanup.sql
