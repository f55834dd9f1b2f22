// What verifies leave in memory gets written: in every database, over errors and restarts.

import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import {
  call,
  codeOf,
  forged,
  issue,
  partsOf,
  stats,
  until,
  useCluster,
  value,
  withWrongSecret,
} from './harness.mjs'

const CHEAP = { 'api_key.argon2_memory_kib': 64, 'api_key.argon2_iterations': 1 }

async function verify(client, key, times) {
  const valid = await value(client, `
    SELECT count(*) FILTER (WHERE code = 'VALID')::integer
    FROM (SELECT api_key.verify_api_key($1) ->> 'code' AS code FROM generate_series(1, $2::integer)) AS v`,
  [key, times])
  assert.equal(valid, times)
}

const written = (client) =>
  value(client, 'SELECT coalesce(sum(usage_count), 0)::integer FROM api_key_internal.key_usage')

describe('the worker', () => {
  let cluster, client
  useCluster({ ...CHEAP, 'api_key.flush_interval': 3600 }, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
    client = await cluster.connect('app')
  })

  async function flushEvery(interval) {
    await client.query(`ALTER SYSTEM SET api_key.flush_interval = '${interval}'`)
    await client.query('SELECT pg_reload_conf()')
  }

  const occurrences = (text) => cluster.log.split(text).length - 1

  it('writes use counts, last use and its address', async () => {
    const { api_key: key, key_id: id } = await issue(client)
    await verify(client, key, 3)
    assert.equal(await codeOf(client, key, { p_client_ip: '2001:db8::1' }), 'VALID')
    await codeOf(client, withWrongSecret(key))
    assert.equal(await written(client), 0)
    await call(client, 'flush_usage')
    const { rows: [row] } = await client.query(`
      SELECT usage_count, failure_count, last_used_ip, now() - last_used_at < interval '1 minute' AS recent
      FROM api_key_internal.key_usage WHERE key_id = $1`, [id])
    assert.deepEqual(row, { usage_count: '4', failure_count: '1', last_used_ip: '2001:db8::1', recent: true })
    assert.equal(await value(client,
      'SELECT usage_count::integer FROM api_key.list_api_keys() WHERE key_id = $1', [id]), 4)
  })

  it('writes for any number of databases, each its own, without being told', async () => {
    const databases = await Promise.all([1, 2, 3].map(async (times) => {
      const database = await cluster.connect(await cluster.database(`counts_${times}`))
      return { database, times: times * 11, key: (await issue(database)).api_key }
    }))
    for (const { database, key, times } of databases) await verify(database, key, times)
    await flushEvery('1s')
    for (const { database, times } of databases) {
      await until('its counts', async () => await written(database) === times)
    }
    await flushEvery('1h')
    assert.equal((await stats(client)).usage_entries, 0)
  })

  it('has nothing to write for an extension that was dropped', async () => {
    const dropped = await cluster.connect(await cluster.database('without'))
    await verify(dropped, (await issue(dropped)).api_key, 5)
    await codeOf(dropped, forged())
    await dropped.query('DROP EXTENSION api_key')
    await call(client, 'flush_usage')
    assert.equal((await stats(client)).usage_entries, 0)
    await dropped.query('CREATE EXTENSION api_key')
    await verify(dropped, (await issue(dropped)).api_key, 2)
    await call(dropped, 'flush_usage')
    assert.equal(await written(dropped), 2)
  })

  /** A database that was dropped with use counts still in memory. */
  async function dropUsed(name, flush) {
    const gone = await cluster.connect(await cluster.database(name))
    await verify(gone, (await issue(gone)).api_key, 5)
    if (flush) await call(gone, 'flush_usage')
    await verify(gone, (await issue(gone)).api_key, 5)
    await gone.end()
    await until(
      `DROP DATABASE ${name}`,
      () =>
        client.query(`DROP DATABASE ${name}`).then(
          () => true,
          ({ code }) => {
            assert.equal(code, '55006') // Our own session may take a moment to leave.
          }
        ),
      10_000
    )
  }

  it('occupies no database that is to be dropped, and forgets it', async () => {
    await flushEvery('1s')
    const before = occurrences('FATAL')
    await dropUsed('gone', true)
    await until('it to be forgotten', async () => (await stats(client)).usage_entries === 0)
    await flushEvery('1h')
    const fatal = occurrences('FATAL')
    assert.ok(fatal - before <= 3, `${fatal - before} errors for a dropped database`)
    for (let n = 0; n < 5; n++) await call(client, 'flush_usage')
    assert.equal(occurrences('FATAL'), fatal)
  })

  it('flushes the other databases without an error beside one that was dropped', async () => {
    const { api_key: key } = await issue(client)
    const before = await written(client)
    await dropUsed('gone_too', false)
    await verify(client, key, 3)
    try {
      await call(client, 'flush_usage')
    } finally {
      await flushEvery('1s')
      await until('it to be forgotten', async () => (await stats(client)).usage_entries === 0)
      await flushEvery('1h')
    }
    assert.equal(await written(client), before + 3)
  })

  it('keeps what it could not write, says why, and serves the other databases', async () => {
    const { api_key: key } = await issue(client)
    const before = await written(client)
    const bystander = await cluster.connect(await cluster.database('bystander'))
    await verify(bystander, (await issue(bystander)).api_key, 4)
    await verify(client, key, 6)
    const locker = await cluster.connect('app')
    await locker.query('BEGIN; LOCK TABLE api_key_internal.key_usage')
    await assert.rejects(call(client, 'flush_usage'), { code: '58000' }).finally(() => locker.end())
    const told = await stats(client)
    assert.match(told.last_error, /lock timeout/)
    assert.ok(told.last_error_at && told.usage_entries === 1)
    assert.equal(await written(bystander), 4)
    await verify(client, key, 3)
    await call(client, 'flush_usage')
    assert.equal(await written(client), before + 9)
  })

  it('comes back when its launcher is terminated', async () => {
    const { api_key: key } = await issue(client)
    const before = await written(client)
    await verify(client, key, 2)
    const [pid] = await cluster.processes('api_key launcher')
    process.kill(pid, 'SIGTERM')
    await until('another launcher', async () => {
      const [other] = await cluster.processes('api_key launcher')
      return other && other !== pid
    }, 15_000)
    await call(client, 'flush_usage')
    assert.equal(await written(client), before + 2)
  })

  for (const mode of ['fast', 'smart']) {
    it(`loses nothing over a ${mode} shutdown`, async () => {
      const { api_key: key, key_id: id } = await issue(client)
      const before = await written(client)
      await verify(client, key, 7)
      for (let n = 0; n < 4; n++) await codeOf(client, forged(partsOf(key)), { p_client_ip: '192.0.2.1' })
      const file = join(cluster.dir, 'data/pg_stat/api_key.json')
      await cluster.stop(mode)
      assert.ok(existsSync(file))
      await cluster.resume()
      client = await cluster.connect('app')
      assert.equal((await stats(client)).memo_entries, 0)
      await verify(client, key, 1)
      await call(client, 'flush_usage')
      assert.equal(await written(client), before + 8)
      assert.ok(!existsSync(file), 'what is written is not read again')
      assert.deepEqual(
        (
          await client.query(
            `SELECT details ->> 'code' AS code, details ->> 'count' AS count
        FROM api_key.audit_log WHERE event = 'refused' AND key_id = $1`,
            [id]
          )
        ).rows,
        [{ code: 'NOT_FOUND', count: '4' }]
      )
    })
  }
})

