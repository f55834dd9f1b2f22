-- Called by the worker (src/pg/flush/worker.rs), for each batch in a transaction of its own. Times are
-- microseconds since 2000-01-01 UTC.

-- In arrays, as a key takes several times as long in JSON, and a batch has ten thousand.
CREATE FUNCTION api_key_internal.flush_use_counts(
    p_key_ids uuid[], p_uses bigint[], p_failures bigint[], p_last_used_at bigint[],
    p_last_used_ip text[])
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- Update first: unlike ON CONFLICT it writes no lock record to the WAL.
    WITH used AS (
        SELECT u.key_id, u.uses, u.failures, u.last_used_ip::inet AS last_used_ip,
               timestamptz '2000-01-01 00:00:00+00' + u.last_used_at * interval '1 microsecond'
                   AS last_used_at
        FROM unnest(p_key_ids, p_uses, p_failures, p_last_used_at, p_last_used_ip) AS u
            (key_id, uses, failures, last_used_at, last_used_ip)
    ), updated AS (
        UPDATE api_key_internal.key_usage AS k SET
            usage_count = k.usage_count + used.uses,
            failure_count = k.failure_count + used.failures,
            last_used_at = greatest(k.last_used_at, used.last_used_at),
            last_used_ip = coalesce(used.last_used_ip, k.last_used_ip)
        FROM used WHERE k.key_id = used.key_id
        RETURNING k.key_id
    )
    INSERT INTO api_key_internal.key_usage
        (key_id, usage_count, failure_count, last_used_at, last_used_ip)
    SELECT used.key_id, used.uses, used.failures, used.last_used_at, used.last_used_ip FROM used
    -- Not NOT EXISTS: few rows are expected of an array, and this is hashed nevertheless.
    WHERE used.key_id NOT IN (SELECT updated.key_id FROM updated)
      -- Not for keys that were deleted since.
      AND used.key_id IN (SELECT k.key_id FROM api_key_internal.keys AS k);
END;
COMMENT ON FUNCTION api_key_internal.flush_use_counts IS 'Adds use counts from memory to those of the keys.';

-- A transaction that deletes a key and stays open must not keep the counts of other keys from being
-- written. Rows are not locked beforehand: that would write to the WAL for each of them.
CREATE FUNCTION api_key_internal.flush_unlocked_use_counts(
    p_key_ids uuid[], p_uses bigint[], p_failures bigint[], p_last_used_at bigint[],
    p_last_used_ip text[])
