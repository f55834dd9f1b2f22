-- Who may call what. The expectations are rows; the catalog is asked for every function, so that
-- one added without a row here makes this test fail.
\i tests/preamble.sql

-- Whatever is granted to others than its owner, PUBLIC included. (The row types of tables and
-- views are left out: whoever may not use the schema cannot name them.)
CREATE TEMP VIEW granted AS
SELECT object, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END AS grantee,
       string_agg(privilege_type, ' ' ORDER BY privilege_type) AS privileges
FROM (
    SELECT 'schema ' || nspname AS object, nspowner AS owner, coalesce(nspacl, acldefault('n',
        nspowner)) AS acl
    FROM pg_namespace WHERE nspname IN ('api_key', 'api_key_internal')
    UNION ALL
    SELECT CASE relkind WHEN 'S' THEN 'sequence ' ELSE 'relation ' END || c.oid::regclass, relowner,
           coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner))
    FROM pg_class AS c WHERE relnamespace::regnamespace::text IN ('api_key', 'api_key_internal')
        AND relkind NOT IN ('i', 'I', 'c')
    UNION ALL
    SELECT 'column ' || attrelid::regclass || '.' || attname, relowner, attacl
    FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid
    WHERE relnamespace::regnamespace::text IN ('api_key', 'api_key_internal')
    UNION ALL
    SELECT 'type ' || t.oid::regtype, typowner, coalesce(typacl, acldefault('T', typowner))
    FROM pg_type AS t LEFT JOIN pg_class AS c ON c.oid = typrelid
    WHERE typnamespace::regnamespace::text IN ('api_key', 'api_key_internal')
      AND typcategory <> 'A' AND coalesce(relkind, 'c') = 'c'
    UNION ALL
    SELECT 'function ' || oid::regprocedure, proowner, coalesce(proacl, acldefault('f', proowner))
    FROM pg_proc WHERE pronamespace::regnamespace::text IN ('api_key', 'api_key_internal')
) AS objects, LATERAL aclexplode(acl)
WHERE grantee <> owner
GROUP BY object, grantee;

-- As installed, nobody but the owner may do anything.
SELECT * FROM granted ORDER BY object, grantee;
-- That holds too where default privileges would give others a share of all that is made: EXECUTE
-- on everything would make administrators of them.
BEGIN;
SET LOCAL client_min_messages = error;
CREATE ROLE regress_nobody;
ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO regress_nobody;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO regress_nobody;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO regress_nobody;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO regress_nobody;
ALTER DEFAULT PRIVILEGES GRANT USAGE ON TYPES TO regress_nobody;
-- In the order in which the worker locks, so that the two cannot deadlock.
LOCK TABLE api_key_internal.audit_log, api_key_internal.keys, api_key_internal.key_usage;
DROP EXTENSION api_key CASCADE;
CREATE EXTENSION api_key;
SELECT * FROM granted ORDER BY object, grantee;
ROLLBACK;
-- setup_postgrest grants nothing in api_key_internal, nothing to PUBLIC and nothing to the authenticator.
SELECT api_key.setup_postgrest('regress_anon', 'regress_user', 'regress_service', 'regress_authenticator',
    p_create_roles => true);
SELECT * FROM granted WHERE object NOT LIKE 'function %' ORDER BY object, grantee;
SELECT * FROM granted WHERE object LIKE 'function %' AND (object LIKE '%internal%'
    OR grantee !~ '^regress_(anon|user|service)$') ORDER BY object;

-- The functions of the extension, and all else that is in its schemas.
CREATE TEMP VIEW functions AS
SELECT oid::regprocedure::text AS function, pg_proc.*
FROM (SELECT oid AS id FROM pg_proc WHERE pronamespace::regnamespace::text IN ('api_key',
    'api_key_internal')
      UNION
      SELECT objid FROM pg_depend
      WHERE classid = 'pg_proc'::regclass AND refclassid = 'pg_extension'::regclass AND deptype = 'e'
        AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'api_key')) AS ids
