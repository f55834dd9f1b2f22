-- Common to isolate_tenants and protect_resource.

-- The state before either came, in a table and not in comments: the text of a default is executed
-- when it comes back, and the owner of a table may comment on it what he likes.
CREATE TABLE api_key_internal.guarded_tables (
    "table" regclass PRIMARY KEY,
    was_enabled boolean NOT NULL,
    was_forced boolean NOT NULL
);
COMMENT ON TABLE api_key_internal.guarded_tables IS 'The row security that tables had before isolate_tenants or protect_resource.';
-- Without tables that are gone, whose numbers would mean others in another database.
SELECT pg_catalog.pg_extension_config_dump(
    'api_key_internal.guarded_tables', 'WHERE "table" IN (SELECT oid FROM pg_catalog.pg_class)');

CREATE FUNCTION api_key_internal.check_table(p_table regclass) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_kind "char" := (SELECT relkind FROM pg_class WHERE oid = p_table);
    v_parent regclass := (SELECT inhparent FROM pg_inherits WHERE inhrelid = p_table ORDER BY inhseqno LIMIT 1);
    v_detail text;
    v_hint text := 'Name a table of your application.';
BEGIN
    IF v_kind = 'v' THEN
        v_detail := 'It is a view.';
        v_hint := 'Name the tables that it reads, and have it read with the rights of its caller: ALTER VIEW ... SET (security_invoker = true).';
    ELSIF p_table IS NULL THEN
        v_detail := 'p_table is NULL.';
    ELSIF v_kind IS NULL OR v_kind NOT IN ('r', 'p') THEN
        v_detail := 'It is no table with row security.';
    ELSIF EXISTS (
        SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = p_table AND n.nspname IN (
            'pg_catalog', 'information_schema', 'pg_toast', 'api_key_internal'))
    THEN
        v_detail := 'It belongs to the system or to the extension.';
    ELSIF EXISTS (
        SELECT FROM pg_partitioned_table AS p JOIN pg_class AS c ON c.oid = p.partrelid
        JOIN pg_roles AS r ON r.oid = c.relowner
        WHERE p.partrelid IN (SELECT api_key_internal.parts(p_table)) AND p.partexprs IS NOT NULL AND NOT r.rolsuper)
    THEN
        v_detail := 'It is partitioned by an expression, whose functions would run with the rights of the caller.';
        v_hint := 'Partition it by columns, or have a superuser own it.';
    ELSIF v_parent IS NOT NULL THEN
        v_detail := format('It is a part of %s, through which its rows are reached without its own policies.', v_parent);
        v_hint := format('Name %s: its parts are seen to as well.', v_parent);
    END IF;
    IF v_detail IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_table', DETAIL = v_detail,
            HINT = v_hint;
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.check_table IS 'Refuses a relation that cannot have row security of its own (22023).';

