-- Importing a whole table of keys.

-- Raises a data_exception if a value does not have the type of its field.
CREATE FUNCTION api_key_internal.key_row(p_row jsonb)
RETURNS TABLE (
    key_id api_key.id, hash text, scheme text, key_prefix text, user_id api_key.id, tenant_id api_key.id,
    name text, description text, tier text, scopes text[], resource_id text, environment text, kind text,
    expires_at timestamptz, not_before timestamptz, created_at timestamptz, revoked_at timestamptz,
    enabled boolean, allowed_ips inet[], metadata jsonb)
LANGUAGE sql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM jsonb_to_record(p_row) AS r (
        key_id api_key.id, hash text, scheme text, key_prefix text, user_id api_key.id, tenant_id api_key.id,
        name text, description text, tier text, scopes text[], resource_id text, environment text, kind text,
        expires_at timestamptz, not_before timestamptz, created_at timestamptz, revoked_at timestamptz,
        enabled boolean, allowed_ips inet[], metadata jsonb)
$$;
COMMENT ON FUNCTION api_key_internal.key_row IS 'Reads the fields of a row of import_api_keys.';

-- PostgreSQL's own error would repeat the value, which may be a key if columns were mixed up.
CREATE FUNCTION api_key_internal.refuse_key_row(p_row jsonb, p_where text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_field text;
    v_value jsonb;
BEGIN
    FOR v_field, v_value IN SELECT key, value FROM jsonb_each(p_row) LOOP
        BEGIN
            PERFORM api_key_internal.key_row(jsonb_build_object(v_field, v_value));
        EXCEPTION WHEN data_exception THEN
            PERFORM api_key_internal.refuse_argument(v_field || p_where,
                format('It cannot be read as %s.', CASE
                    WHEN v_field IN ('key_id', 'user_id', 'tenant_id') THEN 'a uuid'
                    WHEN v_field = 'enabled' THEN 'a boolean'
                    WHEN v_field = 'scopes' THEN 'an array of texts'
                    WHEN v_field = 'allowed_ips' THEN 'an array of inet'
                    ELSE 'a timestamptz' END),
                'Map another column, or import a view that converts the values.');
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION api_key_internal.refuse_key_row IS 'Refuses a row of import_api_keys with a value that does not have the type of its field (22023).';

-- A function of its own, because import_api_keys reads with the rights of the caller.
CREATE FUNCTION api_key.import_key_rows(p_rows jsonb, p_scheme text, p_source text, p_first bigint)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_caller api_key_internal.caller := api_key_internal.caller();
    v_fields jsonb;
    v_row record;
    v_key api_key_internal.keys;
    v_schemes jsonb := '{}';
    v_number bigint := p_first;
BEGIN
    IF jsonb_typeof(p_rows) IS DISTINCT FROM 'array' OR p_first IS NULL THEN
        PERFORM api_key_internal.refuse_argument('p_rows',
            'It is not a JSON array, or p_first is NULL.',
            'Call import_api_keys, which calls this.');
    END IF;
    PERFORM api_key_internal.use_root_key();
    FOR v_fields IN SELECT value FROM jsonb_array_elements(p_rows) LOOP
        BEGIN
            SELECT * INTO v_row FROM api_key_internal.key_row(v_fields);
        EXCEPTION WHEN data_exception THEN
            PERFORM api_key_internal.refuse_key_row(v_fields, format(' in row %s of %s', v_number, p_source));
            RAISE;
        END;
        v_key := NULL;
        v_key.key_id := v_row.key_id;
        v_key.user_id := v_row.user_id;
        v_key.tenant_id := v_row.tenant_id;
        v_key.legacy_prefix := v_row.key_prefix;
        v_key.name := nullif(v_row.name, '');
        v_key.description := v_row.description;
        v_key.tier := v_row.tier;
        v_key.scopes := v_row.scopes;
        v_key.resource_id := nullif(v_row.resource_id, '');
        v_key.environment := v_row.environment;
        v_key.kind := v_row.kind;
        v_key.expires_at := v_row.expires_at;
        v_key.not_before := v_row.not_before;
        v_key.created_at := v_row.created_at;
        v_key.revoked_at := v_row.revoked_at;
        v_key.enabled := v_row.enabled;
        v_key.allowed_ips := v_row.allowed_ips;
        v_key.metadata := v_row.metadata;
        v_key := api_key_internal.import_key(
            v_key,
            -- A bytea column arrives in hexadecimal.
            CASE WHEN starts_with(v_row.hash, chr(92) || 'x') THEN substr(v_row.hash, 3)
                 ELSE v_row.hash END,
            nullif(coalesce(v_row.scheme, p_scheme), 'auto'),
            format(' in row %s of %s', v_number, p_source), v_caller);
        v_schemes := jsonb_set(v_schemes, ARRAY[v_key.legacy_scheme],
            to_jsonb(coalesce((v_schemes ->> v_key.legacy_scheme)::bigint, 0) + 1));
        v_number := v_number + 1;
    END LOOP;
    RETURN jsonb_build_object('schemes', v_schemes, 'crowd', (
        SELECT max(crowd) FROM (
            SELECT count(*) AS crowd FROM api_key_internal.keys
            WHERE lookup_handle IS NULL AND legacy_prefix <> ''
            GROUP BY legacy_prefix) AS crowds),
        'no_prefix', (SELECT count(*) FROM api_key_internal.keys WHERE lookup_handle IS NULL AND legacy_prefix = ''));
END
$$;
COMMENT ON FUNCTION api_key.import_key_rows IS
$$Imports rows that import_api_keys has read. Call import_api_keys instead.

Result: {schemes, crowd, no_prefix}: how many keys of each scheme, how many keys with salted hashes share a
prefix at most, and how many of those have no prefix.$$;

-- The query uses no casts of user-defined types: to_jsonb of an enum may run code that belongs to the
-- owner of the enum, who need not be the owner of the table.
CREATE FUNCTION api_key_internal.import_query(
    p_source regclass, p_columns jsonb, p_caller oid, OUT query text, OUT owner oid)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_fields CONSTANT text[] := '{allowed_ips, created_at, description, enabled, environment,
        expires_at, hash, key_id, key_prefix, kind, metadata, name, not_before, resource_id,
        revoked_at, scheme, scopes, tenant_id, tier, user_id}';
    v_source pg_class;