RETURNS uuid[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_locked uuid[] := '{}';
BEGIN
    PERFORM api_key_internal.flush_use_counts(
        p_key_ids, p_uses, p_failures, p_last_used_at, p_last_used_ip);
    RETURN v_locked;
EXCEPTION WHEN lock_not_available THEN
    WITH free AS (
        SELECT key_id FROM api_key_internal.key_usage
        WHERE key_id = ANY (p_key_ids) FOR UPDATE SKIP LOCKED
    )
    SELECT coalesce(array_agg(key_id), '{}') INTO v_locked FROM api_key_internal.key_usage
    WHERE key_id = ANY (p_key_ids) AND key_id NOT IN (SELECT free.key_id FROM free);
    PERFORM api_key_internal.flush_use_counts(
        array_agg(u.key_id), array_agg(u.uses), array_agg(u.failures), array_agg(u.last_used_at),
        array_agg(u.last_used_ip))
    FROM unnest(p_key_ids, p_uses, p_failures, p_last_used_at, p_last_used_ip) AS u
        (key_id, uses, failures, last_used_at, last_used_ip)
    WHERE u.key_id <> ALL (v_locked);
    RETURN v_locked;
END
$$;
COMMENT ON FUNCTION api_key_internal.flush_unlocked_use_counts IS 'Calls flush_use_counts, but skips rows that others lock for longer than lock_timeout, and returns their keys.';

-- Each hour has at most 21 rows of each code, whatever callers vary: the twenty most frequent by key
-- and client, and one of all others. They are counters: taken out, added to, and put back.
CREATE FUNCTION api_key_internal.flush_denials(p_denials jsonb)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH reported AS (
        SELECT code, key_id, client_ip, count,
               timestamptz '2000-01-01 00:00:00+00' + first_at * interval '1 microsecond' AS first_at,
               timestamptz '2000-01-01 00:00:00+00' + last_at * interval '1 microsecond' AS last_at
        FROM jsonb_to_recordset(p_denials) AS refused
            (code text, key_id uuid, client_ip inet, count bigint, first_at bigint, last_at bigint)
    ), hours AS (
        SELECT DISTINCT code, date_bin('1 hour', last_at, '2000-01-01 00:00:00+00') AS hour
        FROM reported
    ), taken_out AS (
        DELETE FROM api_key_internal.audit_log AS a USING hours
        WHERE a.event = 'refused' AND a.details ->> 'code' = hours.code
          AND a.occurred_at >= hours.hour AND a.occurred_at < hours.hour + interval '1 hour'
        RETURNING a.*
    ), merged AS (
        SELECT code, date_bin('1 hour', last_at, '2000-01-01 00:00:00+00') AS hour,
               key_id, client_ip, min(audit_id) AS audit_id, sum(count) AS count,
               min(first_at) AS first_at, max(last_at) AS last_at,
               -- A key that was deleted since keeps its owner here.
               (array_agg(user_id) FILTER (WHERE audit_id IS NOT NULL))[1] AS user_id,
               (array_agg(tenant_id) FILTER (WHERE audit_id IS NOT NULL))[1] AS tenant_id
        FROM (
            SELECT code, key_id, client_ip, count, first_at, last_at,
                   NULL::bigint AS audit_id, NULL::uuid AS user_id, NULL::uuid AS tenant_id
            FROM reported
            UNION ALL
            SELECT details ->> 'code', key_id, (details ->> 'client_ip')::inet,
                   (details ->> 'count')::bigint, (details ->> 'first_at')::timestamptz,
                   occurred_at, audit_id, user_id, tenant_id
            FROM taken_out
        ) AS all_refusals
        GROUP BY code, hour, key_id, client_ip
    ), ranked AS (
        SELECT *, key_id IS NULL AND client_ip IS NULL
               OR row_number() OVER (
                   PARTITION BY code, hour, key_id IS NULL AND client_ip IS NULL
                   ORDER BY count DESC, audit_id NULLS LAST) > 20 AS is_other
        FROM merged
    ), kept AS (
        SELECT code, hour, key_id, client_ip, audit_id, count, first_at, last_at, user_id, tenant_id
        FROM ranked WHERE NOT is_other
        UNION ALL
        SELECT code, hour, NULL, NULL,
               min(audit_id) FILTER (WHERE key_id IS NULL AND client_ip IS NULL), sum(count),
               min(first_at), max(last_at), NULL, NULL
        FROM ranked WHERE is_other GROUP BY code, hour
    )
    INSERT INTO api_key_internal.audit_log
        (audit_id, occurred_at, event, actor_role, key_id, user_id, tenant_id, details)
    SELECT coalesce(kept.audit_id, nextval('api_key_internal.audit_log_audit_id_seq')),
           kept.last_at, 'refused', 'api_key worker', kept.key_id,
           coalesce(kept.user_id, k.user_id), coalesce(kept.tenant_id, k.tenant_id),
           jsonb_build_object('code', kept.code, 'count', kept.count, 'client_ip', kept.client_ip,
                              'first_at', kept.first_at)
    FROM kept LEFT JOIN api_key_internal.keys AS k ON k.key_id = kept.key_id
    ORDER BY kept.last_at;
END;
COMMENT ON FUNCTION api_key_internal.flush_denials IS 'Adds counts of refused verifies from memory to those of their hours in the audit log.';

CREATE FUNCTION api_key_internal.flush_upgrades(p_upgrades jsonb)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- Compare and swap: a rotation since has another hash, and wins. A row that someone else has
    -- locked is left to a later verify.
    WITH better AS (
        SELECT k.key_id, b.hash, b.handle
        FROM jsonb_to_recordset(p_upgrades) AS b
            (key_id uuid, replaces text, hash text, handle text)
        JOIN api_key_internal.keys AS k ON k.key_id = b.key_id
        WHERE sha256(convert_to(k.secret_hash, 'UTF8')) = decode(b.replaces, 'hex')
          -- One text under two schemes is two keys; only the first of them has the text's handle.
          AND NOT EXISTS (SELECT FROM api_key_internal.keys AS other
                          WHERE other.lookup_handle = decode(b.handle, 'hex')
                            AND other.key_id <> k.key_id)
        FOR UPDATE OF k SKIP LOCKED
    )
    UPDATE api_key_internal.keys AS k SET
        secret_hash = better.hash,
        lookup_handle = coalesce(decode(better.handle, 'hex'), k.lookup_handle)
    FROM better WHERE k.key_id = better.key_id;
END;
COMMENT ON FUNCTION api_key_internal.flush_upgrades IS 'Replaces stored hashes by better ones from memory.';

CREATE FUNCTION api_key.flush_usage() RETURNS void
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'flush_usage';
COMMENT ON FUNCTION api_key.flush_usage IS
$$Writes use counts and refusals to the tables now, and waits until they are written.

The worker writes them every api_key.flush_interval in any case. It uses a transaction of its own, so the next
statement sees them.

Errors: 55000 on a standby or without preloading, 58000 if the worker failed; see api_key.stats.$$;

-- A standby cannot write. Its counts are carried to the primary by these two, or written
-- when it is promoted.
CREATE FUNCTION api_key.export_usage() RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'export_usage';
COMMENT ON FUNCTION api_key.export_usage IS
$$Takes what a standby has counted in this database out of memory, for import_usage on its primary.

Result: a JSON object, to be imported once. The counts leave memory even if the transaction rolls back, so
keep the object until it is imported.$$;

CREATE FUNCTION api_key.import_usage(p_usage jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM api_key_internal.refuse_restricted();
    IF p_usage IS NULL OR jsonb_typeof(p_usage -> 'usage') IS DISTINCT FROM 'array'
        OR jsonb_typeof(p_usage -> 'refusals') IS DISTINCT FROM 'array'
    THEN
        PERFORM api_key_internal.refuse_argument('p_usage', 'It is not what export_usage answers.',
            'Pass the answer of SELECT api_key.export_usage() on the standby.');
    END IF;
    PERFORM api_key_internal.flush_use_counts(
        array_agg(u.key_id), array_agg(u.uses), array_agg(u.failures), array_agg(u.last_used_at),
        array_agg(u.last_used_ip))
    FROM jsonb_to_recordset(p_usage -> 'usage') AS u
        (key_id uuid, uses bigint, failures bigint, last_used_at bigint, last_used_ip text);
    PERFORM api_key_internal.flush_denials(p_usage -> 'refusals');
END
$$;
COMMENT ON FUNCTION api_key.import_usage IS
$$Adds the answer of export_usage on a standby to the use counts and the audit log of its primary.

Errors: 22023.$$;
