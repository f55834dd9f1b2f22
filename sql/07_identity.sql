-- Identity: which key a transaction runs as. In Rust (src/pg/identity.rs), kept in the memory of the
-- backend. Parallel workers have none of it, so these functions run in the leader.
CREATE FUNCTION api_key.current_api_key() RETURNS jsonb
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'current_api_key';
COMMENT ON FUNCTION api_key.current_api_key IS
$$Returns the key that this transaction acts as, in the form in which verify_api_key answers; NULL without a key.

authenticate_request sets it. It ends with the transaction, and no setting can change it.$$;

CREATE FUNCTION api_key.current_key_id() RETURNS uuid
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'current_key_id';
COMMENT ON FUNCTION api_key.current_key_id IS 'Returns the id of the key that this transaction acts as; NULL without a key.';

CREATE FUNCTION api_key.current_user_id() RETURNS uuid
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'current_user_id';
COMMENT ON FUNCTION api_key.current_user_id IS 'Returns the owner of the key that this transaction acts as; NULL without a key.';

CREATE FUNCTION api_key.current_tenant_id() RETURNS uuid
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'current_tenant_id';
COMMENT ON FUNCTION api_key.current_tenant_id IS 'Returns the tenant of the key that this transaction acts as; NULL without a key.';

CREATE FUNCTION api_key.current_scopes() RETURNS text[]
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'current_scopes';
COMMENT ON FUNCTION api_key.current_scopes IS 'Returns the scopes of the key that this transaction acts as; NULL without a key.';

CREATE FUNCTION api_key.has_scope(p_scope text) RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'has_scope';
COMMENT ON FUNCTION api_key.has_scope IS
$$Tells whether the key that this transaction acts as has a scope; false without a key.

Use it in policies: USING (api_key.has_scope('articles:read')). The scope resource:* grants every action of
the resource, and admin grants everything.$$;
