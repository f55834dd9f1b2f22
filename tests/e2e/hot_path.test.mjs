// Verify at speed: what is hashed and what is not, who has to wait, and what a flood leaves behind.

import assert from 'node:assert/strict'
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

// Hashes that cost nothing, and a worker that writes only when it is told to.
const CHEAP = {
  'api_key.argon2_memory_kib': 64, 'api_key.argon2_iterations': 1, 'api_key.flush_interval': 3600 }

/** How much each statistic grows while `action` runs. */
async function growth(client, action) {
  const before = await stats(client)
  await action()
  const after = await stats(client)
  return Object.fromEntries(Object.keys(after).map((name) => [name, after[name] - before[name]]))
}

/** How often each code was the answer. */
const tally = (codes) => codes.reduce((counts, code) => ({ ...counts, [code]: (counts[code] ?? 0) + 1 }), {})

const sessions = (cluster, count) => Promise.all(Array.from({ length: count }, () => cluster.connect('app')))

describe('what is hashed', () => {
  const LIMIT = 10 // The default of api_key.failure_limit.
  let cluster, first, second, many

  useCluster(CHEAP, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
    first = await cluster.connect('app')
    second = await cluster.connect('app')
    many = await sessions(cluster, 30)
  })

  it('hashes a secret once, whichever session asks next', async () => {
    const { api_key: key } = await issue(first)
    const cold = await growth(first, async () => assert.equal(await codeOf(first, key), 'VALID'))
    assert.deepEqual([cold.hashes_run, cold.memo_misses, cold.memo_hits], [1, 1, 0])
    const warm = await growth(second, async () => {
      assert.equal(await codeOf(second, key), 'VALID')
      const dropIn = await call(second, 'verify_api_key_hash', { p_api_key: key })
      assert.equal(dropIn.code, 'VALID')
      assert.equal(await codeOf(await cluster.connect('app'), key), 'VALID')
    })
    assert.deepEqual([warm.hashes_run, warm.memo_misses, warm.memo_hits], [0, 0, 3])
  })

  it('hashes no forged key, although its checksum is right', async () => {
    const { api_key: key } = await issue(first)
    const grown = await growth(first, async () => {
      for (let n = 0; n < 500; n++) assert.equal(await codeOf(first, forged()), 'NOT_FOUND')
      for (let n = 0; n < 50; n++) {
        const { id } = partsOf(key)
        assert.equal(await codeOf(first, forged({ id, prefix: 'sk_test_' })), 'NOT_FOUND')
        assert.equal(await codeOf(first, `${forged().slice(0, -1)}_`), 'MALFORMED')
      }
    })
    assert.deepEqual([grown.hashes_run, grown.throttled], [0, 0])
    assert.equal(await codeOf(first, key), 'VALID')
  })

  it('hashes as many wrong secrets for a key id as its failure budget has, and no more', async () => {
    const { api_key: key } = await issue(first)
    const { id } = partsOf(key)
    assert.equal(await codeOf(first, key), 'VALID')
    const grown = await growth(first, async () => {
      const codes = []
      for (let n = 0; n < 100; n++) codes.push(await codeOf(first, forged({ id })))
      assert.deepEqual(codes, [...Array(LIMIT).fill('NOT_FOUND'), ...Array(100 - LIMIT).fill('THROTTLED')])
      assert.equal(await codeOf(second, forged({ id })), 'THROTTLED')
      assert.equal(await codeOf(first, key), 'VALID')
      assert.equal(await codeOf(second, key), 'VALID')
    })
    assert.deepEqual([grown.hashes_run, grown.throttled], [LIMIT, 100 - LIMIT + 1])
    const other = await issue(first)
    assert.equal(await codeOf(first, withWrongSecret(other.api_key)), 'NOT_FOUND')
  })

  it('does not exceed the failure budget when many ask at once', async () => {
    for (let round = 0; round < 20; round++) {
      const { id } = partsOf((await issue(first)).api_key)
      const grown = await growth(first, async () => {
        const codes = await Promise.all(many.map((client) => codeOf(client, forged({ id }))))
        assert.deepEqual(tally(codes), { NOT_FOUND: LIMIT, THROTTLED: many.length - LIMIT })
      })
      assert.equal(grown.hashes_run, LIMIT)
    }
  })

  it('gives the failure budget back in time', async () => {
    const { api_key: key } = await issue(first)
    const { id } = partsOf(key)
    await first.query('SET api_key.failure_limit = 60') // One comes back every second.
    const code = () => codeOf(first, forged({ id }))
    await until('the end of the budget', async () => await code() === 'THROTTLED')
    await until('its return', async () => await code() === 'NOT_FOUND', 5000)
    await first.query('RESET api_key.failure_limit')
  })
})

