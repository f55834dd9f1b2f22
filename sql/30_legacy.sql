-- Keys that come from elsewhere with a hash of another kind. What is stored of it, and how it is
-- found, is in src/core/legacy.rs and src/pg/legacy.rs.
CREATE UNIQUE INDEX keys_lookup_handle ON api_key_internal.keys (lookup_handle)
    WHERE lookup_handle IS NOT NULL;
CREATE UNIQUE INDEX keys_imported_handle ON api_key_internal.keys (imported_handle)
    WHERE imported_handle IS NOT NULL;
-- Keys of one prefix are tried in the order of their ids, so that a search can be resumed.
CREATE INDEX keys_legacy_prefix ON api_key_internal.keys (legacy_prefix, key_id)
    WHERE lookup_handle IS NULL AND legacy_prefix IS NOT NULL;
CREATE INDEX keys_bare_hash ON api_key_internal.keys (legacy_scheme, key_id)
    WHERE secret_hash LIKE '{%' AND secret_hash NOT LIKE '%$argon2id$%';

-- The root key itself is not in the database. Its fingerprint is, so that another one is noticed.
CREATE TABLE api_key_internal.root_key (
    fingerprint text PRIMARY KEY,
    -- The schemes of which keys were ever imported: others are not looked for. NULL: any.
    schemes text[]
);
COMMENT ON TABLE api_key_internal.root_key IS 'The fingerprint of the root key under which legacy keys are found, and the schemes of imported keys. At most one row.';
CREATE UNIQUE INDEX root_key_one_row ON api_key_internal.root_key ((true));
SELECT pg_catalog.pg_extension_config_dump('api_key_internal.root_key', '');

CREATE TABLE api_key_internal.migration_runs (
    run_id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    started_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    wrapped bigint NOT NULL
);
COMMENT ON TABLE api_key_internal.migration_runs IS 'Calls of migrate_legacy_hashes, and how far each got.';
-- Of this server only: a dump has none.
SELECT pg_catalog.pg_extension_config_dump('api_key_internal.migration_runs', 'WHERE false');

CREATE FUNCTION api_key_internal.root_key_fingerprint() RETURNS text
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'root_key_fingerprint';
COMMENT ON FUNCTION api_key_internal.root_key_fingerprint IS 'Returns the fingerprint of the root key, and makes a root key if there is none.';

CREATE FUNCTION api_key_internal.legacy_credential(p_hash text, p_scheme text) RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'legacy_credential';
COMMENT ON FUNCTION api_key_internal.legacy_credential IS 'Returns {scheme, stored, handle, imported} of an imported hash; NULL if it is not one of the scheme.';

CREATE FUNCTION api_key_internal.wrap_hash(p_stored text) RETURNS text
LANGUAGE c VOLATILE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'wrap_hash';
COMMENT ON FUNCTION api_key_internal.wrap_hash IS 'Wraps a bare legacy hash in argon2id. Waits for room to hash without a limit.';

CREATE FUNCTION api_key.matches_hash(p_text text, p_hash text) RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'matches_hash';
COMMENT ON FUNCTION api_key.matches_hash IS
$$Tells whether a hash was made from a text. It looks up no key.

p_hash: a hash of any scheme of import_api_key_hash except plaintext, recognised by its form.

Result: false if it is no hash, NULL for NULL.
Errors: 22023 a hash that costs more to check than may be imported, 53400 if other hashes took all the room
for longer than api_key.hash_queue_timeout.$$;

CREATE FUNCTION api_key_internal.use_root_key()
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_fingerprint text := api_key_internal.root_key_fingerprint();
    v_stored text;
BEGIN
    INSERT INTO api_key_internal.root_key (fingerprint, schemes) VALUES (v_fingerprint, '{}')
    ON CONFLICT DO NOTHING;
    SELECT fingerprint INTO v_stored FROM api_key_internal.root_key;
    IF v_stored <> v_fingerprint THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'the root key cannot be used',
            DETAIL = 'It is not the one under which this database''s keys were imported.',
            HINT = 'Have api_key.root_key_file or api_key.root_key_command give the root key that belongs to this database.';
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.use_root_key IS 'Checks that the root key is the one of this database (55000).';

