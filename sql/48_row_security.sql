-- Row security: what isolate_tenants and protect_resource have in common.

-- Keeps the state of each table before it was protected. It is not kept in comments: a default is executed
-- when it is restored, and the owner of a table may write any comment.
CREATE TABLE api_key_internal.protected_tables (
    "table" regclass PRIMARY KEY,
    -- Row security before; NULL if unknown.
    was_enabled boolean,
    was_forced boolean,
    -- The rest is for isolate_tenants; NULL if only protect_resource was called. This is the name of the
    -- column at that time: policies refer to it by number.
    tenant_column name,
    -- The name of the table; NULL for partitions, which may be dropped at any time.
    name text,
    -- Whether isolate_tenants made permissive policies.
    permits boolean,
    -- NULL if the column had none.
    default_before text,
    -- The role that wrote the default; NULL if it calls code of a role that is neither the table's owner
    -- nor a superuser.
    default_owner name,
    -- The index that we made, if any. It is kept by name because a dump creates indexes after it has filled
    -- tables.
    index_made name,
    CHECK ((permits IS NULL) = (tenant_column IS NULL)),
    CHECK (tenant_column IS NOT NULL OR num_nonnulls(name, default_before, default_owner, index_made) = 0)
);
COMMENT ON TABLE api_key_internal.protected_tables IS 'Tables and partitions of isolate_tenants and protect_resource, as they were before.';
-- A dump leaves out dropped tables: their numbers would mean other tables in another database.
SELECT pg_catalog.pg_extension_config_dump(
    'api_key_internal.protected_tables', 'WHERE "table" IN (SELECT oid FROM pg_catalog.pg_class)');

CREATE FUNCTION api_key_internal.is_request_by_key() RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT api_key.current_key_id() IS NOT NULL
        AND coalesce(current_setting('request.method', true), '') <> ''
$$;
COMMENT ON FUNCTION api_key_internal.is_request_by_key IS 'Tells whether this is a request of PostgREST that acts as a key.';

-- PostgREST answers 401 to PostgreSQL's own refusal of a row if the request has no token, so policies call
-- the next two functions, with the table and the restrictive policy of the rule. Their arguments have no
-- names, so PostgREST does not expose them.
CREATE FUNCTION api_key.refuse_row(regclass, name) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF api_key_internal.is_request_by_key() THEN
        PERFORM api_key_internal.refuse('ROW_NOT_ALLOWED');
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION api_key.refuse_row IS
$$Returns false, or refuses the request (HTTP 403) if it comes from PostgREST with a key.

Policies of isolate_tenants and protect_resource call it.$$;

-- PostgreSQL evaluates permissive policies first. The restrictive policy is looked up because somebody may
-- have dropped or altered it.
CREATE FUNCTION api_key.is_left_to(regclass, name) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT api_key_internal.is_request_by_key()
        AND EXISTS (
            SELECT FROM pg_policy AS p JOIN pg_depend AS d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
            WHERE p.polrelid = $1 AND p.polname = $2 AND NOT p.polpermissive AND p.polroles = '{0}'
              AND d.refclassid = 'pg_proc'::regclass
              AND d.refobjid = 'api_key.refuse_row(regclass, name)'::regprocedure)
$$;
COMMENT ON FUNCTION api_key.is_left_to IS
$$Tells whether a restrictive policy of the extension will refuse the row that a permissive policy is asked about.

Policies of isolate_tenants and protect_resource call it.$$;

CREATE FUNCTION api_key_internal.column_of_type(p_table regclass, p_column name, p_uuid boolean) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_column IS NULL OR EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = p_table AND attname = p_column AND attnum > 0 AND NOT attisdropped
          AND (atttypid = 'uuid'::regtype AND attgenerated = '' OR NOT p_uuid))
$$;
COMMENT ON FUNCTION api_key_internal.column_of_type IS 'Tells whether a table has a column that can be written and, if required, is of type uuid; true for NULL.';

CREATE FUNCTION api_key_internal.check_column(
    p_argument text, p_table regclass, p_column name, p_uuid boolean) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_column IS NULL OR NOT api_key_internal.column_of_type(p_table, p_column, p_uuid) THEN
        PERFORM api_key_internal.refuse_argument(p_argument,
            CASE WHEN p_column IS NULL OR NOT api_key_internal.column_of_type(p_table, p_column, false)
                THEN format('%s has no such column.', p_table)
                ELSE format('%s.%I is not a uuid that can be written.', p_table, p_column) END,
            CASE WHEN p_argument = 'p_owner_column'
                    THEN 'Name a column of type uuid, or pass p_owner_column => NULL if rows have no owner.'
                WHEN p_uuid THEN 'Name a column of type uuid.'
                ELSE 'Name a column of the table.' END);
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.check_column IS 'Refuses a column that does not exist, or is not of type uuid (22023).';