BEGIN
    SELECT * INTO v_source FROM pg_class WHERE oid = p_source;
    IF v_source.oid IS NULL THEN
        PERFORM api_key_internal.refuse_argument('p_source',
            'It is NULL, or there is no such table.', 'Name a table or view.');
    ELSIF jsonb_typeof(p_columns) IS DISTINCT FROM 'object' OR NOT p_columns ? 'hash'
        OR EXISTS (SELECT FROM jsonb_each(p_columns) AS c
                   WHERE c.key <> ALL (c_fields) OR jsonb_typeof(c.value) <> 'string')
    THEN
        PERFORM api_key_internal.refuse_argument('p_columns',
            CASE WHEN jsonb_typeof(p_columns) IS DISTINCT FROM 'object' THEN 'It is not a JSON object.'
                WHEN NOT p_columns ? 'hash' THEN 'It has no "hash".'
                -- Repeats a name of letters only: anything else may be the text of a key.
                ELSE (SELECT CASE WHEN c.key = ANY (c_fields) THEN format('The name of the column for "%s" is not a string.', c.key)
                                  WHEN c.key ~ '^[A-Za-z_]{1,20}$' THEN format('There is no field "%s".', c.key)
                                  ELSE 'It has a field that there is not.' END
                      FROM jsonb_each(p_columns) AS c
                      WHERE c.key <> ALL (c_fields) OR jsonb_typeof(c.value) <> 'string' LIMIT 1) END,
            format('Fields: %s.', array_to_string(c_fields, ', ')));
    ELSIF EXISTS (
        SELECT FROM jsonb_each_text(p_columns) AS c
        WHERE NOT EXISTS (SELECT FROM pg_attribute AS a
                          WHERE a.attrelid = p_source AND a.attname = c.value AND a.attnum > 0
                            AND NOT a.attisdropped))
    THEN
        PERFORM api_key_internal.refuse_argument('p_columns',
            (SELECT format('%s has no column of the name given for "%s".', p_source, c.key)
                      FROM jsonb_each_text(p_columns) AS c
                      WHERE NOT EXISTS (SELECT FROM pg_attribute AS a
                                        WHERE a.attrelid = p_source AND a.attname = c.value AND a.attnum > 0
                                          AND NOT a.attisdropped) LIMIT 1),
            format('The columns of %s: %s.', p_source,
                (SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
                 WHERE attrelid = p_source AND attnum > 0 AND NOT attisdropped)));
    ELSIF NOT has_schema_privilege(p_caller, v_source.relnamespace, 'USAGE') OR EXISTS (
        SELECT FROM jsonb_each_text(p_columns) AS c
        WHERE NOT has_column_privilege(p_caller, p_source, c.value, 'SELECT'))
    THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('permission denied for table %s', p_source),
            DETAIL = 'The caller may not read all of the columns.',
            HINT = format('GRANT SELECT ON %s TO %s;', p_source, p_caller::regrole);
    ELSIF v_source.relrowsecurity
        AND (v_source.relforcerowsecurity OR NOT pg_has_role(p_caller, v_source.relowner, 'USAGE'))
        AND NOT EXISTS (SELECT FROM pg_roles WHERE oid = p_caller AND (rolsuper OR rolbypassrls))
    THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('row security of %s holds for the caller', p_source),
            DETAIL = 'Rows that it may not read would be left out, or read past the policies.',
            HINT = 'Call import_api_keys as a superuser or a role with BYPASSRLS.';
    ELSIF v_source.relkind NOT IN ('r', 'p') AND NOT pg_has_role(p_caller, v_source.relowner, 'USAGE') THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('%s is not a table of the caller', p_source),
            DETAIL = 'A view is read as its owner, whom it may show more than the caller.',
            HINT = 'Name the table itself, or call import_api_keys as the owner of the view or a superuser.';
    ELSIF EXISTS (SELECT FROM pg_options_to_table(v_source.reloptions)
                  WHERE option_name = 'security_invoker' AND option_value::boolean)
    THEN
        PERFORM api_key_internal.refuse_argument('p_source',
            'It is a view that reads with the rights of its caller, but is read as its owner.',
            format('ALTER VIEW %s SET (security_invoker = false), or name another one.', p_source));
    END IF;
    PERFORM api_key_internal.check_one_owner(p_source, '22023', 'invalid p_source');
    SELECT format('SELECT pg_catalog.jsonb_build_object(%s) FROM %s', string_agg(format(
        CASE WHEN t.typtype = 'b' AND r.rolsuper AND coalesce(e.typtype, 'b') = 'b'
            THEN '%1$L, pg_catalog.to_jsonb(%2$I)'
            ELSE '%1$L, CASE WHEN pg_catalog.num_nulls(%2$I) = 0 THEN pg_catalog.concat(%2$I) END' END,
        c.key, c.value), ', '), p_source)
    INTO query
    FROM jsonb_each_text(p_columns) AS c
    JOIN pg_attribute AS a ON a.attrelid = p_source AND a.attname = c.value
    JOIN pg_type AS t ON t.oid = api_key_internal.base_type(a.atttypid)
    JOIN pg_roles AS r ON r.oid = t.typowner
    LEFT JOIN pg_type AS e ON e.oid = t.typelem AND t.typelem <> 0;
    owner := v_source.relowner;
