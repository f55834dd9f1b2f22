-- Installing and removing the functions of a profile.

CREATE FUNCTION api_key_internal.compat_check(p_profile text, p_schema name) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM api_key_internal.compat_definitions(NULL) AS d WHERE d.profile = p_profile)
        OR p_profile IS NULL
    THEN
        PERFORM api_key_internal.refuse_argument('p_profile',
            'There is no such profile.',
            'SELECT DISTINCT profile FROM api_key.compat_profiles;');
    ELSIF p_schema IN ('api_key', 'api_key_internal') OR NOT EXISTS (
        SELECT FROM pg_namespace WHERE nspname = p_schema) OR p_schema IS NULL
    THEN
        PERFORM api_key_internal.refuse_argument('p_schema',
            'There is no such schema, or it is the extension''s own.',
            'Name the schema where your callers expect the functions, such as public.');
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.compat_check IS 'Refuses a profile or schema that does not exist (22023).';

CREATE FUNCTION api_key_internal.argument_types(p_arguments text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(string_agg(btrim(regexp_replace(
        argument, '^[[:space:]]*[[:alnum:]_]+[[:space:]]+(?=[[:alnum:]_])|[[:space:]]*=.*$', '', 'g')), ', ' ORDER BY n), '')
    FROM unnest(string_to_array(p_arguments, ',')) WITH ORDINALITY AS a (argument, n)
$$;
COMMENT ON FUNCTION api_key_internal.argument_types IS 'Returns the types of a list of arguments with or without names and defaults.';

CREATE FUNCTION api_key_internal.compat_function(p_schema name, p_function name, p_arguments text)
RETURNS regprocedure
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT to_regprocedure(format('%I.%I(%s)', p_schema, p_function, api_key_internal.argument_types(p_arguments)))
$$;
COMMENT ON FUNCTION api_key_internal.compat_function IS 'Returns the function with these arguments; NULL if there is none.';

-- Hand-written functions take ids as uuid. If one stood beside ours, calls would be ambiguous.
CREATE FUNCTION api_key_internal.standing(p_schema name, p_function name, p_arguments text)
RETURNS SETOF regprocedure
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT DISTINCT f.function
    FROM unnest(ARRAY[p_arguments, replace(p_arguments, 'api_key.id', 'uuid')]) AS a (arguments),
    LATERAL api_key_internal.compat_function(p_schema, p_function, a.arguments) AS f (function)
    WHERE f.function IS NOT NULL
$$;
COMMENT ON FUNCTION api_key_internal.standing IS 'Lists the functions that take these arguments, with ids as api_key.id or as uuid.';

-- Callers depend on names: clients of PostgREST pass arguments, and read columns, by name.
CREATE FUNCTION api_key_internal.calling_convention(p_function regprocedure) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%s (%s) -> %s%s%s',
        CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'f' THEN 'function' ELSE 'aggregate' END,
        string_agg(coalesce(nullif(a.name, ''), 'no name'), ', ' ORDER BY a.n) FILTER (WHERE a.mode IN ('i', 'b', 'v')),
        CASE WHEN p.proretset THEN 'rows of ' ELSE '' END, format_type(p.prorettype, NULL),
        ' (' || string_agg(a.name || ' ' || format_type(a.type, NULL), ', ' ORDER BY a.n)
            FILTER (WHERE a.mode IN ('o', 'b', 't')) || ')')
    FROM pg_proc AS p
    LEFT JOIN LATERAL (
        SELECT u.n, u.type, u.name, coalesce(u.mode, 'i') AS mode
        FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargnames, p.proargmodes)
            WITH ORDINALITY AS u (type, name, mode, n)) AS a ON true
    WHERE p.oid = p_function
    GROUP BY p.prokind, p.proretset, p.prorettype
$$;
COMMENT ON FUNCTION api_key_internal.calling_convention IS 'Returns the kind of a function, the names of its arguments, and its result.';

CREATE FUNCTION api_key_internal.grant_compat(p_profile text, p_schema name) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_grant text;
BEGIN
    FOR v_grant IN
        SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I', f.function, pg_get_userbyid(acl.grantee))
        FROM api_key_internal.compat_definitions(NULL) AS d
        JOIN pg_proc AS p ON p.oid = d.audience,
        LATERAL aclexplode(p.proacl) AS acl,
        LATERAL api_key_internal.compat_function(p_schema, d.function_name, d.arguments) AS f (function)
        WHERE d.profile = p_profile AND f.function IS NOT NULL AND acl.grantee NOT IN (0, p.proowner)
    LOOP
        EXECUTE v_grant;
    END LOOP;
