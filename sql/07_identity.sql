-- Identity: which key a transaction runs as. In Rust (src/pg/identity.rs), kept in the memory of the
-- backend. Parallel workers have none of it, so these functions run in the leader.
CREATE FUNCTION api_key.current_api_key() RETURNS jsonb
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'current_api_key';
COMMENT ON FUNCTION api_key.current_api_key IS
$$The key that this transaction acts as, as verify_api_key has answered it; NULL without one.

authenticate_request sets it, the end of the transaction forgets it, and no setting changes it.$$;

CREATE FUNCTION api_key.current_key_id() RETURNS uuid
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'current_key_id';
COMMENT ON FUNCTION api_key.current_key_id IS 'The id of the key that this transaction acts as; NULL without one.';

CREATE FUNCTION api_key.current_user_id() RETURNS uuid
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'current_user_id';
COMMENT ON FUNCTION api_key.current_user_id IS 'The owner of the key that this transaction acts as; NULL without one.';

CREATE FUNCTION api_key.current_tenant_id() RETURNS uuid
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'current_tenant_id';
COMMENT ON FUNCTION api_key.current_tenant_id IS 'The tenant of the key that this transaction acts as; NULL without one.';

CREATE FUNCTION api_key.current_scopes() RETURNS text[]
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'current_scopes';
COMMENT ON FUNCTION api_key.current_scopes IS 'The scopes of the key that this transaction acts as; NULL without one.';

CREATE FUNCTION api_key.has_scope(p_scope text) RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'has_scope';
COMMENT ON FUNCTION api_key.has_scope IS
$$Whether the key that this transaction acts as has a scope; false without a key. For policies: USING (api_key.has_scope('articles:read')).

resource:* grants every action of the resource, admin grants everything.$$;