JOIN pg_proc ON oid = id;

-- The matrix. call is tried as each caller, with %1$L the text and %2$L the id of a key of the
-- owner, %3$L the owner. Results: ok, an SQLSTATE, or - for a caller without EXECUTE.
CREATE TEMP TABLE expected (function text PRIMARY KEY, call text, anon text, owner text, other text,
    service text, nobody text);
INSERT INTO expected VALUES
    ('api_key.verify_api_key(text,text[],inet,text)', 'verify_api_key(%1$L)', 'ok', 'ok', 'ok', 'ok', '-'),
    ('api_key.verify_api_key_hash(text)', 'verify_api_key_hash(%1$L)', 'ok', 'ok', 'ok', 'ok', '-'),
    ('api_key.verify_api_key_row(text)', 'verify_api_key_row(%1$L)', 'ok', 'ok', 'ok', 'ok', '-'),
    ('api_key.matches_hash(text,text)', 'matches_hash(''a'', ''b'')', '-', '-', '-', 'ok', '-'),
    ('api_key.legacy_hash_counts()', 'legacy_hash_counts()', '-', '-', '-', 'ok', '-'),
    ('api_key.revoke_own_api_key(text)', 'revoke_own_api_key(%1$L)', 'ok', 'ok', 'ok', 'ok', '-'),
    ('api_key.issue_api_key(api_key.id,text,text,text,text[],api_key.id,text,text,text,text,timestamp with time zone,timestamp with time zone,inet[],jsonb,text)',
     'issue_api_key(%3$L)', '-', 'ok', '42501', 'ok', '-'),
    ('api_key.list_api_keys(api_key.id,api_key.id,boolean)', 'list_api_keys(%3$L)', '-', 'ok', '42501',
        'ok', '-'),
    ('api_key.update_api_key(api_key.id,jsonb)', 'update_api_key(%2$L, ''{"name": "x"}'')', '-', 'ok',
        'P0002', 'ok', '-'),
    ('api_key.rotate_api_key(api_key.id,interval)', 'rotate_api_key(%2$L)', '-', 'ok', 'P0002', 'ok', '-'),
    ('api_key.revoke_api_key(api_key.id,text)', 'revoke_api_key(%2$L)', '-', 'ok', 'P0002', 'ok', '-'),
    ('api_key.revoke_api_keys(api_key.id,api_key.id,text)', 'revoke_api_keys(%3$L)', '-', 'ok', '42501',
        'ok', '-'),
    ('api_key.delete_api_key(api_key.id)', 'delete_api_key(%2$L)', '-', 'ok', 'P0002', 'ok', '-'),
    ('api_key.purge_api_keys(interval)', 'purge_api_keys()', '-', '-', '-', 'ok', '-'),
    ('api_key.define_tier(text,integer,text)', 'define_tier(''x'')', '-', '-', '-', 'ok', '-'),
    ('api_key.define_scope(text,text)', 'define_scope(''x:read'')', '-', '-', '-', 'ok', '-'),
    ('api_key.flush_usage()', 'flush_usage()', '-', '-', '-', 'ok', '-'),
    ('api_key.counters()', 'counters()', '-', '-', '-', 'ok', '-'),
    ('api_key.export_usage()', 'export_usage()', '-', '-', '-', 'ok', '-'),
    ('api_key.import_usage(jsonb)', 'import_usage(''{"usage": [], "refusals": []}'')', '-', '-', '-', 'ok',
        '-'),
    ('api_key.import_api_key_hash(text,text,api_key.id,text,text,text,text,text[],api_key.id,text,text,text,timestamp with time zone,timestamp with time zone,inet[],jsonb,boolean,timestamp with time zone)',
     'import_api_key_hash(''900150983cd24fb0d6963f7d28e17f72'', ''md5'', %3$L)', '-', '-', '-', 'ok', '-'),
    ('api_key.import_api_keys(regclass,jsonb,text)',
        'import_api_keys(''pg_am'', ''{"hash": "amname"}'', ''plaintext'')', '-', '-', '-', 'ok', '-'),
    ('api_key.import_key_rows(jsonb,text,text,bigint)', 'import_key_rows(''[]'', ''md5'', ''t'', 1)', '-',
        '-', '-', 'ok', '-'),
    ('api_key.read_key_rows(regclass,jsonb)', 'read_key_rows(''pg_am'', ''{"hash": "amname"}'')', '-', '-',
        '-', 'ok', '-'),
    ('api_key.authenticate_request()', 'authenticate_request()', 'ok', 'ok', 'ok', 'ok', '-'),
    ('api_key.admit_request()', 'admit_request()', 'ok', 'ok', 'ok', 'ok', '-'),
    ('api_key.current_api_key()', 'current_api_key()', 'ok', 'ok', 'ok', 'ok', '-'),
    ('api_key.current_key_id()', 'current_key_id()', 'ok', 'ok', 'ok', 'ok', '-'),
    ('api_key.current_user_id()', 'current_user_id()', 'ok', 'ok', 'ok', 'ok', '-'),
    ('api_key.current_tenant_id()', 'current_tenant_id()', 'ok', 'ok', 'ok', 'ok', '-'),
    ('api_key.current_scopes()', 'current_scopes()', 'ok', 'ok', 'ok', 'ok', '-'),
    ('api_key.has_scope(text)', 'has_scope(''x:read'')', 'ok', 'ok', 'ok', 'ok', '-'),
    ('api_key.require_scope(text[])', 'require_scope(''x:read'')', '28000', '28000', '28000', '28000', '-'),
    ('api_key.set_api_key_role(api_key.id,name)', 'set_api_key_role(%2$L, NULL)', '-', '-', '-', 'ok', '-'),
    ('api_key.define_rate_limit(text,integer,interval,integer,text,text,text,text)',
     'define_rate_limit(''regress'', 1, ''1 s'')', '-', '-', '-', 'ok', '-'),
    ('api_key.remove_rate_limit(text)', 'remove_rate_limit(''regress'')', '-', '-', '-', 'ok', '-'),
    ('api_key.check_rate_limit(text,text,integer)', 'check_rate_limit(''regress'', ''x'')', '-', '-', '-',
        '22023', '-'),
    ('api_key.isolate_tenants(regclass,name)', 'isolate_tenants(''pg_am'')', '-', '-', '-', '-', '-'),
    ('api_key.remove_tenant_isolation(regclass)', 'remove_tenant_isolation(''pg_am'')', '-', '-', '-', '-',
        '-'),
    ('api_key.define_resource(text,regclass,name,name,name,text)', 'define_resource(''x'', ''pg_am'')', '-',
        '-', '-', '-', '-'),
    ('api_key.remove_resource(text)', 'remove_resource(''x'')', '-', '-', '-', '-', '-'),
    ('api_key.protect_resource(text)', 'protect_resource(''x'')', '-', '-', '-', '-', '-'),
    ('api_key.authorize(text,text,text)', 'authorize(''x'', ''1'', ''read'')', '22023', '22023', '22023',
        '22023', '-'),
    ('api_key.require_authorization(text,text,text)', 'require_authorization(''x'', ''1'', ''read'')',
        '22023', '22023', '22023', '22023', '-'),
    ('api_key.migrate_legacy_hashes(integer,integer)', NULL, '-', '-', '-', '-', '-'),
    ('api_key.install_compat(text,name,text,boolean)', 'install_compat(''table_row'')', '-', '-', '-', '-',
        '-'),
    ('api_key.remove_compat(text,name)', 'remove_compat(''table_row'')', '-', '-', '-', '-', '-'),
    ('api_key.setup_postgrest(name,name,name,name,boolean)', 'setup_postgrest()', '-', '-', '-', '-', '-');
