// No function, procedure, view, default or trigger of the extension calls what a caller's search_path
// puts in the way. Found in the catalog, so that whatever is added later is covered too.

import assert from 'node:assert/strict'
import { createHash, randomUUID } from 'node:crypto'
import { before, describe, it } from 'node:test'
import { call, issue, useCluster, value } from './harness.mjs'

const SCHEMAS = `('api_key', 'api_key_internal')`
const HOSTILE = 'search_path = trap, public, pg_catalog'

// Every operator, function and type of PostgreSQL's that the extension could mean. A trap is sprung by
// a notice before its error, which the extension might catch.
const TRAPS = `
  CREATE FUNCTION trap.sprung(p_name pg_catalog.text) RETURNS pg_catalog.bool LANGUAGE plpgsql
  SET search_path = pg_catalog AS $$
  BEGIN
    RAISE WARNING 'sprung: %', p_name;
    RAISE EXCEPTION 'sprung: %', p_name;
  END $$;
  DO $do$
  DECLARE
    v_trap record;
    v_types oid[] := ARRAY(
      SELECT oid FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b'
      AND typcategory IN ('A', 'B', 'D', 'I', 'N', 'S', 'T', 'U') AND typname !~ '^_?pg_|^(aclitem|gtsvector)');
  BEGIN
    FOR v_trap IN
      SELECT quote_ident(proname) AS name, array_to_string(ARRAY(
          SELECT format_type(t, NULL) FROM unnest(proargtypes) WITH ORDINALITY AS a (t, n) ORDER BY n), ', ') AS arguments,
        format_type(prorettype, NULL) AS result
      FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND NOT proretset
        AND provariadic = 0 AND prorettype = ANY (v_types) AND proargtypes::oid[] <@ v_types
        AND proname !~ '(in|out|recv|send)$'
    LOOP
      EXECUTE format('CREATE FUNCTION trap.%s(%s) RETURNS %s LANGUAGE plpgsql AS $$BEGIN PERFORM trap.sprung(%L); END$$',
        v_trap.name, v_trap.arguments, v_trap.result, v_trap.name);
    END LOOP;
    FOR v_trap IN
      SELECT o.oid, oprname AS name, format_type(oprleft, NULL) AS "left", format_type(oprright, NULL) AS "right",
        format_type(oprresult, NULL) AS result, oprleft = 0 AS is_prefix
      FROM pg_operator AS o WHERE oprnamespace = 'pg_catalog'::regnamespace
        AND (oprleft = 0 OR oprleft = ANY (v_types)) AND oprright = ANY (v_types) AND oprresult = ANY (v_types)
    LOOP
      EXECUTE format('CREATE FUNCTION trap.op%s(%s) RETURNS %s LANGUAGE plpgsql AS $$BEGIN PERFORM trap.sprung(%L); END$$',
        v_trap.oid, CASE WHEN v_trap.is_prefix THEN v_trap."right" ELSE v_trap."left" || ', ' || v_trap."right" END,
        v_trap.result, 'operator ' || v_trap.name);
      EXECUTE format('CREATE OPERATOR trap.%s (%s RIGHTARG = %s, FUNCTION = trap.op%s)', v_trap.name,
        CASE WHEN NOT v_trap.is_prefix THEN 'LEFTARG = ' || v_trap."left" || ',' END, v_trap."right", v_trap.oid);
    END LOOP;
    FOR v_trap IN
      SELECT quote_ident(typname) AS name FROM pg_type
      WHERE oid = ANY (v_types) AND typname !~ '^_' OR typname IN ('record', 'regclass', 'regprocedure', 'regrole', 'name')
        AND typnamespace = 'pg_catalog'::regnamespace
      GROUP BY typname
    LOOP
      EXECUTE format('CREATE DOMAIN trap.%s AS pg_catalog.text CHECK (trap.sprung(%L))', v_trap.name, 'type ' || v_trap.name);
    END LOOP;
    FOR v_trap IN
      SELECT DISTINCT relname AS name FROM pg_class
      WHERE relnamespace IN ('pg_catalog'::regnamespace, 'api_key'::regnamespace, 'api_key_internal'::regnamespace)
        AND relkind IN ('r', 'v')
    LOOP
      EXECUTE format('CREATE VIEW trap.%I AS SELECT trap.sprung(%L)', v_trap.name, 'relation ' || v_trap.name);
    END LOOP;
  END $do$`