describe('room to hash', () => {
  const settings = { ...CHEAP, 'api_key.max_concurrent_hashes': 1, 'api_key.failure_limit': 1000 }
  const COSTLY = { memory: 64 * 1024, iterations: 40 } // More than a second.
  let cluster, admin, costly, crowd

  useCluster(settings, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
    admin = await cluster.connect('app')
    crowd = await sessions(cluster, 20)
    costly = await issueCosting(COSTLY)
  })

  /** A key that nothing matches: its hash says that it cost as much, which no setting allows. */
  async function issueCosting({ memory, iterations }) {
    const issuer = await cluster.connect('app')
    const { api_key: key, key_id: id } = await issue(issuer)
    await issuer.query(`UPDATE api_key_internal.keys SET secret_hash = regexp_replace(secret_hash,
      'm=\\d+,t=\\d+', 'm=${memory},t=${iterations}') WHERE key_id = $1`, [id])
    await issuer.end()
    return key
  }

  async function issueAtCost({ memory, iterations }) {
    const issuer = await cluster.connect('app')
    await issuer.query(
      `SET api_key.argon2_memory_kib = ${memory}; SET api_key.argon2_iterations = ${iterations}`
    )
    const { api_key: key } = await issue(issuer)
    await issuer.end()
    return key
  }

  const running = async () => (await stats(admin)).hashes_running
  const pidOf = (client) => value(client, 'SELECT pg_backend_pid()')

  /** Runs `action` while another session hashes, and fails if that did not last as long. */
  async function whileHashing(action) {
    let ended = false
    const hashing = codeOf(crowd[0], forged(partsOf(costly))).finally(() => { ended = true })
    await until('the hash to begin', async () => await running() === 1)
    try {
      await action()
      assert.ok(!ended, 'the hash was to last longer than what was tested beside it')
    } finally {
      assert.equal(await hashing, 'NOT_FOUND')
    }
    await until('the end of all hashes', async () => await running() === 0)
  }

  /** Until each of these questions waits for room or has its answer. */
  async function untilWaiting(questions) {
    let answered = 0
    const count = () => { answered++ }
    questions.forEach((question) => question.then(count, count))
    await until('sessions to wait for room', async () => answered + await value(admin, `
      SELECT count(*)::integer FROM pg_stat_activity
      WHERE wait_event_type = 'Extension' AND backend_type = 'client backend'`) === questions.length)
  }

  it('lets those wait for whom there is none, and hashes no more at a time', async () => {
    const keys = []
    const waiters = crowd.slice(0, 6)
    for (const client of waiters) keys.push([client, await issueAtCost({ memory: 8192, iterations: 10 })])
    for (const [client] of keys) await client.query('SET api_key.hash_queue_timeout = 60000')
    const grown = await growth(admin, async () => {
      let most = 0
      let asked = true
      const watch = (async () => { while (asked) most = Math.max(most, await running()) })()
      const codes = await Promise.all(keys.map(([client, key]) => codeOf(client, key)))
      asked = false
      await watch
      assert.deepEqual(tally(codes), { VALID: waiters.length })
      assert.equal(most, 1)
    })
    assert.ok(grown.hashes_waited >= 1 && grown.hashes_waited < waiters.length, JSON.stringify(grown))
    assert.deepEqual([grown.hashes_run, grown.hashes_refused, await running()], [waiters.length, 0, 0])
    for (const client of waiters) await client.query('RESET api_key.hash_queue_timeout')
  })

  it('answers OVERLOADED when the wait was too long, and VALID to those who need no hash', async () => {
    const [known, cold] = [await issue(admin), await issue(admin)]
    assert.equal(await codeOf(admin, known.api_key), 'VALID')
    const grown = await growth(admin, () => whileHashing(async () => {
      for (const timeout of [0, 50]) {
        await crowd[1].query(`SET api_key.hash_queue_timeout = ${timeout}`)
        const asked = performance.now()
        assert.equal(await codeOf(crowd[1], cold.api_key), 'OVERLOADED')
        assert.ok(performance.now() - asked >= timeout - 2) // The clocks are two.
      }
      assert.equal(await codeOf(crowd[1], known.api_key), 'VALID')
    }))
    assert.deepEqual([grown.hashes_run, grown.hashes_waited, grown.hashes_refused], [1, 2, 2])
    assert.equal(await codeOf(crowd[1], cold.api_key), 'VALID')
  })

  it('lets a wait be cancelled, at no cost to the failure budget', async () => {
    const { api_key: cold } = await issue(admin)
    const waiter = crowd[2]
    const pid = await pidOf(waiter)
    await waiter.query('SET api_key.hash_queue_timeout = 60000')
    await waiter.query('SET api_key.failure_limit = 3')
    await whileHashing(async () => {
      for (let n = 0; n < 5; n++) {
        const outcome = codeOf(waiter, cold).catch((error) => error.code)
        await untilWaiting([outcome])
        await value(admin, 'SELECT pg_cancel_backend($1)', [pid])
        assert.equal(await outcome, '57014')
      }
    })
    assert.equal(await codeOf(waiter, cold), 'VALID')
  })

  it('has room for a holder who was never wrong, however many ask at once', async () => {
    const { api_key: cold } = await issue(admin)
    for (const client of crowd) {
      await client.query('SET api_key.hash_queue_timeout = 60000; SET api_key.failure_limit = 10')
    }
    const [, ...holders] = crowd
    let questions
    await whileHashing(async () => {
      questions = holders.map((client) => codeOf(client, cold))
      await untilWaiting(questions)
    })
    assert.deepEqual(tally(await Promise.all(questions)), { VALID: holders.length })
  })

  it('hashes no more wrong secrets than the failure budget has, also of those that waited together', async () => {
    const { id } = partsOf((await issue(admin)).api_key)
    for (const client of crowd) {
      await client.query('SET api_key.hash_queue_timeout = 60000; SET api_key.failure_limit = 10')
    }
    const [, ...askers] = crowd
    let questions
    const grown = await growth(admin, async () => {
      await whileHashing(async () => {
        questions = askers.map((client) => codeOf(client, forged({ id })))
        await untilWaiting(questions)
      })
      assert.deepEqual(tally(await Promise.all(questions)), { NOT_FOUND: 10, THROTTLED: askers.length - 10 })
    })
    assert.equal(grown.hashes_run, 1 + 10)
  })

  it('lets a session be terminated in its wait, and while it hashes', async () => {
    const { api_key: cold } = await issue(admin)
    await whileHashing(async () => {
      const waiter = await cluster.connect('app')
      const pid = await pidOf(waiter)
      await waiter.query('SET api_key.hash_queue_timeout = 60000')
      const waiting = assert.rejects(codeOf(waiter, cold))
      await untilWaiting([waiting])
      await value(admin, 'SELECT pg_terminate_backend($1)', [pid])
      await waiting
    })
    const hasher = await cluster.connect('app')
    const pid = await pidOf(hasher)
    const hashing = codeOf(hasher, forged(partsOf(costly))).catch(() => {})
    await until('the hash to begin', async () => await running() === 1)
    await value(admin, 'SELECT pg_terminate_backend($1)', [pid])
    await hashing
    await until('room', async () => await running() === 0)
    assert.equal(await codeOf(admin, cold), 'VALID')
  })
})