INSERT INTO expected
SELECT function, NULL, '-', '-', '-', '-', '-'
FROM unnest(ARRAY[
    'api_key_internal.active_keys(uuid,text)',
    'api_key_internal.audit(text,uuid,uuid,uuid,jsonb)',
    'api_key_internal.caller(boolean)',
    'api_key_internal.check_expiry(timestamp with time zone)',
    'api_key_internal.check_grantable(text[],api_key_internal.caller)',
    'api_key_internal.check_key(api_key_internal.keys)',
    'api_key_internal.check_one_owner(regclass,text,text)',
    'api_key_internal.check_reason(text)',
    'api_key_internal.check_tier(text,api_key_internal.caller)',
    'api_key_internal.checked_scopes(text[],api_key_internal.caller)',
    'api_key_internal.check_label(text,text,text)',
    'api_key_internal.compat_check(text,name)',
    'api_key_internal.compat_definitions(text)',
    'api_key_internal.calling_convention(regprocedure)',
    'api_key_internal.check_replacement(regprocedure,regprocedure)',
    'api_key_internal.compat_command(text,text)',
    'api_key_internal.compat_function(name,name,text)',
    'api_key_internal.compat_verdict(text,text)',
    'api_key_internal.grant_compat(text,name)',
    'api_key_internal.id_in(cstring)',
    'api_key_internal.id_out(api_key.id)',
    'api_key_internal.id_recv(internal)',
    'api_key_internal.id_send(api_key.id)',
    'api_key_internal.keep_aside(regprocedure,boolean)',
    'api_key_internal.members(text[])',
    'api_key_internal.standing(name,name,text)',
    'api_key_internal.count_active_keys_now(uuid,text)',
    'api_key_internal.delete(api_key_internal.keys,jsonb)',
    'api_key_internal.grants(text[],text)',
    'api_key_internal.hash_stage(text)',
    'api_key_internal.is_legacy_secret(text,integer)',
    'api_key_internal.completed_key(api_key_internal.keys)',
    'api_key_internal.is_request_by_key()',
    'api_key_internal.is_key_prefix(text)',
    'api_key_internal.is_label(text)',
    'api_key_internal.key_status(timestamp with time zone,boolean,timestamp with time zone,timestamp with time zone)',
    'api_key_internal.argument_types(text)',
    'api_key_internal.import_key(api_key_internal.keys,text,text,text,api_key_internal.caller)',
    'api_key_internal.import_query(regclass,jsonb,oid)',
    'api_key_internal.in_restricted_operation(boolean)',
    'api_key_internal.in_tenant(uuid,api_key_internal.caller)',
    'api_key_internal.is_key_role(text)',
    'api_key_internal.key_row(jsonb)',
    'api_key_internal.refuse_key_row(jsonb,text)',
    'api_key_internal.is_scope(text)',
    'api_key_internal.issued(api_key_internal.keys)',
    'api_key_internal.legacy_credential(text,text)',
    'api_key_internal.lock_table(regclass)',
    'api_key_internal.others_code(regclass)',
    'api_key_internal.refuse_restricted(boolean)',
    'api_key_internal.restore_default(regclass,name,text,name,regclass)',
    'api_key_internal.run_as_owner(regclass,text)',
    'api_key_internal.run_restricted(oid,text)',
    'api_key_internal.lock_tier(uuid,text)',
    'api_key_internal.locked_key(uuid,api_key_internal.caller)',
    'api_key_internal.mint(text,uuid)',
    'api_key_internal.minted(api_key_internal.keys)',
    'api_key_internal.make_policy(regclass,text,text,text,text,boolean)',
    'api_key_internal.make_room(uuid,text,uuid)',
    'api_key_internal.mask(text,uuid)',
    'api_key_internal.masked(api_key_internal.keys)',
    'api_key_internal.prove_possession(text)',
    'api_key_internal.refusal(text,text,text[])',
    'api_key_internal.refusals()',
    'api_key_internal.refuse(text,text,text[])',
    'api_key_internal.refuse_argument(text,text,text)',
    'api_key_internal.request_identity()',
    'api_key_internal.request_role()',
    'api_key_internal.require_user(api_key_internal.caller)',
    'api_key_internal.revoke(api_key_internal.keys,text)',
    'api_key_internal.root_key_fingerprint()',
    'api_key_internal.strangers_code(regclass,oid,oid)',
    'api_key_internal.status(api_key_internal.keys)',
    'api_key_internal.subject(api_key_internal.caller,uuid)',
    'api_key_internal.use_root_key()',
    'api_key_internal.wrap_hash(text)',
    'api_key_internal.allows(api_key_internal.resources,text,boolean)',
    'api_key_internal.base_type(oid)',
    'api_key_internal.trusted_roles(oid)',
    'api_key_internal.strangers_type(oid[],oid)',
    'api_key_internal.one_line(text)',
    'api_key_internal.condition_is_of(api_key_internal.resources,regclass)',
    'api_key_internal.canonical_condition(regclass,text)',
    'api_key_internal.check_action(text)',
    'api_key_internal.check_references()',
    'api_key_internal.lock_moved_row()',
    'api_key_internal.check_column(text,regclass,name,boolean)',
    'api_key_internal.check_scheme(text,text)',
    'api_key_internal.check_table(regclass)',
    'api_key_internal.column_default(regclass,name)',
    'api_key_internal.default_owner(regclass,name,regclass)',
    'api_key_internal.drop_policies(regclass,text)',
    'api_key_internal.guard(regclass)',
    'api_key_internal.holds_for(oid,oid,text,text,oid,text)',
    'api_key_internal.id_operator(regclass,name,name)',
    'api_key_internal.is_id_type(oid)',
    'api_key_internal.index_on(regclass,name)',
    'api_key_internal.isolate(regclass,name,regclass)',
    'api_key_internal.our_policies(regclass,text)',
    'api_key_internal.own_policies(regclass)',
    'api_key_internal.parts(regclass)',
    'api_key_internal.resource(text)',
    'api_key_internal.column_of_type(regclass,name,boolean)',
    'api_key_internal.isolated_by(regclass)',
    'api_key_internal.missing(regclass,text,jsonb)',
    'api_key_internal.policy_definitions(regclass,text)',
    'api_key_internal.reference_lookup(oid)',
    'api_key_internal.resource_rule(api_key_internal.resources,boolean,text[])',
    'api_key_internal.policy_conditions(text,text,text,text,text)',
    'api_key_internal.tenant_definitions(name,boolean)',
    'api_key_internal.tenant_policies(name,boolean)',
    'api_key_internal.watch_moves(regclass)',
    'api_key_internal.wholes(regclass)',
    'api_key_internal.tenant_column(regclass)',
    'api_key_internal.unguard(regclass)',
    'api_key_internal.unprotect(text)',
    'api_key_internal.warn_of(regclass,jsonb)',
    'api_key_internal.ways_past_policies(regclass,name[])',
    'api_key_internal.flush_denials(jsonb)',
    'api_key_internal.flush_unlocked_use_counts(uuid[],bigint[],bigint[],bigint[],text[])',
    'api_key_internal.flush_upgrades(jsonb)',
    'api_key_internal.flush_use_counts(uuid[],bigint[],bigint[],bigint[],text[])']) AS function;
