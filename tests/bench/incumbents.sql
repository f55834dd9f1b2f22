-- What people write by hand instead, over the key texts in bench.texts. SECURITY DEFINER with a
-- pinned search_path, as clients may call it and may not read the table.
CREATE EXTENSION pgcrypto SCHEMA public;

-- bcrypt, found by an indexed prefix that is as good as unique. It writes nothing, which favours
-- it. A thousand keys, because each takes milliseconds to hash.
CREATE TABLE bench.bcrypt_keys (
    key_id uuid PRIMARY KEY,
    key_prefix text NOT NULL,
    key_hash text NOT NULL,
    user_id uuid NOT NULL,
    name text NOT NULL,
    tier text NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    expires_at timestamptz
);
CREATE INDEX ON bench.bcrypt_keys (key_prefix);
INSERT INTO bench.bcrypt_keys (key_id, key_prefix, key_hash, user_id, name, tier)
SELECT k.key_id, left(t.api_key, 20), crypt(t.api_key, gen_salt('bf', 6)), k.user_id, k.name, k.tier
FROM bench.texts AS t JOIN api_key_internal.keys AS k USING (key_id)
WHERE t.n <= 1000;

CREATE FUNCTION bench.verify_bcrypt(p_api_key text) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
DECLARE
    v_key bench.bcrypt_keys;
BEGIN
    FOR v_key IN
        SELECT * FROM bench.bcrypt_keys
        WHERE key_prefix = left(p_api_key, 20) AND is_active
          AND (expires_at IS NULL OR expires_at > now())
    LOOP
        IF v_key.key_hash = crypt(p_api_key, v_key.key_hash) THEN
            RETURN jsonb_build_object('valid', true, 'key_id', v_key.key_id,
                'user_id', v_key.user_id, 'name', v_key.name, 'tier', v_key.tier);
        END IF;
    END LOOP;
    RETURN jsonb_build_object('valid', false);
END
$$;

-- SHA-512 of the text, indexed; last use is written at most once a minute. It answers with what
-- verify_api_key answers with.
CREATE TABLE bench.sha512_keys (
    key_id uuid PRIMARY KEY,
    key_hash bytea NOT NULL UNIQUE,
    user_id uuid NOT NULL,
    tenant_id uuid,
    name text NOT NULL,
    tier text NOT NULL,
    environment text NOT NULL,
    kind text NOT NULL,
    scopes text[] NOT NULL,
    resource_id text,
    metadata jsonb NOT NULL,
    is_active boolean NOT NULL DEFAULT true,
    expires_at timestamptz,
    last_used_at timestamptz
) WITH (fillfactor = 70);
INSERT INTO bench.sha512_keys (key_id, key_hash, user_id, name, tier, environment, kind, scopes, metadata)
SELECT k.key_id, digest(t.api_key, 'sha512'), k.user_id, k.name, k.tier, k.environment, k.kind,
    k.scopes, k.metadata
FROM bench.texts AS t JOIN api_key_internal.keys AS k USING (key_id);

CREATE FUNCTION bench.verify_sha512(p_api_key text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
DECLARE
    v_key bench.sha512_keys;
BEGIN
    SELECT * INTO v_key FROM bench.sha512_keys WHERE key_hash = digest(p_api_key, 'sha512');
    IF NOT FOUND OR NOT v_key.is_active OR v_key.expires_at <= now() THEN
        RETURN jsonb_build_object('valid', false);
    END IF;
    IF v_key.last_used_at IS NULL OR v_key.last_used_at < now() - interval '1 minute' THEN
        UPDATE bench.sha512_keys SET last_used_at = now() WHERE key_id = v_key.key_id;
    END IF;
    RETURN jsonb_build_object('valid', true, 'key_id', v_key.key_id, 'user_id', v_key.user_id,
        'tenant_id', v_key.tenant_id, 'name', v_key.name, 'tier', v_key.tier,
        'environment', v_key.environment, 'kind', v_key.kind, 'scopes', v_key.scopes,
        'resource_id', v_key.resource_id, 'metadata', v_key.metadata,
        'expires_at', v_key.expires_at);
END
$$;

-- A server in steady use, where each key was last written some time within the last minute;
-- otherwise every key would be due at once after each pause between its rounds.
CREATE PROCEDURE bench.settle_sha512()
LANGUAGE sql
AS $$
    UPDATE bench.sha512_keys SET last_used_at = now() - random() * interval '1 minute';
$$;
VACUUM ANALYZE bench.bcrypt_keys, bench.sha512_keys;