describe('refusals', () => {
  let cluster, client
  useCluster(CHEAP, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
    client = await cluster.connect('app')
  })

  it('are a few rows in the audit log when they were a flood, although each rolled back', async () => {
    const known = await issue(client)
    const revoked = await issue(client)
    await call(client, 'revoke_api_key', { p_key_id: revoked.key_id })
    assert.equal(await codeOf(client, known.api_key), 'VALID')
    const flood = (key, count, ip = `'192.0.2.1'`) => value(client, `
      SELECT count(api_key.verify_api_key($1, p_client_ip => ${ip}) ->> 'code')
      FROM generate_series(1, $2::integer) AS n`, [key, count])
    // What was written so far is not what this test is about.
    await call(client, 'flush_usage')
    const before = Number(await value(client, 'SELECT coalesce(max(audit_id), 0) FROM api_key.audit_log'))

    for (const [key, count, ip] of [
      [forged(), 5000, `inet '10.0.0.0' + n % 1000`],
      ['nonsense', 1000, `inet '2001:db8::' + n::bigint * 65536`],
      [withWrongSecret(known.api_key), 25],
      [revoked.api_key, 500],
      [known.api_key, 7],
    ]) {
      await client.query('BEGIN')
      assert.equal(Number(await flood(key, count, ip)), count)
      await client.query('ROLLBACK')
    }
    await call(client, 'flush_usage')

    const { rows } = await client.query(`
      SELECT event, key_id, details ->> 'code' AS code, (details ->> 'count')::integer AS count,
             details ->> 'client_ip' AS client_ip
      FROM api_key.audit_log WHERE audit_id > $1`, [before])
    const sums = {}
    for (const { event, code, count } of rows) {
      assert.equal(event, 'refused')
      sums[code] = (sums[code] ?? 0) + count
    }
    assert.deepEqual(sums, { NOT_FOUND: 5000 + 10, MALFORMED: 1000, THROTTLED: 15, REVOKED: 500 })
    // The key is named exactly where it is known, and so is an address that was the only one.
    const by = (id) =>
      rows
        .filter((row) => row.key_id === id)
        .map((row) => [row.code, row.count, row.client_ip])
        .sort()
    assert.deepEqual(by(known.key_id), [['NOT_FOUND', 10, '192.0.2.1'], ['THROTTLED', 15, '192.0.2.1']])
    assert.deepEqual(by(revoked.key_id), [['REVOKED', 500, '192.0.2.1']])
    assert.ok(rows.every(({ key_id: id }) => [null, known.key_id, revoked.key_id].includes(id)))
    assert.ok(rows.length <= 200, `6540 refusals are ${rows.length} rows`)
    const { rows: [usage] } = await client.query(
      'SELECT usage_count, failure_count FROM api_key_internal.key_usage WHERE key_id = $1', [known.key_id])
    assert.deepEqual(usage, { usage_count: '8', failure_count: '10' })
  })
})