INSERT INTO expected VALUES
    ('api_key.unprotected()', 'unprotected()', '-', '-', '-', 'ok', '-'),
    ('api_key.refuse_row(regclass,name)', 'refuse_row(NULL, NULL)', 'ok', 'ok', 'ok', 'ok', '-'),
    ('api_key.is_left_to(regclass,name)', 'is_left_to(NULL, NULL)', 'ok', 'ok', 'ok', 'ok', '-');

CREATE ROLE regress_nobody;
CREATE TEMP TABLE callers (caller text, role name, claims text);
INSERT INTO callers VALUES
    ('anon', 'regress_anon', ''),
    ('owner', 'regress_user', '{"sub": "00000000-0000-4000-8000-0000000000a1"}'),
    ('other', 'regress_user', '{"sub": "00000000-0000-4000-8000-0000000000b1"}'),
    ('service', 'regress_service', ''),
    ('nobody', 'regress_nobody', '{"sub": "00000000-0000-4000-8000-0000000000a1"}');

-- Calls as a role and undoes what the call did. Without a call, only the privilege is known.
CREATE FUNCTION pg_temp.outcome(p_function oid, p_call text, p_role name, p_claims text) RETURNS text
    LANGUAGE plpgsql
SET client_min_messages = warning AS $$
DECLARE
    v_granted boolean := has_function_privilege(p_role, p_function, 'EXECUTE');
    v_outcome text;
