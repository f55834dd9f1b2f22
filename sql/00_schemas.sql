-- Both schemas are the extension's own: one of the name that someone has made before is an error.
-- (The control file's schema is where nothing is made: pg_catalog, so that no name in this script
-- can mean an object of someone else.) `api_key` holds what callers may call; `api_key_internal` holds
-- tables and helpers. PUBLIC has nothing in either: 90_postgrest.sql revokes at the end what
-- PostgreSQL grants by default, `setup_postgrest` grants to roles.
CREATE SCHEMA api_key;
CREATE SCHEMA api_key_internal;
COMMENT ON SCHEMA api_key_internal IS 'Tables and helpers of the extension api_key. Only its owner has privileges here.';
COMMENT ON SCHEMA api_key IS 'API keys: what callers may call.';
