CREATE TABLE api_key_internal.rate_limits (
    name text COLLATE "C" PRIMARY KEY CHECK (api_key_internal.is_label(name)),
    max_requests integer NOT NULL CHECK (max_requests >= 1),
    -- In microseconds.
    period bigint NOT NULL CHECK (period BETWEEN 1 AND 31622400000000),
    burst integer NOT NULL CHECK (burst >= 1),
    per text CHECK (per IN ('key', 'user', 'tenant', 'tier', 'client')),
    tier text,
    method text,
    path text
);
COMMENT ON TABLE api_key_internal.rate_limits IS 'Rate limits defined by define_rate_limit.';
SELECT pg_catalog.pg_extension_config_dump('api_key_internal.rate_limits', '');

CREATE VIEW api_key.rate_limits AS
SELECT name, max_requests AS "limit", period * interval '1 microsecond' AS period, burst, per, tier,
       method, path
FROM api_key_internal.rate_limits;
COMMENT ON VIEW api_key.rate_limits IS 'Lists the rate limits defined by define_rate_limit.';
COMMENT ON COLUMN api_key.rate_limits.name IS 'The name of the limit.';
COMMENT ON COLUMN api_key.rate_limits."limit" IS 'How many requests a subject may make in a period.';
COMMENT ON COLUMN api_key.rate_limits.period IS 'The period.';
COMMENT ON COLUMN api_key.rate_limits.burst IS 'How many of them may come at once.';
COMMENT ON COLUMN api_key.rate_limits.per IS 'The subject by which authenticate_request counts requests; NULL if only check_rate_limit uses the limit.';
COMMENT ON COLUMN api_key.rate_limits.tier IS 'The tier whose requests are counted; NULL for all.';
COMMENT ON COLUMN api_key.rate_limits.method IS 'The method whose requests are counted; NULL for all.';
COMMENT ON COLUMN api_key.rate_limits.path IS 'A pattern of paths whose requests are counted; NULL for all.';

