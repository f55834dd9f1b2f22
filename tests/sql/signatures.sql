-- The types that sql/ declares functions in Rust with are those that Rust declares: PostgreSQL takes
-- sql/'s word for it, and hands the function whatever is declared there.
\set VERBOSITY terse
CREATE FUNCTION pg_temp.rust_signature(p_symbol text) RETURNS text
LANGUAGE c STRICT AS '$libdir/api_key', 'rust_signature';

CREATE TEMP VIEW signatures AS
SELECT f.oid::regproc::text AS function,
    format('(%s) %s%s',
        array_to_string(ARRAY(SELECT format_type(t, NULL) FROM unnest(f.proargtypes) WITH ORDINALITY AS a (t, n) ORDER BY n), ', '),
        format_type(f.prorettype, NULL),
        CASE WHEN f.proisstrict THEN ' STRICT' END) AS sql,
    pg_temp.rust_signature(f.prosrc) AS rust
FROM pg_depend AS d
JOIN pg_proc AS f ON f.oid = d.objid
JOIN pg_language AS l ON l.oid = f.prolang
WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e' AND l.lanname = 'c'
  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'api_key');

SELECT * FROM signatures WHERE sql IS DISTINCT FROM rust ORDER BY function;
SELECT count(*) > 30 AS "there are functions in Rust" FROM signatures;

-- It tells types, their number, and whether NULL is let in.
SELECT pg_temp.rust_signature('verify_api_key') AS several,
    pg_temp.rust_signature('mask') AS strict,
    pg_temp.rust_signature('no_such_function') AS none;
