-- Refusals. Their kinds, with status, code and texts, are in src/core/refusal.rs; this is where they
-- are raised, because an SQLSTATE of PostgREST's own does not get through Rust.
CREATE FUNCTION api_key_internal.refusal(p_refusal text, p_detail text, p_required_scopes text[])
RETURNS jsonb
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'refusal';
COMMENT ON FUNCTION api_key_internal.refusal IS 'Returns {sqlstate, message, detail, hint, postgrest: {message, detail}} of a refusal; NULL if there is none of this name.';

CREATE FUNCTION api_key_internal.refusals() RETURNS jsonb
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'refusals';
COMMENT ON FUNCTION api_key_internal.refusals IS 'Lists every refusal, for docs/reference.';

-- PostgREST answers 500 to P0002 and 503 to 53400. In its requests the refusal is raised its way
-- (SQLSTATE PGRST), with the same code in the body and the status that fits.
CREATE FUNCTION api_key_internal.refuse(
    p_refusal text, p_detail text = NULL, p_required_scopes text[] = NULL)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_refusal jsonb := api_key_internal.refusal(p_refusal, p_detail, p_required_scopes);
BEGIN
    IF coalesce(current_setting('request.method', true), '') <> '' THEN
        RAISE SQLSTATE 'PGRST' USING
            MESSAGE = v_refusal #>> '{postgrest,message}', DETAIL = v_refusal #>> '{postgrest,detail}';
    END IF;
    RAISE EXCEPTION USING ERRCODE = v_refusal ->> 'sqlstate', MESSAGE = v_refusal ->> 'message',
        DETAIL = v_refusal ->> 'detail', HINT = v_refusal ->> 'hint';
END
$$;
COMMENT ON FUNCTION api_key_internal.refuse IS 'Raises a refusal; in a request of PostgREST, with its HTTP status.';

CREATE FUNCTION api_key_internal.refuse_argument(p_argument text, p_detail text, p_hint text)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid ' || p_argument,
        DETAIL = p_detail, HINT = p_hint;
END
$$;
COMMENT ON FUNCTION api_key_internal.refuse_argument IS 'Refuses an argument (22023), without repeating its value: it may be the text of a key.';

-- Tiers, rate limits and types of resources are named alike. A function and not a domain: Rust reads
-- the tables by the types of their columns.
CREATE FUNCTION api_key_internal.is_label(p_text text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_text ~ '^[A-Za-z0-9_.-]{1,63}$'
$$;
COMMENT ON FUNCTION api_key_internal.is_label IS 'Tells whether a text may name a tier, a rate limit or a type of resource.';

CREATE FUNCTION api_key_internal.check_label(p_argument text, p_text text, p_names text) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF api_key_internal.is_label(p_text) IS NOT TRUE THEN
        PERFORM api_key_internal.refuse_argument(p_argument,
            format('%s is named by 1 to 63 of the characters A-Z a-z 0-9 _ . -', p_names),
            'Pass such a name.');
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.check_label IS 'Refuses a text that is no label (22023).';
