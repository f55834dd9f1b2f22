-- Many keys, faster than they could be issued: rows :from to :to, all with the hash of one secret
-- that nobody knows, except that every :step-th is a real key, its text in bench.texts. The real
-- ones are spread over all pages of table and index.
INSERT INTO bench.texts (n, key_id, api_key)
SELECT n, md5(n::text)::uuid, api_key_internal.make_key('sk_live_', md5(n::text)::uuid)
FROM generate_series(:from, :to) AS n
WHERE n % :step = 0;

INSERT INTO api_key_internal.keys
    (key_id, created_at, updated_at, key_prefix, secret_hash, name, tier, environment, kind,
     scopes, user_id)
SELECT
    md5(n::text)::uuid, now(), now(), 'sk_live_',
    CASE WHEN n % :step = 0
        THEN api_key_internal.hash_key((SELECT t.api_key FROM bench.texts AS t WHERE t.n = s.n))
        ELSE (SELECT hash FROM bench.shared_hash) END,
    'Key ' || n, 'bench', 'live', 'secret', '{articles:read,articles:write}', gen_random_uuid()
FROM generate_series(:from, :to) AS s (n);
