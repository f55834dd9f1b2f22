-- In Rust (src/pg/keys.rs).
CREATE FUNCTION api_key_internal.grants(p_granted text[], p_required text) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'grants';
COMMENT ON FUNCTION api_key_internal.grants IS 'Tells whether the granted scopes include the required one.';

CREATE TABLE api_key_internal.scopes (
    name text PRIMARY KEY,
    description text
);
COMMENT ON TABLE api_key_internal.scopes IS 'Scopes registered by define_scope.';
SELECT pg_catalog.pg_extension_config_dump('api_key_internal.scopes', '');

CREATE FUNCTION api_key_internal.is_scope(p_scope text)
RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p_scope ~ '^[A-Za-z0-9_./-]{1,64}(:([A-Za-z0-9_./-]{1,64}|[*]))?$'
$$;
COMMENT ON FUNCTION api_key_internal.is_scope IS 'Tells whether a text is a scope: resource:action, resource:* or a plain name.';

CREATE FUNCTION api_key.define_scope(p_name text, p_description text = NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF api_key_internal.is_scope(p_name) IS NOT TRUE THEN
        PERFORM api_key_internal.refuse_argument('p_name', 'It is not a scope.',
            'Pass resource:action or resource:*, such as articles:read.');
    END IF;
    INSERT INTO api_key_internal.scopes AS s (name, description) VALUES (p_name, p_description)
    ON CONFLICT (name) DO UPDATE SET description = excluded.description;
    PERFORM api_key_internal.audit('scope_defined', NULL, NULL, NULL,
        jsonb_build_object('name', p_name, 'description', p_description));
END
$$;
COMMENT ON FUNCTION api_key.define_scope IS
$$Registers a scope, or changes its description.

Once any scope is registered, a key can be given registered scopes only (22023). The scope resource:* needs
one registered scope of that resource; admin needs none.

Errors: 22023.$$;

-- A caller cannot give a key, or take one over, that may do more than the caller.
CREATE FUNCTION api_key_internal.check_grantable(p_scopes text[], p_caller api_key_internal.caller)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT p_caller.administrator AND EXISTS (
        SELECT FROM unnest(p_scopes) AS given
        WHERE CASE WHEN p_caller.scopes IS NULL THEN given = 'admin'
                   ELSE NOT api_key_internal.grants(p_caller.scopes, given) END)
    THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'not allowed to give these scopes',
            DETAIL = 'A user may handle keys with scopes from the "scopes" of the request only, and with admin only if it is there.',
            HINT = 'Leave the scope out, or call as the service role.';
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.check_grantable IS 'Refuses scopes that the caller does not have (42501).';

-- Scopes as a key keeps them: each once, in the order given.
CREATE FUNCTION api_key_internal.checked_scopes(p_scopes text[], p_caller api_key_internal.caller)
RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_scopes text[];
    v_registered boolean;
BEGIN
    IF cardinality(p_scopes) > 256 THEN
        PERFORM api_key_internal.refuse_argument('scopes', 'There are more than 256.',
            'Use resource:* for all actions of a resource.');
    ELSIF array_ndims(p_scopes) > 1 OR EXISTS (
        SELECT FROM unnest(p_scopes) AS s WHERE api_key_internal.is_scope(s) IS NOT TRUE)
    THEN
        PERFORM api_key_internal.refuse_argument('scopes', 'One of them is not a scope.',
            'Pass scopes of the form resource:action or resource:*, such as articles:read.');
    END IF;
    SELECT coalesce(array_agg(scope ORDER BY first), '{}') INTO v_scopes
    FROM (SELECT scope, min(n) AS first
          FROM unnest(p_scopes) WITH ORDINALITY AS given (scope, n) GROUP BY scope) AS once;

    SELECT EXISTS (SELECT FROM api_key_internal.scopes) INTO v_registered;
    IF v_registered AND EXISTS (
        SELECT FROM unnest(v_scopes) AS given
        WHERE given <> 'admin'
          AND NOT EXISTS (
              SELECT FROM api_key_internal.scopes AS s
              WHERE s.name = given
                 OR given LIKE '%:*' AND starts_with(s.name, left(given, -1))))
    THEN
        PERFORM api_key_internal.refuse_argument('scopes', 'One of them is not registered.',
            'Register it with define_scope, or leave it out.');
    END IF;

    PERFORM api_key_internal.check_grantable(v_scopes, p_caller);
    RETURN v_scopes;
END
$$;
COMMENT ON FUNCTION api_key_internal.checked_scopes IS 'Returns scopes for a key without duplicates, or refuses those that the caller may not give.';