END
$$;
COMMENT ON FUNCTION api_key_internal.grant_compat IS 'Grants the functions of a profile to the roles that may call what they call.';

CREATE FUNCTION api_key_internal.keep_aside(p_function regprocedure, p_replace boolean) RETURNS name
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_kept name;
    v_other api_key_internal.compat_functions;
BEGIN
    SELECT * INTO v_other FROM api_key_internal.compat_functions AS c
    WHERE p_function = api_key_internal.compat_function(c.schema_name, c.function_name, c.arguments);
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42723', MESSAGE = format('function %s exists', p_function),
            DETAIL = 'Another profile has made it.',
            HINT = format('Remove that one: SELECT api_key.remove_compat(%L, %L); or install into another schema.',
                v_other.profile, v_other.schema_name);
    ELSIF NOT coalesce(p_replace, false) THEN
        RAISE EXCEPTION USING ERRCODE = '42723', MESSAGE = format('function %s exists', p_function),
            DETAIL = 'It is not one that this profile has made.',
            HINT = 'Pass p_replace => true to keep it aside until remove_compat, or install into another schema.';
    END IF;
    SELECT left(proname || '_before_api_key', 63) INTO v_kept FROM pg_proc WHERE oid = p_function;
    EXECUTE format('ALTER ROUTINE %s RENAME TO %I', p_function, v_kept);
    RETURN v_kept;
END
$$;
COMMENT ON FUNCTION api_key_internal.keep_aside IS 'Renames a function to make place for one of a profile, or refuses to (42723).';

CREATE FUNCTION api_key_internal.check_replacement(p_kept regprocedure, p_function regprocedure)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_kept text := api_key_internal.calling_convention(p_kept);
    v_function text := api_key_internal.calling_convention(p_function);
BEGIN
    IF v_kept <> v_function THEN
        RAISE EXCEPTION USING ERRCODE = '42723', MESSAGE = format('function %s cannot replace the existing one', p_function),
            DETAIL = format('The existing one has a different signature; its callers would break. It is a %s; the profile''s is a %s.',
                            v_kept, v_function),
            HINT = 'Install a profile whose functions are called alike and answer alike (api_key.compat_profiles), or install into another schema.';
    ELSIF (SELECT k.pronargdefaults > f.pronargdefaults FROM pg_proc AS k, pg_proc AS f
           WHERE k.oid = p_kept AND f.oid = p_function)
    THEN
        RAISE EXCEPTION USING ERRCODE = '42723', MESSAGE = format('function %s cannot replace the existing one', p_function),
            DETAIL = 'Its callers may leave out arguments that the profile''s function needs.',
            HINT = 'Take the defaults out of it once its callers pass all arguments, or install into another schema.';
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.check_replacement IS 'Refuses to replace a function that is called or answers differently (42723).';

CREATE FUNCTION api_key.install_compat(
    p_profile text, p_schema name = 'public', p_prefix text = NULL, p_replace boolean = false)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_definition record;
    v_function regprocedure;
    v_kept name;
    v_revoke text;
