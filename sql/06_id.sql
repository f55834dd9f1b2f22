-- The type of ids that callers pass. Where a text is no uuid, the error of the type uuid repeats it, to
-- the client and in the server's log; and the text that a caller takes for an id may be a key's.
CREATE TYPE api_key.id;

-- In Rust (src/pg/id.rs).
CREATE FUNCTION api_key_internal.id_in(cstring) RETURNS api_key.id
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'id_in';
COMMENT ON FUNCTION api_key_internal.id_in IS 'Reads a uuid. Its error does not repeat the text.';

CREATE FUNCTION api_key_internal.id_out(api_key.id) RETURNS cstring
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'uuid_out';
COMMENT ON FUNCTION api_key_internal.id_out IS 'Writes an id as uuid does.';

CREATE FUNCTION api_key_internal.id_recv(internal) RETURNS api_key.id
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'uuid_recv';
COMMENT ON FUNCTION api_key_internal.id_recv IS 'Reads the binary form of uuid.';

CREATE FUNCTION api_key_internal.id_send(api_key.id) RETURNS bytea
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'uuid_send';
COMMENT ON FUNCTION api_key_internal.id_send IS 'Writes the binary form of uuid.';

CREATE TYPE api_key.id (
    INPUT = api_key_internal.id_in, OUTPUT = api_key_internal.id_out,
    RECEIVE = api_key_internal.id_recv, SEND = api_key_internal.id_send, LIKE = pg_catalog.uuid);
COMMENT ON TYPE api_key.id IS
$$A uuid as an argument: pass a uuid, or a quoted literal. A value of type text needs a cast: (x ->> 'key_id')::uuid.

The same bytes as a uuid, and cast to and from it without being asked. Unlike that of uuid, the error of a text that is no id (22P02) does not repeat it: it may be the text of a key.$$;

CREATE CAST (uuid AS api_key.id) WITHOUT FUNCTION AS IMPLICIT;
COMMENT ON CAST (uuid AS api_key.id) IS 'A uuid where an id is expected.';
CREATE CAST (api_key.id AS uuid) WITHOUT FUNCTION AS IMPLICIT;
COMMENT ON CAST (api_key.id AS uuid) IS 'An id where a uuid is expected.';