BEGIN
    IF p_call IS NULL THEN
        RETURN CASE WHEN v_granted THEN 'EXECUTE' ELSE '-' END;
    END IF;
    BEGIN
        PERFORM set_config('request.jwt.claims', p_claims, true);
        PERFORM set_config('role', p_role, true);
        EXECUTE 'SELECT count(*) FROM api_key.' || p_call;
        RAISE EXCEPTION USING ERRCODE = 'ZZZZZ';
    EXCEPTION WHEN OTHERS THEN
        v_outcome := CASE WHEN SQLSTATE = 'ZZZZZ' THEN 'ok'
                          WHEN SQLERRM LIKE 'permission denied for %' THEN '-' ELSE SQLSTATE END;
    END;
    RETURN CASE WHEN v_granted = (v_outcome <> '-') THEN v_outcome
                ELSE format('EXECUTE is %s, but the call: %s', v_granted, v_outcome) END;
END
$$;
SELECT api_key.issue_api_key('00000000-0000-4000-8000-0000000000a1') AS issued \gset
CREATE TEMP VIEW actual AS
SELECT function, max(outcome) FILTER (WHERE caller = 'anon') AS anon,
    max(outcome) FILTER (WHERE caller = 'owner') AS owner,
       max(outcome) FILTER (WHERE caller = 'other') AS other,
           max(outcome) FILTER (WHERE caller = 'service') AS service,
       max(outcome) FILTER (WHERE caller = 'nobody') AS nobody
