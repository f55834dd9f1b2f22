-- Resources: who may do what to a row, asked by authorize and kept by the policies of protect_resource.
\i tests/preamble.sql
\i tests/roles.sql
SET client_min_messages = error;
SET api_key.authenticated_role = 'regress_user';
\set a '''00000000-0000-4000-8000-00000000000a'''
\set b '''00000000-0000-4000-8000-00000000000b'''
\set abe '''00000000-0000-4000-8000-0000000000a2'''
SELECT api_key.define_tier('regress', 10);
CREATE TEMP TABLE keys AS
SELECT name, api_key.issue_api_key(user_id, p_tier => 'regress', p_tenant_id => tenant_id,
    p_scopes => scopes, p_resource_id => resource_id) ->> 'api_key' AS text
FROM (VALUES ('owner', :ada::uuid, :a::uuid, '{}'::text[], NULL), ('colleague', :abe, :a, '{}', NULL),
    ('admin', :abe, :a, '{admin}', NULL),
             ('stranger', :bob, :b, '{}', NULL), ('foreign admin', :bob, :b, '{admin}', NULL),
                 ('owner elsewhere', :ada, :b, '{}', NULL),
             ('bound', :ada, :a, '{}', '1'), ('bound admin', :abe, :a, '{admin}', '2'), ('of nobody', NULL,
                 NULL, '{}', NULL)) AS k (name, user_id, tenant_id, scopes, resource_id);
RESET client_min_messages;
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO regress_user, regress_anon;
CREATE TABLE app.docs (id bigint PRIMARY KEY, owner_id uuid, tenant_id uuid, published boolean, title text);
GRANT SELECT, INSERT, UPDATE, DELETE ON app.docs TO regress_user, regress_anon;
INSERT INTO app.docs VALUES (1, :ada, :a, false), (2, :ada, :a, true), (3, :bob, :b, false), (4, :ada, NULL,
    false), (5, NULL, NULL, NULL);
SELECT api_key.define_resource('doc', 'app.docs', p_tenant_column => 'tenant_id',
    p_public_when => 'published');
TABLE api_key.resources;

