\set ECHO none
-- PostgREST's roles, as setup_postgrest makes them: \i tests/roles.sql. A test drops them in its end.
SET client_min_messages = error;
SELECT api_key.setup_postgrest('regress_anon', 'regress_user', 'regress_service', 'regress_authenticator', true) \g /dev/null
RESET client_min_messages;
\set ECHO all