FROM (SELECT f.function, caller, pg_temp.outcome(f.oid, call, role, claims) AS outcome
      FROM functions AS f
      LEFT JOIN (SELECT function, format(call, :'issued'::jsonb ->> 'api_key',
          :'issued'::jsonb ->> 'key_id',
                                         '00000000-0000-4000-8000-0000000000a1') AS call
                 FROM expected WHERE call IS NOT NULL) AS e USING (function)
      CROSS JOIN callers) AS tried
GROUP BY function;

-- Where expectation and catalog differ: no row, or the matrix is broken. A function of which
-- nothing is expected is one that was added without a row above.
SELECT function, e.anon IS NOT NULL AS is_expected, a.anon, a.owner, a.other, a.service, a.nobody
FROM actual AS a FULL JOIN expected AS e USING (function)
WHERE (a.anon, a.owner, a.other, a.service, a.nobody) IS DISTINCT FROM (e.anon, e.owner, e.other, e.service,
    e.nobody)
ORDER BY function;
-- What callers may call is really called.
SELECT function FROM functions JOIN expected USING (function)
WHERE function LIKE 'api\_key.%' AND prokind = 'f' AND call IS NULL;
-- The calls above were undone.
SELECT api_key.verify_api_key(:'issued'::jsonb ->> 'api_key') ->> 'code' AS code;
SELECT count(*) AS fingerprints FROM api_key_internal.root_key;