-- Acts as a key and undoes what was done.
CREATE FUNCTION pg_temp.as_key(p_key text, p_query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE v_answer text; v_rows bigint;
BEGIN
    BEGIN
        PERFORM set_config('request.headers', coalesce(json_build_object('x-api-key', text)::text, ''),
            true), api_key.authenticate_request() FROM keys WHERE name = p_key;
        IF p_key = 'none' THEN PERFORM set_config('role', 'regress_anon', true); END IF;
        IF p_query LIKE 'SELECT %' THEN
            EXECUTE p_query INTO v_answer;
        ELSE
            EXECUTE p_query;
            GET DIAGNOSTICS v_rows = ROW_COUNT;
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'ZZZZZ';
    EXCEPTION WHEN OTHERS THEN
        RETURN CASE WHEN SQLSTATE = 'ZZZZZ' THEN coalesce(v_answer, v_rows::text)
            ELSE SQLSTATE || ' ' || SQLERRM END;
    END;
END
$$;
GRANT SELECT ON keys TO regress_user, regress_anon;
-- For each caller and row: r may read it, w may write it.
CREATE TEMP VIEW asked AS
SELECT name, id, concat(CASE WHEN pg_temp.as_key(name,
    format('SELECT api_key.authorize(''doc'', %L, ''read'')', id)) = 'true' THEN 'r' END,
                        CASE WHEN pg_temp.as_key(name,
                            format('SELECT api_key.authorize(''doc'', %L, ''update'')', id)) = 'true'
                            THEN 'w' END) AS may
FROM (SELECT name FROM keys UNION VALUES ('none')) AS k, generate_series(1, 6) AS id;
\set matrix 'SELECT name, string_agg(CASE may WHEN '''' THEN ''-'' ELSE may END, '' '' ORDER BY id) AS "1 2 3 4 5 6" FROM asked GROUP BY name ORDER BY name;'
:matrix

-- The policies allow the same.
SELECT jsonb_pretty(api_key.protect_resource('doc'));
CREATE TEMP VIEW tried AS
SELECT name, id, concat(
    CASE WHEN pg_temp.as_key(name, format('SELECT count(*) FROM app.docs WHERE id = %s', id)) = '1' THEN 'r'
        END,
    CASE WHEN pg_temp.as_key(name, format('UPDATE app.docs SET title = 1 WHERE id = %s', id)) = '1' THEN 'w'
        END,
    CASE WHEN pg_temp.as_key(name, format('DELETE FROM app.docs WHERE id = %s', id)) = '1' THEN 'w'
        END) AS may
FROM (SELECT name FROM keys UNION VALUES ('none')) AS k, generate_series(1, 6) AS id;
SELECT name, id, a.may, t.may FROM asked AS a JOIN tried AS t USING (name, id)
WHERE a.may <> replace(t.may, 'ww', 'w') OR t.may LIKE '%w' AND t.may NOT LIKE '%ww';
SELECT count(*) FROM tried WHERE may = 'rww';
-- Nobody writes what then is not his: not a new row, not by giving one away.
SELECT pg_temp.as_key('owner', format('INSERT INTO app.docs VALUES (7, %L, %L)', :ada, :a)) AS own,
       pg_temp.as_key('owner', format('INSERT INTO app.docs VALUES (7, %L, %L)', :abe, :a)) AS of_another,
       pg_temp.as_key('owner', format('INSERT INTO app.docs VALUES (7, %L, %L)', :ada,
           :b)) AS of_another_tenant,
       pg_temp.as_key('owner', format('UPDATE app.docs SET owner_id = %L WHERE id = 1',
           :abe)) AS given_away,
       pg_temp.as_key('admin', format('UPDATE app.docs SET owner_id = %L WHERE id = 1', :abe)) AS by_admin,
       pg_temp.as_key('admin', format('UPDATE app.docs SET tenant_id = %L WHERE id = 1', :b)) AS moved;

-- A command says 404 where the caller may not read, there or not, and 403 where it may only read.
SELECT name, id, action, pg_temp.as_key(name,
    format('SELECT api_key.require_authorization(''doc'', %L, %L)', id, action)) AS answer
FROM (VALUES ('owner', '1', 'delete'), ('colleague', '2', 'read'), ('colleague', '2', 'update'),
    ('colleague', '1', 'read'), ('colleague', '1', 'write'),
             ('colleague', '99', 'write'), ('colleague', 'x', 'write'), ('colleague', NULL, 'write'),
                 ('none', '2', 'read'), ('none', '2', 'delete'), ('none', '1', 'delete'),
             ('bound', '1', 'write'), ('bound', '2', 'read'), ('bound', '99', 'read')) AS c (name, id,
                 action);
BEGIN;
SET LOCAL request.method = 'POST';
\set VERBOSITY verbose
SELECT pg_temp.as_key('colleague', 'SELECT api_key.require_authorization(''doc'', ''1'', ''read'')') =
    pg_temp.as_key('colleague', 'SELECT api_key.require_authorization(''doc'', ''99'', ''read'')') AS alike;
SELECT pg_temp.as_key('colleague', 'SELECT api_key.require_authorization(''doc'', ''1'', ''read'')');
SELECT pg_temp.as_key('colleague', 'SELECT api_key.require_authorization(''doc'', ''2'', ''write'')');
SELECT pg_temp.as_key('bound', 'SELECT api_key.require_authorization(''doc'', ''2'', ''write'')');
ROLLBACK;
\set VERBOSITY default
-- No answer is an error, whatever the id.
SELECT id, api_key.authorize('doc', id, 'read') FROM (VALUES (''), ('x'), ('1; DROP TABLE app.docs'),
    ('99999999999999999999'), (' 1 '), (NULL)) AS i (id);
SELECT * FROM pg_temp.cases('SELECT api_key.%', $$
    authorize('doc', '1', 'publish')
    authorize('doc', '1', NULL)
    authorize('nothing', '1', 'read')
    require_authorization(NULL, '1', 'read')
$$);

-- Together with tenants both hold.
SET client_min_messages = error;
SELECT api_key.isolate_tenants('app.docs') ->> 'row_security' AS row_security;
RESET client_min_messages;
SELECT name, string_agg(CASE may WHEN '' THEN '-' ELSE may END, ' ' ORDER BY id) AS "1 2 3 4 5 6" FROM tried
    GROUP BY name ORDER BY name;
SELECT api_key.remove_tenant_isolation('app.docs') ->> 'row_security' AS row_security;
SELECT name, id FROM asked AS a JOIN tried AS t USING (name, id) WHERE a.may <> replace(t.may, 'ww', 'w');
-- Defined anew, what protects follows; removed, all is as before.
SELECT api_key.define_resource('doc', 'app.docs', p_owner_column => NULL,
    p_public_when => 'id IN (2, 3) OR title = $q$;--$q$');
:matrix
SELECT name, id FROM asked AS a JOIN tried AS t USING (name, id) WHERE a.may <> replace(t.may, 'ww', 'w');
SELECT api_key.define_resource('other', 'app.docs');
SELECT api_key.protect_resource('other');
\echo :SQLSTATE
SELECT api_key.remove_resource('other'), api_key.remove_resource('doc'), api_key.remove_resource('doc');
SELECT relrowsecurity, relforcerowsecurity, (SELECT count(*) FROM pg_policy
    WHERE polrelid = c.oid) AS policies, (SELECT count(*) FROM pg_trigger WHERE tgrelid = c.oid) AS triggers
    FROM pg_class AS c WHERE oid = 'app.docs'::regclass;
SELECT count(*) FROM api_key_internal.protected_tables;
SELECT api_key.authorize('doc', '1', 'read');
\echo :SQLSTATE

-- What cannot be defined.
\set define 'SELECT api_key.define_resource('
SELECT * FROM pg_temp.cases('SELECT api_key.define_resource(%)', $$
    NULL, 'app.docs'
    'a b', 'app.docs'
    'doc', 'pg_views'
    'doc', 'app.docs', 'title'
    'doc', 'app.docs', p_owner_column => 'title'
    'doc', 'app.docs', p_tenant_column => 'nothing'
    'doc', 'app.docs', p_public_when => 'title'
    'doc', 'app.docs', p_public_when => 'nothing'
    'doc', 'app.docs', p_public_when => ''
    'doc', 'app.docs', p_public_when => 'true); DROP TABLE app.docs; SELECT (true'
    'doc', 'app.docs', p_public_when => 'count(*) > 0'
$$);
:define 'doc', 'app.docs', p_public_when => 'true) OR (true');
:define 'doc', 'app.docs', p_public_when => 'id IN (SELECT d.id FROM app.docs AS d WHERE d.published)');
-- A comment ends with its line; names are kept with their schemas.
CREATE FUNCTION app.is_shown(boolean) RETURNS boolean LANGUAGE sql AS 'SELECT $1';
CREATE TABLE app.rows (id integer PRIMARY KEY, owner_id uuid, t text, rows text, published boolean);
INSERT INTO app.rows VALUES (1, NULL, 't', 'rows', true), (2, NULL, 't', 'rows', false);
CREATE FUNCTION app.is_shown(app.rows) RETURNS boolean LANGUAGE sql AS 'SELECT $1.published';
:define 'row', 'app.rows', p_public_when => 'app.is_shown(rows.*)');
SELECT api_key.authorize('row', '1', 'read'), api_key.authorize('row', '2', 'read'),
    api_key.authorize('row', '1', 'write');
:define 'row', 'app.rows', p_public_when => 'ctid IS NOT NULL');
SELECT api_key.remove_resource('row');
:define 'doc', 'app.docs', p_public_when => 'app.is_shown(published) -- not yet');
SELECT public_when FROM api_key.resources;

-- A condition runs with the rights of the caller, as in a policy: not with those of the extension, nor of
-- the table's owner. It can neither change role nor leave a setting behind.
CREATE ROLE regress_owner;
GRANT regress_anon TO regress_owner;
GRANT USAGE, CREATE ON SCHEMA app TO regress_owner;
SET ROLE regress_owner;
CREATE TABLE app.traps (id text PRIMARY KEY, owner_id uuid);
INSERT INTO app.traps VALUES ('1', NULL);
CREATE FUNCTION app.is_public(p_id text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE 'runs as %', current_user;
    PERFORM set_config('app.left', 'behind', false);
    BEGIN
        SET ROLE regress_service;
    EXCEPTION WHEN OTHERS THEN
        RAISE NOTICE '%', SQLERRM;
    END;
    PERFORM FROM api_key_internal.keys;
    RETURN true;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE '%', SQLERRM;
    RETURN true;
END
$$;
RESET ROLE;
:define 'trap', 'app.traps', p_public_when => 'app.is_public(id)');
SET ROLE regress_user;
SELECT api_key.authorize('trap', '1', 'read');
RESET ROLE;
-- An administrator who asks lends his to nobody: then it runs with those of the table's owner.
SELECT api_key.authorize('trap', '1', 'read');
SELECT current_user = session_user AS same_role, current_setting('app.left', true) AS "left";
-- Within it, tables that force their policies on their owner do so: a key of none sees nothing.
SET ROLE regress_owner;
CREATE TABLE app.held (n integer);
INSERT INTO app.held VALUES (1);
ALTER TABLE app.held ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.held FORCE ROW LEVEL SECURITY;
CREATE FUNCTION app.count_held() RETURNS bigint LANGUAGE sql SECURITY DEFINER
    AS 'SELECT count(*) FROM app.held';
CREATE TABLE app.peeks (id integer PRIMARY KEY, owner_id uuid);
INSERT INTO app.peeks VALUES (1, NULL);
RESET ROLE;
:define 'peek', 'app.peeks', p_public_when => 'app.count_held() > 0');
SELECT api_key.authorize('peek', '1', 'read');
SELECT api_key.remove_resource('peek');
-- A unique index on more than the id, be it an expression, or one that is checked late, finds no one row.
CREATE TABLE app.twins (id integer, owner_id uuid, n integer, m integer, UNIQUE (m) DEFERRABLE);
CREATE UNIQUE INDEX ON app.twins (id, (n + 1));
:define 'twin', 'app.twins');
:define 'twin', 'app.twins', 'm');
-- The type of an id is looked at each time, not only when the resource is defined.
SET ROLE regress_owner;
CREATE FUNCTION app.rises(integer) RETURNS boolean
    LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'checks as %', current_user; RETURN true; END $$;
CREATE DOMAIN app.trap AS integer CHECK (app.rises(VALUE));
CREATE TABLE app.changing (id integer PRIMARY KEY, owner_id uuid);
RESET ROLE;
:define 'changing', 'app.changing');
SET ROLE regress_owner;
ALTER TABLE app.changing ALTER id TYPE app.trap[] USING ARRAY[id]::app.trap[];
RESET ROLE;
SELECT api_key.authorize('changing', '{1}', 'read');
SELECT api_key.remove_resource('changing');
-- An id that names nothing is none.
CREATE TABLE app.named (id regclass PRIMARY KEY, owner_id uuid);
:define 'named', 'app.named');
SELECT api_key.authorize('named', 'no.such', 'read');
SELECT api_key.remove_resource('named');
-- Nor does a name that the caller has put in the way mean anything.
CREATE FUNCTION pg_temp.has_scope(text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE TEMP TABLE docs AS SELECT 1::bigint AS id, true AS published;
SELECT pg_temp.as_key('stranger', 'SELECT api_key.authorize(''doc'', ''1'', ''write'')'),
    pg_temp.as_key('stranger', 'SELECT api_key.authorize(''doc'', ''1'', ''read'')');
-- A domain's check, and what makes a type of one's own of a text, is code of its owner: it is not run.
CREATE FUNCTION app.fits(p_value text) RETURNS boolean
    LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'checks as %', current_user; RETURN p_value <> 'bad'; END $$;
CREATE DOMAIN app.slug AS text CHECK (app.fits(VALUE));
CREATE TABLE app.pages (slug app.slug PRIMARY KEY, owner_id uuid);
ALTER TABLE app.pages OWNER TO regress_owner;
SELECT api_key.define_resource('page', 'app.pages', 'slug');
SELECT api_key.authorize('page', 'bad', 'read');
SET ROLE regress_owner;
CREATE TYPE app.mood AS ENUM ('good');
CREATE TABLE app.moods (id app.mood PRIMARY KEY, owner_id uuid);
RESET ROLE;
SELECT api_key.define_resource('mood', 'app.moods');
\echo :SQLSTATE
-- A table that has changed is an error, not an answer.
ALTER TABLE app.docs RENAME COLUMN owner_id TO author_id;
SELECT api_key.authorize('doc', '1', 'read');
\echo :SQLSTATE
ALTER TABLE app.docs RENAME COLUMN author_id TO owner_id;
-- Nor is what p_public_when reads: asked, required and protected.
ALTER TABLE app.docs RENAME COLUMN published TO is_published;
SELECT api_key.authorize('doc', '1', 'read');
SELECT api_key.require_authorization('doc', '1', 'read');
SELECT api_key.protect_resource('doc');
ALTER TABLE app.docs RENAME COLUMN is_published TO published;
SELECT api_key.authorize('doc', '1', 'read');
ALTER TABLE app.docs RENAME COLUMN owner_id TO author_id;
SELECT api_key.define_resource('page', 'app.pages', 'slug');
ALTER TABLE app.pages DROP CONSTRAINT pages_pkey;
SELECT api_key.authorize('page', 'a', 'read');
\echo :SQLSTATE
DROP TABLE app.pages;
SELECT api_key.protect_resource('page');
\echo :SQLSTATE
SELECT api_key.remove_resource('page');

-- Nor is a table that has got a child that belongs to another role.
CREATE TABLE app.grown (id integer PRIMARY KEY, owner_id uuid);
SELECT api_key.define_resource('grown', 'app.grown');
CREATE TABLE app.grown_child () INHERITS (app.grown);
ALTER TABLE app.grown_child OWNER TO regress_owner;
SELECT * FROM pg_temp.cases('SELECT api_key.%', $$
    authorize('grown', '1', 'read')
    require_authorization('grown', '1', 'read')
    protect_resource('grown')
$$);
SELECT api_key.remove_resource('grown');

-- Ids that are unique within the tenant only; partitions are reached through their table.
CREATE TABLE app.parts (id uuid, tenant_id uuid, owner_id uuid, PRIMARY KEY (tenant_id, id))
    PARTITION BY HASH (tenant_id);
CREATE TABLE app.parts_0 PARTITION OF app.parts FOR VALUES WITH (modulus 1, remainder 0);
GRANT SELECT ON app.parts, app.parts_0 TO regress_user;
INSERT INTO app.parts VALUES (:ada, :a, :ada), (:ada, :b, :bob);
SELECT api_key.define_resource('part', 'app.parts');
\echo :SQLSTATE
SELECT api_key.define_resource('part', 'app.parts', p_tenant_column => 'tenant_id');
SELECT r -> 'partitions' AS partitions FROM api_key.protect_resource('part') AS r;
SELECT pg_temp.as_key('owner', 'SELECT count(*) FROM app.parts'), pg_temp.as_key('owner',
    'SELECT count(*) FROM app.parts_0'),
       pg_temp.as_key('owner', format('SELECT api_key.authorize(''part'', %L, ''update'')', :ada)),
           pg_temp.as_key('colleague', format('SELECT api_key.authorize(''part'', %L, ''read'')', :ada));

SELECT event, details ->> 'type' AS type FROM api_key.audit_log WHERE event LIKE 'resource%'
    ORDER BY audit_id;
SET client_min_messages = error;
DROP SCHEMA app CASCADE;
\i tests/cleanup.sql
