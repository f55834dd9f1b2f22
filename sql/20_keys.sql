-- A key. Verify reads it by index scan (src/pg/rows.rs), columns by name. The text of the key
-- and its masked form follow from key_prefix and key_id and are not stored.
CREATE TABLE api_key_internal.keys (
    key_id uuid PRIMARY KEY,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    secret_version integer NOT NULL DEFAULT 1 CHECK (secret_version >= 1),
    enabled boolean NOT NULL DEFAULT true,
    key_prefix text NOT NULL CHECK (key_prefix ~ '^[a-z][a-z0-9_]{0,30}_$'),
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
    -- What its hash is known again by, should it be imported once more.
    imported_handle bytea CHECK (pg_catalog.length(imported_handle) = 16),
    legacy_prefix text COLLATE "C" CHECK (pg_catalog.octet_length(legacy_prefix) <= 64),
    -- The database role of its requests (40_gate.sql); NULL for the usual one.
    role text,
    CHECK ((previous_secret_hash IS NULL) = (grace_expires_at IS NULL))
);
COMMENT ON TABLE api_key_internal.keys IS 'Keys. Secrets are stored as argon2id PHC strings; what legacy keys came with, as src/core/legacy.rs says.';
CREATE INDEX keys_user_id ON api_key_internal.keys (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX keys_tenant_id ON api_key_internal.keys (tenant_id) WHERE tenant_id IS NOT NULL;
SELECT pg_catalog.pg_extension_config_dump('api_key_internal.keys', '');

-- What made a retry of issue_api_key safe: kept apart from the key, so that deleting the key does
-- not make its request new again.
CREATE TABLE api_key_internal.issue_requests (
    caller text NOT NULL,
    request_id text NOT NULL,
    key_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (caller, request_id)
);
COMMENT ON TABLE api_key_internal.issue_requests IS 'The p_request_id of issued keys, by caller.';
SELECT pg_catalog.pg_extension_config_dump('api_key_internal.issue_requests', '');

-- Helpers in Rust (src/pg/keys.rs).
CREATE FUNCTION api_key_internal.mask(p_prefix text, p_key_id uuid) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mask_wrapper';
COMMENT ON FUNCTION api_key_internal.mask IS 'A key as it may be shown: its prefix and the first digits of its id.';

CREATE FUNCTION api_key_internal.grants(p_granted text[], p_required text) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'grants';
COMMENT ON FUNCTION api_key_internal.grants IS 'Whether the granted scopes grant the required one.';

CREATE FUNCTION api_key_internal.make_key(p_prefix text, p_key_id uuid) RETURNS text
LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'make_key_wrapper';
COMMENT ON FUNCTION api_key_internal.make_key IS 'The text of a key with a new secret, to be shown once.';

CREATE FUNCTION api_key_internal.hash_key(p_api_key text) RETURNS text
LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'hash_key_wrapper';
COMMENT ON FUNCTION api_key_internal.hash_key IS 'The argon2id hash of the secret of a key, as a PHC string; NULL if there is no room to hash.';

-- Instead of the NULL of a function that found no room to hash.
CREATE FUNCTION api_key_internal.no_room_to_hash() RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM api_key_internal.refuse('53400', 503, 'no room to hash now',
        'api_key.max_concurrent_hashes secrets are being hashed, and others wait.',
        'Try again in a moment.', NULL, '{"Retry-After": "1"}');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION api_key_internal.no_room_to_hash IS 'Refuses (53400, HTTP 503) what needs a hash that there is no room for.';

CREATE FUNCTION api_key_internal.masked(p_key api_key_internal.keys) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    -- A legacy text does not begin as ours do, until it is rotated.
    SELECT CASE WHEN p_key.legacy_scheme IS NOT NULL AND p_key.secret_version = 1
        THEN coalesce(p_key.legacy_prefix, '') || '...'
        ELSE api_key_internal.mask(p_key.key_prefix, p_key.key_id) END
$$;
COMMENT ON FUNCTION api_key_internal.masked IS 'A key as it may be shown, wherever it came from.';

CREATE FUNCTION api_key_internal.status(p_key api_key_internal.keys) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN p_key.revoked_at IS NOT NULL THEN 'revoked'
        WHEN NOT p_key.enabled THEN 'disabled'
        WHEN p_key.not_before > clock_timestamp() THEN 'not_yet_valid'
        WHEN p_key.expires_at <= clock_timestamp() THEN 'expired'
        ELSE 'active'
    END
$$;
COMMENT ON FUNCTION api_key_internal.status IS 'active, disabled, expired, revoked or not_yet_valid, in the order of the codes of verify_api_key.';

-- What callers see of a key; the one place that lists its columns.
CREATE VIEW api_key_internal.listed_keys AS
SELECT
    k.key_id, k.user_id, k.tenant_id, k.name, k.description, k.tier, k.environment, k.kind,
    k.key_prefix, api_key_internal.masked(k) AS masked_key, k.scopes,
    k.resource_id, k.allowed_ips, k.metadata, api_key_internal.status(k) AS status,
    k.expires_at, k.not_before, u.last_used_at, coalesce(u.usage_count, 0) AS usage_count,
    k.created_at, k.updated_at, k.revoked_at, k.revoked_reason
FROM api_key_internal.keys AS k
LEFT JOIN api_key_internal.key_usage AS u USING (key_id);
COMMENT ON VIEW api_key_internal.listed_keys IS 'Keys as list_api_keys shows them.';

-- Checks what issue, update and import make of a key, in one place.
CREATE FUNCTION api_key_internal.check_key(p_key api_key_internal.keys)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_key.name = '' OR length(p_key.name) > 200 OR p_key.name ~ '[[:cntrl:]]' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid name',
            DETAIL = 'It is empty, longer than 200 characters, or has control characters.',
            HINT = 'Give the key a name that its owner will recognise.';
    ELSIF length(p_key.description) > 2000 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid description',
            DETAIL = 'It is longer than 2000 characters.',
            HINT = 'Shorten it.';
    ELSIF p_key.resource_id = '' OR length(p_key.resource_id) > 500 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid resource_id',
            DETAIL = 'It is empty or longer than 500 characters.',
            HINT = 'Shorten it, or pass NULL for none.';
    ELSIF NOT EXISTS (SELECT FROM api_key_internal.known_tiers AS t WHERE t.name = p_key.tier) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid tier',
            DETAIL = 'There is no such tier.',
            HINT = 'Define it with define_tier, or use the tier free.';
    ELSIF p_key.environment NOT IN ('live', 'test') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid environment',
            DETAIL = 'It is neither live nor test.',
            HINT = 'Pass one of the two.';
    ELSIF p_key.kind NOT IN ('secret', 'publishable') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid kind',
            DETAIL = 'It is neither secret nor publishable.',
            HINT = 'Pass one of the two.';
    ELSIF p_key.key_prefix !~ '^[a-z][a-z0-9_]{0,30}_$' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid prefix',
            DETAIL = 'It does not match ^[a-z][a-z0-9_]{0,30}_$',
            HINT = 'Pass lower-case letters, digits and underscores, ending in an underscore.';
    ELSIF p_key.expires_at <= p_key.not_before THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid not_before',
            DETAIL = 'It is not before expires_at.',
            HINT = 'Pass an earlier time.';
    ELSIF cardinality(p_key.allowed_ips) NOT BETWEEN 1 AND 256
        OR array_ndims(p_key.allowed_ips) > 1
        OR EXISTS (SELECT FROM unnest(p_key.allowed_ips) AS ip WHERE ip IS NULL)
    THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid allowed_ips',
            DETAIL = 'It is empty, has a NULL, has more than one dimension, or more than 256 entries.',
            HINT = 'Pass addresses or networks, or NULL to allow every address.';
    ELSIF jsonb_typeof(p_key.metadata) <> 'object' OR length(p_key.metadata::text) > 16384 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid metadata',
            DETAIL = 'It is not a JSON object, or its text is longer than 16384 characters.',
            HINT = 'Pass a small JSON object.';
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.check_key IS 'Refuses (22023) a key that may not be stored.';

CREATE FUNCTION api_key_internal.check_expiry(p_expires_at timestamptz)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_expires_at <= clock_timestamp() THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid expires_at',
            DETAIL = 'It is in the past.',
            HINT = 'Pass a time to come, or NULL for a key that does not expire.';
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.check_expiry IS 'Refuses (22023) an expiry that has passed.';

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
COMMENT ON FUNCTION api_key_internal.check_tier IS 'Refuses (42501) a tier that the caller may not choose.';

CREATE FUNCTION api_key_internal.active_keys(p_user_id uuid, p_tier text) RETURNS uuid[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ARRAY(
        SELECT key_id FROM api_key_internal.keys
        WHERE user_id = p_user_id AND tier = p_tier AND revoked_at IS NULL AND enabled
          AND (expires_at IS NULL OR expires_at > clock_timestamp())
        ORDER BY created_at, key_id)
$$;
COMMENT ON FUNCTION api_key_internal.active_keys IS 'A user''s active keys in a tier, those not valid yet among them, oldest first.';

-- As the newest committed state has them, whatever the isolation level: a key that a REPEATABLE
-- READ snapshot cannot see still counts against the limit.
CREATE FUNCTION api_key_internal.count_active_keys_now(p_user_id uuid, p_tier text) RETURNS bigint
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'count_active_keys_now_wrapper';
COMMENT ON FUNCTION api_key_internal.count_active_keys_now IS 'How many active_keys there are, under a snapshot of this moment.';

-- Not pg_advisory_xact_lock: whoever may call that could take the same lock, and hold it.
CREATE FUNCTION api_key_internal.lock_tier(p_user_id uuid, p_tier text) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'lock_tier_wrapper';
COMMENT ON FUNCTION api_key_internal.lock_tier IS 'Has those who make room for a user''s keys in a tier take turns, to the end of the transaction.';

-- Makes room for one more active key of a user in a tier, or refuses. Callers that make a key
-- active call it first.
CREATE FUNCTION api_key_internal.make_room(p_user_id uuid, p_tier text, p_except uuid)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_tier api_key_internal.known_tiers;
    v_active uuid[];
    v_excess integer;
    v_key api_key_internal.keys;
BEGIN
    SELECT * INTO v_tier FROM api_key_internal.known_tiers WHERE name = p_tier;
    IF p_user_id IS NULL OR v_tier.max_active_keys IS NULL THEN
        RETURN;
    END IF;
    -- Held to the end of the transaction: two issues for one user and tier take turns.
    PERFORM api_key_internal.lock_tier(p_user_id, p_tier);
    v_active := api_key_internal.active_keys(p_user_id, p_tier);
    IF current_setting('transaction_isolation') NOT LIKE 'read %'
        AND cardinality(v_active) <> api_key_internal.count_active_keys_now(p_user_id, p_tier)
    THEN
        RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'could not serialize access due to concurrent issue',
            DETAIL = 'Another transaction changed the active keys of this user since this one began.',
            HINT = 'Try the transaction again.';
    END IF;
    v_active := array_remove(v_active, p_except);
    v_excess := cardinality(v_active) + 1 - v_tier.max_active_keys;
    IF v_excess > 0 AND v_tier.on_excess = 'reject' THEN
        PERFORM api_key_internal.refuse('53400', 409, 'too many active keys',
            format('max_active_keys of the tier is %s.', v_tier.max_active_keys),
            'Revoke one first, or raise the limit with define_tier.');
    END IF;
    FOR v_key IN
        UPDATE api_key_internal.keys SET enabled = false, updated_at = clock_timestamp()
        WHERE key_id = ANY (v_active[1:greatest(v_excess, 0)])
        RETURNING *
    LOOP
        PERFORM api_key_internal.audit('updated', v_key.key_id, v_key.user_id, v_key.tenant_id,
            '{"enabled": [true, false], "cause": "tier limit"}');
    END LOOP;
END
$$;
COMMENT ON FUNCTION api_key_internal.make_room IS 'Keeps a user within the active keys that a tier allows.';

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
        PERFORM api_key_internal.refuse('P0002', 404, 'no such key',
            'There is no key with this id, or it is not the caller''s.',
            'list_api_keys() shows the keys that you may change.');
    END IF;
    RETURN v_key;
END
$$;
COMMENT ON FUNCTION api_key_internal.locked_key IS 'A key that the caller may change, locked until the end of the transaction.';

CREATE FUNCTION api_key_internal.issued(p_key api_key_internal.keys) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object(
        'success', true, 'key_id', p_key.key_id, 'key_prefix', p_key.key_prefix,
        'masked_key', api_key_internal.masked(p_key), 'name', p_key.name,
        'tier', p_key.tier, 'environment', p_key.environment, 'kind', p_key.kind,
        'scopes', p_key.scopes, 'tenant_id', p_key.tenant_id, 'resource_id', p_key.resource_id,
        'expires_at', p_key.expires_at, 'created_at', p_key.created_at)
$$;
COMMENT ON FUNCTION api_key_internal.issued IS 'A key as issue_api_key answers it, without its text.';

CREATE FUNCTION api_key.issue_api_key(
    p_user_id api_key.id = NULL,
    p_name text = 'API Key',
    p_tier text = 'free',
    p_description text = NULL,
    p_scopes text[] = '{}',
    p_tenant_id api_key.id = NULL,
    p_resource_id text = NULL,
    p_environment text = 'live',
    p_kind text = 'secret',
    p_prefix text = NULL,
    p_expires_at timestamptz = NULL,
    p_not_before timestamptz = NULL,
    p_allowed_ips inet[] = NULL,
    p_metadata jsonb = '{}',
    p_request_id text = NULL)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_caller api_key_internal.caller := api_key_internal.caller();
    v_key api_key_internal.keys;
    v_api_key text;
    v_requester text;
    v_replayed api_key_internal.issue_requests;
BEGIN
    v_key.user_id := coalesce(api_key_internal.subject(v_caller, p_user_id), v_caller.user_id);
    v_key.tenant_id := p_tenant_id;
    IF NOT v_caller.administrator THEN
        IF p_tenant_id <> v_caller.tenant_id OR p_tenant_id IS NOT NULL AND v_caller.tenant_id IS NULL
        THEN
            RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'not allowed for another tenant',
                DETAIL = 'p_tenant_id differs from the "tenant_id" of the request.',
                HINT = 'Leave p_tenant_id out, or call as the service role.';
        END IF;
        v_key.tenant_id := v_caller.tenant_id;
    END IF;

    IF p_request_id = '' OR length(p_request_id) > 200 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_request_id',
            DETAIL = 'It is empty or longer than 200 characters.',
            HINT = 'Pass a UUID made for this request.';
    ELSIF p_request_id IS NOT NULL THEN
        v_requester := coalesce(v_caller.user_id::text, 'role ' || v_caller.role_name);
        v_key.key_id := gen_random_uuid();
        -- Waits for a concurrent first try to commit or to abort.
        INSERT INTO api_key_internal.issue_requests (caller, request_id, key_id)
        VALUES (v_requester, p_request_id, v_key.key_id)
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            SELECT * INTO v_replayed FROM api_key_internal.issue_requests
            WHERE caller = v_requester AND request_id = p_request_id;
            SELECT * INTO v_key FROM api_key_internal.keys WHERE key_id = v_replayed.key_id;
            RETURN CASE WHEN FOUND THEN api_key_internal.issued(v_key)
                        ELSE jsonb_build_object('success', true, 'key_id', v_replayed.key_id) END
                || jsonb_build_object('replayed', true);
        END IF;
    END IF;

    v_key.key_id := coalesce(v_key.key_id, gen_random_uuid());
    v_key.created_at := clock_timestamp();
    v_key.updated_at := v_key.created_at;
    v_key.secret_version := 1;
    v_key.enabled := true;
    v_key.name := coalesce(p_name, 'API Key');
    v_key.tier := coalesce(p_tier, 'free');
    v_key.environment := coalesce(p_environment, 'live');
    v_key.kind := coalesce(p_kind, 'secret');
    v_key.key_prefix := coalesce(p_prefix,
        CASE v_key.kind WHEN 'secret' THEN 'sk_' ELSE 'pk_' END || v_key.environment || '_');
    v_key.description := p_description;
    v_key.resource_id := p_resource_id;
    v_key.expires_at := p_expires_at;
    v_key.not_before := p_not_before;
    v_key.allowed_ips := p_allowed_ips;
    v_key.metadata := coalesce(p_metadata, '{}');
    PERFORM api_key_internal.check_key(v_key);
    PERFORM api_key_internal.check_expiry(v_key.expires_at);
    PERFORM api_key_internal.check_tier(v_key.tier, v_caller);
    v_key.scopes := api_key_internal.checked_scopes(coalesce(p_scopes, '{}'), v_caller);
    PERFORM api_key_internal.make_room(v_key.user_id, v_key.tier, NULL);

    v_api_key := api_key_internal.make_key(v_key.key_prefix, v_key.key_id);
    v_key.secret_hash := coalesce(
        api_key_internal.hash_key(v_api_key), api_key_internal.no_room_to_hash());
    INSERT INTO api_key_internal.keys VALUES (v_key.*);
    PERFORM api_key_internal.audit('issued', v_key.key_id, v_key.user_id, v_key.tenant_id,
        api_key_internal.issued(v_key)
            - '{success,key_id,tenant_id,masked_key,created_at}'::text[]);
    RETURN api_key_internal.issued(v_key) || jsonb_build_object('api_key', v_api_key);
END
$$;
COMMENT ON FUNCTION api_key.issue_api_key IS
$$Issues a key. The answer holds its text as api_key: shown here and never again.

p_user_id: whose key; NULL means the caller ("sub" of the request). p_tier: see define_tier. p_scopes: up to 256 of resource:action, resource:*, admin. p_tenant_id: NULL means the caller's. p_resource_id: what the key is bound to. p_environment: live or test. p_kind: secret or publishable. p_prefix: instead of sk_live_ and the like, matching ^[a-z][a-z0-9_]{0,30}_$. p_expires_at, p_not_before: when it is valid. p_allowed_ips: addresses and networks it may be used from; NULL allows all. p_metadata: a JSON object that verify returns. p_request_id: makes a retry safe, the same id by the same caller answers replayed:true without api_key.
Result: {success, api_key, key_id, key_prefix, masked_key, name, tier, environment, kind, scopes, tenant_id, resource_id, expires_at, created_at}.
Errors: 22023 bad argument, 42501 for another user or tenant or with more rights than the caller's, 53400 too many active keys or no room to hash.$$;

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
$$Lists keys, newest first: the caller's own, or for the service role those of a user, of a tenant, or all.

status is one of active, disabled, expired, revoked, not_yet_valid. usage_count and last_used_at are as of the last flush. p_include_inactive false lists active keys only.
Errors: 42501 for another user's.$$;

CREATE FUNCTION api_key.update_api_key(p_key_id api_key.id, p_changes jsonb)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_caller api_key_internal.caller := api_key_internal.caller();
    v_old api_key_internal.keys := api_key_internal.locked_key(p_key_id, v_caller);
    v_new api_key_internal.keys := v_old;
    v_field text;
    v_value jsonb;
    v_text text;
    v_type text;
    v_details jsonb;
BEGIN
    PERFORM api_key_internal.check_grantable(v_old.scopes, v_caller);
    IF p_changes IS NULL OR jsonb_typeof(p_changes) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_changes',
            DETAIL = 'It is not a JSON object.',
            HINT = 'Pass only the fields that change, such as {"name": "CI"}.';
    END IF;
    FOR v_field, v_value IN SELECT key, value FROM jsonb_each(p_changes) LOOP
        v_text := v_value #>> '{}';
        v_type := jsonb_typeof(v_value);
        IF NOT (CASE
            WHEN v_field IN ('name', 'tier') THEN v_type = 'string'
            WHEN v_field IN ('description', 'resource_id', 'expires_at', 'not_before')
                THEN v_type IN ('string', 'null')
            WHEN v_field = 'enabled' THEN v_type = 'boolean'
            WHEN v_field = 'metadata' THEN v_type = 'object'
            WHEN v_field = 'scopes' THEN v_type = 'array'
            WHEN v_field = 'allowed_ips' THEN v_type IN ('array', 'null')
            ELSE false
        END) OR v_type = 'array'
            AND jsonb_path_exists(v_value, 'strict $[*] ? (@.type() != "string")')
        THEN
            RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_changes',
                DETAIL = 'It has a field that cannot be changed, or one with a value of the wrong type.',
                HINT = 'Fields: name, tier (string); description, resource_id, expires_at, not_before (string or null); enabled (boolean); scopes (array of strings); allowed_ips (array of strings, or null); metadata (object).';
        END IF;
        BEGIN
            CASE v_field
                WHEN 'name' THEN v_new.name := v_text;
                WHEN 'tier' THEN v_new.tier := v_text;
                WHEN 'description' THEN v_new.description := v_text;
                WHEN 'resource_id' THEN v_new.resource_id := v_text;
                WHEN 'expires_at' THEN v_new.expires_at := v_text;
                WHEN 'not_before' THEN v_new.not_before := v_text;
                WHEN 'enabled' THEN v_new.enabled := v_text;
                WHEN 'metadata' THEN v_new.metadata := v_value;
                WHEN 'scopes' THEN
                    v_new.scopes := ARRAY(SELECT jsonb_array_elements_text(v_value));
                WHEN 'allowed_ips' THEN
                    v_new.allowed_ips := CASE v_type WHEN 'array' THEN
                        ARRAY(SELECT jsonb_array_elements_text(v_value)::inet) END;
            END CASE;
        EXCEPTION WHEN data_exception THEN
            RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('invalid %s', v_field),
                DETAIL = 'Its text cannot be read.',
                HINT = 'Pass times as ISO 8601, addresses as 192.0.2.1 or 192.0.2.0/24.';
        END;
    END LOOP;

    PERFORM api_key_internal.check_key(v_new);
    -- One that stays as it is may have passed.
    IF v_new.expires_at IS DISTINCT FROM v_old.expires_at THEN
        PERFORM api_key_internal.check_expiry(v_new.expires_at);
    END IF;
    IF p_changes ? 'tier' THEN
        PERFORM api_key_internal.check_tier(v_new.tier, v_caller);
    END IF;
    IF p_changes ? 'scopes' THEN
        v_new.scopes := api_key_internal.checked_scopes(v_new.scopes, v_caller);
    END IF;
    IF api_key_internal.status(v_new) IN ('active', 'not_yet_valid')
        AND (v_new.tier <> v_old.tier
             OR api_key_internal.status(v_old) NOT IN ('active', 'not_yet_valid'))
    THEN
        PERFORM api_key_internal.make_room(v_new.user_id, v_new.tier, p_key_id);
    END IF;

    SELECT jsonb_object_agg(key, jsonb_build_array(before.value, after.value)) INTO v_details
    FROM jsonb_each(to_jsonb(v_old)) AS before
    JOIN jsonb_each(to_jsonb(v_new)) AS after USING (key)
    WHERE before.value <> after.value;
    IF v_details IS NOT NULL THEN
        v_new.updated_at := clock_timestamp();
        UPDATE api_key_internal.keys SET
            name = v_new.name, description = v_new.description, enabled = v_new.enabled,
            scopes = v_new.scopes, allowed_ips = v_new.allowed_ips, metadata = v_new.metadata,
            expires_at = v_new.expires_at, not_before = v_new.not_before, tier = v_new.tier,
            resource_id = v_new.resource_id, updated_at = v_new.updated_at
        WHERE key_id = p_key_id;
        PERFORM api_key_internal.audit('updated', p_key_id, v_new.user_id, v_new.tenant_id, v_details);
    END IF;
    RETURN (SELECT to_jsonb(k) FROM api_key_internal.listed_keys AS k WHERE k.key_id = p_key_id);
END
$$;
COMMENT ON FUNCTION api_key.update_api_key IS
$$Changes a key. p_changes holds only what changes, of: name, description, enabled, scopes, allowed_ips, metadata, expires_at, not_before, tier, resource_id.

Result: the key's row as listed. Errors: 22023 unknown field or bad value, 42501 more rights than the caller's, 53400 too many active keys, P0002 no such key.$$;

CREATE FUNCTION api_key.rotate_api_key(p_key_id api_key.id, p_grace interval = '24 hours')
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_caller api_key_internal.caller := api_key_internal.caller();
    v_key api_key_internal.keys := api_key_internal.locked_key(p_key_id, v_caller);
    v_grace interval := coalesce(p_grace, '24 hours');
    v_api_key text;
BEGIN
    PERFORM api_key_internal.check_grantable(v_key.scopes, v_caller);
    IF v_grace < interval '0' OR v_grace > interval '1 year' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_grace',
            DETAIL = 'It is negative or more than a year.',
            HINT = 'Pass for how long the old secret stays good; 0 ends it at once.';
    ELSIF api_key_internal.status(v_key) IN ('revoked', 'expired') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_key_id',
            DETAIL = 'The key is revoked or has expired.',
            HINT = 'Issue a new key, or give an expired one a new expires_at with update_api_key first.';
    END IF;
    v_api_key := api_key_internal.make_key(v_key.key_prefix, v_key.key_id);
    v_key.updated_at := clock_timestamp();
    v_key.secret_version := v_key.secret_version + 1;
    IF v_grace > interval '0' THEN
        -- A fast digest does not stay behind with the old secret.
        v_key.previous_secret_hash := CASE
            WHEN v_key.secret_hash LIKE '{%' AND v_key.secret_hash NOT LIKE '%$argon2id$%'
            THEN api_key_internal.wrap_hash(v_key.secret_hash) ELSE v_key.secret_hash END;
        v_key.grace_expires_at := v_key.updated_at + v_grace;
    ELSE
        v_key.previous_secret_hash := NULL;
        v_key.grace_expires_at := NULL;
    END IF;
    UPDATE api_key_internal.keys SET
        secret_hash = coalesce(
            api_key_internal.hash_key(v_api_key), api_key_internal.no_room_to_hash()),
        secret_version = v_key.secret_version,
        previous_secret_hash = v_key.previous_secret_hash,
        grace_expires_at = v_key.grace_expires_at, updated_at = v_key.updated_at
    WHERE key_id = p_key_id;
    PERFORM api_key_internal.audit('rotated', p_key_id, v_key.user_id, v_key.tenant_id,
        jsonb_build_object('secret_version', v_key.secret_version,
                           'grace_expires_at', v_key.grace_expires_at));
    RETURN api_key_internal.issued(v_key) || jsonb_build_object(
        'api_key', v_api_key, 'secret_version', v_key.secret_version,
        'grace_expires_at', v_key.grace_expires_at);
END
$$;
COMMENT ON FUNCTION api_key.rotate_api_key IS
$$Gives a key a new secret under the same id. The answer holds the new text as api_key: shown here and never again.

p_grace: for how long the old secret stays good, up to a year; 0 ends it at once. There is one old secret at a time: rotating again within the grace ends the older one.
Result: as issue_api_key, with secret_version and grace_expires_at. Errors: 22023, 42501 a key with more scopes than the caller's, 53400 no room to hash, P0002 no such key.$$;

CREATE FUNCTION api_key_internal.check_reason(p_reason text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF length(p_reason) > 500 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_reason',
            DETAIL = 'It is longer than 500 characters.',
            HINT = 'Shorten it.';
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.check_reason IS 'Refuses (22023) a reason that is too long.';

CREATE FUNCTION api_key_internal.revoke(p_key api_key_internal.keys, p_reason text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE api_key_internal.keys SET
        revoked_at = clock_timestamp(), revoked_reason = p_reason, updated_at = clock_timestamp(),
        previous_secret_hash = NULL, grace_expires_at = NULL
    WHERE key_id = p_key.key_id;
    PERFORM api_key_internal.audit('revoked', p_key.key_id, p_key.user_id, p_key.tenant_id,
        jsonb_build_object('reason', p_reason));
END
$$;
COMMENT ON FUNCTION api_key_internal.revoke IS 'Revokes a locked key, and its old secret with it.';

CREATE FUNCTION api_key.revoke_api_key(p_key_id api_key.id, p_reason text = NULL)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_key api_key_internal.keys := api_key_internal.locked_key(p_key_id, api_key_internal.caller(p_takes_away => true));
BEGIN
    PERFORM api_key_internal.check_reason(p_reason);
    IF v_key.revoked_at IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM api_key_internal.revoke(v_key, p_reason);
    RETURN true;
END
$$;
COMMENT ON FUNCTION api_key.revoke_api_key IS
$$Revokes a key for good. Verify refuses it from the next statement on.

Result: true, or false if it was revoked before. Errors: 22023, P0002 no such key.$$;

CREATE FUNCTION api_key.revoke_api_keys(
    p_user_id api_key.id = NULL, p_tenant_id api_key.id = NULL, p_reason text = NULL)
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_caller api_key_internal.caller := api_key_internal.caller(p_takes_away => true);
    v_user_id uuid;
    v_key api_key_internal.keys;
    v_revoked integer := 0;
BEGIN
    PERFORM api_key_internal.check_reason(p_reason);
    IF p_user_id IS NULL AND p_tenant_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid arguments',
            DETAIL = 'Neither p_user_id nor p_tenant_id is given.',
            HINT = 'Name the user or the tenant whose keys are to be revoked.';
    END IF;
    v_user_id := api_key_internal.subject(v_caller, p_user_id);
    FOR v_key IN
        SELECT * FROM api_key_internal.keys AS k
        WHERE (v_user_id IS NULL OR k.user_id = v_user_id)
          AND (p_tenant_id IS NULL OR k.tenant_id = p_tenant_id)
          AND api_key_internal.in_tenant(k.tenant_id, v_caller)
          AND k.revoked_at IS NULL
        -- In one order, so that two of these calls wait for each other and do not deadlock.
        ORDER BY k.key_id
        FOR UPDATE
    LOOP
        PERFORM api_key_internal.revoke(v_key, p_reason);
        v_revoked := v_revoked + 1;
    END LOOP;
    RETURN v_revoked;
END
$$;
COMMENT ON FUNCTION api_key.revoke_api_keys IS
$$Revokes all keys of a user, of a tenant, or of a user in a tenant.

Result: how many were revoked now. Errors: 22023 if neither is given, 42501 for another user's.$$;

-- In Rust (src/pg/verify.rs).
CREATE FUNCTION api_key_internal.prove_possession(p_api_key text) RETURNS jsonb
LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'prove_possession';
COMMENT ON FUNCTION api_key_internal.prove_possession IS '{code, key_id, by_previous_secret}: VALID for the text of a key, whatever its state.';

CREATE FUNCTION api_key.revoke_own_api_key(p_api_key text)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_proof jsonb;
    v_key api_key_internal.keys;
BEGIN
    v_proof := api_key_internal.prove_possession(coalesce(p_api_key, ''));
    IF v_proof ->> 'code' IN ('THROTTLED', 'OVERLOADED') THEN
        PERFORM api_key_internal.refuse('53400', CASE v_proof ->> 'code' WHEN 'THROTTLED' THEN 429 ELSE 503 END,
            'the key cannot be checked now',
            format('The check answered %s; nothing was revoked.', v_proof ->> 'code'),
            'Try again in a minute.');
    END IF;
    SELECT * INTO v_key FROM api_key_internal.keys
    WHERE key_id = (v_proof ->> 'key_id')::uuid AND revoked_at IS NULL
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- The row may have been rotated between the proof and the lock.
    v_proof := api_key_internal.prove_possession(p_api_key);
    IF v_proof ->> 'code' <> 'VALID' THEN
        RETURN false;
    ELSIF (v_proof ->> 'by_previous_secret')::boolean THEN
        UPDATE api_key_internal.keys SET
            previous_secret_hash = NULL, grace_expires_at = NULL, updated_at = clock_timestamp()
        WHERE key_id = v_key.key_id;
        PERFORM api_key_internal.audit('revoked', v_key.key_id, v_key.user_id, v_key.tenant_id,
            jsonb_build_object('reason', 'revoked by its holder', 'secret', 'previous'));
    ELSE
        PERFORM api_key_internal.revoke(v_key, 'revoked by its holder');
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION api_key.revoke_own_api_key IS
$$Revokes the key whose text is given: whoever holds a leaked key can kill it.

A secret from before a rotation ends its own grace period and leaves the key with its new secret.
Result: true, or false if the text is not that of a live key. Errors: 53400 if it cannot be checked now (THROTTLED, OVERLOADED).$$;

CREATE FUNCTION api_key_internal.delete(p_key api_key_internal.keys, p_details jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM api_key_internal.key_usage WHERE key_id = p_key.key_id;
    DELETE FROM api_key_internal.keys WHERE key_id = p_key.key_id;
    PERFORM api_key_internal.audit('deleted', p_key.key_id, p_key.user_id, p_key.tenant_id,
        jsonb_build_object('name', p_key.name, 'tier', p_key.tier) || p_details);
END
$$;
COMMENT ON FUNCTION api_key_internal.delete IS 'Deletes a locked key.';

CREATE FUNCTION api_key.delete_api_key(p_key_id api_key.id)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM api_key_internal.delete(
        api_key_internal.locked_key(p_key_id, api_key_internal.caller(p_takes_away => true)), '{}');
    RETURN true;
END
$$;
COMMENT ON FUNCTION api_key.delete_api_key IS
$$Deletes a key; what was audited of it stays.

Result: true. Errors: P0002 no such key.$$;

CREATE FUNCTION api_key.purge_api_keys(p_older_than interval = '30 days')
RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_before timestamptz;
    v_key api_key_internal.keys;
    v_purged integer := 0;
BEGIN
    PERFORM api_key_internal.refuse_restricted();
    IF p_older_than IS NULL OR p_older_than < interval '0' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_older_than',
            DETAIL = 'It is negative or NULL.',
            HINT = 'Pass for how long expired and revoked keys are kept, such as 30 days.';
    END IF;
    BEGIN
        v_before := clock_timestamp() - p_older_than;
    EXCEPTION WHEN datetime_field_overflow THEN
        RETURN 0;
    END;
    FOR v_key IN
        SELECT * FROM api_key_internal.keys AS k
        WHERE k.revoked_at < v_before OR k.expires_at < v_before
        ORDER BY k.key_id
        FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM api_key_internal.delete(v_key, '{"purged": true}');
        v_purged := v_purged + 1;
    END LOOP;
    DELETE FROM api_key_internal.audit_log
    WHERE event = 'refused' AND occurred_at < v_before;
    DELETE FROM api_key_internal.issue_requests AS r
    WHERE r.created_at < v_before
      AND NOT EXISTS (SELECT FROM api_key_internal.keys AS k WHERE k.key_id = r.key_id);
    RETURN v_purged;
END
$$;
COMMENT ON FUNCTION api_key.purge_api_keys IS
$$Deletes keys that expired or were revoked longer ago than p_older_than, and what was recorded of refused verifies before that.

Result: how many. Errors: 22023.$$;
