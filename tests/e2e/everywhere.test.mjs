// Verify works wherever a SELECT does, and writes nothing there.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { codeOf, forged, issue, partsOf, useCluster, value } from './harness.mjs'

const CODES = ['VALID', 'NOT_FOUND']

describe('verify, wherever a SELECT works', () => {
  let cluster, client, key, wrong

  const settings = { 'api_key.argon2_memory_kib': 64, 'api_key.argon2_iterations': 1,
    'api_key.failure_limit': 1000, 'api_key.flush_interval': 3600 }
  useCluster(settings, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
    client = await cluster.connect('app')
    key = (await issue(client)).api_key
    wrong = forged(partsOf(key))
    await client.query(`
      CREATE TABLE presented AS
        SELECT n, CASE WHEN n % 2 = 1 THEN '${key}' ELSE '${wrong}' END AS key FROM generate_series(1, 200) AS n;
      CREATE FUNCTION in_sql(k text) RETURNS text LANGUAGE sql STABLE
        AS $$ SELECT api_key.verify_api_key(k) ->> 'code' $$;
      CREATE FUNCTION in_plpgsql(k text) RETURNS text LANGUAGE plpgsql
        AS $$ BEGIN RETURN api_key.verify_api_key(k) ->> 'code'; END $$;
      CREATE FUNCTION in_handler(k text) RETURNS text LANGUAGE plpgsql AS $$
        DECLARE
          v_code text;
        BEGIN
          BEGIN
            v_code := api_key.verify_api_key(k) ->> 'code';
            PERFORM 1 / 0;
          EXCEPTION WHEN division_by_zero THEN
            IF v_code = api_key.verify_api_key(k) ->> 'code' THEN RETURN v_code; END IF;
          END;
        END $$`)
  })

  it('is declared STABLE and without another user', async () => {
    const { rows } = await client.query(`
      SELECT DISTINCT provolatile, prosecdef FROM pg_proc
      WHERE pronamespace = 'api_key'::regnamespace AND proname IN ('verify_api_key', 'verify_api_key_hash')`)
    assert.deepEqual(rows, [{ provolatile: 's', prosecdef: false }])
  })

  const transactions = [
    'READ ONLY', 'ISOLATION LEVEL REPEATABLE READ', 'ISOLATION LEVEL REPEATABLE READ READ ONLY',
    'ISOLATION LEVEL SERIALIZABLE', 'ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE',
  ]
  const calls = {
    'a SELECT': (argument) => `api_key.verify_api_key(${argument}) ->> 'code'`,
    'the drop-in': (argument) => `api_key.verify_api_key_hash(${argument}) ->> 'code'`,
    'a function in SQL': (argument) => `in_sql(${argument})`,
    'a function in plpgsql': (argument) => `in_plpgsql(${argument})`,
    'an EXCEPTION block and its handler': (argument) => `in_handler(${argument})`,
  }
  for (const transaction of transactions) {
    for (const [where, expression] of Object.entries(calls)) {
      it(`answers in ${where}, ${transaction}`, async () => {
        await client.query(`BEGIN ${transaction}`)
        const { rows: [codes] } = await client.query(
          { text: `SELECT ${expression('$1')}, ${expression('$2')}`, values: [key, wrong], rowMode: 'array' })
        assert.deepEqual(codes, CODES)
        // An EXCEPTION block is a subtransaction: PostgreSQL may give that an id, verify gives none.
        const xid = await value(client, 'SELECT pg_current_xact_id_if_assigned()::text')
        assert.equal(xid, null)
        await client.query('COMMIT')
      })
    }
  }

  it('answers through a cursor, after an error in a savepoint too', async () => {
    await client.query('BEGIN')
    await client.query(`DECLARE answers CURSOR FOR
      SELECT api_key.verify_api_key(key) ->> 'code' AS code FROM presented ORDER BY n`)
    const fetch = async () => (await client.query('FETCH 2 FROM answers')).rows.map((row) => row.code)
    assert.deepEqual(await fetch(), CODES)
    await client.query('SAVEPOINT before')
    await assert.rejects(
      client.query('SELECT 1 / length(api_key.verify_api_key($1) ->> $2) - 1 / 0', [key, 'code'])
    )
    await client.query('ROLLBACK TO before')
    assert.deepEqual(await fetch(), CODES)
    await client.query('COMMIT')
  })

  it('answers in a parallel plan', async () => {
    const version = Number(await value(client, 'SHOW server_version_num'))
    const force = version >= 160000 ? 'debug_parallel_query' : 'force_parallel_mode'
    const parallel = await cluster.connect('app')
    await parallel.query(`SET ${force} = on; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
      SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2`)
    const query = `SELECT api_key.verify_api_key(key) ->> 'code' AS code, count(*)::integer
      FROM presented WHERE n > 0 GROUP BY 1 ORDER BY 1`
    const { rows: plan } = await parallel.query(`EXPLAIN ${query}`)
    assert.match(JSON.stringify(plan), /Gather/)
    assert.deepEqual((await parallel.query(query)).rows,
      [{ code: 'NOT_FOUND', count: 100 }, { code: 'VALID', count: 100 }])
    assert.deepEqual([await codeOf(parallel, key), await codeOf(parallel, wrong)], CODES)
  })

  it('answers in prepared statements and functions when the extension was made again', async () => {
    const other = await cluster.connect('app')
    const prepared = (session, text) =>
      session
        .query({
          name: 'verify',
          text: `SELECT api_key.verify_api_key($1) ->> 'code' AS code, in_plpgsql($1) AS inside`,
          values: [text],
        })
        .then(({ rows: [row] }) => [row.code, row.inside])
    for (let n = 0; n < 7; n++) { // Past the five custom plans: a generic one is kept.
      for (const session of [client, other])
        assert.deepEqual(await prepared(session, key), ['VALID', 'VALID'])
    }
    await client.query('DROP EXTENSION api_key')
    for (const session of [client, other])
      await assert.rejects(prepared(session, key), { code: /42883|3F000/ })
    await client.query('CREATE EXTENSION api_key')
    const again = (await issue(client)).api_key
    for (const session of [client, other]) {
      assert.deepEqual(await prepared(session, again), ['VALID', 'VALID'])
      assert.deepEqual(await prepared(session, key), ['NOT_FOUND', 'NOT_FOUND'])
    }
  })
})
