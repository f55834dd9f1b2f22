-- Asking for the rule of a resource, in functions.
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
        -- Whether it is there is the same to whoever may not read it.
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
