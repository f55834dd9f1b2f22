-- The check of a foreign key (src/pg/references.rs) evaluates the rules of the referenced table, and of the
-- tables that it is a part of, as conditions. They come from the registry, so they hold even if somebody
-- has dropped the policies. As in PostgreSQL's own check, only a partitioned table is searched with its
-- parts, and the row is locked. NULL for the copies of a key to a partitioned table, which the catalog has
-- for each partition.
CREATE FUNCTION api_key_internal.reference_lookup(p_constraint oid, OUT owner oid, OUT query text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_key pg_constraint;
    v_table pg_class;
    v_whole regclass;
    v_column name;
    v_resource api_key_internal.resources;
    v_rules text[] := '{}';
    v_identity text[];
    -- The name by which a condition refers to the whole row.
    v_alias name;
BEGIN
    SELECT * INTO STRICT v_key FROM pg_constraint WHERE oid = p_constraint;
    IF v_key.conparentid <> 0
        AND v_key.conrelid = (SELECT conrelid FROM pg_constraint WHERE oid = v_key.conparentid)
    THEN
        RETURN;
    END IF;
    SELECT * INTO STRICT v_table FROM pg_class WHERE oid = v_key.confrelid;
    v_alias := v_table.relname;
    -- These parameters follow the values of the key, in the order of src/pg/references.rs.
    SELECT array_agg(CASE n WHEN 3 THEN format('($%s OPERATOR(pg_catalog.->>) ''resource_id''::text)', cardinality(v_key.conkey) + n)
                     ELSE format('$%s', cardinality(v_key.conkey) + n) END ORDER BY n)
    INTO v_identity FROM generate_series(1, 4) AS n;
    FOR v_whole IN SELECT api_key_internal.wholes(v_key.confrelid) LOOP
        v_column := api_key_internal.isolated_by(v_whole);
        IF v_column IS NOT NULL THEN
            v_rules := v_rules || format('%I OPERATOR(pg_catalog.=) %s', v_column, v_identity[1]);
        END IF;
        SELECT * INTO v_resource FROM api_key_internal.resources AS r WHERE r."table" = v_whole AND r.protected;
        IF FOUND THEN
            IF NOT api_key_internal.condition_is_of(v_resource, v_key.confrelid) THEN
                RAISE EXCEPTION USING ERRCODE = '55000',
                    MESSAGE = format('the condition of the resource %s is the text of another role than the owner of %s',
                        v_resource.type, v_key.confrelid::regclass),
                    HINT = 'Call api_key.define_resource again, or api_key.remove_resource.';
            END IF;
            v_rules := v_rules || api_key_internal.resource_rule(v_resource, true, v_identity);
            v_alias := (SELECT relname FROM pg_class WHERE oid = v_whole);
        END IF;
    END LOOP;
    IF v_rules = '{}' THEN
        RETURN;
    END IF;
    owner := v_table.relowner;
    SELECT format('SELECT FROM %s %s AS %I WHERE %s AND (%s) FOR KEY SHARE',
        CASE WHEN v_table.relkind = 'r' THEN 'ONLY' END, v_key.confrelid::regclass, v_alias,
        string_agg(format('%I.%I OPERATOR(%I.%s) $%s', v_alias, k.attname, n.nspname, o.oprname, u.i), ' AND '),
        (SELECT string_agg(DISTINCT rule, ') AND (') FROM unnest(v_rules) AS rule))
    INTO query
    FROM ROWS FROM (unnest(v_key.confkey), unnest(v_key.conpfeqop)) WITH ORDINALITY AS u (confkey, operator, i)
    JOIN pg_operator AS o ON o.oid = u.operator JOIN pg_namespace AS n ON n.oid = o.oprnamespace
    JOIN pg_attribute AS k ON k.attrelid = v_key.confrelid AND k.attnum = u.confkey;
END
$$;
COMMENT ON FUNCTION api_key_internal.reference_lookup IS 'Returns the owner of the table that a foreign key refers to, and the query that finds the row if the writer may refer to it; NULL if the writer may refer to any row.';