CREATE FUNCTION api_key_internal.our_policies(p_table regclass, p_kind text = '(tenant|resource)') RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(polname::text ORDER BY polname), '{}') FROM pg_policy
    WHERE polrelid = p_table
      AND polname ~ format('^api_key_%s(_(select|insert|update|delete|part)(_only)?)?$', p_kind)
$$;
COMMENT ON FUNCTION api_key_internal.our_policies IS 'Returns the policies of a table that isolate_tenants or protect_resource made.';

-- If the application has permissive policies, ours would grant more than they do, so we only restrict. If
-- it has none, nobody could do anything without ours.
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
-- so it runs first and answers alike for hidden and missing rows. Unlike the WITH CHECK of a policy, it
-- sees rows of the same statement and may query the table itself. It locks the row that it finds, as
-- PostgreSQL's own check does.
CREATE FUNCTION api_key_internal.check_references() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'check_references';
COMMENT ON FUNCTION api_key_internal.check_references IS 'Refuses a reference to a row that the rule of its table hides from the writer, as if the row did not exist.';

-- In Rust (src/pg/references.rs). The name of its trigger sorts after those of the application, which may
-- still change the row.
CREATE FUNCTION api_key_internal.lock_moved_row() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'lock_moved_row';
COMMENT ON FUNCTION api_key_internal.lock_moved_row IS 'Makes those who refer to a row wait while the row changes owner or tenant.';


CREATE FUNCTION api_key_internal.guard(p_table regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_role oid;
BEGIN
    IF api_key_internal.our_policies(p_table) = '{}' THEN
        INSERT INTO api_key_internal.protected_tables AS p ("table", was_enabled, was_forced)
        SELECT oid, relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = p_table
        -- The table was guarded before, and somebody has dropped the policies.
        ON CONFLICT ("table") DO UPDATE SET was_enabled = coalesce(p.was_enabled, excluded.was_enabled),
            was_forced = coalesce(p.was_forced, excluded.was_forced);
    END IF;
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', p_table);
    -- A partition inherits the triggers of its table. Replacing a trigger enables it again.
    IF NOT (SELECT relispartition FROM pg_class WHERE oid = p_table) THEN
        EXECUTE format('CREATE OR REPLACE TRIGGER "API_KEY_references" AFTER INSERT OR UPDATE ON %s FOR EACH ROW '
            'EXECUTE FUNCTION api_key_internal.check_references()', p_table);
    END IF;
    -- The owner needs this to add a partition, which clones the triggers.
    EXECUTE format('GRANT EXECUTE ON FUNCTION api_key_internal.check_references(), api_key_internal.lock_moved_row() TO %s',
        (SELECT relowner::regrole FROM pg_class WHERE oid = p_table));
    -- Roles that are subject to the policies call these functions too.
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
    -- A generated column may depend on any other column.
    WHERE a.attrelid = p_table AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
      AND (EXISTS (SELECT FROM columns WHERE is_generated OR columns.attname = a.attname)
           OR EXISTS (SELECT FROM policies WHERE of_whole_row));
    IF v_old IS NOT NULL AND NOT (SELECT relispartition FROM pg_class WHERE oid = p_table) THEN
        -- Comparing stored images runs no code of a type's owner.
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
    v_before api_key_internal.protected_tables;
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
    SELECT * INTO v_before FROM api_key_internal.protected_tables AS p WHERE p."table" = p_table;
    -- The table stays registered for tenants even if somebody has dropped their policies.
    UPDATE api_key_internal.protected_tables AS p SET was_enabled = NULL, was_forced = NULL
    WHERE p."table" = p_table AND p.tenant_column IS NOT NULL;
    DELETE FROM api_key_internal.protected_tables AS p WHERE p."table" = p_table AND p.tenant_column IS NULL;
    -- If the former state is unknown, row security stays on.
    EXECUTE format('ALTER TABLE %s %s ROW LEVEL SECURITY, %s FORCE ROW LEVEL SECURITY', p_table,
        CASE WHEN v_before.was_enabled IS FALSE THEN 'DISABLE' ELSE 'ENABLE' END,
        CASE WHEN v_before.was_forced IS FALSE THEN 'NO' END);
    EXECUTE (
        SELECT format('REVOKE EXECUTE ON FUNCTION api_key_internal.check_references(), api_key_internal.lock_moved_row() FROM %s',
                      c.relowner::regrole)
        FROM pg_class AS c, pg_proc AS p
        WHERE c.oid = p_table AND p.oid = 'api_key_internal.check_references()'::regprocedure
          AND p.proowner <> c.relowner
          AND NOT EXISTS (SELECT FROM api_key_internal.protected_tables AS g JOIN pg_class AS o ON o.oid = g."table"
                          WHERE o.relowner = c.relowner)
        UNION ALL
        SELECT 'SELECT' LIMIT 1);
END
$$;
COMMENT ON FUNCTION api_key_internal.unguard IS 'Restores the row security of a table that has no policies of ours left.';