-- Checked again under the lock: while it was waited for, the owner may have changed the table.
CREATE FUNCTION api_key_internal.lock_table(p_table regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM api_key_internal.check_table(p_table);
    -- So that its schema is not renamed, and its name stays its own.
    PERFORM FROM pg_namespace WHERE oid = (SELECT relnamespace FROM pg_class WHERE oid = p_table) FOR UPDATE;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', p_table);
    PERFORM api_key_internal.check_table(p_table);
    IF to_regclass(p_table::text) IS DISTINCT FROM p_table THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'the table has been replaced',
            DETAIL = 'Meanwhile another one has its name.', HINT = 'Try again.';
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.lock_table IS 'Locks a table of an application and its partitions for changes, and refuses one that cannot have row security (22023).';

-- The parts of a table, and what a view reads, may belong to others, whose code would run with the
-- rights of the owner.
CREATE FUNCTION api_key_internal.others_code(p_table regclass) RETURNS regclass
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE read (oid) AS (
        SELECT p_table::oid
        UNION
        SELECT next.oid FROM read, LATERAL (
            SELECT i.inhrelid FROM pg_inherits AS i WHERE i.inhparent = read.oid
            UNION ALL
            SELECT d.refobjid FROM pg_class AS v JOIN pg_rewrite AS r ON r.ev_class = v.oid
            JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                AND d.refclassid = 'pg_class'::regclass
            WHERE v.oid = read.oid AND v.relkind = 'v') AS next (oid)
    )
    SELECT c.oid::regclass FROM read JOIN pg_class AS c USING (oid) JOIN pg_roles AS r ON r.oid = c.relowner
    WHERE NOT r.rolsuper AND c.relowner <> (SELECT relowner FROM pg_class WHERE oid = p_table)
    ORDER BY c.oid LIMIT 1
$$;
COMMENT ON FUNCTION api_key_internal.others_code IS 'Returns a table, partition or view whose code runs when p_table is read, and that belongs neither to its owner nor to a superuser; NULL if there is none.';

-- Roles that gain nothing by code that runs as the owner: the owner itself and superusers.
CREATE FUNCTION api_key_internal.trusted_roles(p_owner oid) RETURNS SETOF oid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT oid FROM pg_roles WHERE rolsuper OR oid = p_owner
    UNION ALL
    SELECT 'pg_database_owner'::regrole FROM pg_database AS d JOIN pg_roles AS r ON r.oid = d.datdba
    WHERE d.datname = current_database() AND (r.rolsuper OR r.oid = p_owner)
$$;
COMMENT ON FUNCTION api_key_internal.trusted_roles IS 'Returns the given owner, and superusers.';

-- The owner of a type can exchange its casts at any time. A cast that is not written leaves no trace in the
-- catalog, and neither do the casts and constraints of what a type is made of.
CREATE FUNCTION api_key_internal.strangers_type(p_types oid[], p_owner oid) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE types (oid) AS (
        SELECT unnest(p_types)
        UNION
        SELECT part.oid FROM types JOIN pg_type AS t USING (oid), LATERAL (
            SELECT t.typelem
            UNION ALL SELECT t.typbasetype
            UNION ALL SELECT a.atttypid FROM pg_attribute AS a
                WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL SELECT r.rngsubtype FROM pg_range AS r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)) AS part (oid)
    )
    SELECT min(oid::regtype::text) FROM types JOIN pg_type AS t USING (oid)
    WHERE t.typowner NOT IN (SELECT api_key_internal.trusted_roles(p_owner))
$$;
COMMENT ON FUNCTION api_key_internal.strangers_type IS 'Returns one of the types, or of their components, that belongs neither to the given owner nor to a superuser; NULL if there is none.';

-- A condition or a view runs as the owner of its table, and so does what it calls. Code of a third role
-- would rise by it; so would that of whoever can put another function of the name into its schema.
CREATE FUNCTION api_key_internal.strangers_code(p_class regclass, p_object oid, p_owner oid) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH trusted (oid) AS (
        SELECT api_key_internal.trusted_roles(p_owner)
    ), used (oid, class, part) AS (
        SELECT refobjid, refclassid, refobjsubid FROM pg_depend WHERE classid = p_class AND objid = p_object
    ), code (what, owner, schema) AS (
        SELECT p.oid::regprocedure::text, p.proowner, p.pronamespace
        FROM pg_proc AS p JOIN used ON used.class = 'pg_proc'::regclass AND used.oid = p.oid
        UNION ALL
        SELECT o.oid::regoperator::text, o.oprowner, o.oprnamespace
        FROM pg_operator AS o JOIN used ON used.class = 'pg_operator'::regclass AND used.oid = o.oid
        UNION ALL
        SELECT p.oid::regprocedure::text, p.proowner, p.pronamespace
        FROM pg_operator AS o JOIN used ON used.class = 'pg_operator'::regclass AND used.oid = o.oid
        JOIN pg_proc AS p ON p.oid = o.oprcode
        UNION ALL
        SELECT t.oid::regtype::text, t.typowner, t.typnamespace
        FROM pg_type AS t JOIN used ON used.class = 'pg_type'::regclass AND used.oid = t.oid
    ), types (oid) AS (
        SELECT used.oid FROM used WHERE used.class = 'pg_type'::regclass
        UNION ALL
        SELECT a.atttypid FROM used
        JOIN pg_attribute AS a ON used.class = 'pg_class'::regclass AND a.attrelid = used.oid AND a.attnum = used.part
        UNION ALL
        SELECT t.oid FROM used JOIN pg_type AS t ON used.class = 'pg_class'::regclass AND t.typrelid = used.oid
        -- A row as a whole, of whichever table.
        WHERE (SELECT concat(polqual, polwithcheck) FROM pg_policy
               WHERE p_class = 'pg_policy'::regclass AND oid = p_object) LIKE '%:varattno 0 %'
           OR (SELECT ev_action::text FROM pg_rewrite
               WHERE p_class = 'pg_rewrite'::regclass AND oid = p_object) LIKE '%:varattno 0 %'
        UNION ALL
        SELECT unnest(p.prorettype || p.proargtypes::oid[] || coalesce(p.proallargtypes, '{}'))
        FROM pg_proc AS p JOIN used ON used.class = 'pg_proc'::regclass AND used.oid = p.oid
        UNION ALL
        SELECT o.oprresult FROM pg_operator AS o JOIN used ON used.class = 'pg_operator'::regclass AND used.oid = o.oid
    )
    SELECT coalesce((
        SELECT code.what FROM code JOIN pg_namespace AS n ON n.oid = code.schema
        WHERE code.owner NOT IN (SELECT oid FROM trusted) OR n.nspowner NOT IN (SELECT oid FROM trusted)
            OR EXISTS (SELECT FROM aclexplode(n.nspacl) AS acl
                       WHERE acl.privilege_type = 'CREATE' AND acl.grantee NOT IN (SELECT oid FROM trusted))
        ORDER BY code.what LIMIT 1),
        api_key_internal.strangers_type(ARRAY(SELECT oid FROM types), p_owner))