END
$$;
COMMENT ON FUNCTION api_key_internal.import_query IS 'Tells how import_api_keys reads a table, and as which role; refuses what the caller may not read (22023, 42501).';

-- In Rust (src/pg/foreign.rs).
CREATE FUNCTION api_key.read_key_rows(p_source regclass, p_columns jsonb) RETURNS SETOF jsonb
LANGUAGE c AS 'MODULE_PATHNAME', 'read_key_rows';
COMMENT ON FUNCTION api_key.read_key_rows IS
$$Reads rows for import_api_keys, as the owner of the table in a security-restricted operation. Call import_api_keys instead.

Errors: 22023, 42501 as of import_api_keys.$$;

CREATE FUNCTION api_key.import_api_keys(p_source regclass, p_columns jsonb, p_scheme text)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_batch CONSTANT integer := 1000;
    v_rows jsonb;
    v_answer jsonb;
    v_schemes jsonb := '{}';
    v_number bigint := 0;
    -- This many hashes take about a second with argon2id, and a few seconds with bcrypt.
    c_crowd CONSTANT bigint := 32;
BEGIN
    IF p_scheme IS NULL AND (p_columns ? 'scheme') IS FALSE THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_scheme',
            DETAIL = 'It is NULL, and p_columns names no column for "scheme".',
            HINT = 'Pass a scheme, or auto to have each hash told by its form.';
    END IF;

    FOR v_rows IN
        SELECT jsonb_agg(r ORDER BY n)
        FROM (SELECT r, row_number() OVER () AS n
              FROM api_key.read_key_rows(p_source, p_columns) AS r) AS numbered
        GROUP BY (n - 1) / c_batch ORDER BY (n - 1) / c_batch
    LOOP
        v_answer := api_key.import_key_rows(v_rows, p_scheme, p_source::text, v_number + 1);
        v_number := v_number + jsonb_array_length(v_rows);
        v_schemes := (
            SELECT coalesce(jsonb_object_agg(scheme, n), '{}') FROM (
                SELECT key AS scheme, sum(value::bigint) AS n
                FROM (SELECT * FROM jsonb_each_text(v_schemes)
                      UNION ALL SELECT * FROM jsonb_each_text(v_answer -> 'schemes')) AS counts
                GROUP BY key) AS sums);
    END LOOP;

    RAISE NOTICE 'imported % keys: %', v_number, v_schemes;
    IF (v_answer ->> 'no_prefix')::bigint > 0 THEN
        RAISE WARNING USING MESSAGE = format('keys with salted hashes and no prefix: %s', v_answer ->> 'no_prefix'),
            DETAIL = 'Every text that is not the text of another key is tried against each of them, which takes a hash.',
            HINT = 'Delete them, map key_prefix to what the texts of the keys begin with, and import again.';
    END IF;
    IF (v_answer ->> 'crowd')::bigint > c_crowd THEN
        RAISE WARNING USING MESSAGE = format('%s keys with salted hashes share a prefix', v_answer ->> 'crowd'),
            DETAIL = 'The first use of each tries them one after another, a hash each, and answers OVERLOADED after api_key.legacy_scan_time; the next one goes on from there.',
            HINT = 'Map key_prefix to a longer prefix.';
    END IF;
    RETURN v_number;
END
$$;
COMMENT ON FUNCTION api_key.import_api_keys IS
$$Imports a whole table of keys with the hashes that they have, or none of them.

p_source: a table or view. It is read as its owner, together with what it reads of the same owner or of a
superuser. A view with security_invoker is refused.
p_columns: maps fields to columns, such as {"hash": "key_hash", "user_id": "owner", "key_prefix": "prefix"}.
The HINT of an error lists the fields.
p_scheme: a scheme of import_api_key_hash for all rows, or auto to recognise each hash by its form. A column
mapped to "scheme" takes precedence.

You need SELECT on the columns, and no row security may apply to you.

Result: how many keys were imported; a NOTICE counts them by scheme.
Errors: 22023 and 23505 name the row, 42501 if you may not read the table, 55000 the root key cannot be used.$$;