-- Stores an imported key; p_key has all but the credential and the times.
CREATE FUNCTION api_key_internal.import_key(
    p_key api_key_internal.keys, p_hash text, p_scheme text, p_row text,
    p_caller api_key_internal.caller)
RETURNS api_key_internal.keys
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_key api_key_internal.keys := p_key;
    v_credential jsonb;
    v_message text;
    v_detail text;
    v_hint text;
BEGIN
    v_key.name := coalesce(v_key.name, 'API Key');
    v_key.tier := coalesce(v_key.tier, 'free');
    v_key.scopes := api_key_internal.checked_scopes(coalesce(v_key.scopes, '{}'), p_caller);
    v_key.environment := coalesce(v_key.environment, 'live');
    v_key.kind := coalesce(v_key.kind, 'secret');
    -- Of the text that a rotation gives it.
    v_key.key_prefix :=
        CASE v_key.kind WHEN 'publishable' THEN 'pk_' ELSE 'sk_' END || v_key.environment || '_';
    v_key.metadata := coalesce(v_key.metadata, '{}');
    v_key.enabled := coalesce(v_key.enabled, true);
    IF p_scheme NOT IN ('md5', 'sha1', 'sha256', 'sha512', 'bcrypt', 'argon2', 'plaintext') THEN
        -- It is not repeated: it may be the hash, in the wrong place.
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = CASE p_row WHEN '' THEN 'invalid p_scheme' ELSE 'invalid scheme' END,
            DETAIL = 'There is no such scheme.',
            HINT = 'Pass md5, sha1, sha256, sha512, bcrypt, argon2 or plaintext.';
    END IF;
    IF p_hash IS NOT NULL THEN
        v_credential := api_key_internal.legacy_credential(p_hash, p_scheme);
    END IF;
    IF v_credential IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid hash',
            DETAIL = CASE WHEN p_hash IS NULL THEN 'It is NULL.'
                WHEN p_scheme IS NULL THEN 'It is not of a form that is known.'
                ELSE format('It is not a hash of the scheme %s.', p_scheme) END,
            HINT = 'Schemes: md5, sha1, sha256, sha512 (hexadecimal, base64, base64url), bcrypt, argon2 (PHC string), plaintext (1 to 512 bytes).';
    END IF;
    v_key.key_id := coalesce(v_key.key_id, gen_random_uuid());
    v_key.secret_version := 1;
    v_key.created_at := coalesce(v_key.created_at, clock_timestamp());
    v_key.updated_at := clock_timestamp();
    v_key.legacy_scheme := v_credential ->> 'scheme';
    v_key.secret_hash := v_credential ->> 'stored';
    v_key.lookup_handle := decode(v_credential ->> 'handle', 'hex');
    v_key.imported_handle := decode(v_credential ->> 'imported', 'hex');
    v_key.legacy_prefix := coalesce(v_key.legacy_prefix, '');
    IF octet_length(v_key.legacy_prefix) > 64 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid key prefix',
            DETAIL = 'It is longer than 64 bytes.',
            HINT = 'Pass what the text of the key begins with.';
    END IF;
    PERFORM api_key_internal.check_key(v_key);
    UPDATE api_key_internal.root_key SET schemes = schemes || v_key.legacy_scheme
    WHERE v_key.legacy_scheme <> ALL (schemes);
    INSERT INTO api_key_internal.keys VALUES (v_key.*);
    PERFORM api_key_internal.audit('imported', v_key.key_id, v_key.user_id, v_key.tenant_id,
        jsonb_build_object('scheme', v_key.legacy_scheme, 'name', v_key.name, 'tier', v_key.tier));
    RETURN v_key;