$$;
COMMENT ON FUNCTION api_key_internal.strangers_code IS 'Returns a function, operator or type of a policy, view or default that is, or may become, the code of a role other than the given owner and superusers; NULL if there is none.';

CREATE FUNCTION api_key_internal.check_one_owner(p_table regclass, p_sqlstate text, p_message text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_other regclass := api_key_internal.others_code(p_table);
    v_code text;
BEGIN
    WITH RECURSIVE views (oid) AS (
        SELECT oid FROM pg_class WHERE oid = p_table AND relkind = 'v'
        UNION
        SELECT c.oid FROM views JOIN pg_rewrite AS r ON r.ev_class = views.oid
        JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_class'::regclass
        JOIN pg_class AS c ON c.oid = d.refobjid AND c.relkind = 'v'
    )
    SELECT min(api_key_internal.strangers_code('pg_rewrite', r.oid, t.relowner)) INTO v_code
    FROM views JOIN pg_rewrite AS r ON r.ev_class = views.oid, pg_class AS t WHERE t.oid = p_table;
    IF v_code IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = p_sqlstate, MESSAGE = p_message,
            DETAIL = format('%s calls %s, which another role owns or could replace: it would run with the rights of the wrong one.',
                p_table, v_code),
            HINT = 'Name the table itself, or a view that calls only functions of its owner, in a schema where nobody else may create.';
    END IF;
    IF v_other IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = p_sqlstate, MESSAGE = p_message,
            DETAIL = format('Whoever reads %s reads %s, which belongs to another role: its code would run with the rights of the wrong one.',
                p_table, v_other),
            HINT = 'Have one role own them: ALTER TABLE or VIEW ... OWNER TO ...';
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.check_one_owner IS 'Refuses tables and views that read objects of a role other than their owner and superusers.';

-- In Rust (src/pg/foreign.rs).
CREATE FUNCTION api_key_internal.run_restricted(p_owner oid, p_command text) RETURNS void
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'run_restricted';
COMMENT ON FUNCTION api_key_internal.run_restricted IS 'Runs a command as a role, in a security-restricted operation.';

-- For commands with text of a table's owner, because parsing it runs code. A policy can name our functions
-- only with USAGE on the schema: it is lent for the command, and gives nothing else.
CREATE FUNCTION api_key_internal.run_as_owner(p_table regclass, p_command text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_owner oid;
    v_schema oid;
    v_lent oid[];
BEGIN
    SELECT c.relowner, ARRAY(
        SELECT n.oid FROM pg_namespace AS n
        WHERE n.nspname = 'api_key' AND NOT has_schema_privilege(c.relowner, n.oid, 'USAGE')
        ORDER BY n.oid)
    INTO v_owner, v_lent FROM pg_class AS c WHERE c.oid = p_table;
    FOREACH v_schema IN ARRAY v_lent LOOP
        -- Sessions that lend it at a time wait for each other, rather than fail.
        PERFORM FROM pg_namespace WHERE oid = v_schema FOR UPDATE;
        EXECUTE format('GRANT USAGE ON SCHEMA %s TO %s', v_schema::regnamespace, v_owner::regrole);
    END LOOP;
    PERFORM api_key_internal.run_restricted(v_owner, p_command);
    FOREACH v_schema IN ARRAY v_lent LOOP
        EXECUTE format('REVOKE USAGE ON SCHEMA %s FROM %s', v_schema::regnamespace, v_owner::regrole);
    END LOOP;
END
$$;
COMMENT ON FUNCTION api_key_internal.run_as_owner IS 'Runs a command on a table as its owner, in a security-restricted operation.';

CREATE FUNCTION api_key_internal.check_column(
    p_argument text, p_table regclass, p_column name, p_uuid boolean) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_column pg_attribute;
BEGIN
    SELECT * INTO v_column FROM pg_attribute
    WHERE attrelid = p_table AND attname = p_column AND attnum > 0 AND NOT attisdropped;
    IF NOT FOUND OR p_uuid AND (v_column.atttypid <> 'uuid'::regtype OR v_column.attgenerated <> '') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('invalid %s', p_argument),
            DETAIL = CASE WHEN v_column.attnum IS NULL THEN format('%s has no such column.', p_table)
                ELSE format('%s.%I is not a uuid that can be written.', p_table, p_column) END,
            HINT = CASE WHEN p_argument = 'p_owner_column'
                    THEN 'Name a column of type uuid, or pass p_owner_column => NULL if rows have no owner.'
                WHEN p_uuid THEN 'Name a column of type uuid.'
                ELSE 'Name a column of the table.' END;
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.check_column IS 'Refuses a column that does not exist, or is not of type uuid (22023).';

CREATE FUNCTION api_key_internal.column_of_type(p_table regclass, p_column name, p_uuid boolean) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_column IS NULL OR EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = p_table AND attname = p_column AND attnum > 0 AND NOT attisdropped
          AND (atttypid = 'uuid'::regtype AND attgenerated = '' OR NOT p_uuid))
$$;
COMMENT ON FUNCTION api_key_internal.column_of_type IS 'Tells whether check_column accepts a column; true for NULL.';

CREATE FUNCTION api_key_internal.parts(p_table regclass) RETURNS SETOF regclass
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE parts (part, depth) AS (
        SELECT p_table::oid, 0
        UNION
        SELECT inhrelid, depth + 1 FROM pg_inherits JOIN parts ON inhparent = part
    )
    SELECT oid::regclass FROM parts JOIN pg_class ON oid = part
    WHERE relkind IN ('r', 'p')
    GROUP BY oid ORDER BY min(depth), oid::regclass::text
$$;
COMMENT ON FUNCTION api_key_internal.parts IS 'Returns a table, its partitions and its children.';

CREATE FUNCTION api_key_internal.wholes(p_table regclass) RETURNS SETOF regclass
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE wholes (oid) AS (
        SELECT p_table::oid
        UNION
        SELECT inhparent FROM pg_inherits JOIN wholes ON inhrelid = wholes.oid
    )
    SELECT oid::regclass FROM wholes
$$;
COMMENT ON FUNCTION api_key_internal.wholes IS 'Returns a table, and all tables that it is a partition or child of.';

CREATE FUNCTION api_key_internal.our_policies(p_table regclass, p_kind text = '(tenant|resource)') RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(polname::text ORDER BY polname), '{}') FROM pg_policy
    WHERE polrelid = p_table
      AND polname ~ format('^api_key_%s(_(select|insert|update|delete|part)(_only)?)?$', p_kind)
