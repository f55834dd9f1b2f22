-- Types of resources: their tables, and the rule for their rows.

CREATE TABLE api_key_internal.resources (
    type text COLLATE "C" PRIMARY KEY CHECK (api_key_internal.is_label(type)),
    "table" regclass NOT NULL,
    id_column name NOT NULL,
    owner_column name,
    tenant_column name,
    -- As PostgreSQL writes it back, with qualified names.
    public_when text,
    -- The owner of the table when public_when was parsed.
    owner name,
    -- The columns that public_when reads.
    public_columns name[],
    -- The name of the table when it was defined.
    name text NOT NULL,
    protected boolean NOT NULL DEFAULT false,
    -- Whether protect_resource made permissive policies.
    permits boolean NOT NULL DEFAULT false,
    -- The policies that protect_resource made, for comparison.
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

-- Policies, authorize and references all use this rule. p_identity: the expressions for tenant, user, key
-- and the scope admin.
CREATE FUNCTION api_key_internal.resource_rule(
    p_resource api_key_internal.resources, p_read boolean,
    p_identity text[] = ARRAY['(SELECT api_key.current_tenant_id())', '(SELECT api_key.current_user_id())',
        '(SELECT api_key.current_api_key() ->> ''resource_id'')', '(SELECT api_key.has_scope(''admin''))'])
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    -- A key that is bound to a resource reaches no other.
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

-- If the table changes owner, the condition is still text of the former one.
CREATE FUNCTION api_key_internal.condition_is_of(p_resource api_key_internal.resources, p_table regclass) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_resource.public_when IS NULL OR EXISTS (
        SELECT FROM pg_class WHERE oid = p_table AND pg_get_userbyid(relowner) = p_resource.owner)
$$;
COMMENT ON FUNCTION api_key_internal.condition_is_of IS 'Tells whether the condition of a resource may run as the owner of a table: it is text of that owner, or there is none.';

-- Only a base type of a superuser: converting a text to it runs no code of the table's owner.
CREATE FUNCTION api_key_internal.is_id_type(p_type oid) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.typtype = 'b' AND t.typelem = 0 AND r.rolsuper
    FROM pg_type AS t JOIN pg_roles AS r ON r.oid = t.typowner
    WHERE t.oid = api_key_internal.base_type(p_type)
$$;
COMMENT ON FUNCTION api_key_internal.is_id_type IS 'Tells whether a type, or the base type of a domain, may be that of an id.';

-- This is the equality of a unique index on the id, or on the id and the tenant; NULL without such an
-- index.
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
          -- An expression column has no name, so it does not match.
          WHERE other.n <= i.indnkeyatts
            AND (oa.attname IN (p_id_column, p_tenant_column)) IS NOT TRUE)
    LIMIT 1
$$;
COMMENT ON FUNCTION api_key_internal.id_operator IS 'Returns the operator that finds a row of a resource by its id.';

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
      -- The condition names the column, or the whole row.
      AND (strpos(lower(replace(p_condition, '""', '"')), lower(a.attname)) > 0
           OR strpos(lower(replace(p_condition, '""', '"')), lower(c.relname)) > 0)
    ORDER BY a.attnum LIMIT 1;
    IF v_code IS NOT NULL THEN
        -- Converting a constant to the type runs its constraints, as the owner of the table.
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
        -- authorize evaluates a copy of the row, to which a subquery cannot refer.
        RAISE EXCEPTION USING ERRCODE = '42601', MESSAGE = 'it has a subquery';
    ELSIF v_has_system_column THEN
        RAISE EXCEPTION USING ERRCODE = '42601', MESSAGE = 'it names a system column';
    ELSIF v_code IS NOT NULL THEN
        -- For references and administrators, the condition runs as the owner of the table.
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
