CREATE TABLE api_key_internal.resources (
    type text COLLATE "C" PRIMARY KEY CHECK (api_key_internal.is_label(type)),
    "table" regclass NOT NULL,
    id_column name NOT NULL,
    owner_column name,
    tenant_column name,
    -- As PostgreSQL writes it, with qualified names.
    public_when text,
    -- As which role that was parsed: the table's owner.
    owner name,
    -- The columns that it reads.
    public_columns name[],
    -- The name of the table then.
    name text NOT NULL,
    protected boolean NOT NULL DEFAULT false,
    -- Whether there are permissive policies of ours.
    permits boolean NOT NULL DEFAULT false,
    -- Those of the table as protect_resource has made them, to be compared.
    policies jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE api_key_internal.resources IS 'Resources defined by define_resource.';
CREATE UNIQUE INDEX resources_protected ON api_key_internal.resources ("table") WHERE protected;
SELECT pg_catalog.pg_extension_config_dump(
    'api_key_internal.resources', 'WHERE "table" IN (SELECT oid FROM pg_catalog.pg_class)');

CREATE VIEW api_key.resources AS
SELECT type, "table"::text AS "table", id_column, owner_column, tenant_column, public_when, protected
FROM api_key_internal.resources;
COMMENT ON VIEW api_key.resources IS 'Lists the resources defined by define_resource.';
COMMENT ON COLUMN api_key.resources.type IS 'The name of the type, as passed to authorize.';
COMMENT ON COLUMN api_key.resources."table" IS 'The table whose rows are the resources.';
COMMENT ON COLUMN api_key.resources.id_column IS 'The column of the id.';
COMMENT ON COLUMN api_key.resources.owner_column IS 'The column of the owner; NULL if rows have none.';
COMMENT ON COLUMN api_key.resources.tenant_column IS 'The column of the tenant; NULL if rows have none.';
COMMENT ON COLUMN api_key.resources.public_when IS 'The condition under which anyone may read a row; NULL if there is none.';
COMMENT ON COLUMN api_key.resources.protected IS 'Whether protect_resource has made policies on the table.';

-- The rule, for policies, authorize and references alike. p_identity: how tenant, user, key and the
-- scope admin are asked for.
CREATE FUNCTION api_key_internal.resource_rule(
    p_resource api_key_internal.resources, p_read boolean,
    p_identity text[] = ARRAY['(SELECT api_key.current_tenant_id())', '(SELECT api_key.current_user_id())',
        '(SELECT api_key.current_api_key() ->> ''resource_id'')', '(SELECT api_key.has_scope(''admin''))'])
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    -- A key that is bound to a resource is for no other.
    SELECT format('(%1$s IS NULL OR %2$I::text = %1$s) AND (', p_identity[3], p_resource.id_column)
        || concat_ws(' OR ',
            CASE WHEN p_read THEN '(' || p_resource.public_when || ')' END,
            CASE WHEN p_resource.owner_column IS NOT NULL THEN
                format('%I = %s', p_resource.owner_column, p_identity[2]) || CASE
                    WHEN p_resource.tenant_column IS NOT NULL THEN
                        format(' AND (%1$I IS NULL OR %1$I = %2$s)', p_resource.tenant_column, p_identity[1])
                    ELSE '' END
            END,
            p_identity[4] || CASE WHEN p_resource.tenant_column IS NOT NULL THEN
                format(' AND %I = %s', p_resource.tenant_column, p_identity[1]) ELSE '' END)
        || ')'
$$;
COMMENT ON FUNCTION api_key_internal.resource_rule IS 'Returns the rule of a resource, for reading or for everything else, as a condition on the row.';

-- Given away with its table, a condition is still the text of the role that owned it.
CREATE FUNCTION api_key_internal.condition_is_of(p_resource api_key_internal.resources, p_table regclass) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_resource.public_when IS NULL OR EXISTS (
        SELECT FROM pg_class WHERE oid = p_table AND pg_get_userbyid(relowner) = p_resource.owner)
$$;
COMMENT ON FUNCTION api_key_internal.condition_is_of IS 'Tells whether the condition of a resource may run as the owner of a table: it is text of that owner, or there is none.';

CREATE FUNCTION api_key_internal.resource(p_type text) RETURNS api_key_internal.resources
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_resource api_key_internal.resources;
BEGIN
    SELECT * INTO v_resource FROM api_key_internal.resources WHERE type = p_type;
    IF NOT FOUND THEN
        PERFORM api_key_internal.refuse_argument('resource type',
            'There is no resource of this type.',
            'See the view api_key.resources, or define it with api_key.define_resource.');
    ELSIF api_key_internal.others_code(v_resource."table") IS NOT NULL THEN
        PERFORM api_key_internal.check_one_owner(v_resource."table", '55000',
            format('the table of the resource %s has changed', p_type));
    ELSIF NOT EXISTS (SELECT FROM pg_class WHERE oid = v_resource."table")
        OR NOT api_key_internal.condition_is_of(v_resource, v_resource."table")
        OR NOT api_key_internal.column_of_type(v_resource."table", v_resource.id_column, false)
        OR NOT api_key_internal.column_of_type(v_resource."table", v_resource.owner_column, true)
        OR NOT api_key_internal.column_of_type(v_resource."table", v_resource.tenant_column, true)
        OR EXISTS (SELECT FROM unnest(v_resource.public_columns) AS name
                   WHERE NOT api_key_internal.column_of_type(v_resource."table", name, false))
        OR api_key_internal.id_operator(v_resource."table", v_resource.id_column, v_resource.tenant_column) IS NULL
    THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('the table of the resource %s has changed', p_type),
            DETAIL = 'The table, its owner, a column or the unique index that it was defined with is gone, or has another name or type.',
            HINT = 'Call api_key.define_resource again, or api_key.remove_resource.';
    END IF;
    RETURN v_resource;
END
$$;
COMMENT ON FUNCTION api_key_internal.resource IS 'Returns a defined resource, or raises 22023.';

-- A plain type of PostgreSQL's or of an extension: no code of a table's owner makes one of a text.
CREATE FUNCTION api_key_internal.is_id_type(p_type oid) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.typtype = 'b' AND t.typelem = 0 AND r.rolsuper
    FROM pg_type AS t JOIN pg_roles AS r ON r.oid = t.typowner
    WHERE t.oid = api_key_internal.base_type(p_type)
$$;
COMMENT ON FUNCTION api_key_internal.is_id_type IS 'Tells whether a type, or the base type of a domain, may be that of an id.';

-- The equality of the unique index that finds a row by its id; NULL without such an index. Besides the
-- id it may have the tenant.
CREATE FUNCTION api_key_internal.id_operator(p_table regclass, p_id_column name, p_tenant_column name)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
    FROM pg_index AS i, unnest(i.indkey::smallint[], i.indclass::oid[]) AS k (attnum, opclass)
        JOIN pg_opclass AS c ON c.oid = k.opclass
        JOIN pg_amop AS a ON a.amopfamily = c.opcfamily AND a.amopstrategy = 3
            AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype
        JOIN pg_operator AS o ON o.oid = a.amopopr JOIN pg_namespace AS n ON n.oid = o.oprnamespace,
        pg_attribute AS f
    WHERE i.indrelid = p_table AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
      AND f.attrelid = p_table AND f.attname = p_id_column AND f.attnum = k.attnum
      AND api_key_internal.is_id_type(f.atttypid)
      AND NOT EXISTS (
          SELECT FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS other (attnum, n)
          LEFT JOIN pg_attribute AS oa ON oa.attrelid = p_table AND oa.attnum = other.attnum
          -- An expression has no name.
          WHERE other.n <= i.indnkeyatts
            AND (oa.attname IN (p_id_column, p_tenant_column)) IS NOT TRUE)
    LIMIT 1
$$;
COMMENT ON FUNCTION api_key_internal.id_operator IS 'Returns the operator that finds a row of a resource by its id.';

-- In Rust (src/pg/resources.rs). p_find gives the rows of the id $1 as one array, with the rights of the
-- owner; p_rule, a query of that array $1, runs with those of the role. Neither has the extension's.
CREATE FUNCTION api_key_internal.holds_for(
    p_table oid, p_owner oid, p_find text, p_id text, p_role oid, p_rule text)
RETURNS boolean
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'holds_for';
COMMENT ON FUNCTION api_key_internal.holds_for IS 'Tells whether a rule holds, for a role, for a row that the owner of a table finds.';

CREATE FUNCTION api_key_internal.allows(
    p_resource api_key_internal.resources, p_id text, p_read boolean) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_owner oid := (SELECT relowner FROM pg_class WHERE oid = p_resource."table");
    -- A caller that sees past policies, or may administer keys, does not lend that to a condition.
    v_role oid := (SELECT CASE WHEN r.rolsuper OR r.rolbypassrls
            OR has_function_privilege(r.oid, 'api_key.define_tier(text, integer, text)', 'EXECUTE')
            THEN v_owner ELSE r.oid END
        FROM pg_roles AS r WHERE r.rolname = api_key_internal.request_role());
    -- Without its length, to which a cast would cut the id.
    v_type text := (SELECT format_type(api_key_internal.base_type(atttypid), -1) FROM pg_attribute
                    WHERE attrelid = p_resource."table" AND attname = p_resource.id_column);
BEGIN
    BEGIN
        PERFORM api_key_internal.holds_for(0, v_owner, format('SELECT ARRAY[CAST($1 AS %s) IS NULL]', v_type),
            p_id, v_owner, 'SELECT true FROM unnest($1)');
    EXCEPTION WHEN data_exception OR invalid_schema_name OR syntax_error_or_access_rule_violation THEN
        RETURN false;
    END;
    RETURN coalesce(api_key_internal.holds_for(
        p_resource."table", v_owner,
        -- Not by the alias alone: a column may have its name.
        format('SELECT array_agg(("row of a resource".*)::%1$s) FROM %1$s AS "row of a resource" WHERE "row of a resource".%2$I %3$s CAST($1 AS %4$s)',
            p_resource."table", p_resource.id_column,
            api_key_internal.id_operator(p_resource."table", p_resource.id_column, p_resource.tenant_column), v_type),
        p_id, v_role,
        -- Where a condition names the whole row, it does so by the table's name.
        (SELECT format('SELECT bool_or(%s) FROM unnest($1) AS %I', api_key_internal.resource_rule(p_resource, p_read), relname)
         FROM pg_class WHERE oid = p_resource."table")), false);
END
$$;
COMMENT ON FUNCTION api_key_internal.allows IS 'Tells whether the key of the request may read a row of a resource, or do everything else to it.';

CREATE FUNCTION api_key_internal.unprotect(p_type text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_part regclass;
BEGIN
    FOR v_part IN
        SELECT api_key_internal.parts(r."table") FROM api_key_internal.resources AS r
        WHERE r.type = p_type AND r.protected
    LOOP
        PERFORM api_key_internal.drop_policies(v_part, 'resource');
        PERFORM api_key_internal.unguard(v_part);
    END LOOP;
    UPDATE api_key_internal.resources AS r SET protected = false WHERE r.type = p_type;
END
$$;
COMMENT ON FUNCTION api_key_internal.unprotect IS 'Undoes protect_resource.';

CREATE FUNCTION api_key_internal.canonical_condition(
    p_table regclass, p_condition text, OUT condition text, OUT columns name[])
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_policy oid;
    v_has_subquery boolean;
    v_has_system_column boolean;
    v_code text;
BEGIN
    IF p_condition IS NULL THEN
        RETURN;
    END IF;
    SELECT format('%I is of the type %s', a.attname, t.type) INTO v_code
    FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid,
        LATERAL api_key_internal.strangers_type(ARRAY[a.atttypid], c.relowner) AS t (type)
    WHERE a.attrelid = p_table AND a.attnum > 0 AND NOT a.attisdropped AND t.type IS NOT NULL
      -- By itself or with the whole row.
      AND (strpos(lower(replace(p_condition, '""', '"')), lower(a.attname)) > 0
           OR strpos(lower(replace(p_condition, '""', '"')), lower(c.relname)) > 0)
    ORDER BY a.attnum LIMIT 1;
    IF v_code IS NOT NULL THEN
        -- To make one of a constant runs its constraints, as the owner of the table.
        RAISE EXCEPTION USING ERRCODE = '42601', MESSAGE = v_code || ', which belongs to another role than the table';
    END IF;
    PERFORM api_key_internal.run_as_owner(
        p_table, format(E'CREATE POLICY api_key_condition ON %s USING (%s\n)', p_table, p_condition));
    SELECT oid, pg_get_expr(polqual, polrelid), polqual::text LIKE '%{SUBLINK %', polqual::text LIKE '%:varattno -%',
           api_key_internal.strangers_code('pg_policy', oid, (SELECT relowner FROM pg_class WHERE oid = p_table))
    INTO v_policy, condition, v_has_subquery, v_has_system_column, v_code
    FROM pg_policy WHERE polrelid = p_table AND polname = 'api_key_condition' AND polwithcheck IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42601', MESSAGE = 'more than one expression';
    ELSIF v_has_subquery THEN
        -- authorize has a copy of the row, to which a subquery cannot refer.
        RAISE EXCEPTION USING ERRCODE = '42601', MESSAGE = 'it has a subquery';
    ELSIF v_has_system_column THEN
        RAISE EXCEPTION USING ERRCODE = '42601', MESSAGE = 'it names a system column';
    ELSIF v_code IS NOT NULL THEN
        -- References are checked, and administrators are answered, as the owner of the table.
        RAISE EXCEPTION USING ERRCODE = '42601',
            MESSAGE = format('it calls %s, which another role than the table''s owner owns or could replace', v_code);
    END IF;
    columns := ARRAY(
        SELECT a.attname FROM pg_depend AS d
        JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_policy'::regclass AND d.objid = v_policy
          AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p_table AND a.attnum > 0
        ORDER BY a.attnum);
    EXECUTE format('DROP POLICY api_key_condition ON %s', p_table);
EXCEPTION WHEN syntax_error_or_access_rule_violation OR data_exception OR feature_not_supported THEN
    PERFORM api_key_internal.refuse_argument('p_public_when',
        format('It is no condition on a row of %s: %s.', p_table, SQLERRM),
        'Pass an expression as in WHERE, such as published AND NOT app.is_embargoed(id). Name functions with their schemas. A subquery belongs in a function.');
END
$$;
COMMENT ON FUNCTION api_key_internal.canonical_condition IS 'Returns a condition on the rows of a table as PostgreSQL writes it, and the columns that it reads; NULL for NULL. Raises 22023 if it is no condition.';

CREATE FUNCTION api_key.define_resource(
    p_type text, p_table regclass, p_id_column name = 'id', p_owner_column name = 'owner_id',
    p_tenant_column name = NULL, p_public_when text = NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_protected boolean;
    v_public_columns name[];
BEGIN
    PERFORM api_key_internal.check_label('p_type', p_type, 'A resource type');
    PERFORM api_key_internal.check_table(p_table);
    PERFORM api_key_internal.check_one_owner(p_table, '22023', 'invalid p_table');
    PERFORM api_key_internal.check_column('p_id_column', p_table, p_id_column, false);
    -- The conversion of a text to an id runs with the rights of others.
    IF NOT EXISTS (SELECT FROM pg_attribute AS a
                   WHERE a.attrelid = p_table AND a.attname = p_id_column AND api_key_internal.is_id_type(a.atttypid))
    THEN
        PERFORM api_key_internal.refuse_argument('p_id_column',
            format('%s.%I is an array, a row or the like, or of a type that a role has made.', p_table, p_id_column),
            'Name a column of a type of PostgreSQL''s or of an extension, such as uuid, integer or text.');
    END IF;
    IF p_owner_column IS NOT NULL THEN
        PERFORM api_key_internal.check_column('p_owner_column', p_table, p_owner_column, true);
    END IF;
    IF p_tenant_column IS NOT NULL THEN
        PERFORM api_key_internal.check_column('p_tenant_column', p_table, p_tenant_column, true);
    END IF;
    IF api_key_internal.id_operator(p_table, p_id_column, p_tenant_column) IS NULL THEN
        PERFORM api_key_internal.refuse_argument('p_id_column',
            format('No unique index finds one row of %s by it, or by it and the tenant.', p_table),
            'Name the primary key, or make a unique index.');
    END IF;
    IF p_public_when IS NOT NULL THEN
        PERFORM api_key_internal.lock_table(p_table);
        PERFORM api_key_internal.check_one_owner(p_table, '22023', 'invalid p_table');
    END IF;
    SELECT c.condition, c.columns INTO p_public_when, v_public_columns
    FROM api_key_internal.canonical_condition(p_table, p_public_when) AS c;

    SELECT protected INTO v_protected FROM api_key_internal.resources WHERE type = p_type FOR UPDATE;
    PERFORM api_key_internal.unprotect(p_type);
    INSERT INTO api_key_internal.resources AS r
        (type, "table", name, owner, id_column, owner_column, tenant_column, public_when, public_columns)
    VALUES (p_type, p_table, p_table::text, (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = p_table),
            p_id_column, p_owner_column, p_tenant_column, p_public_when, v_public_columns)
    ON CONFLICT (type) DO UPDATE SET
        "table" = excluded."table", name = excluded.name, owner = excluded.owner, id_column = excluded.id_column,
        owner_column = excluded.owner_column, tenant_column = excluded.tenant_column,
        public_when = excluded.public_when, public_columns = excluded.public_columns,
        permits = r.permits AND r."table" = excluded."table";
    PERFORM api_key_internal.audit('resource_defined', NULL, NULL, NULL, (
        SELECT to_jsonb(r) - 'protected' FROM api_key.resources AS r WHERE r.type = p_type));
    IF v_protected THEN
        PERFORM api_key.protect_resource(p_type);
    END IF;
END
$$;
COMMENT ON FUNCTION api_key.define_resource IS
$$Defines the rows of a table as a type of resource for authorize and protect_resource, or redefines it.

The rule is: anyone may read a row for which p_public_when holds. The user that p_owner_column names may do
anything with it, from within the row's tenant if it has one. A key with the scope admin may do anything, in
the same tenant if there is a p_tenant_column. Everything else is refused. A key that is bound to a resource
(resource_id) reaches that one only.

p_id_column: a column that is unique, alone or together with the tenant. If several rows of different tenants
share an id, authorize answers for any of them, so filter by the tenant as well.
p_owner_column: a column of type uuid; NULL if rows have no owners.
p_tenant_column: a column of type uuid; NULL if rows have no tenants.
p_public_when: a condition as in WHERE without subqueries, such as published. It is evaluated with the rights
of the caller; for administrators, and when a foreign key refers to a row, with those of the owner of the
table.

Call it as a superuser or the owner of the extension. It locks the table.

Errors: 22023.$$;

CREATE FUNCTION api_key.remove_resource(p_type text) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_found boolean;
BEGIN
    PERFORM api_key_internal.unprotect(p_type);
    DELETE FROM api_key_internal.resources WHERE type = p_type;
    v_found := FOUND;
    IF v_found THEN
        PERFORM api_key_internal.audit('resource_removed', NULL, NULL, NULL, jsonb_build_object('type', p_type));
    END IF;
    RETURN v_found;
END
$$;
COMMENT ON FUNCTION api_key.remove_resource IS
$$Removes a type of resource, and the policies that protect_resource made for it.

Call it as a superuser or the owner of the extension. It locks the table.

Result: true, or false if there was none of this name.$$;

CREATE FUNCTION api_key.protect_resource(p_type text) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_resource api_key_internal.resources := api_key_internal.resource(p_type);
    v_table regclass := v_resource."table";
    v_part regclass;
    v_kind text;
    v_command text;
    v_rule text;
    v_ways jsonb;
    v_result jsonb;
    -- Permissive policies of ours stay, whatever policies the application has added since.
    v_permit boolean := api_key_internal.own_policies(v_table) = '{}'
        OR 'api_key_resource_select' = ANY (api_key_internal.our_policies(v_table, 'resource'))
        OR v_resource.permits;
BEGIN
    PERFORM api_key_internal.lock_table(v_table);
    IF EXISTS (SELECT FROM api_key_internal.resources AS r
               WHERE r."table" = v_table AND r.protected AND r.type <> p_type)
    THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = format('%s is protected already', v_table),
            DETAIL = 'By another type of resource, whose rule would hold as well.',
            HINT = 'See api_key.resources; remove the other one with api_key.remove_resource.';
    END IF;
    PERFORM api_key_internal.unprotect(p_type);
    FOR v_part IN SELECT api_key_internal.parts(v_table) LOOP
        PERFORM api_key_internal.drop_policies(v_part, 'resource');
        PERFORM api_key_internal.guard(v_part);
        IF v_part <> v_table THEN
            EXECUTE format('CREATE POLICY api_key_resource_part ON %s AS RESTRICTIVE USING (false)', v_part);
        END IF;
    END LOOP;
    -- As with tenants: what restricts, and where an application has not decided itself, what permits.
    FOREACH v_kind IN ARRAY CASE WHEN v_permit
        THEN ARRAY['RESTRICTIVE', 'PERMISSIVE'] ELSE ARRAY['RESTRICTIVE'] END
    LOOP
        FOREACH v_command IN ARRAY ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE'] LOOP
            v_rule := api_key_internal.resource_rule(v_resource, v_command = 'SELECT');
            PERFORM api_key_internal.make_policy(v_table,
                'api_key_resource_' || lower(v_command) || CASE v_kind WHEN 'RESTRICTIVE' THEN '_only' ELSE '' END,
                v_kind, v_command, v_rule, v_resource.public_when IS NOT NULL);
        END LOOP;
    END LOOP;
    FOR v_part IN SELECT api_key_internal.parts(v_table) LOOP
        PERFORM api_key_internal.watch_moves(v_part);
    END LOOP;
    UPDATE api_key_internal.resources AS r
    SET protected = true, permits = v_permit, policies = api_key_internal.policy_definitions(v_table, 'resource')
    WHERE r.type = p_type;

    v_ways := api_key_internal.ways_past_policies(v_table, ARRAY[v_resource.owner_column]);
    v_result := jsonb_build_object(
        'type', p_type, 'table', v_table::text, 'row_security', 'forced',
        'policies', to_jsonb(api_key_internal.our_policies(v_table, 'resource')),
        'own_policies', to_jsonb(api_key_internal.own_policies(v_table)),
        'partitions', (SELECT coalesce(jsonb_agg(part::text), '[]') FROM api_key_internal.parts(v_table) AS part
                       WHERE part <> v_table),
        'unique_without_owner', v_ways -> 'unique') || (v_ways - 'unique');
    PERFORM api_key_internal.warn_of(v_table, v_ways);
    PERFORM api_key_internal.audit('resource_protected', NULL, NULL, NULL,
        v_result - ARRAY['views', 'privileges', 'referenced_by', 'unique_without_owner']);
    RETURN v_result;
END
$$;
COMMENT ON FUNCTION api_key.protect_resource IS
$$Makes policies on the table of a resource that allow what authorize allows. It reports what it did, and what it cannot protect.

It enables and forces row security. If the table has permissive policies of its own, or is isolated by
isolate_tenants, both they and the rule must allow a row. Partitions can be reached through their table only.
remove_resource undoes it. Call it as a superuser or the owner of the extension. It locks the table.

Result: {type, table, row_security, policies, own_policies, partitions, unique_without_owner, views, privileges, referenced_by},
as of isolate_tenants.
Errors: 22023, 55000 the table is protected as another type, or has changed.$$;