CREATE FUNCTION api_key.define_rate_limit(
    p_name text, p_limit integer, p_period interval, p_burst integer = NULL, p_per text = NULL,
    p_tier text = NULL, p_method text = NULL, p_path text = NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_period numeric := extract(epoch FROM p_period) * 1000000;
BEGIN
    PERFORM api_key_internal.check_label('p_name', p_name, 'A rate limit');
    IF p_limit IS NULL OR p_limit < 1 OR v_period IS NULL
        OR v_period NOT BETWEEN p_limit AND 31622400000000
    THEN
        PERFORM api_key_internal.refuse_argument('p_limit or p_period',
            'A limit is at least 1 request, in a period of up to 366 days, and at most one a microsecond.',
            'Pass how many requests there may be in which period, such as 10 and ''1 minute''.');
    ELSIF p_burst < 1 OR p_burst * v_period / p_limit > 100 * 31622400000000 THEN
        PERFORM api_key_internal.refuse_argument('p_burst',
            'It is less than 1, or takes more than a hundred years to come again.',
            'Pass how many requests may come at once, or leave it out for as many as p_limit.');
    ELSIF p_per NOT IN ('key', 'user', 'tenant', 'tier', 'client') THEN
        PERFORM api_key_internal.refuse_argument('p_per', 'It is none of key, user, tenant, tier and client.',
            'Pass what requests are counted by, or leave it out to count with check_rate_limit only.');
    ELSIF p_per IS NULL AND (p_tier IS NOT NULL OR p_method IS NOT NULL OR p_path IS NOT NULL)
        OR p_per = 'client' AND p_tier IS NOT NULL
    THEN
        PERFORM api_key_internal.refuse_argument('p_tier, p_method or p_path',
            'Which requests a limit is for says nothing without p_per, and the tier of a client is not known.',
            'Pass p_per: key, user, tenant, tier or client.');
    ELSIF p_method NOT IN ('GET', 'POST', 'PUT', 'PATCH', 'DELETE') THEN
        PERFORM api_key_internal.refuse_argument('p_method',
            'It is none of GET (which includes HEAD), POST, PUT, PATCH and DELETE.',
            'Pass one of them, or leave it out for all.');
    ELSIF p_path !~ '^[/%]' OR p_path ~ '(^|[^\\])(\\\\)*\\$' THEN
        PERFORM api_key_internal.refuse_argument('p_path',
            'It begins with neither / nor %, or ends with the escape character.',
            'Pass a pattern as of LIKE, such as /rpc/start or /rpc/%.');
    END IF;
    IF p_per = 'client' AND coalesce(current_setting('api_key.trusted_proxies', true), '0') = '0' THEN
        RAISE NOTICE USING MESSAGE = 'all clients share this limit while api_key.trusted_proxies is 0',
            DETAIL = 'PostgREST does not tell the address of its client; a proxy in front of it does, in X-Forwarded-For.',
            HINT = 'ALTER DATABASE ... SET api_key.trusted_proxies = 1;';
    END IF;
    INSERT INTO api_key_internal.rate_limits AS l
        (name, max_requests, period, burst, per, tier, method, path)
    VALUES (p_name, p_limit, v_period, coalesce(p_burst, p_limit), p_per, p_tier, p_method, p_path)
    ON CONFLICT (name) DO UPDATE SET
        max_requests = excluded.max_requests, period = excluded.period, burst = excluded.burst,
        per = excluded.per, tier = excluded.tier, method = excluded.method, path = excluded.path;
    PERFORM api_key_internal.audit('rate_limit_defined', NULL, NULL, NULL, (
        SELECT to_jsonb(l) FROM api_key.rate_limits AS l WHERE l.name = p_name));
END
$$;
COMMENT ON FUNCTION api_key.define_rate_limit IS
$$Defines a rate limit, or redefines it: p_limit requests in p_period, of which p_burst may come at once.

p_burst: NULL for p_limit.
p_per: what authenticate_request counts requests by: key, user, tenant, tier or client (address). With NULL it
does not count; only check_rate_limit does.
p_tier: count only requests of keys of this tier.
p_method: count only requests of this method. GET includes HEAD. A STABLE function can be called by GET
and by POST.
p_path: count only requests to paths that match this pattern of LIKE, such as /rpc/%.

The algorithm is GCRA: in any time t, at most p_burst + t × p_limit / p_period requests get through. A change
applies from the next statement on. Other numbers start with a full burst; the same numbers continue the
counts.

Counts are in shared memory: a restart forgets them, and a standby has its own. A limit per key counts at most
256 keys of one user (a sixteenth of api_key.rate_limit_entries, if that is fewer) separately; all further
keys of the user share one count.

Errors: 22023.$$;

CREATE FUNCTION api_key.remove_rate_limit(p_name text)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM api_key_internal.rate_limits WHERE name = p_name;
    IF FOUND THEN
        PERFORM api_key_internal.audit('rate_limit_removed', NULL, NULL, NULL,
            jsonb_build_object('name', p_name));
    END IF;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION api_key.remove_rate_limit IS
$$Removes a rate limit.

Result: true, or false if there was none of this name.$$;

-- In Rust (src/pg/limits.rs). VOLATILE because each call counts; it writes to memory only.
CREATE FUNCTION api_key.check_rate_limit(p_name text, p_subject text, p_cost integer = 1)
RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'check_rate_limit';
COMMENT ON FUNCTION api_key.check_rate_limit IS
$$Counts p_cost requests of a subject against a rate limit, unless they exceed it. It never raises an error because the answer is no.

p_subject: any text. With the id of a key, user or tenant you share the count of authenticate_request for it.
Subjects that it does not count at the time have api_key.rate_limit_entries places of their own.
p_cost: how many requests to count.

Result: {allowed, limit, remaining, retry_after, reset}. remaining is how many more requests may come at
once, retry_after in how many seconds p_cost requests are allowed again (0 if they are now, null if p_cost
exceeds the burst), and reset in how many seconds the whole burst is.

It counts in READ ONLY transactions too, and a rollback does not undo it.

Errors: 22023, 55000 without preloading.$$;