EXCEPTION
    WHEN unique_violation THEN
        RAISE EXCEPTION USING ERRCODE = '23505',
            MESSAGE = format('this hash is imported already%s', p_row),
            DETAIL = 'Another key has the same hash, or the same id.',
            HINT = 'Leave it out if the key that is here is right; otherwise delete that one with delete_api_key and import again.';
    WHEN invalid_parameter_value THEN
        GET STACKED DIAGNOSTICS v_message = MESSAGE_TEXT, v_detail = PG_EXCEPTION_DETAIL,
            v_hint = PG_EXCEPTION_HINT;
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = v_message || p_row,
            DETAIL = v_detail, HINT = v_hint;
END
$$;
COMMENT ON FUNCTION api_key_internal.import_key IS 'Stores a key with an imported hash.';

-- A row as import_api_keys has read it; a data_exception if a value does not have the type of its field.
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

-- PostgreSQL's own error would repeat the value, which may be a key where columns were mixed up.
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
            RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('invalid %s%s', v_field, p_where),
                DETAIL = format('It cannot be read as %s.', CASE
                    WHEN v_field IN ('key_id', 'user_id', 'tenant_id') THEN 'a uuid'
                    WHEN v_field = 'enabled' THEN 'a boolean'
                    WHEN v_field = 'scopes' THEN 'an array of texts'
                    WHEN v_field = 'allowed_ips' THEN 'an array of inet'
                    ELSE 'a timestamptz' END),
                HINT = 'Map another column, or import a view that converts the values.';
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION api_key_internal.refuse_key_row IS 'Refuses a row of import_api_keys with a value that does not have the type of its field (22023).';

CREATE FUNCTION api_key.import_api_key_hash(
    p_hash text,
    p_scheme text,
    p_user_id api_key.id,
    p_key_prefix text = NULL,
    p_name text = 'API Key',
    p_tier text = 'free',
    p_description text = NULL,
    p_scopes text[] = '{}',
    p_tenant_id api_key.id = NULL,
    p_resource_id text = NULL,
    p_environment text = 'live',
    p_kind text = 'secret',
    p_expires_at timestamptz = NULL,
    p_not_before timestamptz = NULL,
    p_allowed_ips inet[] = NULL,
    p_metadata jsonb = '{}',
    p_enabled boolean = true,
    p_created_at timestamptz = NULL)
RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_caller api_key_internal.caller := api_key_internal.caller();
    v_key api_key_internal.keys;
BEGIN
    IF p_scheme IS NULL OR p_scheme = '' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_scheme',
            DETAIL = 'It is NULL or empty.',
            HINT = 'Pass md5, sha1, sha256, sha512, bcrypt, argon2 or plaintext.';
    END IF;
    PERFORM api_key_internal.use_root_key();
    v_key.user_id := p_user_id;
    v_key.legacy_prefix := p_key_prefix;
    v_key.name := p_name;
    v_key.tier := p_tier;
    v_key.description := p_description;
    v_key.scopes := p_scopes;
    v_key.tenant_id := p_tenant_id;
    v_key.resource_id := p_resource_id;
    v_key.environment := p_environment;
    v_key.kind := p_kind;
    v_key.expires_at := p_expires_at;
    v_key.not_before := p_not_before;
    v_key.allowed_ips := p_allowed_ips;
    v_key.metadata := p_metadata;
    v_key.enabled := p_enabled;
    v_key.created_at := p_created_at;
    v_key := api_key_internal.import_key(v_key, p_hash, p_scheme, '', v_caller);
    IF v_key.lookup_handle IS NULL AND v_key.legacy_prefix = '' THEN
        RAISE WARNING USING MESSAGE = 'this key with a salted hash has no prefix',
            DETAIL = 'Every text that is not the text of another key is tried against it, which takes a hash.',
            HINT = 'Delete it, and import it again with p_key_prefix: what its text begins with.';
    END IF;
    RETURN v_key.key_id;
END
$$;
COMMENT ON FUNCTION api_key.import_api_key_hash IS
$$Imports one key with the hash that it has. Its text stays valid.

