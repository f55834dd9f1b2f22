-- Defining types of resources, and protecting their tables.

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
    -- Converting a text to the id must run no code of the type's owner.
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
    -- If we made permissive policies before, keep them, even if the application has added its own since.
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
    -- As for tenants: always restrict, and permit only if the application has no permissive policies.
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
