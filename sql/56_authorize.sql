-- Evaluating the rule of a resource in functions.

-- In Rust (src/pg/resources.rs). p_find returns the rows of the id $1 as one array, with the rights of the
-- owner. p_rule queries that array as $1, with the rights of the role. Neither has the extension's rights.
CREATE FUNCTION api_key_internal.holds_for(
    p_table oid, p_owner oid, p_find text, p_id text, p_role oid, p_rule text)
RETURNS boolean
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'holds_for';
COMMENT ON FUNCTION api_key_internal.holds_for IS 'Tells whether a rule holds, for a role, for a row that the owner of a table finds.';

CREATE FUNCTION api_key_internal.allows(
    p_resource api_key_internal.resources, p_id text, p_read boolean) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_owner oid := (SELECT relowner FROM pg_class WHERE oid = p_resource."table");
    -- The rights of a caller who bypasses policies or administers keys are not lent to a condition.
    v_role oid := (SELECT CASE WHEN r.rolsuper OR r.rolbypassrls
            OR has_function_privilege(r.oid, 'api_key.define_tier(text, integer, text)', 'EXECUTE')
            THEN v_owner ELSE r.oid END
        FROM pg_roles AS r WHERE r.rolname = api_key_internal.request_role());
    -- Without a length, to which a cast would truncate the id.
    v_type text := (SELECT format_type(api_key_internal.base_type(atttypid), -1) FROM pg_attribute
                    WHERE attrelid = p_resource."table" AND attname = p_resource.id_column);
BEGIN
    BEGIN
        PERFORM api_key_internal.holds_for(0, v_owner, format('SELECT ARRAY[CAST($1 AS %s) IS NULL]', v_type),
            p_id, v_owner, 'SELECT true FROM unnest($1)');
    EXCEPTION WHEN data_exception OR invalid_schema_name OR syntax_error_or_access_rule_violation THEN
        RETURN false;
    END;
    RETURN coalesce(api_key_internal.holds_for(
        p_resource."table", v_owner,
        -- Not the bare alias: a column may have the same name.
        format('SELECT array_agg(("row of a resource".*)::%1$s) FROM %1$s AS "row of a resource" WHERE "row of a resource".%2$I %3$s CAST($1 AS %4$s)',
            p_resource."table", p_resource.id_column,
            api_key_internal.id_operator(p_resource."table", p_resource.id_column, p_resource.tenant_column), v_type),
        p_id, v_role,
        -- A condition may refer to the whole row by the table's name.
        (SELECT format('SELECT bool_or(%s) FROM unnest($1) AS %I', api_key_internal.resource_rule(p_resource, p_read), relname)
         FROM pg_class WHERE oid = p_resource."table")), false);
END
$$;
COMMENT ON FUNCTION api_key_internal.allows IS 'Tells whether the key of the request may read a row of a resource, or do everything else to it.';

CREATE FUNCTION api_key_internal.check_action(p_action text) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_action IS NULL OR p_action NOT IN ('read', 'write', 'update', 'delete') THEN
        PERFORM api_key_internal.refuse_argument('p_action',
            'It is none of read, write, update and delete.',
            'Pass one of them; write is update and delete.');
    END IF;
END
$$;
COMMENT ON FUNCTION api_key_internal.check_action IS 'Refuses an unknown action (22023).';

CREATE FUNCTION api_key.authorize(p_resource_type text, p_resource_id text, p_action text) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM api_key_internal.check_action(p_action);
    RETURN api_key_internal.allows(api_key_internal.resource(p_resource_type), p_resource_id, p_action = 'read');
END
$$;
COMMENT ON FUNCTION api_key.authorize IS
$$Tells whether the key of the request may do something to a resource, by the rule of define_resource. It never raises an error because the answer is no.

p_resource_id: the id as text. The answer is false if there is no such row.
p_action: read, write, update or delete.

Errors: 22023 no such type or action, 55000 its table has changed.$$;

CREATE FUNCTION api_key.require_authorization(p_resource_type text, p_resource_id text, p_action text)
RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_resource api_key_internal.resources := api_key_internal.resource(p_resource_type);
BEGIN
    PERFORM api_key_internal.check_action(p_action);
    IF api_key.current_api_key() ->> 'resource_id' <> coalesce(p_resource_id, '') THEN
        PERFORM api_key_internal.refuse('RESOURCE_MISMATCH');
    ELSIF NOT api_key_internal.allows(v_resource, p_resource_id, true) THEN
        -- A resource that the caller may not read is answered as a missing one.
        PERFORM api_key_internal.refuse('RESOURCE_NOT_FOUND');
    ELSIF p_action <> 'read' AND NOT api_key_internal.allows(v_resource, p_resource_id, false) THEN
        PERFORM api_key_internal.refuse('RESOURCE_NOT_ALLOWED');
    END IF;
END
$$;
COMMENT ON FUNCTION api_key.require_authorization IS
$$Refuses the request unless its key may do something to a resource, by the rule of define_resource.

Use it in a function: PERFORM api_key.require_authorization('article', p_id::text, 'update');

Errors: P0002 (HTTP 404) if the caller may not read it, whether it exists or not; 42501 (HTTP 403) if the
caller may read it but not do that, or the key is bound to another resource; 22023 and 55000 as of authorize.$$;
