-- Code of a table's owner, while an administrator protects, imports or undoes. Each case is a table
-- with a trap; each function that takes a table is called by a superuser, before and after the owner
-- has changed the table. The promise: a trap runs as the table's owner in a restricted operation, or
-- not at all, and it changes nothing.
\i tests/preamble.sql
\set VERBOSITY terse
SET api_key.trust_token_claims = on;
\i tests/roles.sql
SET client_min_messages = error;
CREATE ROLE regress_mallory;
CREATE ROLE regress_other;
-- She may call what users may, and so try it.
GRANT regress_user TO regress_mallory;
CREATE SCHEMA trap AUTHORIZATION regress_mallory;
SET ROLE regress_mallory;

-- The trap. Sequences keep count whatever is rolled back. It is IMMUTABLE for indexes and the like.
CREATE SEQUENCE trap.springs;
CREATE SEQUENCE trap.breaches;
CREATE SEQUENCE trap.calls;
CREATE FUNCTION trap.try(p_command text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE p_command;
    PERFORM nextval('trap.breaches');
EXCEPTION WHEN OTHERS THEN
    NULL;
END
$$;
CREATE FUNCTION trap.spring(p_value text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF current_setting('trap.armed', true) = 'on' THEN
        PERFORM nextval('trap.springs');
        IF current_user <> 'regress_mallory' THEN
            PERFORM nextval('trap.breaches');
        END IF;
        PERFORM trap.try('ALTER ROLE regress_mallory SUPERUSER');
        PERFORM trap.try('GRANT regress_service TO regress_mallory');
        PERFORM trap.try('SET ROLE regress_service');
        PERFORM trap.try('SET SESSION AUTHORIZATION regress_service');
        PERFORM trap.try('SELECT api_key.issue_api_key(p_scopes => ''{admin}'')');
        PERFORM trap.try('SELECT api_key.list_api_keys()');
        PERFORM set_config('request.jwt.claims',
            '{"sub": "00000000-0000-4000-8000-0000000000b1",
            "tenant_id": "00000000-0000-4000-8000-00000000000b", "scopes": ["admin"]}', true);
        PERFORM trap.try('SELECT api_key.authenticate_request()');
        PERFORM trap.try('SELECT api_key.admit_request()');
    END IF;
    RETURN true;
END
$$;
CREATE FUNCTION trap.text(p_value text) RETURNS text LANGUAGE sql IMMUTABLE
    AS 'SELECT CASE WHEN trap.spring($1) THEN $1 END';
CREATE FUNCTION trap.uuid() RETURNS uuid LANGUAGE sql
    AS $$SELECT CASE WHEN trap.spring('x') THEN gen_random_uuid() END$$;

-- What parsing runs: the constraints of domains, in a constant of each kind of type.
CREATE DOMAIN trap.dom AS text COLLATE "C" CHECK (trap.spring(VALUE));
CREATE DOMAIN trap.dom_of_dom AS trap.dom;
CREATE DOMAIN trap.dom_of_array AS trap.dom[];
CREATE TYPE trap.pair AS (a trap.dom, b integer);
CREATE TYPE trap.nested AS (p trap.pair, q trap.dom[]);
CREATE DOMAIN trap.dom_of_pair AS trap.pair;
CREATE DOMAIN trap.checked_array AS text[] CHECK (trap.spring(VALUE[1]));
CREATE TYPE trap.span AS RANGE (subtype = trap.dom, multirange_type_name = trap.multispan);
CREATE DOMAIN trap.dom_of_span AS trap.span;
-- What casts run.
CREATE TYPE trap.mood AS ENUM ('good', '900150983cd24fb0d6963f7d28e17f72');
CREATE FUNCTION trap.as_json(trap.mood) RETURNS json LANGUAGE sql IMMUTABLE
    AS $$SELECT json_build_array(trap.spring('x'))$$;
CREATE FUNCTION trap.as_jsonb(trap.mood) RETURNS jsonb LANGUAGE sql IMMUTABLE
    AS $$SELECT to_jsonb(trap.spring('x'))$$;
CREATE FUNCTION trap.as_text(trap.mood) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT trap.text('x')$$;
CREATE CAST (trap.mood AS json) WITH FUNCTION trap.as_json(trap.mood) AS IMPLICIT;
CREATE CAST (trap.mood AS jsonb) WITH FUNCTION trap.as_jsonb(trap.mood) AS IMPLICIT;
CREATE CAST (trap.mood AS text) WITH FUNCTION trap.as_text(trap.mood) AS IMPLICIT;
CREATE TYPE trap.row AS (n integer);
CREATE FUNCTION trap.as_json(trap.row) RETURNS json LANGUAGE sql IMMUTABLE
    AS $$SELECT json_build_array(trap.spring('x'))$$;
CREATE FUNCTION trap.as_boolean(trap.row) RETURNS boolean LANGUAGE sql IMMUTABLE
    AS $$SELECT trap.spring('x')$$;
CREATE FUNCTION trap.as_uuid(trap.row) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$SELECT trap.uuid()$$;
CREATE FUNCTION trap.of_uuid(uuid) RETURNS trap.row LANGUAGE sql IMMUTABLE
    AS $$SELECT ROW(trap.spring('x')::integer)::trap.row$$;
CREATE CAST (trap.row AS json) WITH FUNCTION trap.as_json(trap.row);
CREATE CAST (trap.row AS boolean) WITH FUNCTION trap.as_boolean(trap.row) AS IMPLICIT;
CREATE CAST (trap.row AS uuid) WITH FUNCTION trap.as_uuid(trap.row) AS IMPLICIT;
CREATE CAST (uuid AS trap.row) WITH FUNCTION trap.of_uuid(uuid) AS ASSIGNMENT;
CREATE FUNCTION trap.same(trap.mood, trap.mood) RETURNS boolean LANGUAGE sql IMMUTABLE
    AS $$SELECT trap.spring('x')$$;
CREATE OPERATOR trap.=== (LEFTARG = trap.mood, RIGHTARG = trap.mood, FUNCTION = trap.same);
CREATE OPERATOR trap.= (LEFTARG = trap.mood, RIGHTARG = trap.mood, FUNCTION = trap.same);
CREATE FUNCTION trap.same(uuid, trap.row) RETURNS boolean LANGUAGE sql IMMUTABLE
    AS $$SELECT trap.spring('x')$$;
CREATE OPERATOR trap.= (LEFTARG = uuid, RIGHTARG = trap.row, FUNCTION = trap.same);
-- Names of ours, in case they are looked for here.
CREATE FUNCTION trap.current_tenant_id() RETURNS uuid LANGUAGE sql AS 'SELECT trap.uuid()';
CREATE FUNCTION trap.to_jsonb(anyelement) RETURNS jsonb LANGUAGE sql
    AS $$SELECT pg_catalog.to_jsonb(trap.spring('x'))$$;
CREATE FUNCTION trap.on_write() RETURNS trigger
    LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('x'); RETURN NEW; END $$;
-- Her table is hers: what protects it goes when she says so.
CREATE FUNCTION trap.unprotect() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_name name;
BEGIN
    FOR v_name IN SELECT polname FROM pg_policy WHERE polrelid = 'trap.t'::regclass LOOP
        EXECUTE format('DROP POLICY %I ON trap.t', v_name);
    END LOOP;
    FOR v_name IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'trap.t'::regclass AND NOT tgisinternal LOOP
        EXECUTE format('DROP TRIGGER %I ON trap.t', v_name);
    END LOOP;
END
$$;
RESET ROLE;
GRANT USAGE ON SCHEMA trap TO regress_other;

-- The cases. owner: what mallory does to trap.t at first; admin: a superuser, then; condition: that of
-- the resource; source: what is imported; later: what mallory does when it has been isolated and defined.
CREATE SCHEMA attempt;
CREATE TABLE attempt.cases (
    n serial, name text, owner text DEFAULT '', admin text DEFAULT '', condition text DEFAULT 'true',
    source text DEFAULT 'trap.t', later text);
CREATE FUNCTION attempt.act_as(p_role text, p_commands text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('trap.armed', 'off', true), set_config('role', p_role, true);
    EXECUTE p_commands;
    PERFORM set_config('role', 'none', true), set_config('trap.armed', 'on', true);
END
$$;
CREATE FUNCTION attempt.move(p_from text, p_to text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_table record;
BEGIN
    FOR v_table IN
        SELECT relname, CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE'
            END AS kind
        FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = p_from)
            AND relkind IN ('r', 'p', 'v', 'm')
    LOOP
        EXECUTE format('ALTER %s %I.%I SET SCHEMA %I', v_table.kind, p_from, v_table.relname, p_to);
    END LOOP;
END
$$;
-- Makes the tables of a case, and puts them aside: they are tried by a session that has not seen them.
CREATE FUNCTION attempt.prepare(p_case attempt.cases) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM attempt.act_as('regress_mallory', $q$
        CREATE TABLE trap.t (id uuid PRIMARY KEY, tenant_id uuid, owner_id uuid,
            hash text DEFAULT md5('x'));
        INSERT INTO trap.t (id) VALUES ('00000000-0000-4000-8000-000000000001');$q$ || p_case.owner);
    PERFORM attempt.act_as('none', p_case.admin);
    EXECUTE format('CREATE SCHEMA %I', 'case ' || p_case.n);
    PERFORM attempt.move('trap', 'case ' || p_case.n);
END
$$;
-- Result: breaches, and which calls were refused.
CREATE FUNCTION attempt.all_calls(p_case attempt.cases, OUT breaches bigint, OUT refused text)
    LANGUAGE plpgsql AS $$
DECLARE
    c_import CONSTANT text := format('SELECT api_key.import_api_keys(%L,
        (SELECT jsonb_build_object(''hash'', ''hash'')
        || coalesce(jsonb_object_agg(field, attname), ''{}'') FROM pg_attribute
        JOIN (VALUES (''tags'', ''name''), (''more'', ''description''), (''tenant_id'',
            ''tenant_id'')) AS f (attname, field) USING (attname)
        WHERE attrelid = %1$L::regclass AND NOT attisdropped), ''md5'')', p_case.source);
    c_calls CONSTANT text[] := ARRAY[
        c_import,
        $q$SELECT api_key.isolate_tenants('trap.t')$q$,
        format($q$SELECT api_key.define_resource('t', 'trap.t', p_tenant_column => 'tenant_id',
            p_public_when => %L)$q$, p_case.condition),
        $q$SELECT api_key.protect_resource('t')$q$,
        $q$SELECT api_key.authorize('t', '00000000-0000-4000-8000-000000000001', 'read')$q$,
        $q$SELECT api_key.authorize('t', '00000000-0000-4000-8000-000000000001', 'write')$q$,
        $q$SELECT api_key.require_authorization('t', '00000000-0000-4000-8000-000000000001', 'read')$q$];
    c_undo CONSTANT text[] := ARRAY[
        $q$SELECT api_key.remove_tenant_isolation('trap.t')$q$, $q$SELECT api_key.remove_resource('t')$q$];
    c_again CONSTANT text := 'DELETE FROM api_key_internal.keys WHERE legacy_scheme IS NOT NULL';
    v_call text;
BEGIN
    refused := '';
    PERFORM setval('trap.breaches', 1, false);
    BEGIN
        PERFORM attempt.move('case ' || p_case.n, 'trap'), set_config('trap.armed', 'on', true);
        FOREACH v_call IN ARRAY c_calls || ARRAY[c_again, p_case.later] || c_calls || c_undo LOOP
            CONTINUE WHEN v_call IS NULL;
            -- Indexes and keys are looked at anew, as if it were the first call of a session.
            UPDATE pg_index SET indisclustered = indisclustered FROM pg_class AS c
            WHERE c.oid = indrelid AND c.relnamespace = 'trap'::regnamespace;
            UPDATE pg_class SET relname = relname WHERE relnamespace = 'trap'::regnamespace;
            BEGIN
                IF v_call = p_case.later THEN
                    PERFORM attempt.act_as('regress_mallory', v_call);
                ELSE
                    PERFORM nextval('trap.calls');
                    EXECUTE v_call;
                END IF;
            EXCEPTION WHEN OTHERS THEN
                refused := concat_ws(' ', refused, coalesce(substring(v_call FROM 'SELECT api_key.(\w+)'),
                    'later'), SQLSTATE);
            END;
            IF current_user <> session_user OR api_key.current_user_id() IS NOT NULL
                OR api_key.has_scope('admin')
                OR current_setting('request.jwt.claims', true) <> ''
            THEN
                PERFORM nextval('trap.breaches');
            END IF;
        END LOOP;
        IF (SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_mallory')
            OR EXISTS (SELECT FROM api_key_internal.keys WHERE legacy_scheme IS NULL)
        THEN
            PERFORM nextval('trap.breaches');
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'ZZZZZ';
    EXCEPTION WHEN SQLSTATE 'ZZZZZ' THEN
        NULL;
    END;
    SELECT CASE WHEN is_called THEN last_value ELSE 0 END INTO breaches FROM trap.breaches;
    refused := (SELECT string_agg(DISTINCT m[1], ', ') FROM regexp_matches(refused, '\w+ \w+', 'g') AS m);
END
$$;

-- A default of the tenant's column that comes back when the isolation goes.
INSERT INTO attempt.cases (name, owner)
SELECT 'default: ' || name, format('ALTER TABLE trap.t ALTER tenant_id SET DEFAULT CASE WHEN %s
    THEN gen_random_uuid() END', test)
FROM (VALUES
    ('an array of a domain', $$'{1}'::trap.dom[] IS NULL$$),
    ('an array of a domain of a domain', $$'{1}'::trap.dom_of_dom[] IS NULL$$),
    ('arrays of arrays', $$'{{1},{2}}'::trap.dom[] IS NULL$$),
    ('a domain', $$'1'::trap.dom IS NULL$$),
    ('a domain of an array', $$'{1}'::trap.dom_of_array IS NULL$$),
    ('an array of a domain of an array', $$'{"{1}"}'::trap.dom_of_array[] IS NULL$$),
    ('a domain that checks an array', $$'{"{1}"}'::trap.checked_array[] IS NULL$$),
    ('a row', $$'(1,2)'::trap.pair IS NULL$$),
    ('an array of rows', $$'{"(1,2)"}'::trap.pair[] IS NULL$$),
    ('a row in a row', $$'("(1,2)","{1}")'::trap.nested IS NULL$$),
    ('a domain of a row', $$'{"(1,2)"}'::trap.dom_of_pair[] IS NULL$$),
    ('a range', $$'[1,2]'::trap.span IS NULL$$),
    ('a multirange', $$'{[1,2]}'::trap.multispan IS NULL$$),
    ('an array of ranges', $$'{"[1,2]"}'::trap.span[] IS NULL$$),
    ('a domain of a range', $$'{"[1,2]"}'::trap.dom_of_span[] IS NULL$$),
    ('a made row', $$ROW('1', 2)::trap.pair IS NULL$$),
    ('a cast of an enum', $$'good'::trap.mood::text = 'x'$$),
    ('an operator', $$'good'::trap.mood OPERATOR(trap.===) 'good'$$),
    ('a function', $$trap.spring('1')$$),
    ('an implicit cast', $$ROW(1)::trap.row AND true$$)) AS d (name, test);

-- A condition of a resource, on columns of such types.
INSERT INTO attempt.cases (name, owner, condition)
SELECT 'condition: ' || name, format('ALTER TABLE trap.t ADD tags %s', type), condition
FROM (VALUES
    ('an array of a domain', 'trap.dom[]', $$tags @> '{public}'$$),
    ('an array of a domain, cast', 'text[]', $$tags = '{public}'::trap.dom[]$$),
    ('a domain', 'trap.dom', $$tags = 'public'::trap.dom$$),
    ('an array of a domain of a domain', 'trap.dom_of_dom[]', $$tags = '{1}'$$),
    ('a domain of an array', 'trap.dom_of_array', $$tags = '{1}'::trap.dom_of_array$$),
    ('an element of an array', 'trap.dom[]',
        $$'public' = ANY (tags) OR tags[1] = ANY ('{public}'::trap.dom[])$$),
    ('a row', 'trap.pair', $$tags = '(1,2)'$$),
    ('an array of rows', 'trap.pair[]', $$tags = '{"(1,2)"}'$$),
    ('a row in a row', 'trap.nested', $$tags = '("(1,2)","{1}")'$$),
    ('a field of a row', 'trap.nested', $$(tags).q = '{1}'$$),
    ('a range', 'trap.span', $$tags = '[1,2]'$$),
    ('a multirange', 'trap.multispan', $$tags = '{[1,2]}'$$),
    ('a range that contains', 'trap.span', $$tags @> '1'::trap.dom$$),
    ('a cast of an enum', 'trap.mood', $$tags::text = 'x'$$),
    ('an implicit cast of an enum', 'trap.mood', $$lower(tags) = 'x'$$),
    ('a cast to json', 'trap.mood', $$to_jsonb(tags) = 'true'$$),
    ('an operator', 'trap.mood', $$tags OPERATOR(trap.===) 'good'$$),
    ('a column that is cast to boolean', 'trap.row', 'tags'),
    ('a function', 'text', 'trap.spring(tags)'),
    ('a constant function', 'text', $$trap.spring('1')$$),
    ('a function of the row', 'text', $$trap.spring(t::text)$$),
    ('several commands', 'text', $$true); SELECT trap.spring('1'); SELECT (true$$),
    ('a CHECK for a USING', 'text', $$true) WITH CHECK (trap.spring('1')$$),
    ('a function of ours', 'text', $$api_key.has_scope('x:read') OR trap.spring('1')$$)) AS d (name, type,
        condition);

-- What is imported: casts of types, and what views read.
INSERT INTO attempt.cases (name, owner)
SELECT 'import: ' || name, format('ALTER TABLE trap.t ADD tags %s DEFAULT %s, ADD more %1$s', type, value)
FROM (VALUES
    ('an enum', 'trap.mood', $$'good'$$),
    ('an array of enums', 'trap.mood[]', $$'{good}'$$),
    ('a row', 'trap.row', $$'(1)'$$),
    ('an array of rows', 'trap.row[]', $$'{(1)}'$$),
    ('a domain', 'trap.dom', $$'1'$$),
    ('a row with a domain', 'trap.pair', $$'(1,2)'$$),
    ('a row in a row', 'trap.nested', $$'("(1,2)","{1}")'$$),
    ('a range', 'trap.span', $$'[1,2]'$$),
    ('a domain of a range', 'trap.dom_of_span', $$'[1,2]'$$)) AS d (name, type, value);
INSERT INTO attempt.cases (name, owner, admin, source)
SELECT 'import: ' || name, owner, coalesce(admin, ''), 'trap.v'
FROM (VALUES
    ('a view', 'CREATE VIEW trap.v AS SELECT trap.text(hash) AS hash FROM trap.t', NULL),
    ('a view that filters', 'CREATE VIEW trap.v AS SELECT hash FROM trap.t WHERE trap.spring(hash)', NULL),
    ('a security barrier', 'CREATE VIEW trap.v WITH (security_barrier) AS SELECT hash FROM trap.t
        WHERE trap.spring(hash)', NULL),
    ('a view of the caller''s rights',
        'CREATE VIEW trap.v WITH (security_invoker) AS SELECT trap.text(hash) AS hash FROM trap.t', NULL),
    ('a view on a view', 'CREATE VIEW trap.w AS SELECT trap.text(hash) AS hash FROM trap.t;
        CREATE VIEW trap.v AS SELECT hash FROM trap.w', NULL),
    ('a view that makes an array',
        $q$CREATE VIEW trap.v AS SELECT hash, '{1}'::text[]::trap.dom[] AS tags FROM trap.t$q$, NULL),
    ('a view of a cast', $q$CREATE VIEW trap.v AS SELECT hash, 'good'::trap.mood AS tags FROM trap.t$q$,
        NULL),
    ('a materialized view', $q$CREATE MATERIALIZED VIEW trap.v AS SELECT hash, 'good'::trap.mood AS tags
        FROM trap.t$q$, NULL),
    ('a superuser''s view on a view', 'CREATE VIEW trap.w AS SELECT trap.text(hash) AS hash FROM trap.t',
        'CREATE VIEW trap.v AS SELECT hash FROM trap.w'),
    ('a superuser''s view on a table', $q$CREATE INDEX ON trap.t ((hash || trap.text('x')))$q$,
        'CREATE VIEW trap.v AS SELECT hash FROM trap.t'),
    ('a superuser''s table of an enum', '',
        $q$CREATE TABLE trap.v AS SELECT md5('v') AS hash, 'good'::trap.mood AS tags,
        '{good}'::trap.mood[] AS more$q$),
    ('a superuser''s table with her partition', '',
        $q$CREATE TABLE trap.v (hash text) PARTITION BY LIST (hash); CREATE TABLE trap.v1
        PARTITION OF trap.v DEFAULT; ALTER TABLE trap.v1 OWNER TO regress_mallory$q$),
    ('another''s view on her view', 'CREATE VIEW trap.w AS SELECT trap.text(hash) AS hash FROM trap.t',
        'CREATE VIEW trap.v AS SELECT hash FROM trap.w; ALTER VIEW trap.v OWNER TO regress_other; GRANT
        SELECT ON trap.w TO regress_other')) AS d (name, owner, admin);

-- What a table has besides.
INSERT INTO attempt.cases (name, owner, later) VALUES
    ('a default', 'ALTER TABLE trap.t ADD tags text DEFAULT trap.text(''x'')', NULL),
    ('a generated column', 'ALTER TABLE trap.t ADD tags text GENERATED ALWAYS AS (trap.text(hash)) STORED',
        NULL),
    ('an index on an expression', 'CREATE INDEX ON trap.t (trap.text(hash))', NULL),
    ('an index on a constant', $q$CREATE INDEX ON trap.t ((hash || trap.text('x')))$q$, NULL),
    ('an index with a condition', $q$CREATE INDEX ON trap.t (hash) WHERE trap.spring('x')$q$, NULL),
    ('a unique index of her own', $q$CREATE UNIQUE INDEX ON trap.t (id, trap.text('x'))$q$, NULL),
    ('an exclusion', $q$ALTER TABLE trap.t ADD EXCLUDE ((id::text || trap.text('x')) WITH =)$q$, NULL),
    ('statistics', $q$CREATE STATISTICS trap.s ON trap.text(hash), (hash || trap.text('x')) FROM trap.t$q$,
        NULL),
    ('a constraint', 'ALTER TABLE trap.t ADD CHECK (trap.spring(hash))', NULL),
    ('a constraint of constants', $q$ALTER TABLE trap.t ADD CHECK (trap.spring('x')) NOT VALID$q$, NULL),
    ('triggers', 'CREATE TRIGGER a BEFORE INSERT OR UPDATE OR DELETE ON trap.t FOR EACH ROW
        EXECUTE FUNCTION trap.on_write(); CREATE TRIGGER b AFTER INSERT OR TRUNCATE ON trap.t
        EXECUTE FUNCTION trap.on_write()', NULL),
    ('a trigger with a condition',
        $q$CREATE TRIGGER a BEFORE UPDATE ON trap.t FOR EACH ROW WHEN (trap.spring('x'))
        EXECUTE FUNCTION trap.on_write()$q$, NULL),
    ('rules', $q$CREATE RULE a AS ON INSERT TO trap.t DO ALSO SELECT trap.spring('x');
        CREATE RULE b AS ON UPDATE TO trap.t DO INSTEAD SELECT trap.spring('x')$q$, NULL),
    ('policies', $q$ALTER TABLE trap.t ENABLE ROW LEVEL SECURITY; CREATE POLICY a ON trap.t
        USING (trap.spring('x')) WITH CHECK (trap.spring(hash))$q$, NULL),
    ('forced policies', $q$ALTER TABLE trap.t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY a ON trap.t AS RESTRICTIVE USING ('{1}'::trap.dom[] IS NULL)$q$, NULL),
    ('a policy of our name', $q$ALTER TABLE trap.t ENABLE ROW LEVEL SECURITY;
        CREATE POLICY api_key_tenant ON trap.t USING (trap.spring(hash))$q$, NULL),
    ('a policy of the name of a condition',
        $q$CREATE POLICY api_key_condition ON trap.t USING (trap.spring(hash))$q$, NULL),
    ('names that are code', $q$ALTER TABLE trap.t ADD "trap.spring('x')" text,
        ADD "%1$I'||trap.spring('x')||'" text; CREATE INDEX "trap.spring('x')" ON trap.t (tenant_id)$q$,
        NULL),
    ('a child', $q$CREATE TABLE trap.child () INHERITS (trap.t);
        CREATE INDEX ON trap.child ((hash || trap.text('x')))$q$, NULL),
    ('a partition with an index', $q$DROP TABLE trap.t; CREATE TABLE trap.t (id uuid, tenant_id uuid,
        owner_id uuid, hash text DEFAULT md5('x'), PRIMARY KEY (id)) PARTITION BY LIST (id);
        CREATE TABLE trap.p PARTITION OF trap.t DEFAULT; CREATE INDEX ON trap.p ((hash ||
            trap.text('x')))$q$, NULL),
    ('a partition key that is an expression', $q$DROP TABLE trap.t; CREATE TABLE trap.t (id uuid,
        tenant_id uuid, owner_id uuid, hash text DEFAULT md5('x'))
        PARTITION BY LIST ((hash || trap.text('x')));
        CREATE TABLE trap.p PARTITION OF trap.t DEFAULT$q$, NULL),
    -- What she changes after it has been defined.
    ('later: a partition by an expression', $q$DROP TABLE trap.t; CREATE TABLE trap.t (id uuid,
        tenant_id uuid, owner_id uuid, hash text DEFAULT md5('x'), PRIMARY KEY (id)) PARTITION BY HASH (id);
        CREATE TABLE trap.p PARTITION OF trap.t FOR VALUES WITH (modulus 2, remainder 0)$q$,
        $q$SELECT trap.unprotect(); CREATE TABLE trap.p2 (LIKE trap.t)
            PARTITION BY LIST ((hash || trap.text('x'))); CREATE TABLE trap.p3 PARTITION OF trap.p2 DEFAULT;
        ALTER TABLE trap.p2 ALTER id SET NOT NULL; ALTER TABLE trap.t DROP
            CONSTRAINT t_pkey; ALTER TABLE trap.t ATTACH PARTITION trap.p2 FOR
            VALUES WITH (modulus 2, remainder 1)$q$),
    ('later: an index', '', $q$CREATE INDEX ON trap.t ((hash || trap.text('x'))) WHERE trap.spring('x')$q$),
    ('later: a default', '', $q$ALTER TABLE trap.t ALTER tenant_id SET DEFAULT
        CASE WHEN '{1}'::trap.dom[] IS NULL THEN gen_random_uuid() END$q$),
    ('later: the owner is a row', '',
        'SELECT trap.unprotect(); ALTER TABLE trap.t ALTER owner_id TYPE trap.row USING NULL'),
    ('later: the id is a row', '',
        'SELECT trap.unprotect(); ALTER TABLE trap.t DROP CONSTRAINT t_pkey;
        ALTER TABLE trap.t ALTER id TYPE trap.row USING ROW(1)::trap.row; ALTER TABLE trap.t
        ADD PRIMARY KEY (id)'),
    ('later: the id is a domain', '',
        'SELECT trap.unprotect(); CREATE DOMAIN trap.id AS uuid CHECK (trap.spring(VALUE::text));
        ALTER TABLE trap.t ALTER id TYPE trap.id'),
    ('later: the tenant is a domain', '',
        'SELECT trap.unprotect(); CREATE DOMAIN trap.id AS uuid CHECK (trap.spring(VALUE::text));
        ALTER TABLE trap.t ALTER tenant_id DROP DEFAULT, ALTER tenant_id TYPE trap.id, ALTER tenant_id
        SET DEFAULT api_key.current_tenant_id()'),
    ('later: a constraint of the domain', '',
        'ALTER DOMAIN trap.dom ADD CONSTRAINT more CHECK (trap.spring(VALUE)) NOT VALID'),
    ('later: another table', '',
        $q$ALTER TABLE trap.t RENAME TO u; CREATE VIEW trap.t AS SELECT id, tenant_id, owner_id,
        trap.text(hash) AS hash FROM trap.u$q$);

-- Tables that do not belong to one role: nobody's text runs with the rights of another.
INSERT INTO attempt.cases (name, owner, admin) VALUES
    ('a superuser''s partition of her table',
        $q$DROP TABLE trap.t; CREATE TABLE trap.t (id uuid, tenant_id uuid DEFAULT
        CASE WHEN '{1}'::trap.dom[] IS NULL THEN gen_random_uuid() END, owner_id uuid,
        hash text DEFAULT md5('x'), PRIMARY KEY (id)) PARTITION BY LIST (id)$q$,
        'CREATE TABLE trap.p PARTITION OF trap.t DEFAULT'),
    ('her partition of a superuser''s table', '', $q$DROP TABLE trap.t; CREATE TABLE trap.t (id uuid,
        tenant_id uuid, owner_id uuid, hash text DEFAULT md5('x'), PRIMARY KEY (id)) PARTITION BY LIST (id);
        CREATE TABLE trap.p PARTITION OF trap.t DEFAULT; ALTER TABLE trap.p OWNER TO regress_mallory;
            SELECT attempt.act_as('regress_mallory',
            'CREATE INDEX ON trap.p ((hash || trap.text(''x'')))')$q$),
    ('her partition of another''s table', '', $q$DROP TABLE trap.t; CREATE TABLE trap.t (id uuid,
        tenant_id uuid, owner_id uuid, hash text DEFAULT md5('x'), PRIMARY KEY (id)) PARTITION BY LIST (id);
        CREATE TABLE trap.p PARTITION OF trap.t DEFAULT; ALTER TABLE trap.t OWNER TO regress_other; ALTER
            TABLE trap.p OWNER TO regress_mallory; SELECT attempt.act_as('regress_mallory',
            'CREATE INDEX ON trap.p ((hash || trap.text(''x'')))')$q$);
SELECT count(attempt.prepare(c.*)) AS cases FROM attempt.cases AS c;
\c -
\set VERBOSITY terse
\set SHOW_CONTEXT never
\pset null (null)
SET client_min_messages = error;
SET api_key.argon2_memory_kib = 64;
SET api_key.argon2_iterations = 1;
SET api_key.trust_token_claims = on;
SELECT c.name, a.* FROM attempt.cases AS c, LATERAL attempt.all_calls(c) AS a ORDER BY c.n;
SELECT last_value > 100 AS traps_are_live FROM trap.springs;
SELECT last_value AS calls FROM trap.calls;
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_mallory';

-- Who calls authorize lends his rights to the condition, as to a policy, but not who he is.
SET ROLE regress_mallory;
SELECT setval('trap.breaches', 1, false);
CREATE TABLE trap.asked (id integer PRIMARY KEY, owner_id uuid, hash text);
INSERT INTO trap.asked VALUES (1), (2);
CREATE FUNCTION trap.becomes(p_id integer) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_outcomes text[];
    v_command text;
BEGIN
    PERFORM set_config('request.jwt.claims',
        '{"sub": "00000000-0000-4000-8000-0000000000b1",
        "tenant_id": "00000000-0000-4000-8000-00000000000b", "scopes": ["admin"]}', true);
    IF p_id = 2 THEN
        PERFORM set_config('request.method', 'POST', true);
    END IF;
    FOREACH v_command IN ARRAY ARRAY['SELECT api_key.authenticate_request()',
        'SELECT api_key.admit_request()'] LOOP
        BEGIN
            EXECUTE v_command INTO v_command;
        EXCEPTION WHEN OTHERS THEN
            v_command := SQLSTATE || ' ' || SQLERRM;
        END;
        RAISE NOTICE '%', v_command;
    END LOOP;
    RETURN true;
END
$$;
RESET ROLE;
SELECT api_key.define_resource('asked', 'trap.asked', p_public_when => 'trap.becomes(id)');
GRANT USAGE ON SCHEMA trap TO regress_user;
SET client_min_messages = notice;
SET ROLE regress_user;
SELECT api_key.authorize('asked', '1', 'read'), api_key.authorize('asked', '2', 'read');
SELECT api_key.current_tenant_id(), api_key.has_scope('admin'), current_setting('request.jwt.claims',
    true) AS claims;
RESET ROLE;
-- Nor does a trigger that runs as the owner of another table, or a SECURITY DEFINER function, say who the
-- session is.
CREATE TABLE trap.parent (id integer PRIMARY KEY);
CREATE TABLE trap.child (id integer REFERENCES trap.parent ON DELETE CASCADE);
INSERT INTO trap.parent VALUES (1);
INSERT INTO trap.child VALUES (1);
ALTER TABLE trap.child OWNER TO regress_mallory;
CREATE FUNCTION trap.on_delete() RETURNS trigger
    LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'as %: %', current_user, trap.becomes(1); RETURN OLD; END $$;
CREATE TRIGGER on_delete BEFORE DELETE ON trap.child FOR EACH ROW EXECUTE FUNCTION trap.on_delete();
BEGIN;
DELETE FROM trap.parent;
SELECT api_key.current_tenant_id(), api_key.has_scope('admin');
ROLLBACK;

-- What ANALYZE keeps from code of a table's owner, authorize does not give it.
SET ROLE regress_mallory;
CREATE FUNCTION trap.tells(p_id integer) RETURNS boolean
    LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'condition runs as %', current_user; RETURN true; END $$;
CREATE TABLE trap.told (id integer PRIMARY KEY, owner_id uuid);
INSERT INTO trap.told VALUES (1);
RESET ROLE;
SELECT api_key.define_resource('told', 'trap.told', p_public_when => 'trap.tells(id)');
SET ROLE regress_mallory;
CREATE FUNCTION trap.asks(p_id integer) RETURNS boolean LANGUAGE sql IMMUTABLE
    AS $$SELECT CASE WHEN current_setting('trap.armed', true) = 'on' THEN api_key.authorize('told', '1',
    'read') END$$;
CREATE INDEX ON trap.told (trap.asks(id));
RESET ROLE;
CREATE ROLE regress_dba;
GRANT USAGE ON SCHEMA trap TO regress_dba;
GRANT regress_user TO regress_dba;
SELECT current_database() AS database, pg_get_userbyid(datdba) AS dba FROM pg_database
    WHERE datname = current_database() \gset
ALTER DATABASE :"database" OWNER TO regress_dba;
SET ROLE regress_dba;
SET trap.armed = on;
ANALYZE trap.told;
RESET trap.armed;
RESET ROLE;
ALTER DATABASE :"database" OWNER TO :"dba";
DROP INDEX trap.told_asks_idx;
-- A condition that asks another one does so for the same caller.
SET ROLE regress_mallory;
CREATE FUNCTION trap.asks_on(p_id integer) RETURNS boolean LANGUAGE sql
    AS $$SELECT api_key.authorize('told', p_id::text, 'read')$$;
RESET ROLE;
SELECT api_key.define_resource('asked', 'trap.asked', p_public_when => 'trap.asks_on(id)');
SET ROLE regress_user;
SELECT api_key.authorize('asked', '1', 'read');
RESET ROLE;
SET client_min_messages = error;

-- Code of the service role's, in a restricted operation of somebody else's session, changes nothing either.
CREATE FUNCTION trap.commands() RETURNS TABLE (command text, outcome text) LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    FOREACH command IN ARRAY ARRAY['define_tier(''x'')', 'define_scope(''x:read'')', 'purge_api_keys()',
        'export_usage()',
        'import_usage(''{"usage": [], "refusals": []}'')', 'define_rate_limit(''x'', 1, ''1 s'')',
            'remove_rate_limit(''x'')',
        'issue_api_key()', 'list_api_keys()', 'revoke_api_keys(''00000000-0000-4000-8000-0000000000a1'')',
        'import_api_key_hash(md5(''x''), ''md5'', NULL)', 'import_key_rows(''[]'', ''md5'', ''t'', 1)',
            'authenticate_request()', 'admit_request()']
    LOOP
        BEGIN
            EXECUTE 'SELECT api_key.' || command;
            outcome := 'done';
        EXCEPTION WHEN OTHERS THEN
            outcome := SQLSTATE;
        END;
        RETURN NEXT;
    END LOOP;
END
$$;
SELECT api_key.define_rate_limit('x', 1, '1 s');
CREATE MATERIALIZED VIEW trap.done AS SELECT * FROM trap.commands() WITH NO DATA;
ALTER MATERIALIZED VIEW trap.done OWNER TO regress_service;
GRANT USAGE ON SCHEMA trap TO regress_service;
REFRESH MATERIALIZED VIEW trap.done;
SELECT outcome, string_agg(command, ', ') AS commands FROM trap.done GROUP BY outcome ORDER BY outcome;
SELECT api_key.remove_rate_limit('x');

-- Who imports reads only what he may.
SET ROLE regress_mallory;
CREATE TABLE trap.keys (hash text, name text, secret text);
INSERT INTO trap.keys VALUES (md5('a'), 'a', 's'), (md5('b'), 'b', 's');
GRANT SELECT (hash, name) ON trap.keys TO regress_service;
CREATE TABLE trap.policed (hash text);
INSERT INTO trap.policed VALUES (md5('c')), (md5('d'));
GRANT SELECT ON trap.policed TO regress_service;
ALTER TABLE trap.policed ENABLE ROW LEVEL SECURITY;
RESET ROLE;
\set VERBOSITY default
SET ROLE regress_service;
SELECT api_key.import_api_keys('trap.keys', '{"hash": "hash", "description": "secret"}', 'md5');
SELECT api_key.import_api_keys('trap.keys', '{"hash": "hash", "name": "name"}', 'md5');
SELECT api_key.import_api_keys('trap.policed', '{"hash": "hash"}', 'md5');
SELECT api_key.read_key_rows('trap.policed', '{"hash": "hash"}');
SELECT api_key.read_key_rows('trap.keys', '{"hash": "hash", "name": "secret"}');
RESET ROLE;
-- Policies that the owner has forced upon itself leave out no row.
ALTER TABLE trap.policed FORCE ROW LEVEL SECURITY;
SELECT api_key.import_api_keys('trap.policed', '{"hash": "hash"}', 'md5');

-- A default that its owner cannot set any more is not lost without a word.
CREATE SCHEMA regress_closed;
GRANT USAGE ON SCHEMA regress_closed TO regress_mallory;
CREATE FUNCTION regress_closed.tenant() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid';
SET ROLE regress_mallory;
CREATE TABLE trap.closed (tenant_id uuid DEFAULT regress_closed.tenant());
RESET ROLE;
SELECT api_key.isolate_tenants('trap.closed') ->> 'row_security' AS row_security;
REVOKE USAGE ON SCHEMA regress_closed FROM regress_mallory;
SET client_min_messages = warning;
SELECT r -> 'default' AS "default", r -> 'default_lost' AS default_lost, r -> 'row_security' AS row_security
    FROM api_key.remove_tenant_isolation('trap.closed') AS r;
SET client_min_messages = error;
-- What was lent is taken back.
SELECT nspname FROM pg_namespace WHERE nspname ~ '^api_key' AND has_schema_privilege('regress_other', oid,
    'USAGE');

-- What executes text, or reads a table that is named to it. Whoever adds a row says why it runs no code
-- of a table's owner.
CREATE TEMP TABLE executes (function text PRIMARY KEY, because text);
INSERT INTO executes VALUES
    ('api_key_internal.run_restricted', 'is the way to do it: as the owner, restricted'),
    ('api_key_internal.run_as_owner', 'calls run_restricted; grants and revokes USAGE on schemas'),
    ('api_key_internal.make_policy', 'calls run_as_owner'),
    ('api_key_internal.watch_moves', 'a trigger of ours, whose condition compares columns byte by byte'),
    ('api_key_internal.keep_aside', 'renames a function of an application'),
    ('api_key_internal.grant_compat', 'REVOKE and GRANT on functions of profiles'),
    ('api_key_internal.canonical_condition', 'calls run_as_owner; drops a policy of ours'),
    ('api_key_internal.restore_default', 'calls run_as_owner; DROP DEFAULT'),
    ('api_key_internal.holds_for', 'is the way of authorize: as the owner or the caller, restricted'),
    ('api_key_internal.allows', 'calls holds_for'),
    ('api_key.read_key_rows', 'is the way to read rows: as the owner, restricted'),
    ('api_key.import_api_keys', 'calls read_key_rows'),
    ('api_key_internal.check_references',
        'looks for the row that a foreign key refers to, see src/pg/references.rs'),
    ('api_key_internal.lock_table', 'LOCK TABLE'),
    ('api_key_internal.guard', 'row security, and a trigger of ours'),
    ('api_key_internal.unguard', 'row security, and a trigger of ours'),
    ('api_key_internal.drop_policies', 'DROP POLICY of ours'),
    ('api_key_internal.isolate', 'our default, and an index on a column of type uuid'),
    ('api_key.remove_tenant_isolation', 'DROP INDEX of ours'),
    ('api_key.protect_resource', 'a policy USING (false)'),
    ('api_key.setup_postgrest', 'roles and grants, no tables of an application'),
    ('api_key.install_compat', 'functions of ours'),
    ('api_key.remove_compat', 'functions of ours');
SELECT coalesce(f.function, e.function) AS function, e.because
FROM executes AS e FULL JOIN (
    SELECT DISTINCT p.oid::regproc::text AS function FROM pg_proc AS p
        JOIN pg_language AS l ON l.oid = p.prolang
    WHERE p.pronamespace IN ('api_key'::regnamespace, 'api_key_internal'::regnamespace)
      AND (replace(p.prosrc, '''EXECUTE''',
          '') ~* '\m(EXECUTE|run_restricted|run_as_owner|holds_for|read_key_rows|ts_stat|ts_rewrite|dblink\w*|\w+_to_xml\w*)\M(?!\s+(FUNCTION|ON\M))'
           OR l.lanname = 'c' AND p.prosrc ~ '^(run_restricted|holds_for|check_references)')) AS f
               USING (function)
WHERE e.function IS NULL OR f.function IS NULL;

SELECT format('DROP SCHEMA %I CASCADE', 'case ' || n) FROM attempt.cases \gexec
DROP SCHEMA trap, attempt, regress_closed CASCADE;
DELETE FROM api_key_internal.resources;
\i tests/cleanup.sql
