-- Checking that tables are still protected: migration tools drop policies that they do not know, and new
-- partitions have none yet.

CREATE FUNCTION api_key_internal.tenant_definitions(p_column name, p_permits boolean) RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_object_agg(p.name, jsonb_build_array(p.kind, p.command, true,
        api_key_internal.one_line(c.reads), api_key_internal.one_line(c.writes)))
    FROM api_key_internal.tenant_policies(p_column, p_permits) AS p,
         api_key_internal.policy_conditions('the table', p.name, p.kind, p.command, p.rule) AS c
$$;
COMMENT ON FUNCTION api_key_internal.tenant_definitions IS 'Returns the policies of isolate_tenants in the form of policy_definitions.';

-- Checks the work of guard and watch_moves, and the policies.
CREATE FUNCTION api_key_internal.missing(p_table regclass, p_kind text, p_policies jsonb) RETURNS SETOF text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'row security' FROM pg_class WHERE oid = p_table AND NOT relrowsecurity
    UNION ALL
    SELECT 'forced row security' FROM pg_class WHERE oid = p_table AND NOT relforcerowsecurity
    UNION ALL
    SELECT format('policy %s', key)
    FROM jsonb_each(p_policies) AS expected
    LEFT JOIN jsonb_each(api_key_internal.policy_definitions(p_table, p_kind)) AS found USING (key)
    WHERE found.value IS DISTINCT FROM expected.value
    UNION ALL
    SELECT format('trigger %s', name)
    FROM (VALUES ('API_KEY_references', 'api_key_internal.check_references()'::regprocedure),
                 ('~api_key_moves', 'api_key_internal.lock_moved_row()'::regprocedure)) AS expected (name, function)
    WHERE NOT EXISTS (
        SELECT FROM pg_trigger
        WHERE tgrelid = p_table AND tgname = name AND tgfoid = function AND tgenabled IN ('O', 'A'))
    UNION ALL
    -- The table may have changed owner since.
    SELECT 'privilege of the owner to add partitions' FROM pg_class
    WHERE oid = p_table AND relkind = 'p'
      AND NOT has_function_privilege(relowner, 'api_key_internal.check_references()', 'EXECUTE')
$$;
COMMENT ON FUNCTION api_key_internal.missing IS 'Lists the row security, policies of a kind and triggers that a table lacks.';

