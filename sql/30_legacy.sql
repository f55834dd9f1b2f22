-- Imported keys, whose hashes are of another kind. src/core/legacy.rs and src/pg/legacy decide how a
-- hash is stored and found.
CREATE UNIQUE INDEX keys_lookup_handle ON api_key_internal.keys (lookup_handle)
    WHERE lookup_handle IS NOT NULL;
CREATE UNIQUE INDEX keys_imported_handle ON api_key_internal.keys (imported_handle)
    WHERE imported_handle IS NOT NULL;
-- Keys of one prefix are tried in the order of their ids, so that a search can be resumed.
CREATE INDEX keys_legacy_prefix ON api_key_internal.keys (legacy_prefix, key_id)
    WHERE lookup_handle IS NULL AND legacy_prefix IS NOT NULL;
CREATE INDEX keys_bare_hash ON api_key_internal.keys (legacy_scheme, key_id)
    WHERE api_key_internal.hash_stage(secret_hash) = 'bare';

-- The database does not hold the root key, only its fingerprint, so that a wrong root key is noticed.
CREATE TABLE api_key_internal.root_key (
    fingerprint text PRIMARY KEY,
    -- The schemes of all keys ever imported; verify looks for no other. NULL: any scheme.
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
-- Runs belong to this server: a dump leaves them out.
SELECT pg_catalog.pg_extension_config_dump('api_key_internal.migration_runs', 'WHERE false');

CREATE FUNCTION api_key_internal.root_key_fingerprint() RETURNS text
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'root_key_fingerprint';
COMMENT ON FUNCTION api_key_internal.root_key_fingerprint IS 'Returns the fingerprint of the root key, and makes a root key if there is none.';

CREATE FUNCTION api_key_internal.legacy_credential(p_hash text, p_scheme text) RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'legacy_credential';
COMMENT ON FUNCTION api_key_internal.legacy_credential IS 'Returns {scheme, stored, handle, imported} of an imported hash; NULL if it is not one of the scheme.';

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

-- The error does not repeat the scheme: it may be the hash, passed in the wrong place.
CREATE FUNCTION api_key_internal.check_scheme(p_argument text, p_scheme text) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (p_scheme IN ('md5', 'sha1', 'sha256', 'sha512', 'bcrypt', 'argon2', 'plaintext')) IS NOT TRUE THEN
        PERFORM api_key_internal.refuse_argument(p_argument,
            CASE WHEN p_scheme <> '' THEN 'There is no such scheme.' ELSE 'It is NULL or empty.' END,
            'Pass md5, sha1, sha256, sha512, bcrypt, argon2 or plaintext.');
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.check_scheme IS 'Refuses a scheme that import_api_key_hash does not know (22023).';

-- p_key has everything but the credential and the times.
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
    -- The prefix is for the text that a rotation will give the key.
    v_key := api_key_internal.completed_key(v_key);
    v_key.scopes := api_key_internal.checked_scopes(coalesce(v_key.scopes, '{}'), p_caller);
    -- Without a scheme, the form of the hash tells it.
    IF p_scheme IS NOT NULL THEN
        PERFORM api_key_internal.check_scheme(CASE p_row WHEN '' THEN 'p_scheme' ELSE 'scheme' END, p_scheme);
    END IF;
    IF p_hash IS NOT NULL THEN
        v_credential := api_key_internal.legacy_credential(p_hash, p_scheme);
    END IF;
    IF v_credential IS NULL THEN
        PERFORM api_key_internal.refuse_argument('hash',
            CASE WHEN p_hash IS NULL THEN 'It is NULL.'
                WHEN p_scheme IS NULL THEN 'It is not of a form that is known.'
                ELSE format('It is not a hash of the scheme %s.', p_scheme) END,
            'Schemes: md5, sha1, sha256, sha512 (hexadecimal, base64, base64url), bcrypt, argon2 (PHC string), plaintext (1 to 512 bytes).');
    END IF;
    v_key.key_id := coalesce(v_key.key_id, gen_random_uuid());
    v_key.legacy_scheme := v_credential ->> 'scheme';
    v_key.secret_hash := v_credential ->> 'stored';
    v_key.lookup_handle := decode(v_credential ->> 'handle', 'hex');
    v_key.imported_handle := decode(v_credential ->> 'imported', 'hex');
    v_key.legacy_prefix := coalesce(v_key.legacy_prefix, '');
    IF octet_length(v_key.legacy_prefix) > 64 THEN
        PERFORM api_key_internal.refuse_argument('key prefix',
            'It is longer than 64 bytes.',
            'Pass what the text of the key begins with.');
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
    PERFORM api_key_internal.check_scheme('p_scheme', p_scheme);
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