$$;
COMMENT ON FUNCTION api_key_internal.our_policies IS 'Returns the policies of a table that isolate_tenants or protect_resource made.';

-- Where an application has decided who may do what, permissive policies would give more: we only
-- restrict. Elsewhere, without one, nobody could do anything.
CREATE FUNCTION api_key_internal.own_policies(p_table regclass) RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(polname::text ORDER BY polname), '{}') FROM pg_policy
    WHERE polrelid = p_table AND polpermissive
      AND polname::text <> ALL (api_key_internal.our_policies(p_table))
$$;
COMMENT ON FUNCTION api_key_internal.own_policies IS 'Returns the permissive policies of a table that the application made.';

-- In Rust (src/pg/references.rs). The name of its trigger sorts before those of foreign keys ("RI_..."),
-- so that it answers first, to a hidden row and to none alike. Unlike the WITH CHECK of a policy it sees
-- rows of the same statement, and may ask the table itself. What it has found it locks as PostgreSQL's
-- own check does, so that it stays so.
CREATE FUNCTION api_key_internal.check_references() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'check_references';
COMMENT ON FUNCTION api_key_internal.check_references IS 'Refuses a reference to a row that the rule of its table hides from the writer, as if the row did not exist.';

-- In Rust (src/pg/references.rs). The name of its trigger sorts after those of the application, which
-- may yet change the row.
CREATE FUNCTION api_key_internal.lock_moved_row() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'lock_moved_row';
COMMENT ON FUNCTION api_key_internal.lock_moved_row IS 'Makes those who refer to a row wait while the row changes owner or tenant.';

