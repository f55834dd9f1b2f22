-- Wrapping the hashes of imported keys in argon2id.

CREATE PROCEDURE api_key.migrate_legacy_hashes(
    p_batch_size integer = 1000, p_max_batches integer = NULL)
LANGUAGE plpgsql
AS $$
DECLARE
    -- A procedure that commits can be neither SECURITY DEFINER nor SET a search_path. So all names are
    -- qualified, including those of types and operators.
    v_run pg_catalog.uuid;
    v_wrapped pg_catalog.int8 := 0;
    v_batch pg_catalog.int4;
    v_batches pg_catalog.int4 := 0;
    v_remaining pg_catalog.int8;
    v_key pg_catalog.record;
BEGIN
    IF p_batch_size IS NULL OR p_batch_size OPERATOR(pg_catalog.<) 1
        OR p_max_batches OPERATOR(pg_catalog.<) 1
    THEN
        PERFORM api_key_internal.refuse_argument('arguments',
            'p_batch_size or p_max_batches is less than 1.',
            'CALL api_key.migrate_legacy_hashes();');
    END IF;
    INSERT INTO api_key_internal.migration_runs (started_at, updated_at, wrapped)
    VALUES (pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp(), 0)
    RETURNING run_id INTO v_run;
    COMMIT;
    LOOP
        EXIT WHEN v_batches OPERATOR(pg_catalog.>=) p_max_batches;
        v_batch := 0;
        -- Several sessions may run this; they skip each other's rows.
        FOR v_key IN
            SELECT k.key_id, k.secret_hash FROM api_key_internal.keys AS k
            WHERE api_key_internal.hash_stage(k.secret_hash) OPERATOR(pg_catalog.=) 'bare'
            LIMIT p_batch_size
            FOR UPDATE SKIP LOCKED
        LOOP
            UPDATE api_key_internal.keys AS k
            SET secret_hash = api_key_internal.wrap_hash(v_key.secret_hash)
            WHERE k.key_id OPERATOR(pg_catalog.=) v_key.key_id
              AND k.secret_hash OPERATOR(pg_catalog.=) v_key.secret_hash;
            v_batch := v_batch OPERATOR(pg_catalog.+) 1;
        END LOOP;
        v_wrapped := v_wrapped OPERATOR(pg_catalog.+) v_batch;
        v_batches := v_batches OPERATOR(pg_catalog.+) 1;
        UPDATE api_key_internal.migration_runs AS r
        SET wrapped = v_wrapped, updated_at = pg_catalog.clock_timestamp()
        WHERE r.run_id OPERATOR(pg_catalog.=) v_run;
        COMMIT;
        SELECT pg_catalog.count(*) INTO v_remaining FROM api_key_internal.keys AS k
        WHERE api_key_internal.hash_stage(k.secret_hash) OPERATOR(pg_catalog.=) 'bare';
        RAISE NOTICE 'wrapped % keys, % remain', v_wrapped, v_remaining;
        EXIT WHEN v_remaining OPERATOR(pg_catalog.=) 0;
        IF v_batch OPERATOR(pg_catalog.=) 0 THEN
            -- Another session has the remaining rows. Wait for it, in case it gives up.
            PERFORM FROM api_key_internal.keys AS k
            WHERE api_key_internal.hash_stage(k.secret_hash) OPERATOR(pg_catalog.=) 'bare'
            LIMIT 1
            FOR UPDATE;
            COMMIT;
        END IF;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE api_key.migrate_legacy_hashes IS
$$Wraps the fast digests and bcrypt hashes of legacy keys in argon2id, without their plaintext. Keys work before, during and after.

It commits after each batch. You can stop it and call it again at any time, and run it in several sessions
at once. The view legacy_hash_progress shows how far it is. Call it as a superuser or the owner of the
extension.

p_batch_size: how many keys to wrap in a transaction.
p_max_batches: stop after so many batches; NULL for all.

Errors: 22023.$$;

-- A view calls functions with the rights of its caller, who may not call our helpers.
CREATE FUNCTION api_key.legacy_hash_counts()
RETURNS TABLE (scheme text, total bigint, wrapped bigint, upgraded bigint, remaining bigint)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT legacy_scheme, count(*), count(*) FILTER (WHERE stage = 'wrapped'),
           count(*) FILTER (WHERE stage = 'own'), count(*) FILTER (WHERE stage = 'bare')
    FROM (SELECT legacy_scheme, api_key_internal.hash_stage(secret_hash) AS stage
          FROM api_key_internal.keys WHERE legacy_scheme IS NOT NULL) AS hashes
    GROUP BY legacy_scheme
$$;
COMMENT ON FUNCTION api_key.legacy_hash_counts IS
$$Counts legacy keys by how their hashes are stored.

The view legacy_hash_progress calls it.$$;

CREATE VIEW api_key.legacy_hash_progress AS
WITH speed AS (
    -- Counts the runs that made progress in the last minute.
    SELECT pg_catalog.sum(wrapped / nullif(EXTRACT(epoch FROM updated_at - started_at), 0))::numeric(12, 1)
        AS per_second
    FROM api_key_internal.migration_runs
    WHERE wrapped > 0 AND updated_at > pg_catalog.clock_timestamp() - interval '1 minute'
)
SELECT scheme, total, wrapped, upgraded, remaining, per_second,
       CASE WHEN remaining > 0
            THEN remaining / nullif(per_second, 0) * interval '1 second' END AS eta
FROM api_key.legacy_hash_counts() CROSS JOIN speed;
COMMENT ON VIEW api_key.legacy_hash_progress IS 'Shows how far legacy keys are on their way to argon2id, by the scheme that they were imported with.';
COMMENT ON COLUMN api_key.legacy_hash_progress.scheme IS 'The scheme of the imported hash.';
COMMENT ON COLUMN api_key.legacy_hash_progress.total IS 'Legacy keys of the scheme.';
COMMENT ON COLUMN api_key.legacy_hash_progress.wrapped IS 'Stored as argon2id over the old hash, by migrate_legacy_hashes.';
COMMENT ON COLUMN api_key.legacy_hash_progress.upgraded IS 'Stored as argon2id over the text itself: keys that were used since, or were imported as plaintext or argon2.';
COMMENT ON COLUMN api_key.legacy_hash_progress.remaining IS 'Still stored as the old hash alone.';
COMMENT ON COLUMN api_key.legacy_hash_progress.per_second IS 'Keys that migrate_legacy_hashes wraps in a second, if it made progress in the last minute.';
COMMENT ON COLUMN api_key.legacy_hash_progress.eta IS 'How long migrate_legacy_hashes needs for the remaining keys of this scheme alone.';
