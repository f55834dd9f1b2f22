-- Scopes: which a key may be given. verify.sql has what they grant.
\i tests/preamble.sql
CREATE FUNCTION pg_temp.given(p_scopes text[]) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN api_key.issue_api_key(p_scopes => p_scopes) ->> 'scopes';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END
$$;

-- While none is registered, any scope may be given: each once, in the order given.
SELECT scopes, pg_temp.given(scopes::text[]) AS given
FROM (VALUES ('{}'), ('{articles:read}'), ('{b:write,a:read,b:write,a:read}'), ('{articles:*}'),
    ('{admin}'),
             ('{reader}'), ('{a/b.c-d_e:f/g.h-i_j}'),
             ('{NULL}'), ('{""}'), ('{*}'), ('{":read"}'), ('{"articles:"}'), ('{*:read}'), ('{a:b:c}'),
             ('{"two words"}'), ('{articles:re*}'), ('{a:$(x)}'), ('{ä:read}'),
                 ('{{a:read,b:read}}')) AS c (scopes);
SELECT api_key.issue_api_key(p_scopes => '{articles:read,NULL}');
\echo :SQLSTATE
-- Up to 256 scopes of up to 64 characters on each side; 10,000 are refused.
SELECT n, length, left(pg_temp.given(ARRAY(SELECT repeat('r', length - 6) || lpad(i::text, 6,
    '0') || ':' || repeat('a', length) FROM generate_series(1, n) AS i)), 6) AS given
FROM (VALUES (1, 64), (1, 65), (256, 10), (257, 10), (10000, 10)) AS c (n, length);
SELECT api_key.issue_api_key(p_scopes => array_fill('a:read'::text, ARRAY[257]));
\echo :SQLSTATE

-- Once any is registered, giving an unregistered one is refused.
SELECT api_key.define_scope('articles:read', 'Read articles');
SELECT api_key.issue_api_key(p_scopes => '{articles:write}');
\echo :SQLSTATE
SELECT scopes, pg_temp.given(scopes::text[]) AS given
FROM (VALUES ('{}'), ('{articles:read}'), ('{articles:read,articles:write}'), ('{articles:*}'),
    ('{users:*}'),
             ('{article:*}'), ('{articles}'), ('{admin}'), ('{ARTICLES:READ}')) AS c (scopes);
-- So it is when a key is updated; scopes that it has already may stay.
SELECT api_key.issue_api_key(p_name => 'updated', p_scopes => '{articles:read}') ->> 'key_id' AS key_id
    \gset
SELECT api_key.update_api_key(:'key_id', '{"scopes": ["articles:write"]}');
\echo :SQLSTATE
SELECT api_key.define_scope('articles:write');
SELECT api_key.update_api_key(:'key_id',
    '{"scopes": ["articles:write", "articles:read", "articles:write"]}') -> 'scopes' AS scopes;
UPDATE api_key_internal.keys SET scopes = '{gone:read}' WHERE key_id = :'key_id';
SELECT api_key.update_api_key(:'key_id', '{"name": "renamed"}') -> 'scopes' AS scopes;
-- Registering again changes the description.
SELECT api_key.define_scope('articles:write', 'Write articles');
SELECT * FROM api_key_internal.scopes ORDER BY name;

-- What define_scope refuses.
SELECT * FROM pg_temp.cases('SELECT api_key.define_scope(%)', $$
    NULL
    'articles:'
    repeat('x', 65) || ':read'
$$);
\i tests/cleanup.sql