describe('with a hostile search_path', () => {
  let cluster, db, sprung

  useCluster({ 'api_key.argon2_memory_kib': 8, 'api_key.argon2_iterations': 1 }, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
    db = await cluster.connect('app')
    await db.query(`SELECT api_key.setup_postgrest(p_create_roles => true)`)
    await db.query(`CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO authenticated;
      CREATE TABLE app.teams (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text UNIQUE);
      CREATE TABLE app.notes (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id uuid, owner_id uuid,
        team uuid REFERENCES app.teams ON DELETE CASCADE, text text);
      CREATE TABLE app.papers (LIKE app.notes INCLUDING ALL);
      GRANT ALL ON ALL TABLES IN SCHEMA app TO authenticated`)
    await db.query(`SELECT api_key.isolate_tenants('app.notes')`)
    await db.query(`SELECT api_key.define_resource('note', 'app.papers'), api_key.protect_resource('note')`)
    await db.query(`CREATE SCHEMA trap; GRANT USAGE ON SCHEMA trap TO PUBLIC`)
    await db.query(TRAPS)
    for (const text of ['one', 'two', 'three']) {
      await call(db, 'import_api_key_hash', {
        p_hash: createHash('md5').update(text).digest('hex'),
        p_scheme: 'md5',
        p_user_id: randomUUID(),
        p_key_prefix: text,
      })
    }
    await issue(db)
  })

  before(async () => {
    sprung = []
    db.on('notice', ({ message }) => /^sprung/.test(message) && sprung.push(message))
  })

  /** Runs it in the hostile path, and tells which traps were sprung meanwhile. */
  async function inTheWay(text, { undone = false } = {}) {
    sprung.length = 0
    await db.query(undone ? `BEGIN; SET LOCAL ${HOSTILE}` : `SET ${HOSTILE}`)
    const error = await db.query(text).then(() => undefined, (error) => error)
    await db.query(undone ? 'ROLLBACK' : 'RESET search_path')
    return { traps: [...sprung], error }
  }

  it('the traps work: names that are not qualified end up in them', async () => {
    for (const text of [
      `SELECT 1::pg_catalog.int4 < 2::pg_catalog.int4`,
      `SELECT 'a'::pg_catalog.text = 'b'::pg_catalog.text`,
      `SELECT 'a'::pg_catalog.text LIKE 'a'`,
      `SELECT 1::pg_catalog.int8 IN (2::pg_catalog.int8)`,
      'SELECT now()',
      `SELECT -(1::pg_catalog.int4)`,
      `SELECT 'x'::uuid`,
      'SELECT * FROM pg_class',
      'SELECT * FROM keys',
      `SELECT '{}'::pg_catalog.jsonb -> 'a'::pg_catalog.text`,
      `DO 'DECLARE v record; BEGIN v := ''x''::pg_catalog.text; END'`,
    ])
      assert.notDeepEqual((await inTheWay(text)).traps, [], text)
    for (const text of [`SELECT 1 OPERATOR(pg_catalog.<) 2`, 'SELECT pg_catalog.now()']) {
      assert.deepEqual((await inTheWay(text)).traps, [], text)
    }
  })

  it('every function in SQL or PL/pgSQL sets its own, but for the procedure that commits', async () => {
    const { rows } = await db.query(`
      SELECT p.oid::regprocedure::text AS name FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
      WHERE p.pronamespace::regnamespace::text IN ${SCHEMAS} AND l.lanname IN ('sql', 'plpgsql')
        AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)`)
    assert.deepEqual(rows.map(({ name }) => name), ['api_key.migrate_legacy_hashes(integer,integer)'])
  })

  it('that procedure calls nothing of it, and does its work', async () => {
    for (const [args, code] of [
      ['0', '22023'],
      ['NULL', '22023'],
      ['1, 0', '22023'],
      ['1, 1'],
      ['1'],
      [''],
    ]) {
      const { traps, error } = await inTheWay(`CALL api_key.migrate_legacy_hashes(${args})`)
      assert.deepEqual([traps, error?.code], [[], code], args)
    }
    assert.equal(await value(db, 'SELECT sum(remaining)::integer FROM api_key.legacy_hash_progress'), 0)
  })

  it('every function calls nothing of it, whatever it is given', async (test) => {
    const { rows: functions } = await db.query(`
      SELECT format('%I.%I', pronamespace::regnamespace, proname) AS name, ARRAY(
        SELECT format('%I.%I', t.typnamespace::regnamespace, t.typname) FROM unnest(proargtypes::oid[]) WITH ORDINALITY AS a (type, n)
        JOIN pg_type AS t ON t.oid = a.type ORDER BY n) AS types
      FROM pg_proc WHERE pronamespace::regnamespace::text IN ${SCHEMAS} AND prokind = 'f'
        AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) ORDER BY 1`)
    assert.ok(functions.length > 80)
    const { api_key: key, key_id: id } = await issue(db)
    const samples = {
      text: [key, 'one', 'free', 'note', 'read'],
      uuid: [id],
      jsonb: ['{}', '{"name": "x"}', '[]'],
      json: ['{}'],
      bool: ['true'],
      _text: ['{a:read}', '{admin}'],
      inet: ['192.0.2.1'],
      _inet: ['{192.0.2.0/24}'],
      interval: ['1 day'],
      int4: ['1'],
      int8: ['1'],
      name: ['authenticated', 'app'],
      regclass: ['app.notes', 'app.teams'],
      timestamptz: ['2999-01-01'],
      _uuid: [`{${id}}`],
      _int8: ['{1}'],
      _name: ['{id}'],
      regprocedure: ['api_key.has_scope(text)'],
    }
    const argument = (type, round) => {
      const [schema, name] = type.split('.')
      const values = samples[name] ?? []
      if (name === 'keys' && schema === 'api_key_internal' && round > 0) {
        return '(SELECT k FROM api_key_internal.keys AS k LIMIT 1)'
      }
      return round > 0 && values.length
        ? `'${values[(round - 1) % values.length]}'::${type}`
        : `NULL::${type}`
    }
    let calls = 0
    await db.query(`SET statement_timeout = '10s'`)
    for (const { name, types } of functions) {
      for (let round = 0; round <= 5; round++) {
        const text = `SELECT ${name}(${types.map((type) => argument(type, round)).join(', ')})`
        const { traps } = await inTheWay(text, { undone: true })
        assert.deepEqual(traps, [], text)
        calls++
      }
    }
    await db.query('RESET statement_timeout')
    test.diagnostic(`${calls} calls of ${functions.length} functions`)
  })

  it('every view and every default calls nothing of it', async () => {
    const { rows } = await db.query(`SELECT oid::regclass::text AS name, relkind FROM pg_class
      WHERE relnamespace::regnamespace::text IN ${SCHEMAS} AND relkind IN ('r', 'v')`)
    assert.ok(rows.some(({ relkind }) => relkind === 'v'))
    for (const { name, relkind } of rows) {
      const text = relkind === 'v' ? `SELECT * FROM ${name}` : `INSERT INTO ${name} DEFAULT VALUES`
      const { traps } = await inTheWay(text, { undone: true })
      assert.deepEqual(traps, [], text)
    }
  })

  it('policies and triggers of guarded tables call nothing of it', async () => {
    const owner = randomUUID()
    const { api_key: key } = await issue(db, { p_user_id: owner, p_tenant_id: randomUUID() })
    const user = await cluster.connect('app', 'authenticator')
    user.on('notice', ({ message }) => /^sprung/.test(message) && sprung.push(message))
    for (const [text, code] of [
      [`INSERT INTO app.teams (name) VALUES ('a')`],
      [`INSERT INTO app.notes (owner_id, team, text) SELECT '${owner}', id, 'mine' FROM app.teams`],
      [`INSERT INTO app.notes (tenant_id, text) VALUES ('${randomUUID()}', 'not mine')`, '42501'],
      ['SELECT text FROM app.notes'],
      [`UPDATE app.notes SET text = 'still mine'`],
      [`INSERT INTO app.papers (text) VALUES ('x')`, '42501'],
      ['SELECT text FROM app.papers'],
      [`SELECT api_key.authorize('note', '${randomUUID()}', 'read')`],
      ['DELETE FROM app.notes'],
      ['DELETE FROM app.teams'],
    ]) {
      await user.query('BEGIN')
      await user.query(`SELECT set_config('request.headers', $1, true), set_config('role', 'anon', true)`,
        [JSON.stringify({ 'x-api-key': key })])
      await user.query('SELECT api_key.authenticate_request()')
      sprung.length = 0
      await user.query(`SET LOCAL ${HOSTILE}`)
      const error = await user.query(text).then(() => undefined, (error) => error)
      const traps = [...sprung]
      await user.query('COMMIT')
      assert.deepEqual([traps, error?.code], [[], code], `${text}: ${error}`)
    }
  })
})
