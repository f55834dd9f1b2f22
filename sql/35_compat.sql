-- The calling conventions of hand-written functions, over the same keys. A profile is a set of
-- functions; each is made in a schema of the caller's choice and belongs to whoever installs it.
CREATE TABLE api_key_internal.compat_functions (
    profile text NOT NULL,
    schema_name name NOT NULL,
    function_name name NOT NULL,
    arguments text NOT NULL,
    -- What a function that stood there before is called now.
    kept_as name,
    PRIMARY KEY (schema_name, function_name, arguments)
);
COMMENT ON TABLE api_key_internal.compat_functions IS 'Functions that install_compat has made.';
SELECT pg_catalog.pg_extension_config_dump('api_key_internal.compat_functions', '');

CREATE FUNCTION api_key_internal.error_text(p_sqlstate text, p_message text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    -- In requests of PostgREST the message of some errors is JSON, see refuse.
    SELECT CASE p_sqlstate WHEN 'PGRST' THEN p_message::jsonb ->> 'message' ELSE p_message END
$$;
COMMENT ON FUNCTION api_key_internal.error_text IS 'The text of an error, also where it was raised the way of PostgREST.';

-- Parts that the functions share.
CREATE FUNCTION api_key_internal.compat_issue(
    p_user_id uuid, p_name text, p_tier text, p_description text, p_prefix text)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_issued jsonb;
BEGIN
    v_issued := api_key.issue_api_key(p_user_id => p_user_id, p_name => p_name, p_tier => p_tier,
        p_description => p_description, p_prefix => p_prefix);
    RETURN v_issued;
EXCEPTION
    WHEN invalid_parameter_value OR insufficient_privilege OR configuration_limit_exceeded
        OR no_data_found OR SQLSTATE 'PGRST'
    THEN
        RETURN jsonb_build_object(
            'success', false, 'error', api_key_internal.error_text(SQLSTATE, SQLERRM));
END
$$;
COMMENT ON FUNCTION api_key_internal.compat_issue IS 'issue_api_key with errors as {success:false, error}.';

CREATE FUNCTION api_key_internal.only(p_object jsonb, VARIADIC p_names text[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_object_agg(name, p_object -> name) FROM unnest(p_names) AS name
$$;
COMMENT ON FUNCTION api_key_internal.only IS 'The named members of an object, null for those it has not.';

-- audience: who may call it, namely whoever may call that function of api_key.
CREATE FUNCTION api_key_internal.compat_definitions(p_prefix text)
RETURNS TABLE (
    profile text, function_name name, arguments text, result text, volatility text,
    audience regprocedure, body text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $definitions$
    WITH audiences AS (SELECT
        'api_key.verify_api_key(text, text[], inet, text)'::regprocedure AS verify,
        'api_key.list_api_keys(uuid, uuid, boolean)'::regprocedure AS own,
        'api_key.define_tier(text, integer, text)'::regprocedure AS service,
        -- The body of two functions.
        format($body$
DECLARE
    v_issued jsonb := api_key_internal.compat_issue(p_user_id, p_name, p_tier, p_description, %L);
BEGIN
    RETURN CASE WHEN (v_issued ->> 'success')::boolean
        THEN api_key_internal.only(v_issued, 'success', 'api_key', 'key_id', 'name', 'tier')
            || jsonb_build_object('full_key', v_issued -> 'api_key', 'key_info', v_issued - 'api_key')
        ELSE v_issued END;
END $body$, p_prefix) AS created)
    SELECT d.* FROM audiences AS a, LATERAL (VALUES
    ('bearer_row', 'verify_api_key_hash'::name, 'auth_header text',
     'TABLE (key_id uuid, user_tier text, tier_limit text)', 'STABLE', a.verify, $body$
DECLARE
    v_answer jsonb := api_key.verify_api_key(regexp_replace(auth_header, '^[[:space:]]*bearer[[:space:]]+', '', 'i'));
BEGIN
    IF (v_answer ->> 'valid')::boolean THEN
        RETURN QUERY SELECT (v_answer ->> 'key_id')::uuid, v_answer ->> 'tier',
            v_answer -> 'metadata' ->> 'tier_limit';
    END IF;
END $body$),
    ('jsonb_envelope', 'verify_api_key_hash', 'p_api_key text', 'jsonb', 'STABLE', a.verify, $body$
DECLARE
    v_answer jsonb := api_key.verify_api_key_hash(p_api_key);
BEGIN
    RETURN CASE WHEN (v_answer ->> 'valid')::boolean
        THEN jsonb_build_object('success', true, 'data', v_answer -> 'data')
        ELSE '{"success": false, "error": "Invalid API key"}' END;
END $body$),
    ('jsonb_envelope', 'issue_api_key',
     'p_user_id uuid, p_name text, p_tier text, p_description text', 'jsonb', 'VOLATILE', a.own,
     format($body$
DECLARE
    v_issued jsonb := api_key_internal.compat_issue(p_user_id, p_name, p_tier, p_description, %L);
BEGIN
    RETURN CASE WHEN (v_issued ->> 'success')::boolean
        THEN api_key_internal.only(v_issued, 'success', 'api_key', 'key_id', 'key_prefix',
                                   'masked_key', 'tier', 'name', 'created_at')
        ELSE v_issued END;
END $body$, p_prefix)),
    ('jsonb_envelope', 'create_api_key_complete_v2',
     'p_user_id uuid, p_name text, p_tier text, p_description text', 'jsonb', 'VOLATILE', a.own,
     a.created),
    ('jsonb_envelope', 'create_api_key_bcrypt',
     'p_user_id uuid, p_name text, p_tier text, p_description text', 'jsonb', 'VOLATILE', a.own,
     a.created),
    ('jsonb_envelope', 'create_api_key', 'p_user_id uuid, p_name text, p_environment text', 'text',
     'VOLATILE', a.own, format($body$
BEGIN
    RETURN api_key.issue_api_key(p_user_id => p_user_id, p_name => p_name,
        p_environment => p_environment, p_prefix => %L) ->> 'api_key';
END $body$, p_prefix)),
    ('jsonb_envelope', 'verify_api_key_bcrypt', 'p_api_key text', 'jsonb', 'STABLE', a.verify, $body$
DECLARE
    v_answer jsonb := api_key.verify_api_key(p_api_key);
BEGIN
    RETURN CASE WHEN (v_answer ->> 'valid')::boolean
        THEN api_key_internal.only(v_answer, 'valid', 'user_id', 'tier', 'key_id')
            || jsonb_build_object('api_key_id', v_answer -> 'key_id',
                                  'rate_limit', v_answer -> 'metadata' -> 'rate_limit')
        ELSE jsonb_build_object('valid', false, 'message', v_answer ->> 'message',
                                'error', v_answer ->> 'message') END;
END $body$),
    ('jsonb_envelope', 'verify_api_key_complete_v2', 'p_api_key text', 'jsonb', 'STABLE', a.verify, $body$
DECLARE
    v_answer jsonb := api_key.verify_api_key(p_api_key);
BEGIN
    RETURN CASE WHEN (v_answer ->> 'valid')::boolean
        THEN api_key_internal.only(v_answer, 'valid', 'key_id', 'user_id', 'name', 'tier')
        ELSE jsonb_build_object('valid', false, 'error', v_answer ->> 'message') END;
END $body$),
    ('jsonb_envelope', 'generate_my_api_key', 'p_name text, p_tier text', 'jsonb', 'VOLATILE', a.own,
     format($body$
DECLARE
    v_issued jsonb := api_key_internal.compat_issue(NULL, p_name, p_tier, NULL, %L);
BEGIN
    RETURN CASE WHEN (v_issued ->> 'success')::boolean
        THEN jsonb_build_object('success', true, 'data', v_issued - 'success')
        ELSE v_issued END;
END $body$, p_prefix)),
    ('jsonb_envelope', 'get_my_api_keys', '', 'jsonb', 'STABLE', a.own, $body$
DECLARE
    v_user_id uuid := (api_key_internal.caller()).user_id;
BEGIN
    -- Without a user, an administrator would get everybody's.
    IF v_user_id IS NULL THEN
        RETURN '{"success": false, "error": "the request names no user"}';
    END IF;
    RETURN jsonb_build_object('success', true, 'data', coalesce(
        (SELECT jsonb_agg(to_jsonb(k)) FROM api_key.list_api_keys(v_user_id) AS k), '[]'));
END $body$),
    ('jsonb_envelope', 'revoke_my_api_key', 'p_key_id uuid', 'jsonb', 'VOLATILE', a.own, $body$
BEGIN
    RETURN jsonb_build_object('success', true, 'data', jsonb_build_object(
        'key_id', p_key_id, 'revoked', api_key.revoke_api_key(p_key_id)));
EXCEPTION WHEN insufficient_privilege OR no_data_found OR SQLSTATE 'PGRST' THEN
    RETURN jsonb_build_object(
        'success', false, 'error', api_key_internal.error_text(SQLSTATE, SQLERRM));
END $body$),
    ('table_row', 'verify_api_key_hash', 'input_api_key text',
     'TABLE (id uuid, name varchar, tier varchar, created_at timestamptz)', 'STABLE', a.verify, $body$
#variable_conflict use_column
DECLARE
    v_answer jsonb := api_key.verify_api_key(input_api_key);
BEGIN
    IF (v_answer ->> 'valid')::boolean THEN
        RETURN QUERY SELECT k.key_id, k.name::varchar, k.tier::varchar, k.created_at
            FROM api_key_internal.keys AS k WHERE k.key_id = (v_answer ->> 'key_id')::uuid;
    END IF;
END $body$),
    -- Whatever its one member is called is the key.
    ('any_name', 'verify_api_key_hash', 'jsonb', 'jsonb', 'STABLE', a.verify, $body$
DECLARE
    v_values text[];
BEGIN
    IF jsonb_typeof($1) = 'object' THEN
        v_values := ARRAY(SELECT value FROM jsonb_each_text($1));
    END IF;
    RETURN api_key.verify_api_key_hash(CASE cardinality(v_values) WHEN 1 THEN v_values[1] END);
END $body$),
    ('stored_hash_pair', 'verify_api_key_hash', 'plain_key text, stored_hash text', 'boolean',
     'STABLE', a.service, $body$
BEGIN
    RETURN plain_key IS NOT NULL AND stored_hash IS NOT NULL
        AND coalesce(api_key_internal.matches_hash(plain_key, stored_hash),
                     api_key_internal.no_room_to_hash()::boolean);
END $body$)
    ) AS d (profile, function_name, arguments, result, volatility, audience, body)
$definitions$;
COMMENT ON FUNCTION api_key_internal.compat_definitions IS 'The functions of each profile.';

CREATE VIEW api_key.compat_profiles AS
SELECT d.profile, d.function_name, d.arguments, d.result,
       ARRAY(SELECT c.schema_name FROM api_key_internal.compat_functions AS c
             WHERE c.profile = d.profile AND c.function_name = d.function_name
               AND c.arguments = d.arguments ORDER BY 1) AS installed_in
FROM api_key_internal.compat_definitions(NULL) AS d;
COMMENT ON VIEW api_key.compat_profiles IS
$$The calling conventions that install_compat knows, a row for each function, and where they are installed.$$;

CREATE FUNCTION api_key_internal.compat_check(p_profile text, p_schema name) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM api_key_internal.compat_definitions(NULL) AS d WHERE d.profile = p_profile)
        OR p_profile IS NULL
    THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_profile',
            DETAIL = 'There is no such profile.',
            HINT = 'SELECT DISTINCT profile FROM api_key.compat_profiles;';
    ELSIF p_schema IN ('api_key', 'api_key_internal') OR NOT EXISTS (
        SELECT FROM pg_namespace WHERE nspname = p_schema) OR p_schema IS NULL
    THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_schema',
            DETAIL = 'There is no such schema, or it is the extension''s own.',
            HINT = 'Name the schema where your callers expect the functions, such as public.';
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.compat_check IS 'Refuses (22023) profiles and schemas that are not there.';

CREATE FUNCTION api_key_internal.argument_types(p_arguments text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(string_agg(btrim(regexp_replace(
        argument, '^[[:space:]]*[[:alnum:]_]+[[:space:]]+(?=[[:alnum:]_])', '')), ', ' ORDER BY n), '')
    FROM unnest(string_to_array(p_arguments, ',')) WITH ORDINALITY AS a (argument, n)
$$;
COMMENT ON FUNCTION api_key_internal.argument_types IS 'The types of a list of arguments with or without names.';

CREATE FUNCTION api_key.install_compat(
    p_profile text, p_schema name = 'public', p_prefix text = NULL, p_replace boolean = false)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_function record;
    v_existing oid;
    v_kept name;
    v_grantee record;
BEGIN
    PERFORM api_key_internal.compat_check(p_profile, p_schema);
    IF p_prefix !~ '^[a-z][a-z0-9_]{0,30}_$' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'invalid p_prefix',
            DETAIL = 'It does not match ^[a-z][a-z0-9_]{0,30}_$',
            HINT = 'Pass lower-case letters, digits and underscores, ending in an underscore.';
    END IF;
    FOR v_function IN
        SELECT d.*, api_key_internal.argument_types(d.arguments) AS types
        FROM api_key_internal.compat_definitions(p_prefix) AS d WHERE d.profile = p_profile
    LOOP
        v_kept := NULL;
        v_existing := to_regprocedure(
            format('%I.%I(%s)', p_schema, v_function.function_name, v_function.types));
        IF v_existing IS NOT NULL THEN
            SELECT c.kept_as INTO v_kept FROM api_key_internal.compat_functions AS c
            WHERE c.schema_name = p_schema AND c.function_name = v_function.function_name
              AND c.arguments = v_function.arguments AND c.profile = p_profile;
            IF FOUND THEN
                -- Ours, from before: made anew.
                EXECUTE format('DROP FUNCTION %s', v_existing::regprocedure);
            ELSIF EXISTS (
                SELECT FROM api_key_internal.compat_functions AS c
                WHERE c.schema_name = p_schema AND c.function_name = v_function.function_name
                  AND to_regprocedure(format('%I.%I(%s)', c.schema_name, c.function_name,
                      api_key_internal.argument_types(c.arguments))) = v_existing)
            THEN
                RAISE EXCEPTION USING ERRCODE = '42723',
                    MESSAGE = format('function %s exists', v_existing::regprocedure),
                    DETAIL = 'Another profile has made it.',
                    HINT = 'Remove that one with remove_compat first, or install into another schema.';
            ELSIF NOT coalesce(p_replace, false) THEN
                RAISE EXCEPTION USING ERRCODE = '42723',
                    MESSAGE = format('function %s exists', v_existing::regprocedure),
                    DETAIL = 'It is not one that this profile has made.',
                    HINT = 'Pass p_replace => true to keep it aside until remove_compat, or install into another schema.';
            ELSE
                v_kept := left(v_function.function_name || '_before_api_key', 63);
                EXECUTE format('ALTER FUNCTION %s RENAME TO %I',
                    v_existing::regprocedure, v_kept);
            END IF;
        END IF;
        EXECUTE format(
            'CREATE FUNCTION %I.%I(%s) RETURNS %s LANGUAGE plpgsql %s SECURITY DEFINER '
            'SET search_path = pg_catalog, pg_temp AS %L',
            p_schema, v_function.function_name, v_function.arguments, v_function.result,
            v_function.volatility, v_function.body);
        EXECUTE format('COMMENT ON FUNCTION %I.%I(%s) IS %L', p_schema, v_function.function_name,
            v_function.types, format('Calls api_key; made by api_key.install_compat(''%s'').', p_profile));
        EXECUTE format('REVOKE ALL ON FUNCTION %I.%I(%s) FROM PUBLIC', p_schema,
            v_function.function_name, v_function.types);
        FOR v_grantee IN
            SELECT pg_get_userbyid(acl.grantee) AS role_name
            FROM pg_proc AS p, aclexplode(p.proacl) AS acl
            WHERE p.oid = v_function.audience AND acl.grantee NOT IN (0, p.proowner)
        LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %I.%I(%s) TO %I', p_schema,
                v_function.function_name, v_function.types, v_grantee.role_name);
        END LOOP;
        INSERT INTO api_key_internal.compat_functions AS c
        VALUES (p_profile, p_schema, v_function.function_name, v_function.arguments, v_kept)
        ON CONFLICT (schema_name, function_name, arguments) DO UPDATE SET kept_as = v_kept;
    END LOOP;
    PERFORM api_key_internal.audit('compat_installed', NULL, NULL, NULL,
        jsonb_build_object('profile', p_profile, 'schema', p_schema));
END
$$;
COMMENT ON FUNCTION api_key.install_compat IS
$$Installs the functions of a legacy calling convention over the same keys.

p_profile: one of the view compat_profiles. p_schema: where callers expect them. p_prefix: of the keys that they issue; NULL for sk_live_. p_replace: functions of the same signature that stand there are kept aside (…_before_api_key) until remove_compat. Whoever may verify, or manage own keys, may call them: run setup_postgrest before.
Called by the owner of the extension or a superuser. Errors: 22023, 42723 a function stands there.$$;

CREATE FUNCTION api_key.remove_compat(p_profile text, p_schema name = 'public')
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_function record;
BEGIN
    PERFORM api_key_internal.compat_check(p_profile, p_schema);
    FOR v_function IN
        DELETE FROM api_key_internal.compat_functions AS c
        WHERE c.profile = p_profile AND c.schema_name = p_schema
        RETURNING c.function_name, c.kept_as, api_key_internal.argument_types(c.arguments) AS types
    LOOP
        EXECUTE format('DROP FUNCTION IF EXISTS %I.%I(%s)',
            p_schema, v_function.function_name, v_function.types);
        -- Somebody may have dropped it since.
        IF to_regprocedure(format('%I.%I(%s)', p_schema,
            coalesce(v_function.kept_as, '-'), v_function.types)) IS NOT NULL
        THEN
            EXECUTE format('ALTER FUNCTION %I.%I(%s) RENAME TO %I',
                p_schema, v_function.kept_as, v_function.types, v_function.function_name);
        END IF;
    END LOOP;
    PERFORM api_key_internal.audit('compat_removed', NULL, NULL, NULL,
        jsonb_build_object('profile', p_profile, 'schema', p_schema));
END
$$;
COMMENT ON FUNCTION api_key.remove_compat IS
$$Removes what install_compat has made, and brings back what stood there before.

Called by the owner of the extension or a superuser. Errors: 22023.$$;
