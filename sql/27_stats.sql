CREATE FUNCTION api_key.counters() RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'counters';
COMMENT ON FUNCTION api_key.counters IS 'What api_key.stats shows, as one object.';

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
$$What the extension does in memory, since the server's start; without preloading, since the session's.

memo_hits, memo_misses: secrets found among the known ones, or not. hashes_run: hashes to check a secret; hashes_waited, hashes_refused: those that had to wait for room, and those given up (OVERLOADED). scans_paused: searches among legacy keys of one prefix that did not end within a call (OVERLOADED too); scans_resumed: those that a later call with the same text went on with. throttled: checks refused by a failure budget. *_entries, *_capacity: how full each structure is; it has room for exactly as many as its capacity. rate_limit_*: what requests are counted by except clients, rate_limit_client_*: clients, rate_limit_check_*: subjects of check_rate_limit. Entries that have run out are counted until their place is needed. usage_dropped: uses not counted for want of room. rate_limited: requests refused by a rate limit; rate_limits_full: those of them for want of room to count them. flushes: how often a database's counts were written. last_error: of the worker.$$;