p_scheme: md5, sha1, sha256, sha512 (hexadecimal in either case, base64 or base64url), bcrypt (up to cost 14),
argon2 (a PHC string, up to 256 MiB of memory times passes), or plaintext (hashed on the way in).
p_key_prefix: the beginning of the key's text, which is needed to find bcrypt and argon2 keys (a WARNING tells
if it is missing). The longer, the better.

The other arguments are those of issue_api_key. The limits of tiers do not apply.

Result: the id of the key.
Errors: 22023 not a hash of the scheme, 23505 imported already, 55000 the root key cannot be used.$$;

-- Apart from import_api_keys, which runs with the rights of the caller: what it reads is judged by them.
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
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_rows',
            DETAIL = 'It is not a JSON array, or p_first is NULL.',
            HINT = 'Call import_api_keys, which calls this.';
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
            -- A bytea column comes as its hexadecimal form.
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

-- The query that reads keys for import_api_keys, and the role as which it is to run, if p_caller may read
-- that itself. Casts of types that roles have made are not asked: what to_jsonb of an enum runs belongs
-- to the owner of the enum, whose the table need not be.
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
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_source',
            DETAIL = 'It is NULL, or there is no such table.', HINT = 'Name a table or view.';
    ELSIF jsonb_typeof(p_columns) IS DISTINCT FROM 'object' OR NOT p_columns ? 'hash'
        OR EXISTS (SELECT FROM jsonb_each(p_columns) AS c
                   WHERE c.key <> ALL (c_fields) OR jsonb_typeof(c.value) <> 'string')
    THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_columns',
            DETAIL = CASE WHEN jsonb_typeof(p_columns) IS DISTINCT FROM 'object' THEN 'It is not a JSON object.'
                WHEN NOT p_columns ? 'hash' THEN 'It has no "hash".'
                -- A name of letters, not the text of a key in the wrong place.
                ELSE (SELECT CASE WHEN c.key = ANY (c_fields) THEN format('The name of the column for "%s" is not a string.', c.key)
                                  WHEN c.key ~ '^[A-Za-z_]{1,20}$' THEN format('There is no field "%s".', c.key)
                                  ELSE 'It has a field that there is not.' END
                      FROM jsonb_each(p_columns) AS c
                      WHERE c.key <> ALL (c_fields) OR jsonb_typeof(c.value) <> 'string' LIMIT 1) END,
            HINT = format('Fields: %s.', array_to_string(c_fields, ', '));
    ELSIF EXISTS (
        SELECT FROM jsonb_each_text(p_columns) AS c
        WHERE NOT EXISTS (SELECT FROM pg_attribute AS a
                          WHERE a.attrelid = p_source AND a.attname = c.value AND a.attnum > 0
                            AND NOT a.attisdropped))
    THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_columns',
            DETAIL = (SELECT format('%s has no column of the name given for "%s".', p_source, c.key)
                      FROM jsonb_each_text(p_columns) AS c
                      WHERE NOT EXISTS (SELECT FROM pg_attribute AS a
                                        WHERE a.attrelid = p_source AND a.attname = c.value AND a.attnum > 0
                                          AND NOT a.attisdropped) LIMIT 1),
            HINT = format('The columns of %s: %s.', p_source,
                (SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
                 WHERE attrelid = p_source AND attnum > 0 AND NOT attisdropped));
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
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_source',
            DETAIL = 'It is a view that reads with the rights of its caller, but is read as its owner.',
            HINT = format('ALTER VIEW %s SET (security_invoker = false), or name another one.', p_source);
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
    v_row jsonb;
    v_answer jsonb;
    v_schemes jsonb := '{}';
    v_number bigint := 0;
    -- Which take a second with argon2id, and some with bcrypt.
    c_crowd CONSTANT bigint := 32;
