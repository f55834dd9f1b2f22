\set ECHO none
-- What every SQL test begins with: \i tests/preamble.sql. It prints nothing but its first line.
\set VERBOSITY default
\set SHOW_CONTEXT never
\pset null (null)
-- Tables that would be wider than this are wrapped, or shown one column a line.
\pset format wrapped
\pset columns 108
\pset expanded auto
-- The cheapest hashes that there are.
SET api_key.argon2_memory_kib = 64;
SET api_key.argon2_iterations = 1;
\set ada '''00000000-0000-4000-8000-0000000000a1'''
\set bob '''00000000-0000-4000-8000-0000000000b1'''
\set tenant '''00000000-0000-4000-8000-0000000000e1'''
-- The error of a command; NULL if there is none. Unless p_keep, what the command has done is undone.
CREATE FUNCTION pg_temp.error_of(p_command text, p_keep boolean, OUT error text, OUT detail text,
    OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE p_command;
    IF NOT p_keep THEN
        RAISE EXCEPTION USING ERRCODE = 'ZZZZZ';
    END IF;
EXCEPTION WHEN OTHERS THEN
    IF SQLSTATE <> 'ZZZZZ' THEN
        GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        error := SQLSTATE || ' ' || SQLERRM;
    END IF;
END
$$;
-- The same in one line, which says whether there is a hint, or "ok".
CREATE FUNCTION pg_temp.outcome(p_command text, p_keep boolean = false) RETURNS text
LANGUAGE sql AS $$
    SELECT coalesce(error || coalesce('. ' || nullif(detail, ''), '') || CASE hint WHEN '' THEN ' (no hint)'
        ELSE '' END, 'ok')
    FROM pg_temp.error_of(p_command, p_keep)
$$;
-- A table of cases: each line of p_cases takes the place of % in p_command, and p_id that of {id}.
-- Whole errors, or "ok"; each case is undone.
CREATE FUNCTION pg_temp.cases(p_command text, p_cases text, p_id text = NULL) RETURNS TABLE ("case" text,
    outcome text)
LANGUAGE sql AS $$
    SELECT ltrim(line), coalesce(concat_ws(E'\n', error, nullif(detail, ''), nullif(hint, '')), 'ok')
    FROM regexp_split_to_table(btrim(p_cases, E'\n'), '\n') WITH ORDINALITY AS l (line, n),
        pg_temp.error_of(replace(replace(p_command, '%', line), '{id}', coalesce(quote_literal(p_id),
            '{id}')), false)
    ORDER BY n
$$;
-- plpgsql sees what the running statement has done; verify_api_key alone is STABLE and does not.
CREATE FUNCTION pg_temp.code(p_api_key text) RETURNS text LANGUAGE plpgsql
AS $$ BEGIN RETURN api_key.verify_api_key(p_api_key) ->> 'code'; END $$;
\set ECHO all