describe('without preloading', () => {
  let cluster
  useCluster({ ...CHEAP, shared_preload_libraries: '' }, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
  })

  it('everything verifies, each session remembers for itself, and is told once what is missing', async () => {
    const issuer = await cluster.connect('app')
    const { api_key: key, key_id: id } = await issue(issuer)
    const warnings = []
    for (let session = 0; session < 2; session++) {
      const client = await cluster.connect('app')
      client.on('notice', (notice) => warnings.push(notice))
      for (let n = 0; n < 5; n++) assert.equal(await codeOf(client, key), 'VALID')
      const { preloaded, hashes_run: run, memo_hits: hits } = await stats(client)
      assert.deepEqual([preloaded, run, hits], [false, 1, 4])
      const codes = []
      for (let n = 0; n < 12; n++) codes.push(await codeOf(client, forged(partsOf(key))))
      assert.deepEqual(codes, [...Array(10).fill('NOT_FOUND'), 'THROTTLED', 'THROTTLED'])
      assert.equal(await codeOf(client, key), 'VALID')
      assert.equal(warnings.length, session + 1)
    }
    for (const { severity, message, hint } of warnings) {
      assert.equal(severity, 'WARNING')
      assert.match(message, /not preloaded/)
      assert.match(hint, /shared_preload_libraries/)
    }
    await assert.rejects(call(issuer, 'flush_usage'),
      (error) => error.code === '55000' && /shared_preload_libraries/.test(error.hint))
    await call(issuer, 'revoke_api_key', { p_key_id: id })
    assert.equal(await codeOf(await cluster.connect('app'), key), 'REVOKED')
  })
})
