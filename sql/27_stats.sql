CREATE FUNCTION api_key.counters() RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'counters';
COMMENT ON FUNCTION api_key.counters IS 'Returns the row of api_key.stats as one object.';

CREATE VIEW api_key.stats AS
SELECT c.*
FROM pg_catalog.jsonb_to_record(api_key.counters()) AS c (
    preloaded boolean, memo_hits bigint, memo_misses bigint, memo_entries bigint,
    memo_capacity bigint, hashes_run bigint, hashes_running integer, hashes_limit integer,
    hashes_waited bigint, hashes_refused bigint, scans_resumed bigint, scans_paused bigint, throttled bigint, failure_entries bigint,
    failure_capacity bigint, usage_entries bigint, usage_capacity bigint, usage_dropped bigint,
    refusal_entries bigint, refusal_capacity bigint, rate_limited bigint,
    rate_limit_entries bigint, rate_limit_capacity bigint, rate_limit_client_entries bigint,
    rate_limit_client_capacity bigint, rate_limit_check_entries bigint,
    rate_limit_check_capacity bigint, rate_limits_full bigint, upgrade_entries bigint,
    upgrade_capacity bigint, flushes bigint,
    last_flush_at timestamptz, last_error text, last_error_at timestamptz);
COMMENT ON VIEW api_key.stats IS
$$Shows what the extension holds and does in memory.

Counts begin at the start of the server; without preloading, at the start of the session. Entries that have
expired are counted until their place is needed.$$;
COMMENT ON COLUMN api_key.stats.preloaded IS 'Whether the server has preloaded the extension.';
COMMENT ON COLUMN api_key.stats.memo_hits IS 'Secrets that were known, and so were not hashed.';
COMMENT ON COLUMN api_key.stats.memo_misses IS 'Secrets that were not known.';
COMMENT ON COLUMN api_key.stats.memo_entries IS 'Known secrets in memory.';
COMMENT ON COLUMN api_key.stats.memo_capacity IS 'Known secrets that memory has room for (api_key.memo_entries).';
COMMENT ON COLUMN api_key.stats.hashes_run IS 'Hashes computed to check a secret.';
COMMENT ON COLUMN api_key.stats.hashes_running IS 'Hashes that are being computed now.';
COMMENT ON COLUMN api_key.stats.hashes_limit IS 'Hashes that may be computed at the same time (api_key.max_concurrent_hashes).';
COMMENT ON COLUMN api_key.stats.hashes_waited IS 'Checks that had to wait for room to hash.';
COMMENT ON COLUMN api_key.stats.hashes_refused IS 'Checks that waited longer than api_key.hash_queue_timeout, and were answered OVERLOADED.';
COMMENT ON COLUMN api_key.stats.scans_resumed IS 'Searches among legacy keys that a later call with the same text continued.';
COMMENT ON COLUMN api_key.stats.scans_paused IS 'Searches among legacy keys of one prefix that did not end within api_key.legacy_scan_time, and were answered OVERLOADED.';
COMMENT ON COLUMN api_key.stats.throttled IS 'Checks that a failure budget refused (THROTTLED).';
COMMENT ON COLUMN api_key.stats.failure_entries IS 'Keys with a failure budget in memory.';
COMMENT ON COLUMN api_key.stats.failure_capacity IS 'Failure budgets that memory has room for (api_key.failure_entries).';
COMMENT ON COLUMN api_key.stats.usage_entries IS 'Keys with use counts that are not yet written.';
COMMENT ON COLUMN api_key.stats.usage_capacity IS 'Keys with use counts that memory has room for (api_key.usage_entries).';
COMMENT ON COLUMN api_key.stats.usage_dropped IS 'Uses that were not counted because memory had no room.';
COMMENT ON COLUMN api_key.stats.refusal_entries IS 'Kinds of refusals that are not yet written.';
COMMENT ON COLUMN api_key.stats.refusal_capacity IS 'Kinds of refusals that memory has room for (api_key.refusal_entries).';
COMMENT ON COLUMN api_key.stats.rate_limited IS 'Requests and checks that a rate limit refused.';
COMMENT ON COLUMN api_key.stats.rate_limit_entries IS 'Subjects of rate limits in memory, except clients and those of check_rate_limit alone.';
COMMENT ON COLUMN api_key.stats.rate_limit_capacity IS 'Such subjects that memory has room for (api_key.rate_limit_entries).';
COMMENT ON COLUMN api_key.stats.rate_limit_client_entries IS 'Clients that rate limits count, in memory.';
COMMENT ON COLUMN api_key.stats.rate_limit_client_capacity IS 'Clients that memory has room for.';
COMMENT ON COLUMN api_key.stats.rate_limit_check_entries IS 'Subjects that only check_rate_limit counts, in memory.';
COMMENT ON COLUMN api_key.stats.rate_limit_check_capacity IS 'Such subjects that memory has room for.';
COMMENT ON COLUMN api_key.stats.rate_limits_full IS 'Requests and checks that were refused because memory had no room to count them; also in rate_limited.';
COMMENT ON COLUMN api_key.stats.upgrade_entries IS 'Better hashes of secrets that are not yet written.';
COMMENT ON COLUMN api_key.stats.upgrade_capacity IS 'Better hashes that memory has room for.';
COMMENT ON COLUMN api_key.stats.flushes IS 'Times that the counts of a database were written.';
COMMENT ON COLUMN api_key.stats.last_flush_at IS 'When counts were last written.';
COMMENT ON COLUMN api_key.stats.last_error IS 'The last error of the worker; NULL if there was none.';
COMMENT ON COLUMN api_key.stats.last_error_at IS 'When that error occurred.';