BEGIN
    PERFORM api_key_internal.compat_check(p_profile, p_schema);
    IF NOT api_key_internal.is_key_prefix(p_prefix) THEN
        PERFORM api_key_internal.refuse_argument('p_prefix',
            'It does not match ^[a-z][a-z0-9_]{0,30}_$',
            'Pass lower-case letters, digits and underscores, ending in an underscore.');
    END IF;
    FOR v_definition IN
        SELECT d.* FROM api_key_internal.compat_definitions(p_prefix) AS d WHERE d.profile = p_profile
    LOOP
        SELECT c.kept_as INTO v_kept FROM api_key_internal.compat_functions AS c
        WHERE c.schema_name = p_schema AND c.function_name = v_definition.function_name
          AND c.arguments = v_definition.arguments AND c.profile = p_profile;
        IF FOUND THEN
            -- The profile is installed already; make its function again.
            EXECUTE format('DROP FUNCTION IF EXISTS %I.%I(%s)', p_schema, v_definition.function_name,
                api_key_internal.argument_types(v_definition.arguments));
        END IF;
        FOR v_function IN
            SELECT * FROM api_key_internal.standing(
                p_schema, v_definition.function_name, v_definition.arguments)
        LOOP
            v_kept := api_key_internal.keep_aside(v_function, p_replace);
        END LOOP;
        EXECUTE format(
            'CREATE FUNCTION %I.%I(%s) RETURNS %s LANGUAGE plpgsql %s '
            'SET search_path = pg_catalog, pg_temp AS %L',
            p_schema, v_definition.function_name, v_definition.arguments, v_definition.result,
            v_definition.volatility, v_definition.body);
        v_function := api_key_internal.compat_function(
            p_schema, v_definition.function_name, v_definition.arguments);
        EXECUTE format('COMMENT ON FUNCTION %s IS %L', v_function,
            format('Calls api_key; made by api_key.install_compat(''%s'').', p_profile));
        -- DROP EXTENSION must drop it too. Otherwise anyone could create what it calls.
        EXECUTE format('ALTER FUNCTION %s DEPENDS ON EXTENSION api_key', v_function);
        -- Revoke what PUBLIC and ALTER DEFAULT PRIVILEGES granted.
        FOR v_revoke IN
            SELECT DISTINCT format('REVOKE ALL ON FUNCTION %s FROM %s CASCADE', v_function,
                CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END)
            FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS acl
            WHERE p.oid = v_function AND acl.grantee <> p.proowner
        LOOP
            EXECUTE v_revoke;
        END LOOP;
        PERFORM api_key_internal.check_replacement(kept, v_function)
        FROM api_key_internal.standing(p_schema, v_kept, v_definition.arguments) AS kept;
        INSERT INTO api_key_internal.compat_functions AS c
        VALUES (p_profile, p_schema, v_definition.function_name, v_definition.arguments, v_kept)
        ON CONFLICT (schema_name, function_name, arguments) DO UPDATE SET kept_as = v_kept;
    END LOOP;
    PERFORM api_key_internal.grant_compat(p_profile, p_schema);
    PERFORM api_key_internal.audit('compat_installed', NULL, NULL, NULL,
        jsonb_build_object('profile', p_profile, 'schema', p_schema));
END
$$;
COMMENT ON FUNCTION api_key.install_compat IS
$$Installs the functions of a legacy calling convention over the same keys.

p_profile: a profile of the view compat_profiles.
p_schema: the schema in which your callers expect the functions.
p_prefix: the prefix of keys that the functions issue; NULL for sk_live_.
p_replace: true to rename existing functions with the same arguments to …_before_api_key, until remove_compat.
Functions that differ in the names of arguments, in the result, or by defaults that the profile lacks are
never replaced, because their callers would take a refusal for a key.

Roles that may verify, or manage their own keys, may call the functions for it, with their own rights;
setup_postgrest grants this. Nobody else may call them. DROP EXTENSION drops them. Call it as a superuser or
the owner of the extension.

Errors: 22023, 42723 an existing function is in the way.$$;

CREATE FUNCTION api_key.remove_compat(p_profile text, p_schema name = 'public')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_function record;
    v_kept regprocedure;
BEGIN
    PERFORM api_key_internal.compat_check(p_profile, p_schema);
    FOR v_function IN
        DELETE FROM api_key_internal.compat_functions AS c
        WHERE c.profile = p_profile AND c.schema_name = p_schema
        RETURNING c.function_name, c.kept_as, c.arguments
    LOOP
        EXECUTE format('DROP FUNCTION IF EXISTS %I.%I(%s)', p_schema, v_function.function_name,
            api_key_internal.argument_types(v_function.arguments));
        -- There is none if somebody has dropped it since.
        FOR v_kept IN
            SELECT * FROM api_key_internal.standing(p_schema, v_function.kept_as, v_function.arguments)
        LOOP
            EXECUTE format('ALTER FUNCTION %s RENAME TO %I', v_kept, v_function.function_name);
        END LOOP;
    END LOOP;
    PERFORM api_key_internal.audit('compat_removed', NULL, NULL, NULL,
        jsonb_build_object('profile', p_profile, 'schema', p_schema));
END
$$;
COMMENT ON FUNCTION api_key.remove_compat IS
$$Removes the functions that install_compat made, and restores those that it renamed.

Call it as a superuser or the owner of the extension.

Errors: 22023.$$;