BEGIN
    IF p_scheme IS NULL AND (p_columns ? 'scheme') IS FALSE THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_scheme',
            DETAIL = 'It is NULL, and p_columns names no column for "scheme".',
            HINT = 'Pass a scheme, or auto to have each hash told by its form.';
    END IF;

    v_rows := '[]';
    FOR v_row IN SELECT r FROM api_key.read_key_rows(p_source, p_columns) AS r LOOP
        v_number := v_number + 1;
        v_rows := v_rows || v_row;
        IF v_number % c_batch = 0 THEN
            v_answer := api_key.import_key_rows(
                v_rows, p_scheme, p_source::text, v_number - c_batch + 1);
            v_schemes := (
                SELECT coalesce(jsonb_object_agg(scheme, n), '{}') FROM (
                    SELECT key AS scheme, sum(value::bigint) AS n
                    FROM (SELECT * FROM jsonb_each_text(v_schemes)
                          UNION ALL SELECT * FROM jsonb_each_text(v_answer -> 'schemes')) AS counts
                    GROUP BY key) AS sums);
            v_rows := '[]';
        END IF;
    END LOOP;
    v_answer := api_key.import_key_rows(
        v_rows, p_scheme, p_source::text, v_number - jsonb_array_length(v_rows) + 1);
    v_schemes := (
                SELECT coalesce(jsonb_object_agg(scheme, n), '{}') FROM (
                    SELECT key AS scheme, sum(value::bigint) AS n
                    FROM (SELECT * FROM jsonb_each_text(v_schemes)
                          UNION ALL SELECT * FROM jsonb_each_text(v_answer -> 'schemes')) AS counts
                    GROUP BY key) AS sums);

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

CREATE PROCEDURE api_key.migrate_legacy_hashes(
    p_batch_size integer = 1000, p_max_batches integer = NULL)
LANGUAGE plpgsql
AS $$
DECLARE
    -- It commits, so it can be neither SECURITY DEFINER nor SET a search_path: all names are
    -- qualified, those of types and operators too.
    v_run pg_catalog.uuid;
    v_wrapped pg_catalog.int8 := 0;
    v_batch pg_catalog.int4;
    v_batches pg_catalog.int4 := 0;
    v_remaining pg_catalog.int8;
    v_key pg_catalog.record;
BEGIN
    IF p_batch_size IS NULL OR p_batch_size OPERATOR(pg_catalog.<) 1
        OR p_max_batches OPERATOR(pg_catalog.<) 1
    THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid arguments',
            DETAIL = 'p_batch_size or p_max_batches is less than 1.',
            HINT = 'CALL api_key.migrate_legacy_hashes();';
    END IF;
    INSERT INTO api_key_internal.migration_runs (started_at, updated_at, wrapped)
    VALUES (pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp(), 0)
    RETURNING run_id INTO v_run;
    COMMIT;
    LOOP
        EXIT WHEN v_batches OPERATOR(pg_catalog.>=) p_max_batches;
        v_batch := 0;
        -- Sessions that share the job skip each other's rows.
        FOR v_key IN
            SELECT k.key_id, k.secret_hash FROM api_key_internal.keys AS k
            WHERE k.secret_hash OPERATOR(pg_catalog.~~) '{%'
              AND k.secret_hash OPERATOR(pg_catalog.!~~) '%$argon2id$%'
            LIMIT p_batch_size
            FOR UPDATE SKIP LOCKED
        LOOP
            UPDATE api_key_internal.keys AS k
            SET secret_hash = api_key_internal.wrap_hash(v_key.secret_hash)
            WHERE k.key_id OPERATOR(pg_catalog.=) v_key.key_id
              AND k.secret_hash OPERATOR(pg_catalog.=) v_key.secret_hash;
            v_batch := v_batch OPERATOR(pg_catalog.+) 1;
        END LOOP;
        v_wrapped := v_wrapped OPERATOR(pg_catalog.+) v_batch;
        v_batches := v_batches OPERATOR(pg_catalog.+) 1;
        UPDATE api_key_internal.migration_runs AS r
        SET wrapped = v_wrapped, updated_at = pg_catalog.clock_timestamp()
        WHERE r.run_id OPERATOR(pg_catalog.=) v_run;
        COMMIT;
        SELECT pg_catalog.count(*) INTO v_remaining FROM api_key_internal.keys AS k
        WHERE k.secret_hash OPERATOR(pg_catalog.~~) '{%'
          AND k.secret_hash OPERATOR(pg_catalog.!~~) '%$argon2id$%';
        RAISE NOTICE 'wrapped % keys, % remain', v_wrapped, v_remaining;
        EXIT WHEN v_remaining OPERATOR(pg_catalog.=) 0;
        IF v_batch OPERATOR(pg_catalog.=) 0 THEN
            -- Rows that remain are another session's: waits for it, in case it gives up.
            PERFORM FROM api_key_internal.keys AS k
            WHERE k.secret_hash OPERATOR(pg_catalog.~~) '{%'
              AND k.secret_hash OPERATOR(pg_catalog.!~~) '%$argon2id$%'
            LIMIT 1
            FOR UPDATE;
            COMMIT;
        END IF;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE api_key.migrate_legacy_hashes IS
