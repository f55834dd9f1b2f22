-- Tables of applications belong to roles that the extension does not trust: what is their owner's is
-- judged, parsed and run as that owner, restricted, or not at all (src/pg/foreign.rs).

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
        PERFORM api_key_internal.refuse_argument('p_table', v_detail, v_hint);
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
            DETAIL = format('A query of %s also reads %s, which belongs to another role: its code would run with the rights of the wrong one.',
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
