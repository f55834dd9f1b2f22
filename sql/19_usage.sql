-- Use counts, apart from the keys: they change often, and a key's row must not wait for them.
CREATE TABLE api_key_internal.key_usage (
    key_id uuid PRIMARY KEY,
    usage_count bigint NOT NULL DEFAULT 0,
    failure_count bigint NOT NULL DEFAULT 0,
    last_used_at timestamptz,
    last_used_ip inet
-- Each flush updates most rows of a page: with room for both versions it touches no index.
) WITH (fillfactor = 50);
COMMENT ON TABLE api_key_internal.key_usage IS 'How often and when keys were used, as of the last flush.';
SELECT pg_catalog.pg_extension_config_dump('api_key_internal.key_usage', '');