CREATE FUNCTION api_key.unprotected()
RETURNS TABLE ("table" text, protected_by text, missing text[], hint text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
AS $$
DECLARE
    v_whole regclass;
    v_part regclass;
    v_column name;
    v_isolated api_key_internal.protected_tables;
    v_resource api_key_internal.resources;
    v_seen regclass[] := '{}';
    v_define text;
BEGIN
    protected_by := 'tenants';
    FOR v_isolated IN
        SELECT * FROM api_key_internal.protected_tables AS i
        WHERE i."table" NOT IN (SELECT oid FROM pg_class) AND i.name IS NOT NULL
        ORDER BY i.name
    LOOP
        "table" := v_isolated.name;
        missing := ARRAY['table'];
        hint := CASE WHEN to_regclass(v_isolated.name) IS NULL
            THEN format('SELECT api_key.remove_tenant_isolation(%s);', v_isolated."table"::oid)
            ELSE format('SELECT api_key.isolate_tenants(%L, %L);', v_isolated.name, v_isolated.tenant_column) END;
        RETURN NEXT;
    END LOOP;
    -- Includes tables that have policies but are not registered, as after restoring one schema of a dump.
    FOR v_whole IN
        SELECT DISTINCT whole FROM (
            SELECT i."table" FROM api_key_internal.protected_tables AS i WHERE i.tenant_column IS NOT NULL
            UNION SELECT polrelid FROM pg_policy WHERE polname = 'api_key_tenant') AS t ("table"),
            api_key_internal.wholes(t."table") AS whole
        WHERE EXISTS (SELECT FROM pg_class WHERE oid = t."table")
          AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = whole)
    LOOP
        FOR v_part IN SELECT api_key_internal.parts(v_whole) LOOP
            SELECT * INTO v_isolated FROM api_key_internal.protected_tables AS i
            WHERE i.tenant_column IS NOT NULL AND i."table" IN (SELECT api_key_internal.wholes(v_part))
            ORDER BY i."table" = v_part DESC LIMIT 1;
            v_column := coalesce(api_key_internal.tenant_column(v_part), api_key_internal.tenant_column(v_whole),
                                 v_isolated.tenant_column);
            -- Another table of the same hierarchy need not be isolated.
            CONTINUE WHEN v_column IS NULL OR v_part = ANY (v_seen);
            v_seen := v_seen || v_part;
            -- The policies follow a column that is renamed. A policy on another column is not ours.
            IF api_key_internal.column_of_type(v_part, v_isolated.tenant_column, false) AND v_isolated.tenant_column IS NOT NULL THEN
                v_column := v_isolated.tenant_column;
            END IF;
            "table" := v_part::text;
            missing := ARRAY(
                SELECT format('column %I of type uuid', v_column)
                WHERE NOT api_key_internal.column_of_type(v_part, v_column, true)
                UNION ALL
                SELECT format('default of %I', v_column)
                WHERE api_key_internal.column_default(v_part, v_column) IS DISTINCT FROM 'api_key.current_tenant_id()'
                UNION ALL
                SELECT api_key_internal.missing(v_part, 'tenant', api_key_internal.tenant_definitions(v_column,
                    CASE WHEN v_isolated."table" = v_part THEN v_isolated.permits
                         ELSE api_key_internal.own_policies(v_part) = '{}' END))
                UNION ALL
                SELECT 'registration' WHERE v_isolated."table" IS NULL);
            hint := NULL;
            IF missing <> '{}' THEN
                hint := format('SELECT api_key.isolate_tenants(%L, %L);', v_whole, v_column);
                IF NOT api_key_internal.column_of_type(v_part, v_column, false) THEN
                    hint := format('ALTER TABLE %s ADD COLUMN %I uuid; ', v_whole, v_column) || hint;
                ELSIF NOT api_key_internal.column_of_type(v_part, v_column, true) THEN
                    -- Changing the type may run the owner's code, so the hint leaves it to the owner.
                    hint := hint || ' -- once the owner of the table has made the column a uuid again';
                END IF;
            END IF;
            RETURN NEXT;
        END LOOP;
    END LOOP;

    FOR v_resource IN SELECT * FROM api_key_internal.resources AS r WHERE r.protected ORDER BY r.type LOOP
        protected_by := format('resource %s', v_resource.type);
        IF NOT EXISTS (SELECT FROM pg_class WHERE oid = v_resource."table") THEN
            "table" := v_resource.name;
            missing := ARRAY['table'];
            hint := format('SELECT api_key.remove_resource(%L);', v_resource.type);
            RETURN NEXT;
        END IF;
        v_define := NULL;
        FOR v_part IN SELECT api_key_internal.parts(v_resource."table") LOOP
            "table" := v_part::text;
            missing := ARRAY(
                SELECT format('column %I%s', name, CASE WHEN is_uuid THEN ' of type uuid' END)
                FROM (VALUES (v_resource.id_column, false), (v_resource.owner_column, true),
                             (v_resource.tenant_column, true)) AS c (name, is_uuid)
                WHERE NOT api_key_internal.column_of_type(v_part, name, is_uuid)
                UNION ALL
                SELECT 'condition of p_public_when'
                WHERE v_part = v_resource."table" AND (
                    NOT api_key_internal.condition_is_of(v_resource, v_part) OR EXISTS (
                        SELECT FROM unnest(v_resource.public_columns) AS name
                        WHERE NOT api_key_internal.column_of_type(v_part, name, false)))
                UNION ALL
                SELECT format('unique index of %I', v_resource.id_column)
                WHERE v_part = v_resource."table" AND api_key_internal.id_operator(
                    v_part, v_resource.id_column, v_resource.tenant_column) IS NULL);
            -- Parts follow their table, and are repaired with it.
            IF missing <> '{}' THEN
                -- The present owner must not parse text of a former one.
                v_define := format('SELECT api_key.define_resource(%L, %L, %L, %L, %L, %L); -- put in the %s',
                    v_resource.type, v_resource."table", v_resource.id_column, v_resource.owner_column,
                    v_resource.tenant_column,
                    CASE WHEN api_key_internal.condition_is_of(v_resource, v_part) THEN v_resource.public_when END,
                    CASE WHEN api_key_internal.condition_is_of(v_resource, v_part) THEN 'columns as they are now'
                         ELSE 'condition again, if you trust it: a former owner of the table wrote what it calls' END);
            END IF;
            missing := missing || ARRAY(SELECT api_key_internal.missing(v_part, 'resource',
                CASE WHEN v_part = v_resource."table" THEN v_resource.policies
                     ELSE '{"api_key_resource_part": ["RESTRICTIVE", "ALL", true, "false", null]}' END));
            hint := CASE WHEN missing <> '{}'
                THEN coalesce(v_define, format('SELECT api_key.protect_resource(%L);', v_resource.type)) END;
            RETURN NEXT;
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON FUNCTION api_key.unprotected IS 'Returns the rows of api_key.protection.';

CREATE VIEW api_key.protection AS
SELECT "table", protected_by, missing, hint FROM api_key.unprotected();
COMMENT ON VIEW api_key.protection IS
$$Lists the tables protected by isolate_tenants or protect_resource, with their partitions and children, and what they lack by now.

Check it after each migration: SELECT * FROM api_key.protection WHERE missing <> '{}';$$;
COMMENT ON COLUMN api_key.protection."table" IS 'The table.';
COMMENT ON COLUMN api_key.protection.protected_by IS 'tenants, or resource and its type.';
COMMENT ON COLUMN api_key.protection.missing IS 'The parts that are gone, disabled or changed: row security, forced row security, policies, triggers, the default, a column, the condition of p_public_when (if a column that it reads is gone or renamed), the unique index of the id, or the table. Empty if nothing is.';
COMMENT ON COLUMN api_key.protection.hint IS 'The statement that repairs it; NULL if nothing is missing. If a column was renamed, put in its new name first.';