CREATE FUNCTION api_key_internal.base_type(p_type oid) RETURNS oid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE base (oid, kind) AS (
        SELECT oid, typtype FROM pg_type WHERE oid = p_type
        UNION ALL
        SELECT b.oid, b.typtype FROM base
        JOIN pg_type AS d ON d.oid = base.oid JOIN pg_type AS b ON b.oid = d.typbasetype
        WHERE base.kind = 'd'
    )
    SELECT oid FROM base WHERE kind <> 'd'
$$;
COMMENT ON FUNCTION api_key_internal.base_type IS 'Returns the base type of a domain, or the type itself.';

CREATE FUNCTION api_key_internal.guard(p_table regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_role oid;
BEGIN
    IF api_key_internal.our_policies(p_table) = '{}' THEN
        INSERT INTO api_key_internal.guarded_tables
        SELECT oid, relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = p_table
        -- Guarded before, and somebody has dropped the policies.
        ON CONFLICT ("table") DO NOTHING;
    END IF;
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', p_table);
    -- A partition has its triggers from its table. Replaced, a trigger is enabled again.
    IF NOT (SELECT relispartition FROM pg_class WHERE oid = p_table) THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER "API_KEY_references" AFTER INSERT OR UPDATE ON %s FOR EACH ROW '
            'EXECUTE FUNCTION api_key_internal.check_references()', p_table);
    END IF;
    -- A partition that the owner adds clones the triggers.
    EXECUTE format('GRANT EXECUTE ON FUNCTION api_key_internal.check_references(), api_key_internal.lock_moved_row() TO %s',
        (SELECT relowner::regrole FROM pg_class WHERE oid = p_table));
    -- Roles that execute the policies execute these too.
    FOR v_role IN
        SELECT relowner FROM pg_class WHERE oid = p_table
        UNION
        SELECT acl.grantee FROM pg_proc AS p, aclexplode(p.proacl) AS acl
        WHERE p.oid = 'api_key.current_tenant_id()'::regprocedure AND acl.grantee <> p.proowner
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION api_key.refuse_row(regclass, name), api_key.is_left_to(regclass, name) TO %s',
            CASE v_role WHEN 0 THEN 'PUBLIC' ELSE v_role::regrole::text END);
    END LOOP;
END
$$;
COMMENT ON FUNCTION api_key_internal.guard IS 'Enables and forces row security, and records how it was.';

