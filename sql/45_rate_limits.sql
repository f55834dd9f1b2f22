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
COMMENT ON TABLE api_key_internal.rate_limits IS 'Rate limits as defined by define_rate_limit.';
SELECT pg_catalog.pg_extension_config_dump('api_key_internal.rate_limits', '');

CREATE VIEW api_key.rate_limits AS
SELECT name, max_requests AS "limit", period * interval '1 microsecond' AS period, burst, per, tier,
       method, path
FROM api_key_internal.rate_limits;
COMMENT ON VIEW api_key.rate_limits IS
$$Rate limits as defined by define_rate_limit.

per: what requests are counted by, NULL if only check_rate_limit uses the limit. tier, method, path: which requests it is for, NULL for all.$$;

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

p_burst: NULL for as many as p_limit. p_per: what authenticate_request counts requests by: key, user, tenant, tier or client (address); NULL: it does not, check_rate_limit does. p_tier, p_method, p_path: counts only requests of this tier, this method (GET, which includes HEAD, ...; a STABLE function can be called by GET and by POST), this path (a pattern as of LIKE, such as /rpc/%). The algorithm is GCRA: in any time t at most p_burst + t * p_limit / p_period get through. A change holds from the next statement on; other numbers begin with the whole burst, the same ones go on counting. Counts are in shared memory: a restart forgets them, and a standby has its own. Of one user's keys p_per key counts at most 256 apart, or a sixteenth of api_key.rate_limit_entries; further ones share one count.
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
COMMENT ON FUNCTION api_key.remove_rate_limit IS 'Removes a rate limit; false if there was none of the name.';

-- In Rust (src/pg/limits.rs). VOLATILE because each call counts; it writes to memory only.
CREATE FUNCTION api_key.check_rate_limit(p_name text, p_subject text, p_cost integer = 1)
RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'check_rate_limit';
COMMENT ON FUNCTION api_key.check_rate_limit IS
$$Counts p_cost requests of a subject against a rate limit, if they are within it. It never raises because the answer is no.

p_subject: any text, such as a user's id; the id of a key, user or tenant is the subject under which authenticate_request counts. Subjects that it does not count yet have places of their own, as many. Result: {allowed, limit, remaining, retry_after, reset}: remaining is how many more may come at once; retry_after in how many seconds p_cost requests may come again (0 if allowed, null if p_cost is more than the burst), reset in how many seconds all of the burst may. Counts in READ ONLY transactions too, and stays counted if the transaction rolls back.
Errors: 22023, 55000 without preloading.$$;
