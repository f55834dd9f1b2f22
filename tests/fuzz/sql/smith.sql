-- What sqlsmith is shown. It reads pg_proc by its bare name, and this view is found first: all that
-- is ours and that the role may call, and of PostgreSQL's own some of what is immutable, which touches
-- neither files nor other sessions.
CREATE SCHEMA smith;
CREATE VIEW smith.pg_proc AS
SELECT * FROM pg_catalog.pg_proc
WHERE (pronamespace IN ('api_key'::regnamespace, 'api_key_internal'::regnamespace)
       OR pronamespace = 'pg_catalog'::regnamespace AND provolatile = 'i' AND prokind IN ('f', 'a')
          AND proname ~ '^(text|jsonb|uuid|timestamptz|inet|bool|lower|md5|concat|max|count)'
          AND proname !~ 'range')
  AND has_schema_privilege(pronamespace, 'USAGE') AND has_function_privilege(oid, 'EXECUTE');
GRANT USAGE ON SCHEMA smith, fuzz TO PUBLIC;
GRANT SELECT ON smith.pg_proc TO PUBLIC;
ALTER ROLE authenticated LOGIN;
ALTER ROLE authenticated SET "request.jwt.claims" = '{"sub": "bb9836f5-e2ce-756d-059b-9a4556283bc0"}';
