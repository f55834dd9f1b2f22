-- Isolating the tenants of an application.

-- A policy refers to its column by number, so it is found even if it has been renamed.
CREATE FUNCTION api_key_internal.tenant_column(p_table regclass) RETURNS name
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.attname FROM pg_policy AS p
    JOIN pg_depend AS d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.polrelid AND d.refobjsubid > 0
    JOIN pg_attribute AS a ON a.attrelid = p.polrelid AND a.attnum = d.refobjsubid
    WHERE p.polrelid = p_table AND p.polname = 'api_key_tenant'
    -- If somebody altered one half of the policy, it may refer to a second column.
    ORDER BY a.attname IS DISTINCT FROM
        (SELECT i.tenant_column FROM api_key_internal.protected_tables AS i WHERE i."table" = p_table), a.attnum
    LIMIT 1
$$;
COMMENT ON FUNCTION api_key_internal.tenant_column IS 'Returns the column of the policy by which a table is isolated; NULL without one.';

CREATE FUNCTION api_key_internal.isolated_by(p_table regclass) RETURNS name
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(api_key_internal.tenant_column(p_table),
        (SELECT i.tenant_column FROM api_key_internal.protected_tables AS i WHERE i."table" = p_table))
$$;
COMMENT ON FUNCTION api_key_internal.isolated_by IS 'Returns the column by which a table is isolated, or was before its policy was dropped; NULL if it is not isolated.';

CREATE FUNCTION api_key_internal.column_default(p_table regclass, p_column name) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
AS $$
    SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute AS a
    JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = p_table AND a.attname = p_column
$$;
COMMENT ON FUNCTION api_key_internal.column_default IS 'Returns the default of a column, with qualified names; NULL if it has none.';

CREATE FUNCTION api_key_internal.index_on(p_table regclass, p_column name) RETURNS name
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = p_table AND a.attname = p_column AND i.indisvalid AND i.indpred IS NULL
      AND c.relam IN (SELECT oid FROM pg_am WHERE amname IN ('btree', 'hash'))
    ORDER BY i.indnatts, c.relname LIMIT 1
$$;
COMMENT ON FUNCTION api_key_internal.index_on IS 'Returns an index that begins with a column; NULL if there is none.';

CREATE FUNCTION api_key_internal.default_owner(p_table regclass, p_column name, p_whole regclass) RETURNS name
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        -- A partition that was made since then inherited our default. The one before is its table's.
        WHEN api_key_internal.column_default(p_table, p_column) = 'api_key.current_tenant_id()' AND p_table <> p_whole
        THEN (SELECT i.default_owner FROM api_key_internal.protected_tables AS i WHERE i."table" = p_whole)
        WHEN api_key_internal.strangers_code('pg_attrdef', d.oid, c.relowner) IS NULL
        THEN pg_get_userbyid(c.relowner) END
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
    JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.oid = p_table AND a.attname = p_column
$$;
COMMENT ON FUNCTION api_key_internal.default_owner IS 'Returns the role as which the default of a column may be set again; NULL if there is none.';

