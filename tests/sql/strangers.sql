-- Code of a third role, which neither owns the table nor is a superuser, rises by nobody: a condition or a
-- view that calls it is refused, and stored text is parsed as nobody but the role whose text it is.
\set VERBOSITY terse
\set SHOW_CONTEXT never
\pset null (null)
SET client_min_messages = error;
SET api_key.argon2_memory_kib = 64;
SET api_key.argon2_iterations = 1;
SELECT api_key.setup_postgrest('regress_anon', 'regress_user', 'regress_service', 'regress_authenticator', p_create_roles => true);
CREATE ROLE regress_mallory;
CREATE ROLE regress_owner;
CREATE SCHEMA mal AUTHORIZATION regress_mallory;
GRANT USAGE ON SCHEMA mal TO PUBLIC;
CREATE SCHEMA own AUTHORIZATION regress_owner;
GRANT USAGE ON SCHEMA own TO PUBLIC;
SET ROLE regress_mallory;
CREATE FUNCTION mal.rise(text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    ALTER ROLE regress_mallory SUPERUSER;
    RETURN true;
EXCEPTION WHEN insufficient_privilege THEN
    RETURN true;
END
$$;
CREATE FUNCTION mal.mask(text) RETURNS text LANGUAGE sql AS 'SELECT CASE WHEN mal.rise($1) THEN $1 END';
CREATE DOMAIN mal.dom AS text CHECK (mal.rise(VALUE));
CREATE FUNCTION mal.same(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT mal.rise($1)';
CREATE OPERATOR mal.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = mal.same);
RESET ROLE;
CREATE FUNCTION mal.of_superuser(text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE SCHEMA anyone;
GRANT USAGE, CREATE ON SCHEMA anyone TO PUBLIC;
CREATE FUNCTION anyone.f(text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
SET ROLE regress_owner;
CREATE FUNCTION own.f(text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE TABLE own.docs (id integer PRIMARY KEY, owner_id uuid, title text, tags mal.dom[]);
CREATE TABLE own.old (h text, u uuid);
INSERT INTO own.old VALUES (md5('regress of a stranger'), '00000000-0000-4000-8000-0000000000a1');
CREATE VIEW own.masked AS SELECT mal.mask(h) AS h, u FROM own.old;
CREATE VIEW own.over AS SELECT * FROM own.masked;
CREATE VIEW own.plain AS SELECT h, u FROM own.old;
GRANT SELECT ON ALL TABLES IN SCHEMA own TO regress_service;
RESET ROLE;
CREATE TABLE public.super_docs (id integer PRIMARY KEY, owner_id uuid, title text);

-- The code of an error, or what came of it; and whether mallory has risen.
CREATE FUNCTION pg_temp.outcome(p_command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE p_command;
    RETURN 'done' || CASE WHEN (SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_mallory') THEN ', and mallory is superuser' ELSE '' END;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || CASE WHEN (SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_mallory') THEN ', and mallory is superuser' ELSE '' END;
END
$$;
-- The same, with all undone.
CREATE FUNCTION pg_temp.undone(p_command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_outcome text;
BEGIN
    IF p_command LIKE 'SELECT %' THEN
        EXECUTE p_command INTO v_outcome;
    ELSE
        v_outcome := pg_temp.outcome(p_command);
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'ZZZZZ';
EXCEPTION WHEN SQLSTATE 'ZZZZZ' THEN
    RETURN v_outcome;
END
$$;
-- Conditions.
SELECT condition, "table", pg_temp.outcome(format('SELECT api_key.define_resource(''doc'', %L, p_public_when => %L)', "table", condition)) AS outcome
FROM unnest(ARRAY['mal.rise(title)', 'mal.of_superuser(title)', 'title OPERATOR(mal.===) ''x''', 'title = ''x''::mal.dom', 'anyone.f(title)',
    'own.f(title)', 'starts_with(title, ''x'')']) WITH ORDINALITY AS c (condition, n), unnest(ARRAY['own.docs', 'public.super_docs']) AS "table"
ORDER BY n, "table";
-- Sources of imports, as a superuser and as the service role, who has not the rights of the owner of a view.
SELECT source, replace(role, session_user, 'superuser') AS role, pg_temp.outcome(format($$SET LOCAL ROLE %I; SELECT api_key.import_api_keys(%L, '{"hash": "h", "user_id": "u"}', 'md5')$$, role, source)) AS outcome
FROM unnest(ARRAY['own.masked', 'own.over', 'own.plain', 'own.old', 'pg_catalog.pg_stats', 'pg_catalog.pg_settings']) WITH ORDINALITY AS s (source, n),
    unnest(ARRAY[session_user, 'regress_service']) AS role
ORDER BY n, role = 'regress_service';
RESET ROLE;
-- What a view or forced row security hides is not read past it.
SELECT view, pg_temp.outcome(format($$SET LOCAL ROLE regress_service; SELECT api_key.read_key_rows(%L, '{"hash": %s}')$$, view, to_json("column"))) AS outcome
FROM (VALUES ('pg_catalog.pg_stats', 'tablename'), ('pg_catalog.pg_stat_activity', 'query'), ('pg_catalog.pg_user_mappings', 'srvname'),
    ('information_schema.tables', 'table_name'), ('own.plain', 'h')) AS v (view, "column");
RESET ROLE;
-- A condition and a default are the text of the owner of then.
SELECT api_key.define_resource('doc', 'own.docs', p_public_when => $$tags @> '{public}'$$);
SELECT pg_temp.outcome($$SELECT api_key.define_resource('doc', 'own.docs', p_public_when => 'own.f(title)')$$) AS its_own;
ALTER TABLE own.docs OWNER TO SESSION_USER;
SELECT call, pg_temp.outcome(format('SELECT api_key.%s', call)) AS outcome
FROM unnest(ARRAY[$$authorize('doc', '1', 'read')$$, $$require_authorization('doc', '1', 'read')$$, $$protect_resource('doc')$$]) AS call;
SELECT api_key.remove_resource('doc');
SET ROLE regress_mallory;
CREATE TABLE mal.t (id integer, tenant_id uuid DEFAULT CASE WHEN '{1}'::mal.dom[] IS NULL THEN NULL::uuid END) PARTITION BY LIST (id);
CREATE TABLE mal.given (id integer, tenant_id uuid DEFAULT CASE WHEN '{1}'::mal.dom[] IS NULL THEN NULL::uuid END);
RESET ROLE;
CREATE TABLE mal.p PARTITION OF mal.t FOR VALUES IN (1);
SELECT pg_temp.outcome('SELECT api_key.isolate_tenants(''mal.t'')') AS isolated, pg_temp.outcome('SELECT api_key.isolate_tenants(''mal.given'')') AS given;
SET ROLE regress_mallory;
ALTER TABLE mal.t DETACH PARTITION mal.p;
RESET ROLE;
ALTER TABLE mal.given OWNER TO SESSION_USER;
SELECT "table", pg_temp.outcome(format('SELECT api_key.remove_tenant_isolation(%L)', "table")) AS outcome
FROM unnest(ARRAY['mal.p', 'mal.given', 'mal.t']) AS "table";

-- The owner of a type exchanges a cast that nothing says is used, or adds a constraint, after an administrator
-- has used the type in a table of others.
SET ROLE regress_mallory;
CREATE TYPE mal.mood AS ENUM ('good');
CREATE DOMAIN mal.late AS text;
CREATE TYPE mal.pair AS (d mal.dom, m mal.mood);
CREATE FUNCTION mal.as_text(mal.mood) RETURNS text LANGUAGE sql AS $$SELECT mal.mask('good')$$;
CREATE FUNCTION mal.as_json(mal.mood) RETURNS json LANGUAGE sql AS $$SELECT to_json(mal.rise('x'))$$;
RESET ROLE;
SET ROLE regress_owner;
CREATE DOMAIN own.wrapped AS mal.late;
CREATE TYPE own.pair AS (a mal.late, b mal.mood);
CREATE TYPE own.span AS RANGE (subtype = mal.dom);
CREATE FUNCTION own.mood(integer) RETURNS mal.mood LANGUAGE sql AS $$SELECT 'good'::mal.mood$$;
RESET ROLE;
CREATE FUNCTION pg_temp.exchanged(p_owner text, p_type text, p_value text, p_condition text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_outcome text;
BEGIN
    PERFORM set_config('role', 'regress_mallory', true);
    CREATE CAST (mal.mood AS text) WITH INOUT AS IMPLICIT;
    PERFORM set_config('role', 'none', true);
    EXECUTE format('CREATE TABLE own.tagged (id integer PRIMARY KEY, owner_id uuid, hash text, tags %s); ALTER TABLE own.tagged OWNER TO %I;
        INSERT INTO own.tagged VALUES (1, NULL, md5(''tagged''), %L);
        CREATE VIEW own.seen AS SELECT hash, to_jsonb(tags)::text AS name FROM own.tagged; ALTER VIEW own.seen OWNER TO %2$I', p_type, p_owner, p_value);
    v_outcome := pg_temp.outcome(format('SELECT api_key.define_resource(''tagged'', ''own.tagged'', p_public_when => %L)', p_condition));
    PERFORM set_config('role', 'regress_mallory', true);
    DROP CAST (mal.mood AS text);
    CREATE CAST (mal.mood AS text) WITH FUNCTION mal.as_text(mal.mood) AS IMPLICIT;
    CREATE CAST (mal.mood AS json) WITH FUNCTION mal.as_json(mal.mood) AS IMPLICIT;
    ALTER DOMAIN mal.late ADD CHECK (mal.rise(VALUE)) NOT VALID;
    PERFORM set_config('role', 'none', true);
    RETURN concat_ws(' ', v_outcome, pg_temp.outcome('SELECT api_key.authorize(''tagged'', ''1'', ''read'')'),
        pg_temp.outcome('SELECT api_key.import_api_keys(''own.seen'', ''{"hash": "hash", "name": "name"}'', ''md5'')'),
        pg_temp.outcome('SELECT api_key.import_api_keys(''own.tagged'', ''{"hash": "hash", "name": "tags"}'', ''md5'')'));
END
$$;
-- Outcomes: define, authorize, import of a view, import of the table.
SELECT owner, type, condition, pg_temp.undone(format('SELECT pg_temp.exchanged(%L, %L, %L, %L)', owner, type, value, condition)) AS outcomes
FROM (VALUES (1, 'mal.mood', 'good', 'lower(tags) = ''good'''), (2, 'mal.mood', 'good', 'to_jsonb(tags) IS NOT NULL'),
    (3, 'mal.mood', 'good', 'to_jsonb(tagged) IS NOT NULL'), (4, 'mal.mood[]', '{good}', 'array_to_json(tags) IS NOT NULL'),
    (5, 'mal.dom[]', NULL, 'tags @> ''{public}'''), (6, 'mal.late[]', NULL, 'tags @> ''{public}'''),
    (7, 'mal.late', NULL, 'jsonb_populate_record(tagged, ''{"tags": "x"}'') IS NOT NULL'), (8, 'mal.pair', NULL, 'to_jsonb(tags) IS NULL'),
    (9, 'own.wrapped', NULL, 'tags = ''x'''), (10, 'own.pair', '(x,good)', 'to_jsonb(tags) IS NULL'), (11, 'own.span', NULL, 'isempty(tags)'),
    (12, 'text', NULL, 'lower(own.mood(id)) = ''good'''), (13, 'text', NULL, 'lower(tags) IS NULL')) AS c (n, type, value, condition),
    unnest(ARRAY['postgres', 'regress_owner']) AS owner
ORDER BY n, owner;

-- A condition runs for no later owner of its table either, when a foreign key refers to a row.
SET ROLE regress_mallory;
CREATE TABLE mal.parent (id integer PRIMARY KEY, owner_id uuid, gone text);
CREATE TABLE mal.parents (id integer PRIMARY KEY, owner_id uuid) PARTITION BY LIST (id);
INSERT INTO mal.parent VALUES (1);
RESET ROLE;
CREATE TABLE mal.parents_1 PARTITION OF mal.parents FOR VALUES IN (1);
INSERT INTO mal.parents VALUES (1);
SELECT api_key.define_resource('parent', 'mal.parent', p_public_when => $$mal.rise('x') AND '{1}'::mal.dom[] IS NOT NULL$$), api_key.define_resource('parents', 'mal.parents', p_public_when => $$mal.rise('x')$$),
    api_key.protect_resource('parent') IS NOT NULL AS parent, api_key.protect_resource('parents') IS NOT NULL AS parents;
GRANT REFERENCES ON mal.parents_1 TO regress_mallory;
SET ROLE regress_mallory;
CREATE TABLE mal.child (parent integer REFERENCES mal.parent, part integer REFERENCES mal.parents_1, tenant_id uuid);
RESET ROLE;
SELECT api_key.isolate_tenants('mal.child') IS NOT NULL AS isolated;
-- For writers without a key.
DROP POLICY api_key_tenant ON mal.child;
CREATE POLICY anyone ON mal.child USING (true);
SELECT refers_to, owner, pg_temp.undone(format('%s; SET LOCAL ROLE regress_mallory; INSERT INTO mal.child (%I, tenant_id) VALUES (1, NULL)', change, refers_to)) AS outcome
FROM (VALUES ('parent', 'regress_mallory', 'SET LOCAL work_mem = 64'), ('parent', 'regress_owner', 'ALTER TABLE mal.parent OWNER TO regress_owner'),
    ('parent', 'postgres', 'ALTER TABLE mal.parent OWNER TO postgres'), ('part', 'postgres', 'SET LOCAL work_mem = 64')) AS c (refers_to, owner, change);
-- It is reported, and the hint has no text for the later owner to parse.
ALTER TABLE mal.parent OWNER TO postgres;
SELECT missing, hint FROM api_key.protection WHERE "table" = 'mal.parent';
SELECT api_key.remove_resource('parent') AND api_key.remove_resource('parents') AS removed;

-- What policies need is granted to whoever executes them, and to nobody when the table is free again.
CREATE TABLE own.rows (id integer, tenant_id uuid);
ALTER TABLE own.rows OWNER TO regress_owner;
SELECT api_key.isolate_tenants('own.rows') IS NOT NULL AS isolated;
SELECT has_function_privilege('regress_owner', 'api_key_internal.check_references()', 'EXECUTE') AS owner,
       has_function_privilege('regress_anon', 'api_key.refuse_row(regclass, name)', 'EXECUTE') AS anon,
       has_function_privilege('regress_mallory', 'api_key.refuse_row(regclass, name)', 'EXECUTE') AS mallory;
SELECT api_key.remove_tenant_isolation('own.rows') IS NOT NULL AS removed;
SELECT has_function_privilege('regress_owner', 'api_key_internal.check_references()', 'EXECUTE') AS owner;

-- Deleting a user may revoke its keys, by a trigger of a table that belongs to somebody else.
CREATE TABLE own.users (id uuid PRIMARY KEY);
CREATE TABLE own.links (user_id uuid REFERENCES own.users ON DELETE CASCADE);
ALTER TABLE own.links OWNER TO regress_owner;
CREATE FUNCTION own.revoke() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM api_key.revoke_api_keys(p_user_id => OLD.user_id); RETURN OLD; END $$;
CREATE TRIGGER revoke BEFORE DELETE ON own.links FOR EACH ROW EXECUTE FUNCTION own.revoke();
GRANT USAGE ON SCHEMA api_key TO regress_owner;
GRANT EXECUTE ON FUNCTION api_key.revoke_api_keys(api_key.id, api_key.id, text) TO regress_owner;
SELECT api_key.issue_api_key('00000000-0000-4000-8000-0000000000c1') ->> 'api_key' AS key \gset
INSERT INTO own.users VALUES ('00000000-0000-4000-8000-0000000000c1');
INSERT INTO own.links VALUES ('00000000-0000-4000-8000-0000000000c1');
DELETE FROM own.users;
SELECT api_key.verify_api_key(:'key') ->> 'code' AS code;

-- A resource whose policies somebody has dropped is free after remove_resource.
SELECT api_key.define_resource('row', 'public.super_docs'), api_key.protect_resource('row') IS NOT NULL AS protected;
DO $$ DECLARE p record; BEGIN FOR p IN SELECT policyname FROM pg_policies WHERE tablename = 'super_docs' LOOP EXECUTE format('DROP POLICY %I ON public.super_docs', p.policyname); END LOOP; END $$;
SELECT api_key.remove_resource('row');
SELECT relrowsecurity, (SELECT count(*) FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal) AS triggers FROM pg_class AS c WHERE oid = 'public.super_docs'::regclass;

-- Columns that look like those of a trigger.
CREATE TABLE own.odd (id integer PRIMARY KEY, "OLD.y" uuid);
SELECT api_key.isolate_tenants('own.odd', 'OLD.y') ->> 'column' AS "column";
SELECT api_key.remove_tenant_isolation('own.odd') IS NOT NULL AS removed;

DROP SCHEMA mal, own, anyone CASCADE;
DROP TABLE public.super_docs;
DROP OWNED BY regress_anon, regress_user, regress_service, regress_authenticator, regress_mallory, regress_owner;
DROP ROLE regress_anon, regress_user, regress_service, regress_authenticator, regress_mallory, regress_owner;
TRUNCATE api_key_internal.root_key, api_key_internal.key_usage, api_key_internal.keys, api_key_internal.resources, api_key_internal.guarded_tables, api_key_internal.isolated_tables, api_key_internal.audit_log;