describe('better hashes', () => {
  let cluster, client
  const settings = { ...CHEAP, 'api_key.argon2_memory_kib': 128, 'api_key.argon2_iterations': 2 }
  useCluster(settings, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
    client = await cluster.connect('app')
  })

  const storedHash = (id) =>
    value(client, 'SELECT secret_hash FROM api_key_internal.keys WHERE key_id = $1', [id])

  async function issueWeak() {
    await client.query('SET api_key.argon2_memory_kib = 64')
    const issued = await issue(client)
    await client.query('RESET api_key.argon2_memory_kib')
    assert.match(await storedHash(issued.key_id), /^\$argon2id\$v=19\$m=64,t=2,p=1\$/)
    return issued
  }

  it('take the place of weaker ones after a verify, and need no hash of their own', async () => {
    const { api_key: key, key_id: id } = await issueWeak()
    assert.equal(await codeOf(client, key), 'VALID')
    assert.equal((await stats(client)).upgrade_entries, 1)
    await call(client, 'flush_usage')
    assert.match(await storedHash(id), /^\$argon2id\$v=19\$m=128,t=2,p=1\$/)
    assert.equal((await stats(client)).upgrade_entries, 0)
    const other = await cluster.connect('app')
    const grown = await growth(other, async () => assert.equal(await codeOf(other, key), 'VALID'))
    assert.equal(grown.hashes_run, 0)
    assert.equal(await codeOf(other, withWrongSecret(key)), 'NOT_FOUND')
    await cluster.stop()
    await cluster.resume()
    client = await cluster.connect('app')
    assert.equal(await codeOf(client, key), 'VALID', 'with no memo, by the new hash alone')
  })

  it('lose against a rotation in between', async () => {
    const { api_key: key, key_id: id } = await issueWeak()
    assert.equal(await codeOf(client, key), 'VALID')
    const rotated = await call(client, 'rotate_api_key', { p_key_id: id })
    const hash = await storedHash(id)
    assert.equal((await stats(client)).upgrade_entries, 1)
    await call(client, 'flush_usage')
    assert.equal(await storedHash(id), hash)
    assert.equal((await stats(client)).upgrade_entries, 0)
    const other = await cluster.connect('app')
    assert.equal(await codeOf(other, rotated.api_key), 'VALID')
    assert.equal(await codeOf(other, key), 'VALID', 'in its grace')
  })

  it('are not made of what is strong enough, nor by a wrong secret', async () => {
    const strong = await issue(client)
    const weak = await issueWeak()
    assert.equal(await codeOf(client, strong.api_key), 'VALID')
    assert.equal(await codeOf(client, withWrongSecret(weak.api_key)), 'NOT_FOUND')
    assert.equal((await stats(client)).upgrade_entries, 0)
  })
})