-- The rule is spelt as PostgreSQL writes it back, so that the two can be compared. Because of the subquery
-- it is evaluated once per statement, and scans stay parallel. Without a key it is NULL: no row is visible.
CREATE FUNCTION api_key_internal.tenant_policies(p_column name, p_permits boolean)
RETURNS TABLE (name text, kind text, command text, rule text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.name, p.kind, p.command,
           format('(%I = ( SELECT api_key.current_tenant_id() AS current_tenant_id))', p_column)
    FROM (VALUES
        -- Restrictive, so that no other policy can let a row of another tenant through.
        ('api_key_tenant', 'RESTRICTIVE', 'ALL'),
        ('api_key_tenant_select', 'PERMISSIVE', 'SELECT'),
        ('api_key_tenant_insert', 'PERMISSIVE', 'INSERT'),
        ('api_key_tenant_update', 'PERMISSIVE', 'UPDATE'),
        ('api_key_tenant_delete', 'PERMISSIVE', 'DELETE')) AS p (name, kind, command)
    WHERE p_permits OR p.kind = 'RESTRICTIVE'
$$;
COMMENT ON FUNCTION api_key_internal.tenant_policies IS 'Lists the policies of isolate_tenants for a column; the permissive ones only where an application has none of its own.';

-- p_table is p_whole or a part of it, and is locked by the caller.
CREATE FUNCTION api_key_internal.isolate(p_table regclass, p_column name, p_whole regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_default text;
    v_index name;
    -- If we made permissive policies before, keep them, even if the application has added its own since.
    v_permit boolean := api_key_internal.own_policies(p_table) = '{}'
        OR 'api_key_tenant_select' = ANY (api_key_internal.our_policies(p_table, 'tenant'))
        OR EXISTS (SELECT FROM api_key_internal.protected_tables AS i WHERE i."table" = p_table AND i.permits);
BEGIN
    v_default := api_key_internal.column_default(p_table, p_column);
    IF v_default = 'api_key.current_tenant_id()' THEN
        -- A partition that was made since then inherited our default from its table.
        v_default := (SELECT i.default_before FROM api_key_internal.protected_tables AS i WHERE i."table" = p_whole);
    END IF;
    PERFORM api_key_internal.guard(p_table);
    INSERT INTO api_key_internal.protected_tables AS p
        ("table", tenant_column, name, permits, default_before, default_owner)
    VALUES (p_table, p_column, CASE WHEN p_table = p_whole THEN p_table::text END, v_permit, v_default,
            api_key_internal.default_owner(p_table, p_column, p_whole))
    ON CONFLICT ("table") DO UPDATE SET
        tenant_column = excluded.tenant_column, name = excluded.name, permits = excluded.permits,
        -- If the table was isolated before, its first default is known.
        default_before = CASE WHEN p.tenant_column IS NULL THEN excluded.default_before ELSE p.default_before END,
        default_owner = CASE WHEN p.tenant_column IS NULL THEN excluded.default_owner ELSE p.default_owner END;
    PERFORM api_key_internal.drop_policies(p_table, 'tenant');
    PERFORM api_key_internal.make_policy(p_table, p.name, p.kind, p.command, p.rule, false)
    FROM api_key_internal.tenant_policies(p_column, v_permit) AS p;
    PERFORM api_key_internal.watch_moves(p_table);
    EXECUTE format('ALTER TABLE ONLY %s ALTER COLUMN %I SET DEFAULT api_key.current_tenant_id()',
        p_table, p_column);
    IF api_key_internal.index_on(p_table, p_column) IS NULL THEN
        EXECUTE format('CREATE INDEX ON %s (%I)', p_table, p_column);
        v_index := api_key_internal.index_on(p_table, p_column);
        UPDATE api_key_internal.protected_tables AS i SET index_made = v_index WHERE i."table" = p_table;
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.isolate IS 'Does the work of isolate_tenants on one table or partition.';

CREATE FUNCTION api_key.isolate_tenants(p_table regclass, p_column name = 'tenant_id') RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_column name;
    v_part regclass;
    v_ways jsonb;
    v_result jsonb;
BEGIN
    PERFORM api_key_internal.lock_table(p_table);
    PERFORM api_key_internal.check_column('p_column', p_table, p_column, true);
    v_column := api_key_internal.tenant_column(p_table);
    IF v_column <> p_column THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('%s is isolated by another column', p_table),
            DETAIL = format('It is isolated by %I.', v_column),
            HINT = format('SELECT api_key.remove_tenant_isolation(%L);', p_table);
    END IF;
    -- Forget dropped partitions, and a dropped table whose name this one has now.
    DELETE FROM api_key_internal.protected_tables AS i
    WHERE i."table" NOT IN (SELECT oid FROM pg_class) AND (i.name IS NULL OR to_regclass(i.name) = p_table);
    FOR v_part IN SELECT api_key_internal.parts(p_table) LOOP
        PERFORM api_key_internal.isolate(v_part, p_column, p_table);
    END LOOP;

    v_ways := api_key_internal.ways_past_policies(p_table, ARRAY[p_column]);
    SELECT jsonb_build_object(
        'table', p_table::text, 'column', p_column, 'row_security', 'forced',
        'policies', to_jsonb(api_key_internal.our_policies(p_table, 'tenant')),
        'own_policies', to_jsonb(api_key_internal.own_policies(p_table)),
        'default', api_key_internal.column_default(p_table, p_column),
        'index', api_key_internal.index_on(p_table, p_column),
        'index_made', i.index_made IS NOT NULL,
        'not_null', (SELECT attnotnull FROM pg_attribute WHERE attrelid = p_table AND attname = p_column),
        'partitions', (SELECT coalesce(jsonb_agg(part::text), '[]') FROM api_key_internal.parts(p_table) AS part
                       WHERE part <> p_table),
        'foreign_keys', (SELECT coalesce(jsonb_object_agg(conname, confrelid::regclass::text), '{}')
                         FROM pg_constraint WHERE conrelid = p_table AND contype = 'f' AND conparentid = 0
                           AND api_key_internal.our_policies(confrelid) <> '{}'),
        'unique_without_tenant', v_ways -> 'unique') || (v_ways - 'unique')
    INTO v_result FROM api_key_internal.protected_tables AS i WHERE i."table" = p_table;
    PERFORM api_key_internal.warn_of(p_table, v_ways);
    PERFORM api_key_internal.audit('tenants_isolated', NULL, NULL, NULL,
        v_result - ARRAY['views', 'privileges', 'referenced_by', 'unique_without_tenant']);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION api_key.isolate_tenants IS
$$Restricts a table so that each key sees and changes only rows of its tenant. It reports what it did, and what it cannot protect.

p_column: the column that holds the tenant, of type uuid.

It enables and forces row security, and makes policies for SELECT, INSERT, UPDATE and DELETE. If the table has
permissive policies of its own, it only adds a restrictive one. It sets the default of the column, and makes
an index if there is none. Partitions are treated alike. Foreign keys to isolated tables are checked so that
a row of another tenant counts as missing (23503).

Without a key no row is visible. Superusers and roles with BYPASSRLS see every row.

Call it again for new partitions; it does what is left to do. Call it as a superuser or the owner of the
extension. It locks the table.

Result: {table, column, row_security, policies, own_policies, default, index, index_made, not_null, partitions, foreign_keys, unique_without_tenant, views, privileges, referenced_by}.
not_null: false if rows may belong to no tenant.
foreign_keys: those that are checked, with the tables that they refer to.
unique_without_tenant: unique indexes, which tell everyone that a value is taken. A guessable one has columns
that others may choose, and none with a random default.
views: views that read the table as an owner whom no policy restricts, and materialized views.
privileges: TRUNCATE, REFERENCES and TRIGGER, which ignore policies, by role.
referenced_by: tables that refer to this one without being isolated.

Errors: 22023, 55000 isolated by another column.$$;

-- p_default was written by the owner of p_whole, or of a table between the two. A part that belongs to
-- another role does not get it back.
CREATE FUNCTION api_key_internal.restore_default(
    p_table regclass, p_column name, p_default text, p_owner name, p_whole regclass) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('ALTER TABLE ONLY %s ALTER COLUMN %I DROP DEFAULT', p_table, p_column);
    IF p_default IS NULL THEN
        RETURN true;
    ELSIF p_table <> p_whole AND (
        SELECT count(DISTINCT relowner) FROM pg_class
        WHERE oid IN (SELECT api_key_internal.parts(p_whole))) > 1
    THEN
        RAISE EXCEPTION USING ERRCODE = '42501',
            MESSAGE = 'the table and its partitions belong to several roles';
    ELSIF p_owner IS DISTINCT FROM (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = p_table) THEN
        RAISE EXCEPTION USING ERRCODE = '42501',
            MESSAGE = 'it is the text of another role, or calls what belongs to one';
    END IF;
    PERFORM api_key_internal.run_as_owner(p_table,
        format('ALTER TABLE ONLY %s ALTER COLUMN %I SET DEFAULT %s', p_table, p_column, p_default));
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    EXECUTE format('ALTER TABLE ONLY %s ALTER COLUMN %I DROP DEFAULT', p_table, p_column);
    RAISE WARNING USING MESSAGE = format('%s.%I is without its default', p_table, p_column),
        DETAIL = format('It was %s, which its owner cannot set: %s.', p_default, SQLERRM),
        HINT = format('ALTER TABLE ONLY %s ALTER COLUMN %I SET DEFAULT ...;', p_table, p_column);
    RETURN false;
END
$$;
COMMENT ON FUNCTION api_key_internal.restore_default IS 'Restores the default of a column, as the owner of the table. Returns false, with a WARNING, if that fails.';

CREATE FUNCTION api_key.remove_tenant_isolation(p_table regclass) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_column name;
    v_part regclass;
    v_before api_key_internal.protected_tables;
    v_index regclass;
    v_policies text[];
    v_lost text;
    v_result jsonb;
BEGIN
    DELETE FROM api_key_internal.protected_tables AS i
    WHERE i."table" = p_table AND i.tenant_column IS NOT NULL AND i."table" NOT IN (SELECT oid FROM pg_class)
    RETURNING jsonb_build_object('table', i.name, 'column', i.tenant_column, 'policies_dropped', '{}'::text[],
        'default', NULL, 'default_lost', NULL, 'index_dropped', NULL, 'row_security', NULL) INTO v_result;
    IF FOUND THEN
        PERFORM api_key_internal.audit('tenant_isolation_removed', NULL, NULL, NULL, v_result);
        RETURN v_result;
    END IF;
    PERFORM api_key_internal.lock_table(p_table);
    IF api_key_internal.isolated_by(p_table) IS NULL THEN
        PERFORM api_key_internal.refuse_argument('p_table', format('%s is not isolated.', p_table),
            'Name a table that isolate_tenants was called for.');
    END IF;
    FOR v_part IN SELECT api_key_internal.parts(p_table) LOOP
        v_column := api_key_internal.isolated_by(v_part);
        CONTINUE WHEN v_column IS NULL;
        v_policies := api_key_internal.drop_policies(v_part, 'tenant');
        SELECT * INTO v_before FROM api_key_internal.protected_tables AS i WHERE i."table" = v_part;
        UPDATE api_key_internal.protected_tables AS i
        SET tenant_column = NULL, name = NULL, permits = NULL, default_before = NULL, default_owner = NULL, index_made = NULL
        WHERE i."table" = v_part;
        v_lost := NULL;
        -- Keep a default that somebody has set since.
        IF api_key_internal.column_default(v_part, v_column) = 'api_key.current_tenant_id()'
            AND NOT api_key_internal.restore_default(v_part, v_column, v_before.default_before, v_before.default_owner, p_table)
        THEN
            v_lost := v_before.default_before;
        END IF;
        -- Another index may have its name by now.
        SELECT i.indexrelid::regclass INTO v_index
        FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = v_part AND c.relname = v_before.index_made AND NOT i.indisunique
          AND i.indnatts = 1 AND a.attname = v_column;
        IF v_index IS NOT NULL THEN
            EXECUTE format('DROP INDEX %s', v_index);
        END IF;
        PERFORM api_key_internal.unguard(v_part);
        IF v_part = p_table THEN
            v_result := jsonb_build_object('table', p_table::text, 'column', v_column,
                'policies_dropped', v_policies,
                'default', api_key_internal.column_default(p_table, v_column),
                'default_lost', v_lost,
                'index_dropped', v_before.index_made,
                'row_security', (SELECT CASE WHEN NOT relrowsecurity THEN 'disabled'
                                             WHEN relforcerowsecurity THEN 'forced' ELSE 'enabled' END
                                 FROM pg_class WHERE oid = p_table));
        END IF;
    END LOOP;
    PERFORM api_key_internal.audit('tenant_isolation_removed', NULL, NULL, NULL, v_result);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION api_key.remove_tenant_isolation IS
$$Undoes isolate_tenants. Row security, defaults and indexes are again as they were before.

A default that was changed since stays, and row security stays while protect_resource needs it. The old default
is set again as the owner of the table. If that fails, or if the partitions belong to several roles, the
column has no default, and a WARNING says so.

p_table: the table. If it no longer exists, pass its number from api_key.protection to forget it.

Result: {table, column, policies_dropped, default, default_lost, index_dropped, row_security}. default_lost is
the default that could not be restored; row_security is disabled, enabled or forced.
Errors: 22023.

Call it as a superuser or the owner of the extension. It locks the table.$$;
