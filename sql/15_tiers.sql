CREATE TABLE api_key_internal.tiers (
    name text PRIMARY KEY CHECK (api_key_internal.is_label(name)),
    max_active_keys integer CHECK (max_active_keys >= 1),
    on_excess text NOT NULL CHECK (on_excess IN ('reject', 'deactivate_oldest'))
);
COMMENT ON TABLE api_key_internal.tiers IS 'Tiers defined by define_tier.';
SELECT pg_catalog.pg_extension_config_dump('api_key_internal.tiers', '');

-- The tier that ships is not a row: a dump would bring it back beside the one that CREATE
-- EXTENSION makes.
CREATE VIEW api_key_internal.known_tiers AS
SELECT name, max_active_keys, on_excess FROM api_key_internal.tiers
UNION ALL
SELECT 'free', 1, 'deactivate_oldest'
WHERE NOT EXISTS (SELECT FROM api_key_internal.tiers WHERE name = 'free');
COMMENT ON VIEW api_key_internal.known_tiers IS 'Tiers defined by define_tier, and the tier free that ships.';

CREATE FUNCTION api_key.define_tier(
    p_name text, p_max_active_keys integer = NULL, p_on_excess text = 'reject')
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM api_key_internal.check_label('p_name', p_name, 'A tier');
    IF p_max_active_keys < 1 THEN
        PERFORM api_key_internal.refuse_argument('p_max_active_keys', 'It is less than 1.',
            'Pass how many active keys a user may have, or NULL for any number.');
    ELSIF p_on_excess IS NULL OR p_on_excess NOT IN ('reject', 'deactivate_oldest') THEN
        PERFORM api_key_internal.refuse_argument('p_on_excess', 'It is neither reject nor deactivate_oldest.',
            'Pass one of the two.');
    END IF;
    INSERT INTO api_key_internal.tiers AS t (name, max_active_keys, on_excess)
    VALUES (p_name, p_max_active_keys, p_on_excess)
    ON CONFLICT (name) DO UPDATE
        SET max_active_keys = excluded.max_active_keys, on_excess = excluded.on_excess;
    PERFORM api_key_internal.audit('tier_defined', NULL, NULL, NULL, jsonb_build_object(
        'name', p_name, 'max_active_keys', p_max_active_keys, 'on_excess', p_on_excess));
END
$$;
COMMENT ON FUNCTION api_key.define_tier IS
$$Defines a tier, or redefines it.

p_max_active_keys: how many active keys of the tier a user may have; NULL for any number.
p_on_excess: what happens when a user issues one more: reject (the call fails with 53400) or
deactivate_oldest.

A new definition deactivates nothing. It applies from the next key on.

Errors: 22023.$$;