-- The views: whoever may, reads rows of them. All that are there are tried.
CREATE FUNCTION pg_temp.reading(p_view text, p_role name, p_claims text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_rows bigint;
    v_outcome text;
BEGIN
    BEGIN
        PERFORM api_key.import_api_key_hash('900150983cd24fb0d6963f7d28e17f72', 'md5', NULL);
        PERFORM set_config('request.jwt.claims', p_claims, true);
        PERFORM set_config('role', p_role, true);
        EXECUTE format('SELECT count(v) FROM %s AS v', p_view) INTO v_rows;
        RAISE EXCEPTION USING ERRCODE = 'ZZZZZ';
    EXCEPTION WHEN OTHERS THEN
        v_outcome := CASE WHEN SQLSTATE = 'ZZZZZ' THEN CASE WHEN v_rows > 0 THEN 'rows' ELSE 'no rows' END
                          WHEN SQLERRM LIKE 'permission denied for %' THEN '-' ELSE SQLSTATE END;
    END;
    RETURN v_outcome;
END
$$;
SELECT view, max(outcome) FILTER (WHERE caller = 'anon') AS anon,
    max(outcome) FILTER (WHERE caller = 'owner') AS owner,
       max(outcome) FILTER (WHERE caller = 'other') AS other,
           max(outcome) FILTER (WHERE caller = 'service') AS service,
       max(outcome) FILTER (WHERE caller = 'nobody') AS nobody
FROM (SELECT c.oid::regclass::text AS view, caller, pg_temp.reading(c.oid::regclass::text, role,
    claims) AS outcome
      FROM pg_class AS c CROSS JOIN callers
      WHERE relnamespace = 'api_key'::regnamespace AND relkind IN ('r', 'v', 'm', 'f', 'p')) AS tried
GROUP BY view ORDER BY view;

-- Whoever could place objects in the search_path of a function of ours could run code as its
-- owner: each pins it. (Procedures that COMMIT cannot, and are not SECURITY DEFINER.)
SELECT function, prosecdef, proconfig FROM functions JOIN pg_language AS l ON l.oid = prolang
WHERE CASE prokind WHEN 'p' THEN prosecdef
           ELSE (prosecdef OR lanname IN ('sql', 'plpgsql'))
                AND NOT coalesce(proconfig && '{"search_path=pg_catalog, pg_temp"}', false) END;
-- SECURITY DEFINER are only functions that callers may call, or that their policies and views run.
SELECT function FROM functions WHERE prosecdef AND function NOT LIKE 'api\_key.%' ORDER BY 1;

-- Every function, table, view, type and schema has a comment whose first line is a sentence.
SELECT object, split_part(comment, E'\n', 1) AS first_line
FROM (
    SELECT function AS object, obj_description(oid, 'pg_proc') AS comment FROM functions
    UNION ALL
    SELECT c.oid::regclass::text, obj_description(c.oid, 'pg_class') FROM pg_class AS c
    WHERE relnamespace::regnamespace::text IN ('api_key', 'api_key_internal') AND relkind IN ('r', 'p', 'v',
        'm', 'f')
    UNION ALL
    SELECT 'schema ' || nspname, obj_description(oid, 'pg_namespace') FROM pg_namespace
    WHERE nspname IN ('api_key', 'api_key_internal')
    UNION ALL
    SELECT 'type ' || t.oid::regtype, obj_description(t.oid, 'pg_type')
    FROM pg_type AS t LEFT JOIN pg_class AS c ON c.oid = typrelid
    WHERE typnamespace::regnamespace::text IN ('api_key', 'api_key_internal')
      AND typcategory <> 'A' AND coalesce(relkind, 'c') = 'c'
) AS objects
WHERE comment IS NULL OR split_part(comment, E'\n', 1) !~ '^\S.*\w.*\.$'
ORDER BY object;
-- Every table and its sequences are dumped with their data, but for what is of this server only:
-- a table that is dumped without rows needs no sequence's state.
SELECT c.oid::regclass AS not_dumped FROM pg_class AS c
WHERE relnamespace::regnamespace::text IN ('api_key', 'api_key_internal') AND relkind IN ('r', 'S')
  AND NOT c.oid = ANY (SELECT unnest(extconfig) FROM pg_extension WHERE extname = 'api_key')
ORDER BY 1;
SELECT config.oid::regclass AS dumped_without_rows
FROM pg_extension, unnest(extconfig, extcondition) AS config (oid, condition)
WHERE extname = 'api_key' AND condition = 'WHERE false';
\i tests/cleanup.sql
