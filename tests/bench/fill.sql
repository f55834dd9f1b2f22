-- Many keys, faster than they could be issued: rows :from to :to, all with the hash of one secret
-- that nobody knows, except that every :step-th is a real key, its text in bench.texts. The real
-- ones are spread over all pages of table and index.
WITH issued AS (
    SELECT n, api_key.issue_api_key(p_tier => 'bench') AS key
    FROM generate_series(:from, :to) AS n
    WHERE n % :step = 0
)
INSERT INTO bench.texts (n, key_id, api_key)
SELECT n, (key ->> 'key_id')::uuid, key ->> 'api_key' FROM issued;

CREATE TEMP TABLE real_keys AS
SELECT t.n, k.key_id, k.secret_hash
FROM bench.texts AS t JOIN api_key_internal.keys AS k USING (key_id)
WHERE t.n BETWEEN :from AND :to;
DELETE FROM api_key_internal.keys WHERE key_id IN (SELECT key_id FROM real_keys);
VACUUM api_key_internal.keys;

INSERT INTO api_key_internal.keys
    (key_id, created_at, updated_at, key_prefix, secret_hash, name, tier, environment, kind,
     scopes, user_id)
SELECT
    coalesce(r.key_id, md5(n::text)::uuid), now(), now(), 'sk_live_',
    coalesce(r.secret_hash, (SELECT hash FROM bench.shared_hash)),
    'Key ' || n, 'bench', 'live', 'secret', '{articles:read,articles:write}', gen_random_uuid()
FROM generate_series(:from, :to) AS n LEFT JOIN real_keys AS r USING (n);
DROP TABLE real_keys;