CREATE FUNCTION api_key_internal.watch_moves(p_table regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_old text;
    v_new text;
BEGIN
    WITH policies AS (
        SELECT p.oid, p.polrelid, p.polqual::text LIKE '%:varattno 0 %' AS of_whole_row
        FROM api_key_internal.wholes(p_table) AS whole JOIN pg_policy AS p ON p.polrelid = whole
        WHERE p.polname = ANY (api_key_internal.our_policies(whole))
    ), columns AS (
        SELECT a.attname, a.attgenerated <> '' AS is_generated FROM policies AS p
        JOIN pg_depend AS d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.polrelid
        JOIN pg_attribute AS a ON a.attrelid = p.polrelid AND a.attnum = d.refobjsubid AND a.attnum > 0
    )
    SELECT string_agg(format('OLD.%I', a.attname), ', ' ORDER BY a.attnum),
           string_agg(format('NEW.%I', a.attname), ', ' ORDER BY a.attnum) INTO v_old, v_new
    FROM pg_attribute AS a
    -- Of a generated column any other may be the source.
    WHERE a.attrelid = p_table AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
      AND (EXISTS (SELECT FROM columns WHERE is_generated OR columns.attname = a.attname)
           OR EXISTS (SELECT FROM policies WHERE of_whole_row));
    IF v_old IS NOT NULL AND NOT (SELECT relispartition FROM pg_class WHERE oid = p_table) THEN
        -- Compared as they are stored, which runs no code of a type's owner.
        EXECUTE format('CREATE OR REPLACE TRIGGER "~api_key_moves" BEFORE UPDATE ON %s FOR EACH ROW '
            'WHEN (pg_catalog.record_image_ne(ROW(%s), ROW(%s))) EXECUTE FUNCTION api_key_internal.lock_moved_row()',
            p_table, v_old, v_new);
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.watch_moves IS 'Makes a table lock rows in which a column that our policies read changes.';

CREATE FUNCTION api_key_internal.unguard(p_table regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_before api_key_internal.guarded_tables;
    v_trigger name;
BEGIN
    IF api_key_internal.our_policies(p_table) <> '{}' THEN
        PERFORM api_key_internal.watch_moves(p_table);
        RETURN;
    END IF;
    FOR v_trigger IN
        SELECT tgname FROM pg_trigger
        WHERE tgrelid = p_table AND tgparentid = 0
          AND tgfoid IN ('api_key_internal.check_references()'::regprocedure,
                         'api_key_internal.lock_moved_row()'::regprocedure)
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', v_trigger, p_table);
    END LOOP;
    DELETE FROM api_key_internal.guarded_tables AS g WHERE g."table" = p_table
    RETURNING * INTO v_before;
    -- If it is not known how it was, it stays on.
    EXECUTE format('ALTER TABLE %s %s ROW LEVEL SECURITY, %s FORCE ROW LEVEL SECURITY', p_table,
        CASE WHEN v_before.was_enabled IS FALSE THEN 'DISABLE' ELSE 'ENABLE' END,
        CASE WHEN v_before.was_forced IS FALSE THEN 'NO' END);
    EXECUTE (
        SELECT format('REVOKE EXECUTE ON FUNCTION api_key_internal.check_references(), api_key_internal.lock_moved_row() FROM %s',
                      c.relowner::regrole)
        FROM pg_class AS c, pg_proc AS p
        WHERE c.oid = p_table AND p.oid = 'api_key_internal.check_references()'::regprocedure
          AND p.proowner <> c.relowner
          AND NOT EXISTS (SELECT FROM api_key_internal.guarded_tables AS g JOIN pg_class AS o ON o.oid = g."table"
                          WHERE o.relowner = c.relowner)
        UNION ALL
        SELECT 'SELECT' LIMIT 1);
END
$$;
COMMENT ON FUNCTION api_key_internal.unguard IS 'Restores the row security of a table that has no policies of ours left.';

-- PostgREST answers 401 to PostgreSQL's own refusal of a row, if the request has no token. Policies call
-- the two that follow: with a table, and the restrictive policy of the rule. PostgREST offers no function
-- of several arguments without names.
CREATE FUNCTION api_key.refuse_row(regclass, name) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF api_key.current_key_id() IS NOT NULL AND coalesce(current_setting('request.method', true), '') <> '' THEN
        PERFORM api_key_internal.refuse('ROW_NOT_ALLOWED');
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION api_key.refuse_row IS
$$Returns false, or refuses the request (HTTP 403) if it comes from PostgREST with a key.

Policies of isolate_tenants and protect_resource call it.$$;

-- Permissive policies are asked first. No other restriction is relied on: where it has been dropped or
-- altered, nothing is left to it.
CREATE FUNCTION api_key.is_left_to(regclass, name) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT api_key.current_key_id() IS NOT NULL AND coalesce(current_setting('request.method', true), '') <> ''
        AND EXISTS (
            SELECT FROM pg_policy AS p JOIN pg_depend AS d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
            WHERE p.polrelid = $1 AND p.polname = $2 AND NOT p.polpermissive AND p.polroles = '{0}'
              AND d.refclassid = 'pg_proc'::regclass
              AND d.refobjid = 'api_key.refuse_row(regclass, name)'::regprocedure)
$$;
COMMENT ON FUNCTION api_key.is_left_to IS
$$Tells whether a restrictive policy of the extension will refuse the row that a permissive policy is asked about.

Policies of isolate_tenants and protect_resource call it.$$;

CREATE FUNCTION api_key_internal.make_policy(
    p_table regclass, p_name text, p_kind text, p_command text, p_rule text, p_owners_text boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_else text := format('api_key.%I(%L, %L)', CASE p_kind WHEN 'RESTRICTIVE' THEN 'refuse_row' ELSE 'is_left_to' END, p_table,
        CASE WHEN p_name LIKE 'api\_key\_tenant%' THEN 'api_key_tenant' WHEN p_kind = 'RESTRICTIVE' THEN p_name ELSE p_name || '_only' END);
    v_policy text;
BEGIN
    v_policy := format('CREATE POLICY %I ON %s AS %s FOR %s %s %s',
        p_name, p_table, p_kind, p_command,
        CASE WHEN p_command <> 'INSERT' THEN format('USING (%s)', p_rule) END,
        CASE WHEN p_command IN ('ALL', 'INSERT', 'UPDATE') THEN format('WITH CHECK (CASE WHEN %s THEN true ELSE %s END)', p_rule, v_else) END);
    IF p_owners_text THEN
        PERFORM api_key_internal.run_as_owner(p_table, v_policy);
    ELSE
        EXECUTE v_policy;
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.make_policy IS 'Makes a policy that applies a rule to the rows that a command reads and to those that it writes.';

CREATE FUNCTION api_key_internal.drop_policies(p_table regclass, p_kind text) RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_policies text[] := api_key_internal.our_policies(p_table, p_kind);
    v_policy text;
BEGIN
    FOREACH v_policy IN ARRAY v_policies LOOP
        EXECUTE format('DROP POLICY %I ON %s', v_policy, p_table);
    END LOOP;
    RETURN v_policies;
END
$$;
COMMENT ON FUNCTION api_key_internal.drop_policies IS 'Drops the policies of isolate_tenants (tenant) or protect_resource (resource), and returns their names.';

CREATE FUNCTION api_key_internal.one_line(p_text text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on
AS $$
    SELECT btrim(regexp_replace(p_text, '\s+', ' ', 'g'))
$$;
COMMENT ON FUNCTION api_key_internal.one_line IS 'Returns a text with each run of white space as one blank, for comparison.';

CREATE FUNCTION api_key_internal.policy_definitions(p_table regclass, p_kind text) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
-- These settings decide how constants are written.
SET quote_all_identifiers = off SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET intervalstyle = 'postgres'
SET extra_float_digits = 1 SET bytea_output = 'hex' SET standard_conforming_strings = on
AS $$
    SELECT coalesce(jsonb_object_agg(polname, jsonb_build_array(
        CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END, polcmd, polroles = '{0}',
        api_key_internal.one_line(pg_get_expr(polqual, polrelid)),
        -- Whatever the table is called today. Unlike %L, PostgreSQL doubles no backslashes here.
        replace(api_key_internal.one_line(pg_get_expr(polwithcheck, polrelid)),
                api_key_internal.one_line(format('''%s''::regclass', replace(p_table::text, '''', ''''''))),
                'the table'))), '{}')
    FROM pg_policy WHERE polrelid = p_table AND polname = ANY (api_key_internal.our_policies(p_table, p_kind))
$$;
COMMENT ON FUNCTION api_key_internal.policy_definitions IS 'Returns the policies of isolate_tenants (tenant) or protect_resource (resource) on a table, as PostgreSQL writes them.';

-- Ways past policies that PostgreSQL leaves open.
CREATE FUNCTION api_key_internal.ways_past_policies(p_table regclass, p_columns name[]) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE readers (oid) AS (
        SELECT p_table::oid
        UNION
        SELECT r.ev_class FROM readers JOIN pg_depend AS d
            ON d.refclassid = 'pg_class'::regclass AND d.refobjid = readers.oid
               AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite AS r ON r.oid = d.objid
    ), others (attnum) AS (
        -- Columns that others than the owner may write; 0 for all.
        SELECT 0 FROM pg_class AS c, aclexplode(c.relacl) AS acl
        WHERE c.oid = p_table AND acl.grantee <> c.relowner AND acl.privilege_type IN ('INSERT', 'UPDATE')
        UNION ALL
        SELECT a.attnum FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid, aclexplode(a.attacl) AS acl
        WHERE a.attrelid = p_table AND acl.grantee <> c.relowner AND acl.privilege_type IN ('INSERT', 'UPDATE')
    )
    SELECT jsonb_build_object(
        -- Where a value is taken, a unique index says so to everybody (23505).
        'unique', (
            SELECT coalesce(jsonb_agg(jsonb_build_object('index', i.indexrelid::regclass::text,
                'columns', columns.names, 'guessable', columns.guessable) ORDER BY i.indexrelid::regclass::text), '[]')
            FROM pg_index AS i, LATERAL (
                SELECT jsonb_agg(a.attname ORDER BY k.n) AS names,
                       bool_or(a.attname = ANY (p_columns)) AS own,
                       -- Somebody else may write one of the columns, and none is random.
                       bool_or(coalesce(a.attidentity <> 'a' AND a.attgenerated = '' AND (
                           NOT EXISTS (SELECT FROM others WHERE attnum > 0)
                           OR EXISTS (SELECT FROM others WHERE others.attnum IN (0, a.attnum))), true))
                       AND NOT bool_or(a.atttypid = 'uuid'::regtype AND pg_get_expr(ad.adbin, ad.adrelid)
                           ~ '(gen_random_uuid|uuid_generate_v[147]|uuidv[47])\(') IS TRUE AS guessable
                FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, n)
                LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                LEFT JOIN pg_attrdef AS ad ON ad.adrelid = i.indrelid AND ad.adnum = k.attnum
                WHERE k.n <= i.indnkeyatts
            ) AS columns
            WHERE i.indrelid = p_table AND (i.indisunique OR i.indisexclusion) AND columns.own IS NOT TRUE),
        -- They read as their owner, whom no policy holds, or have read already.
        'views', (
            SELECT coalesce(jsonb_agg(c.oid::regclass::text ORDER BY c.oid::regclass::text), '[]')
            FROM readers JOIN pg_class AS c USING (oid) JOIN pg_roles AS o ON o.oid = c.relowner
            WHERE c.relkind = 'm' OR c.relkind = 'v' AND (o.rolsuper OR o.rolbypassrls) AND NOT EXISTS (
                SELECT FROM pg_options_to_table(c.reloptions)
                WHERE option_name = 'security_invoker' AND option_value::boolean)),
        'privileges', (
            SELECT coalesce(jsonb_object_agg(role, privileges), '{}')
            FROM (SELECT coalesce(r.rolname, 'PUBLIC') AS role,
                         jsonb_agg(DISTINCT acl.privilege_type) AS privileges
                  FROM (SELECT relowner, relacl AS acl FROM pg_class
                        WHERE oid IN (SELECT api_key_internal.parts(p_table))
                        UNION ALL
                        SELECT relowner, attacl FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid
                        WHERE attrelid IN (SELECT api_key_internal.parts(p_table))) AS t,
                       aclexplode(t.acl) AS acl LEFT JOIN pg_roles AS r ON r.oid = acl.grantee
                  WHERE acl.grantee <> t.relowner
                    AND acl.privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER')
                    AND (r.rolsuper OR r.rolbypassrls) IS NOT TRUE
                  GROUP BY 1) AS granted),
        -- A reference there tells which rows are here.
        'referenced_by', (
            SELECT coalesce(jsonb_agg(DISTINCT c.conrelid::regclass::text), '[]')
            FROM pg_constraint AS c
            WHERE c.contype = 'f' AND c.confrelid = p_table AND c.conparentid = 0
              AND api_key_internal.our_policies(c.conrelid) = '{}'))
$$;
COMMENT ON FUNCTION api_key_internal.ways_past_policies IS 'Lists the ways to read, change or learn of rows that policies of a table do not cover.';

CREATE FUNCTION api_key_internal.warn_of(p_table regclass, p_ways jsonb) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_names text := (
        SELECT string_agg(value ->> 'index', ', ') FROM jsonb_array_elements(p_ways -> 'unique')
        WHERE (value ->> 'guessable')::boolean);
BEGIN
    IF v_names IS NOT NULL THEN
        RAISE WARNING USING MESSAGE = format('unique indexes of %s tell which values others have', p_table),
            DETAIL = format('Whoever writes a value that is taken is told so (23505): %s.', v_names),
            HINT = 'Add the tenant, or the owner, to them, or grant INSERT and UPDATE on the other columns only.';
    END IF;
    IF p_ways -> 'views' <> '[]' THEN
        RAISE WARNING USING MESSAGE = format('views read %s past its policies', p_table),
            DETAIL = format('They read as their owner: %s.', p_ways -> 'views'),
            HINT = 'ALTER VIEW ... SET (security_invoker = true); materialized views cannot be kept apart: revoke them.';
    END IF;
    IF p_ways -> 'privileges' <> '{}' THEN
        RAISE WARNING USING MESSAGE = format('privileges on %s reach past its policies', p_table),
            DETAIL = format('TRUNCATE, REFERENCES and TRIGGER know no policies: %s.', p_ways -> 'privileges'),
            HINT = format('REVOKE TRUNCATE, REFERENCES, TRIGGER ON %s FROM ...;', p_table);
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.warn_of IS 'Warns of ways past the policies of a table.';
