-- In Rust (src/core/key.rs).
CREATE FUNCTION api_key_internal.is_key_prefix(p_prefix text) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_key_prefix';
COMMENT ON FUNCTION api_key_internal.is_key_prefix IS 'Tells whether a text is the prefix of a key, ^[a-z][a-z0-9_]{0,30}_$.';

-- A key. Verify reads it by index scan (src/pg/rows.rs), columns by name. The text of the key
-- and its masked form follow from key_prefix and key_id and are not stored.
CREATE TABLE api_key_internal.keys (
    key_id uuid PRIMARY KEY,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    secret_version integer NOT NULL DEFAULT 1 CHECK (secret_version >= 1),
    enabled boolean NOT NULL DEFAULT true,
    key_prefix text NOT NULL CHECK (api_key_internal.is_key_prefix(key_prefix)),
    -- PHC string.
    secret_hash text NOT NULL,
    name text NOT NULL,
    tier text NOT NULL,
    environment text NOT NULL CHECK (environment IN ('live', 'test')),
    kind text NOT NULL CHECK (kind IN ('secret', 'publishable')),
    scopes text[] NOT NULL DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}' CHECK (pg_catalog.jsonb_typeof(metadata) = 'object'),
    user_id uuid,
    tenant_id uuid,
    description text,
    resource_id text,
    allowed_ips inet[] CHECK (pg_catalog.cardinality(allowed_ips) > 0),
    not_before timestamptz,
    expires_at timestamptz CHECK (expires_at > not_before),
    -- The secret before the last rotation, good until grace_expires_at.
    previous_secret_hash text,
    grace_expires_at timestamptz,
    revoked_at timestamptz,
    revoked_reason text,
    -- Of keys that came from elsewhere (30_legacy.sql): the scheme of the hash that they came with,
    -- the handle by which their text is found, and what their text begins with.
    legacy_scheme text,
    lookup_handle bytea CHECK (pg_catalog.length(lookup_handle) = 16),
    -- Recognises the hash if it is imported again.
    imported_handle bytea CHECK (pg_catalog.length(imported_handle) = 16),
    legacy_prefix text COLLATE "C" CHECK (pg_catalog.octet_length(legacy_prefix) <= 64),
    -- The database role of its requests (40_gate.sql); NULL for the usual one.
    role text,
    CHECK ((previous_secret_hash IS NULL) = (grace_expires_at IS NULL))
);
COMMENT ON TABLE api_key_internal.keys IS 'Keys. Secrets are stored as argon2id PHC strings, and those of legacy keys as described in src/core/legacy.rs.';
CREATE INDEX keys_user_id ON api_key_internal.keys (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX keys_tenant_id ON api_key_internal.keys (tenant_id) WHERE tenant_id IS NOT NULL;
SELECT pg_catalog.pg_extension_config_dump('api_key_internal.keys', '');

-- Helpers in Rust (src/pg/keys.rs).
CREATE FUNCTION api_key_internal.mask(p_prefix text, p_key_id uuid) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mask';
COMMENT ON FUNCTION api_key_internal.mask IS 'Returns the part of a key''s text that may be shown: its prefix and the first digits of its id.';

CREATE FUNCTION api_key_internal.hash_stage(p_stored text) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'hash_stage';
COMMENT ON FUNCTION api_key_internal.hash_stage IS 'Tells how far a stored hash is on its way to argon2id of the text itself: bare, wrapped or own.';

CREATE FUNCTION api_key_internal.wrap_hash(p_stored text) RETURNS text
LANGUAGE c VOLATILE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'wrap_hash';
COMMENT ON FUNCTION api_key_internal.wrap_hash IS 'Wraps a bare legacy hash in argon2id. Waits for room to hash without a limit.';

CREATE FUNCTION api_key_internal.is_legacy_secret(p_scheme text, p_version integer) RETURNS boolean
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'is_legacy_secret';
COMMENT ON FUNCTION api_key_internal.is_legacy_secret IS 'Tells whether the secret of this version is the text that an imported key came with.';

CREATE FUNCTION api_key_internal.masked(p_key api_key_internal.keys) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    -- A legacy text does not begin as ours do, until it is rotated.
    SELECT CASE WHEN api_key_internal.is_legacy_secret(p_key.legacy_scheme, p_key.secret_version)
        THEN coalesce(p_key.legacy_prefix, '') || '...'
        ELSE api_key_internal.mask(p_key.key_prefix, p_key.key_id) END
$$;
COMMENT ON FUNCTION api_key_internal.masked IS 'Returns the part of a key''s text that may be shown, also for legacy keys.';

CREATE FUNCTION api_key_internal.key_status(
    p_revoked_at timestamptz, p_enabled boolean, p_not_before timestamptz, p_expires_at timestamptz)
RETURNS text
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'key_status';
COMMENT ON FUNCTION api_key_internal.key_status IS 'Returns the state of a key at this moment (src/core/verdict.rs).';

CREATE FUNCTION api_key_internal.status(p_key api_key_internal.keys) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT api_key_internal.key_status(
        p_key.revoked_at, p_key.enabled, p_key.not_before, p_key.expires_at)
$$;
COMMENT ON FUNCTION api_key_internal.status IS 'Returns active, disabled, expired, revoked or not_yet_valid, in the order of the codes of verify_api_key.';

-- The columns of a key that callers see; the one place that lists them.
CREATE VIEW api_key_internal.listed_keys AS
SELECT
    k.key_id, k.user_id, k.tenant_id, k.name, k.description, k.tier, k.environment, k.kind,
    k.key_prefix, api_key_internal.masked(k) AS masked_key, k.scopes,
    k.resource_id, k.allowed_ips, k.metadata,
    api_key_internal.key_status(k.revoked_at, k.enabled, k.not_before, k.expires_at) AS status,
    k.expires_at, k.not_before, u.last_used_at, coalesce(u.usage_count, 0) AS usage_count,
    k.created_at, k.updated_at, k.revoked_at, k.revoked_reason
FROM api_key_internal.keys AS k
LEFT JOIN api_key_internal.key_usage AS u USING (key_id);
COMMENT ON VIEW api_key_internal.listed_keys IS 'Keys in the form in which list_api_keys returns them.';

-- Checks what issue, update and import make of a key, in one place.
CREATE FUNCTION api_key_internal.check_key(p_key api_key_internal.keys)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_key.name = '' OR length(p_key.name) > 200 OR p_key.name ~ '[[:cntrl:]]' THEN
        PERFORM api_key_internal.refuse_argument('name',
            'It is empty, longer than 200 characters, or has control characters.',
            'Give the key a name that its owner will recognise.');
    ELSIF length(p_key.description) > 2000 THEN
        PERFORM api_key_internal.refuse_argument('description', 'It is longer than 2000 characters.',
            'Shorten it.');
    ELSIF p_key.resource_id = '' OR length(p_key.resource_id) > 500 THEN
        PERFORM api_key_internal.refuse_argument('resource_id', 'It is empty or longer than 500 characters.',
            'Shorten it, or pass NULL for none.');
    ELSIF NOT EXISTS (SELECT FROM api_key_internal.known_tiers AS t WHERE t.name = p_key.tier) THEN
        PERFORM api_key_internal.refuse_argument('tier', 'There is no such tier.',
            'Define it with define_tier, or use the tier free.');
    ELSIF p_key.environment NOT IN ('live', 'test') THEN
        PERFORM api_key_internal.refuse_argument('environment', 'It is neither live nor test.',
            'Pass one of the two.');
    ELSIF p_key.kind NOT IN ('secret', 'publishable') THEN
        PERFORM api_key_internal.refuse_argument('kind', 'It is neither secret nor publishable.',
            'Pass one of the two.');
    ELSIF NOT api_key_internal.is_key_prefix(p_key.key_prefix) THEN
        PERFORM api_key_internal.refuse_argument('prefix', 'It does not match ^[a-z][a-z0-9_]{0,30}_$',
            'Pass lower-case letters, digits and underscores, ending in an underscore.');
    ELSIF p_key.expires_at <= p_key.not_before THEN
        PERFORM api_key_internal.refuse_argument('not_before', 'It is not before expires_at.',
            'Pass an earlier time.');
    ELSIF cardinality(p_key.allowed_ips) NOT BETWEEN 1 AND 256
        OR array_ndims(p_key.allowed_ips) > 1
        OR EXISTS (SELECT FROM unnest(p_key.allowed_ips) AS ip WHERE ip IS NULL)
    THEN
        PERFORM api_key_internal.refuse_argument('allowed_ips',
            'It is empty, has a NULL, has more than one dimension, or more than 256 entries.',
            'Pass addresses or networks, or NULL to allow every address.');
    ELSIF jsonb_typeof(p_key.metadata) <> 'object' OR length(p_key.metadata::text) > 16384 THEN
        PERFORM api_key_internal.refuse_argument('metadata',
            'It is not a JSON object, or its text is longer than 16384 characters.',
            'Pass a small JSON object.');
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.check_key IS 'Refuses a key whose fields break a rule (22023).';

CREATE FUNCTION api_key_internal.completed_key(p_key api_key_internal.keys)
RETURNS api_key_internal.keys
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    p_key.updated_at := clock_timestamp();
    p_key.created_at := coalesce(p_key.created_at, p_key.updated_at);
    p_key.secret_version := 1;
    p_key.enabled := coalesce(p_key.enabled, true);
    p_key.name := coalesce(p_key.name, 'API Key');
    p_key.tier := coalesce(p_key.tier, 'free');
    p_key.environment := coalesce(p_key.environment, 'live');
    p_key.kind := coalesce(p_key.kind, 'secret');
    p_key.key_prefix := coalesce(p_key.key_prefix,
        CASE p_key.kind WHEN 'secret' THEN 'sk_' ELSE 'pk_' END || p_key.environment || '_');
    p_key.metadata := coalesce(p_key.metadata, '{}');
    RETURN p_key;
END
$$;
COMMENT ON FUNCTION api_key_internal.completed_key IS 'Gives a new key the defaults of all that is left out.';

CREATE FUNCTION api_key_internal.check_expiry(p_expires_at timestamptz)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_expires_at <= clock_timestamp() THEN
        PERFORM api_key_internal.refuse_argument('expires_at', 'It is in the past.',
            'Pass a time to come, or NULL for a key that does not expire.');
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.check_expiry IS 'Refuses an expiry in the past (22023).';

CREATE FUNCTION api_key_internal.check_tier(p_tier text, p_caller api_key_internal.caller)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT p_caller.administrator AND p_tier <> 'free' AND p_tier IS DISTINCT FROM p_caller.tier
    THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'not allowed to use this tier',
            DETAIL = 'A user may use the tier free and the "tier" of the request.',
            HINT = 'Leave p_tier out, or issue the key as the service role.';
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.check_tier IS 'Refuses a tier that the caller may not choose (42501).';

-- The caller's own key, locked, or P0002: someone else's is as if it did not exist.
CREATE FUNCTION api_key_internal.locked_key(p_key_id uuid, p_caller api_key_internal.caller)
RETURNS api_key_internal.keys
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_key api_key_internal.keys;
BEGIN
    PERFORM api_key_internal.require_user(p_caller);
    SELECT * INTO v_key FROM api_key_internal.keys
    WHERE key_id = p_key_id
      AND (p_caller.administrator OR user_id = p_caller.user_id)
      AND api_key_internal.in_tenant(tenant_id, p_caller)
    FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM api_key_internal.refuse('NO_SUCH_KEY');
    END IF;
    RETURN v_key;
END
$$;
COMMENT ON FUNCTION api_key_internal.locked_key IS 'Returns a key that the caller may change, locked until the end of the transaction.';

CREATE FUNCTION api_key.list_api_keys(
    p_user_id api_key.id = NULL, p_tenant_id api_key.id = NULL, p_include_inactive boolean = true)
RETURNS TABLE (
    key_id uuid, user_id uuid, tenant_id uuid, name text, description text, tier text,
    environment text, kind text, key_prefix text, masked_key text, scopes text[],
    resource_id text, allowed_ips inet[], metadata jsonb, status text, expires_at timestamptz,
    not_before timestamptz, last_used_at timestamptz, usage_count bigint,
    created_at timestamptz, updated_at timestamptz, revoked_at timestamptz, revoked_reason text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    v_caller api_key_internal.caller := api_key_internal.caller();
    v_user_id uuid := api_key_internal.subject(v_caller, p_user_id);
BEGIN
    RETURN QUERY
    SELECT * FROM api_key_internal.listed_keys AS k
    WHERE (v_user_id IS NULL OR k.user_id = v_user_id)
      AND (p_tenant_id IS NULL OR k.tenant_id = p_tenant_id)
      AND api_key_internal.in_tenant(k.tenant_id, v_caller)
      AND (p_include_inactive IS NOT FALSE OR k.status = 'active')
    ORDER BY k.created_at DESC, k.key_id;
END
$$;
COMMENT ON FUNCTION api_key.list_api_keys IS
$$Lists keys, newest first.

Users list their own keys. The service role lists those of a user, of a tenant, or all.

p_include_inactive: false lists active keys only.

Of the result, status is one of active, disabled, expired, revoked and not_yet_valid; usage_count and
last_used_at are as of the last flush.

Errors: 42501 for another user's keys.$$;