$$Wraps the fast digests and bcrypt hashes of legacy keys in argon2id, without their plaintext. Keys work before, during and after.

It commits after each batch. You can stop it and call it again at any time, and run it in several sessions
at once. The view legacy_hash_progress shows how far it is. Call it as a superuser or the owner of the
extension.

p_batch_size: how many keys to wrap in a transaction.
p_max_batches: stop after so many batches; NULL for all.

Errors: 22023.$$;

CREATE VIEW api_key.legacy_hash_progress AS
WITH counted AS (
    SELECT
        legacy_scheme AS scheme,
        pg_catalog.count(*) AS total,
        pg_catalog.count(*) FILTER (WHERE secret_hash LIKE '{%$argon2id$%') AS wrapped,
        pg_catalog.count(*) FILTER (WHERE secret_hash NOT LIKE '{%') AS upgraded,
        pg_catalog.count(*) FILTER (
            WHERE secret_hash LIKE '{%' AND secret_hash NOT LIKE '%$argon2id$%') AS remaining
    FROM api_key_internal.keys WHERE legacy_scheme IS NOT NULL GROUP BY legacy_scheme
), speed AS (
    -- Of the runs that got further in the last minute.
    SELECT pg_catalog.sum(wrapped / nullif(EXTRACT(epoch FROM updated_at - started_at), 0))::numeric(12, 1)
        AS per_second
    FROM api_key_internal.migration_runs
    WHERE wrapped > 0 AND updated_at > pg_catalog.clock_timestamp() - interval '1 minute'
)
SELECT scheme, total, wrapped, upgraded, remaining, per_second,
       CASE WHEN remaining > 0
            THEN remaining / nullif(per_second, 0) * interval '1 second' END AS eta
FROM counted CROSS JOIN speed;
COMMENT ON VIEW api_key.legacy_hash_progress IS 'Shows how far legacy keys are on their way to argon2id, by the scheme that they were imported with.';
COMMENT ON COLUMN api_key.legacy_hash_progress.scheme IS 'The scheme of the imported hash.';
COMMENT ON COLUMN api_key.legacy_hash_progress.total IS 'Legacy keys of the scheme.';
COMMENT ON COLUMN api_key.legacy_hash_progress.wrapped IS 'Stored as argon2id over the old hash, by migrate_legacy_hashes.';
COMMENT ON COLUMN api_key.legacy_hash_progress.upgraded IS 'Stored as argon2id over the text itself: keys that were used since, or were imported as plaintext or argon2.';
COMMENT ON COLUMN api_key.legacy_hash_progress.remaining IS 'Still stored as the old hash alone.';
COMMENT ON COLUMN api_key.legacy_hash_progress.per_second IS 'Keys that migrate_legacy_hashes wraps in a second, if it made progress in the last minute.';
COMMENT ON COLUMN api_key.legacy_hash_progress.eta IS 'How long migrate_legacy_hashes needs for the remaining keys of this scheme alone.';
