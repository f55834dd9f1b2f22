-- Rate limits of an API whose clients start a job, ask for its next part, report metrics and read a
-- manifest: functions of these names in PostgREST. Run it as a superuser or the service role.
--
-- psql -f examples/rate_limits.sql

-- Anyone may start, so clients are told apart by their address. PostgREST knows it only from a proxy
-- (README, "Addresses").
SELECT api_key.define_rate_limit('start', 1, '1 second', p_per => 'client', p_path => '/rpc/start');
-- The others are counted by key: have the functions refuse requests without one,
-- PERFORM api_key.require_scope('jobs:run');
SELECT api_key.define_rate_limit('next', 10, '1 minute', p_per => 'key', p_path => '/rpc/next');
SELECT api_key.define_rate_limit('metrics', 100, '1 minute', p_per => 'key', p_path => '/rpc/metrics');
SELECT api_key.define_rate_limit('manifest', 1, '1 minute', p_per => 'key', p_path => '/rpc/manifest');
