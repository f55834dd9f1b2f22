// Through a real PgBouncer in transaction mode: sessions of clients share the backends.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { call, codeOf, issue, stats, useCluster, value, withWrongSecret } from './harness.mjs'

const CLIENTS = 12
const BACKENDS = 2

describe('through PgBouncer in transaction mode', () => {
  let direct, clients
  const settings = {
    'api_key.argon2_memory_kib': 64,
    'api_key.argon2_iterations': 1,
    'api_key.flush_interval': 3600,
  }
  useCluster(settings, async (cluster) => {
    await cluster.database('app')
    direct = await cluster.connect('app')
    const { port } = await cluster.pgbouncer({ default_pool_size: BACKENDS, max_client_conn: 100 })
    clients = await Promise.all(
      Array.from({ length: CLIENTS }, () => cluster.connect('app', 'postgres', { port }))
    )
  })

  const perClient = (action) => Promise.all(clients.map(action))

  it('verifies with either protocol, and counts exactly', async () => {
    const keys = await perClient((client) => issue(client))
    const pids = new Set()
    await perClient(async (client, n) => {
      const { api_key: key } = keys[n]
      for (let round = 0; round < 20; round++) {
        assert.equal(await codeOf(client, key), 'VALID')
        const simple = await client.query(
          `SELECT api_key.verify_api_key('${key}') ->> 'code' AS code, pg_backend_pid() AS pid`
        )
        assert.equal(simple.rows[0].code, 'VALID')
        pids.add(simple.rows[0].pid)
      }
      assert.equal(await codeOf(client, withWrongSecret(key)), 'NOT_FOUND')
    })
    assert.equal(pids.size, BACKENDS, 'the clients share the backends')
    const { hashes_run: run } = await stats(direct)
    assert.equal(run, CLIENTS * 2, 'one for each secret, one for each wrong one')
    await call(clients[0], 'flush_usage')
    const { rows } = await direct.query(
      'SELECT usage_count::integer, failure_count::integer FROM api_key_internal.key_usage'
    )
    assert.deepEqual(rows, Array(CLIENTS).fill({ usage_count: 40, failure_count: 1 }))
  })

  it('keeps the transactions of its clients apart', async () => {
    const [one, two, three] = clients
    const { api_key: key, key_id: id } = await issue(one)
    await one.query('BEGIN')
    await call(one, 'revoke_api_key', { p_key_id: id })
    assert.equal(await codeOf(one, key), 'REVOKED')
    assert.equal(await codeOf(two, key), 'VALID')
    await one.query('ROLLBACK')
    assert.equal(await codeOf(two, key), 'VALID')
    await three.query('BEGIN READ ONLY')
    assert.equal(await codeOf(three, key), 'VALID')
    assert.equal(await value(three, 'SELECT pg_current_xact_id_if_assigned()::text'), null)
    await three.query('COMMIT')
    await call(one, 'revoke_api_key', { p_key_id: id })
    assert.deepEqual(await perClient((client) => codeOf(client, key)), Array(CLIENTS).fill('REVOKED'))
  })
})
