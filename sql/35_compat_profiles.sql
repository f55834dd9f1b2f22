-- Profiles: the calling conventions of hand-written functions, for the same keys. A profile is a set of
-- functions that install_compat makes in a schema. They belong to the role that calls it.
CREATE TABLE api_key_internal.compat_functions (
    profile text NOT NULL,
    schema_name name NOT NULL,
    function_name name NOT NULL,
    arguments text NOT NULL,
    -- The name under which a replaced function is kept.
    kept_as name,
    PRIMARY KEY (schema_name, function_name, arguments)
);
COMMENT ON TABLE api_key_internal.compat_functions IS 'Functions that install_compat made.';
SELECT pg_catalog.pg_extension_config_dump('api_key_internal.compat_functions', '');

-- The functions run with the rights of their callers and call nothing in api_key_internal, so they can do
-- no more than their callers can.
CREATE FUNCTION api_key_internal.compat_command(p_command text, p_answer text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    -- In requests of PostgREST the message of some errors is JSON, see refuse.
    SELECT format($body$
DECLARE
    v_answer jsonb;
BEGIN
    v_answer := %s;
    RETURN %s;
EXCEPTION
    WHEN invalid_parameter_value OR insufficient_privilege OR configuration_limit_exceeded
        OR no_data_found OR SQLSTATE 'PGRST'
    THEN
        RETURN jsonb_build_object('success', false, 'error',
            CASE SQLSTATE WHEN 'PGRST' THEN SQLERRM::jsonb ->> 'message' ELSE SQLERRM END);
END $body$, p_command, p_answer)
$$;
COMMENT ON FUNCTION api_key_internal.compat_command IS 'Returns the body of a function that gives a command, and answers errors as {success: false, error}.';

CREATE FUNCTION api_key_internal.compat_verdict(p_hit text, p_miss text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format($body$
DECLARE
    v_answer jsonb := api_key.verify_api_key(p_api_key);
BEGIN
    RETURN CASE WHEN (v_answer ->> 'valid')::boolean THEN %s ELSE %s END;
END $body$, p_hit, p_miss)
$$;
COMMENT ON FUNCTION api_key_internal.compat_verdict IS 'Returns the body of a function that verifies p_api_key, and the answer that it gives.';

CREATE FUNCTION api_key_internal.members(VARIADIC p_names text[]) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('(SELECT jsonb_object_agg(key, value) FROM jsonb_each(v_answer) WHERE key = ANY (%L))', p_names)
$$;
COMMENT ON FUNCTION api_key_internal.members IS 'Returns an expression for these members of v_answer.';

-- audience: the function of api_key whose callers may call this one. To a miss, each function answers
-- what the original did: no row, NULL or false where callers test the answer itself, an object where they
-- test a member of it.
CREATE FUNCTION api_key_internal.compat_definitions(p_prefix text)
RETURNS TABLE (
    profile text, function_name name, arguments text, result text, volatility text,
    audience regprocedure, body text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $definitions$
    WITH shared AS (SELECT
        'api_key.verify_api_key(text, text[], inet, text)'::regprocedure AS verify,
        'api_key.list_api_keys(api_key.id, api_key.id, boolean)'::regprocedure AS own,
        'api_key.define_tier(text, integer, text)'::regprocedure AS service,
        'p_user_id api_key.id, p_name text = NULL, p_tier text = NULL, p_description text = NULL' AS issue_arguments,
        format('api_key.issue_api_key(p_user_id => p_user_id, p_name => p_name, p_tier => p_tier, '
            'p_description => p_description, p_prefix => %L)', p_prefix) AS issue,
        api_key_internal.members('success', 'api_key', 'key_id', 'name', 'tier')
            || ' || jsonb_build_object(''full_key'', v_answer -> ''api_key'', ''key_info'', v_answer - ''api_key'')'
            AS created)
    SELECT d.* FROM shared AS s, LATERAL (VALUES
    ('bearer_row', 'verify_api_key_hash'::name, 'auth_header text',
     'TABLE (key_id uuid, user_tier text, tier_limit text)', 'STABLE', s.verify, $body$
DECLARE
    v_answer jsonb := api_key.verify_api_key(regexp_replace(auth_header, '^[[:space:]]*bearer[[:space:]]+', '', 'i'));
BEGIN
    IF (v_answer ->> 'valid')::boolean THEN
        RETURN QUERY SELECT (v_answer ->> 'key_id')::uuid, v_answer ->> 'tier',
            v_answer -> 'metadata' ->> 'tier_limit';
    END IF;
END $body$),
    ('jsonb_envelope', 'verify_api_key_hash', 'p_api_key text', 'jsonb', 'STABLE', s.verify,
     api_key_internal.compat_verdict(
        $hit$jsonb_build_object('success', true, 'data', jsonb_build_object(
            'user_id', v_answer -> 'user_id', 'key_id', v_answer -> 'key_id',
            'tier', v_answer -> 'tier', 'environment', v_answer -> 'environment'))$hit$,
        $miss$'{"success": false, "error": "Invalid API key"}'$miss$)),
    ('jsonb_envelope', 'issue_api_key', s.issue_arguments, 'jsonb', 'VOLATILE', s.own,
     api_key_internal.compat_command(s.issue, api_key_internal.members('success', 'api_key', 'key_id',
        'key_prefix', 'masked_key', 'tier', 'name', 'created_at'))),
    ('jsonb_envelope', 'create_api_key_complete_v2', s.issue_arguments, 'jsonb', 'VOLATILE', s.own,
     api_key_internal.compat_command(s.issue, s.created)),
    ('jsonb_envelope', 'create_api_key_bcrypt', s.issue_arguments, 'jsonb', 'VOLATILE', s.own,
     api_key_internal.compat_command(s.issue, s.created)),
    ('jsonb_envelope', 'create_api_key',
     'p_user_id api_key.id, p_name text = NULL, p_environment text = NULL', 'text',
     'VOLATILE', s.own, format($body$
BEGIN
    RETURN api_key.issue_api_key(p_user_id => p_user_id, p_name => p_name,
        p_environment => p_environment, p_prefix => %L) ->> 'api_key';
END $body$, p_prefix)),
    ('jsonb_envelope', 'verify_api_key_bcrypt', 'p_api_key text', 'jsonb', 'STABLE', s.verify,
     api_key_internal.compat_verdict(
        api_key_internal.members('valid', 'user_id', 'tier', 'key_id') || $hit$
            || jsonb_build_object('api_key_id', v_answer -> 'key_id',
                                  'rate_limit', v_answer -> 'metadata' -> 'rate_limit')$hit$,
        $miss$jsonb_build_object('valid', false, 'message', v_answer ->> 'message',
                                 'error', v_answer ->> 'message')$miss$)),
    ('jsonb_envelope', 'verify_api_key_complete_v2', 'p_api_key text', 'jsonb', 'STABLE', s.verify,
     api_key_internal.compat_verdict(
        api_key_internal.members('valid', 'key_id', 'user_id', 'name', 'tier'),
        $miss$jsonb_build_object('valid', false, 'error', v_answer ->> 'message')$miss$)),
    ('jsonb_envelope', 'generate_my_api_key', 'p_name text = NULL, p_tier text = NULL', 'jsonb',
     'VOLATILE', s.own, api_key_internal.compat_command(
        format('api_key.issue_api_key(p_name => p_name, p_tier => p_tier, p_prefix => %L)', p_prefix),
        $answer$jsonb_build_object('success', true, 'data', v_answer - 'success')$answer$)),
    ('jsonb_envelope', 'get_my_api_keys', '', 'jsonb', 'STABLE', s.own, $body$
DECLARE
    v_sub text := nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub';
BEGIN
    -- Without a user, an administrator would get everybody's keys.
    IF v_sub IS NULL OR v_sub !~ '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$' THEN
        RETURN '{"success": false, "error": "the request names no user"}';
    END IF;
    RETURN jsonb_build_object('success', true, 'data', coalesce(
        (SELECT jsonb_agg(to_jsonb(k)) FROM api_key.list_api_keys(v_sub::uuid) AS k), '[]'));
END $body$),
    ('jsonb_envelope', 'revoke_my_api_key', 'p_key_id api_key.id', 'jsonb', 'VOLATILE', s.own,
     api_key_internal.compat_command('to_jsonb(api_key.revoke_api_key(p_key_id))',
        $answer$jsonb_build_object('success', true, 'data',
        jsonb_build_object('key_id', p_key_id, 'revoked', v_answer))$answer$)),
    ('table_row', 'verify_api_key_hash', 'input_api_key text',
     'TABLE (id uuid, name varchar, tier varchar, created_at timestamptz)', 'STABLE', s.verify, $body$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT k.key_id, k.name::varchar, k.tier::varchar, k.created_at
        FROM api_key.verify_api_key_row(input_api_key) AS k;
END $body$),
    -- The only member is the key, under any name. We cannot know which member of the answer callers test.
    ('any_name', 'verify_api_key_hash', 'jsonb', 'jsonb', 'STABLE', s.verify, $body$
DECLARE
    v_values text[];
    v_answer jsonb;
BEGIN
    IF jsonb_typeof($1) = 'object' THEN
        v_values := ARRAY(SELECT value FROM jsonb_each_text($1));
    END IF;
    v_answer := api_key.verify_api_key_hash(CASE cardinality(v_values) WHEN 1 THEN v_values[1] END);
    RETURN CASE WHEN (v_answer ->> 'valid')::boolean THEN v_answer END;
END $body$),
    ('stored_hash_pair', 'verify_api_key_hash', 'plain_key text, stored_hash text', 'boolean',
     'STABLE', s.service, $body$
BEGIN
    RETURN coalesce(api_key.matches_hash(plain_key, stored_hash), false);
END $body$)
    ) AS d (profile, function_name, arguments, result, volatility, audience, body)
$definitions$;
COMMENT ON FUNCTION api_key_internal.compat_definitions IS 'Lists the functions of each profile.';

CREATE VIEW api_key.compat_profiles AS
SELECT d.profile, d.function_name, d.arguments, d.result,
       ARRAY(SELECT c.schema_name FROM api_key_internal.compat_functions AS c
             WHERE c.profile = d.profile AND c.function_name = d.function_name
               AND c.arguments = d.arguments ORDER BY 1) AS installed_in
FROM api_key_internal.compat_definitions(NULL) AS d;
COMMENT ON VIEW api_key.compat_profiles IS 'Lists the calling conventions that install_compat knows, with a row for each function.';
COMMENT ON COLUMN api_key.compat_profiles.profile IS 'The name to pass to install_compat.';
COMMENT ON COLUMN api_key.compat_profiles.function_name IS 'A function of the profile.';
COMMENT ON COLUMN api_key.compat_profiles.arguments IS 'Its arguments.';
COMMENT ON COLUMN api_key.compat_profiles.result IS 'Its result.';
COMMENT ON COLUMN api_key.compat_profiles.installed_in IS 'Schemas in which the profile is installed.';
