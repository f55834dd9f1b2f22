-- Making the policies of isolate_tenants and protect_resource, and finding ways past them.

-- If the rule does not hold for a row that is written, refuse_row or is_left_to decides.
CREATE FUNCTION api_key_internal.policy_conditions(
    p_table text, p_name text, p_kind text, p_command text, p_rule text, OUT reads text, OUT writes text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN p_command <> 'INSERT' THEN p_rule END,
        CASE WHEN p_command IN ('ALL', 'INSERT', 'UPDATE') THEN
            format('CASE WHEN %s THEN true ELSE api_key.%I(%s, %L::name) END', p_rule,
                CASE p_kind WHEN 'RESTRICTIVE' THEN 'refuse_row' ELSE 'is_left_to' END, p_table,
                CASE WHEN starts_with(p_name, 'api_key_tenant') THEN 'api_key_tenant'
                     WHEN p_kind = 'RESTRICTIVE' THEN p_name ELSE p_name || '_only' END) END
$$;
COMMENT ON FUNCTION api_key_internal.policy_conditions IS 'Returns the conditions of a policy that applies a rule: on the rows that its command reads, and on those that it writes.';

CREATE FUNCTION api_key_internal.make_policy(
    p_table regclass, p_name text, p_kind text, p_command text, p_rule text, p_owners_text boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_policy text := (
        SELECT format('CREATE POLICY %I ON %s AS %s FOR %s %s %s', p_name, p_table, p_kind, p_command,
            'USING (' || c.reads || ')', 'WITH CHECK (' || c.writes || ')')
        FROM api_key_internal.policy_conditions(
            quote_literal(p_table), p_name, p_kind, p_command, p_rule) AS c);
BEGIN
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
-- PostgreSQL writes constants according to these settings.
SET quote_all_identifiers = off SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET intervalstyle = 'postgres'
SET extra_float_digits = 1 SET bytea_output = 'hex' SET standard_conforming_strings = on
AS $$
    SELECT coalesce(jsonb_object_agg(polname, jsonb_build_array(
        CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
        CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
        polroles = '{0}',
        api_key_internal.one_line(pg_get_expr(polqual, polrelid)),
        -- The table may have been renamed. Unlike %L, PostgreSQL does not double backslashes here.
        replace(api_key_internal.one_line(pg_get_expr(polwithcheck, polrelid)),
                api_key_internal.one_line(format('''%s''::regclass', replace(p_table::text, '''', ''''''))),
                'the table'))), '{}')
    FROM pg_policy WHERE polrelid = p_table AND polname = ANY (api_key_internal.our_policies(p_table, p_kind))
$$;
COMMENT ON FUNCTION api_key_internal.policy_definitions IS 'Returns the policies of isolate_tenants (tenant) or protect_resource (resource) on a table, as PostgreSQL writes them.';

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
        -- Columns that roles other than the owner may write; 0 for all.
        SELECT 0 FROM pg_class AS c, aclexplode(c.relacl) AS acl
        WHERE c.oid = p_table AND acl.grantee <> c.relowner AND acl.privilege_type IN ('INSERT', 'UPDATE')
        UNION ALL
        SELECT a.attnum FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid, aclexplode(a.attacl) AS acl
        WHERE a.attrelid = p_table AND acl.grantee <> c.relowner AND acl.privilege_type IN ('INSERT', 'UPDATE')
    )
    SELECT jsonb_build_object(
        -- A unique index tells everyone that a value is taken (23505).
        'unique', (
            SELECT coalesce(jsonb_agg(jsonb_build_object('index', i.indexrelid::regclass::text,
                'columns', columns.names, 'guessable', columns.guessable) ORDER BY i.indexrelid::regclass::text), '[]')
            FROM pg_index AS i, LATERAL (
                SELECT jsonb_agg(a.attname ORDER BY k.n) AS names,
                       bool_or(a.attname = ANY (p_columns)) AS own,
                       -- Others may write one of the columns, and none has a random default.
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
        -- Views whose owner no policy restricts, and materialized views.
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
        -- A foreign key from an unprotected table reveals which rows exist.
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
            DETAIL = format('A writer of a value that is taken is told so (23505): %s.', v_names),
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
