// A backend that verifies for days stays as small as it was.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, it } from 'node:test'
import { call, forged, issue, partsOf, stats, useCluster, value } from './harness.mjs'

const VERIFIES = Number(process.env.MEMORY_VERIFIES ?? 2_000_000)
const ALLOWED_KB = 1024

describe('memory of a backend', () => {
  let client, pid, key, wrong
  // The default cost: the work area of a hash is 19 MiB.
  useCluster({ 'api_key.flush_interval': 3600, 'api_key.failure_limit': 1000 }, async (cluster) => {
    await cluster.database('app')
    client = await cluster.connect('app')
    pid = await value(client, 'SELECT pg_backend_pid()')
    key = (await issue(client)).api_key
    wrong = forged(partsOf(key))
  })

  const residentKb = () =>
    Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))[1])

  /** Ways to verify many times; each gets a key and says how often it was VALID. */
  const ways = {
    'in one statement': (times) => value(client, `
      SELECT count(*) FILTER (WHERE v ->> 'code' = 'VALID')::integer
      FROM (SELECT api_key.verify_api_key($1, ARRAY[]::text[], '192.0.2.1') AS v
            FROM generate_series(1, $2::integer)) AS verified`, [key, times]),
    'in a function': (times) => value(client, 'SELECT in_function($1, $2)', [key, times]),
  }

  // In statements of one size: what PostgreSQL keeps of generate_series is then always the same.
  const AT_ONCE = 50_000
  async function verify(times) {
    for (let done = 0; done < times; done += 2 * AT_ONCE) {
      for (const [way, verified] of Object.entries(ways)) assert.equal(await verified(AT_ONCE), AT_ONCE, way)
    }
  }

  it(`is flat over ${VERIFIES} verifies`, async (test) => {
    await client.query(`
      CREATE FUNCTION in_function(k text, times integer) RETURNS integer LANGUAGE plpgsql AS $$
      DECLARE
        v_valid integer := 0;
      BEGIN
        FOR n IN 1..times LOOP
          IF api_key.verify_api_key_hash(k) ->> 'code' = 'VALID' THEN v_valid := v_valid + 1; END IF;
          PERFORM api_key.verify_api_key('nonsense');
        END LOOP;
        RETURN v_valid;
      END $$`)
    const start = residentKb()
    await verify(VERIFIES / 10)
    const warm = residentKb()
    await verify(VERIFIES - VERIFIES / 10)
    const end = residentKb()
    test.diagnostic(
      `resident: ${start} kB at first, ${warm} kB after ${VERIFIES / 10}, ${end} kB after ${VERIFIES} verifies`
    )
    assert.ok(end - warm < ALLOWED_KB, `grew by ${end - warm} kB`)
    const { memo_hits: hits } = await stats(client)
    assert.equal(hits, VERIFIES - 1)
    await call(client, 'flush_usage')
    assert.equal(
      await value(client, 'SELECT sum(usage_count)::integer FROM api_key_internal.key_usage'),
      VERIFIES
    )
  })

  it('is given back after each hash', async (test) => {
    const hash = (times) =>
      value(
        client,
        `SELECT count(api_key.verify_api_key($1) ->> 'code') FROM generate_series(1, $2::integer)`,
        [wrong, times]
      )
    await hash(5)
    const warm = residentKb()
    await hash(50)
    const end = residentKb()
    test.diagnostic(`resident: ${warm} kB after 5, ${end} kB after 55 hashes of 19 MiB`)
    assert.ok(end - warm < ALLOWED_KB, `grew by ${end - warm} kB`)
  })
})
