// There is as much room in memory as is documented, and nobody takes that of others.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { describe, it } from 'node:test'
import { application, CHEAP } from './gate.mjs'
import { call, codeOf, forged, issue, stats, useCluster, value, withWrongSecret } from './harness.mjs'

const ROOM = 64
/** What one user's keys may take of it, for each limit. */
const ONE_USER = ROOM / 16 + 1

const define = (db, name, args = {}) =>
  call(db, 'define_rate_limit', { p_name: name, p_limit: 1, p_period: '1 hour', ...args })
const check = (db, name, subject, cost = 1) =>
  call(db, 'check_rate_limit', { p_name: name, p_subject: String(subject), p_cost: cost })
const isAllowed = async (db, name, subject) => (await check(db, name, subject)).allowed

/** A request at the gate; the status with which it is refused, or 200. */
async function ask(db, { key, client = '192.0.2.1', path = '/x', method = 'GET', headers = {} }) {
  await db.query('BEGIN')
  try {
    const all = { 'x-forwarded-for': client, ...(key ? { 'x-api-key': key } : {}), ...headers }
    await db.query(`SELECT set_config('request.headers', $1, true), set_config('request.path', $2, true),
      set_config('request.method', $3, true)`, [JSON.stringify(all), path, method])
    await db.query('SELECT api_key.authenticate_request()')
    return 200
  } catch ({ code, detail, message }) {
    assert.equal(code, 'PGRST', message)
    return JSON.parse(detail).status
  } finally {
    await db.query('ROLLBACK')
  }
}

/** Does something so many times, and gives back the answers. */
async function times(count, work) {
  const answers = []
  for (let n = 0; n < count; n++) answers.push(await work(n))
  return answers
}

const count = (answers, answer) => answers.filter((other) => other === answer).length
const ipv4 = (n) => `198.51.${n >> 8}.${n & 255}`

for (const size of [64, 65, 127, 1000]) {
  describe(`room for ${size} subjects`, () => {
    let cluster, db
    useCluster({ ...CHEAP, 'api_key.rate_limit_entries': size, 'api_key.usage_entries': size,
      'api_key.failure_entries': size, 'api_key.refusal_entries': size }, async (fresh) => {
      cluster = fresh
      db = await application(cluster, 'app')
      await define(db, 'long')
      await define(db, 'brief', { p_period: '1 microsecond' })
    })

    it('is what stats say', async () => {
      const all = await stats(db)
      for (const name of [
        'rate_limit',
        'rate_limit_client',
        'rate_limit_check',
        'usage',
        'failure',
        'refusal',
      ]) {
        assert.deepEqual([all[`${name}_capacity`], all[`${name}_entries`]], [size, 0], name)
      }
    })

    // The hash by which places are found is another at each start.
    for (const start of [1, 2, 3]) {
      it(`is had by exactly so many, and found wherever a count has run out: start ${start}`, async () => {
        await cluster.stop()
        await cluster.resume()
        db = await cluster.connect('app')
        await times(size - 1, (n) => isAllowed(db, 'long', n))
        assert.equal(count(await times(2 * size, (n) => isAllowed(db, 'brief', n)), true), 2 * size)
        const answers = await times(size + 20, (n) => isAllowed(db, 'long', size + n))
        assert.deepEqual(answers, [true, ...Array(size + 19).fill(false)])
        const { rate_limit_check_entries: entries, rate_limits_full: full } = await stats(db)
        assert.deepEqual([entries, full], [size, size + 19])
      })
    }
  })
}

describe('room for rate limits', () => {
  let cluster, db, victim, bystanders
  useCluster(
    { ...CHEAP, 'api_key.rate_limit_entries': ROOM, 'api_key.trusted_proxies': 1 },
    async (fresh) => {
      cluster = fresh
      db = await application(cluster, 'app')
      await define(db, 'key', { p_per: 'key', p_limit: 1000 })
      await define(db, 'client', { p_per: 'client', p_limit: 1000 })
      await define(db, 'calls', { p_limit: 1000 })
    }
  )

  const newKey = async (args) => (await issue(db, { p_tier: 'pro', ...args })).api_key
  const full = async () => {
    const {
      rate_limit_entries: keys,
      rate_limit_client_entries: clients,
      rate_limit_check_entries: checks,
    } = await stats(db)
    return { keys, clients, checks }
  }

  /** Attacks, each with what it may fill; what it may not fill has room for others then. */
  const user = randomUUID()
  const ATTACKS = {
    'many subjects of a check': ['checks', (n) => check(db, 'calls', `subject ${n}`)],
    'many texts that are no keys, under the limit of keys': ['checks', (n) => check(db, 'key', `text ${n}`)],
    'many ids of keys that nobody has': ['checks', () => check(db, 'key', randomUUID())],
    'many addresses, under the limit of clients': ['checks', (n) => check(db, 'client', ipv4(n))],
    'ids in other spellings': ['checks', (n) => check(db, 'key', n % 2 ? randomUUID().toUpperCase() : randomUUID().replaceAll('-', ''))],
    'long texts': ['checks', (n) => check(db, 'calls', `${n}`.repeat(5000))],
    'no text': ['', () => check(db, 'calls', '')],
    'texts with many bytes a letter': ['checks', (n) => check(db, 'calls', `\u{1F511}${n}`)],
    'more than a limit allows': ['', (n) => check(db, 'calls', n, 1001)],
    'more than can be counted': ['', (n) => check(db, 'calls', n, 2147483647)],
    'less than nothing': ['', (n) => check(db, 'calls', n, -1).catch(({ code }) => assert.equal(code, '22023'))],
    'limits that there are not': ['', (n) => check(db, `no ${n}`, n).catch(({ code }) => assert.equal(code, '22023'))],
    'checks that roll back': ['checks', async (n) => {
      await db.query('BEGIN')
      await check(db, 'calls', n)
      await db.query('ROLLBACK')
    }],
    'many clients': ['clients', (n) => ask(db, { client: ipv4(n) })],
    'many networks of IPv6': ['clients', (n) => ask(db, { client: `2001:db8:0:${n.toString(16)}::1` })],
    'many addresses of one network of IPv6': ['', (n) => ask(db, { client: `2001:db8::${(n + 1).toString(16)}` })],
    'addresses of IPv4 as IPv6': ['clients', (n) => ask(db, { client: `::ffff:${ipv4(n)}` })],
    'addresses that a client makes up': ['', (n) => ask(db, { client: `${ipv4(n)}, 192.0.2.1` })],
    'addresses that are none': ['', (n) => ask(db, { client: `nobody ${n}` })],
    'many paths': ['', (n) => ask(db, { path: `/path/${n}` })],
    'many methods': ['', (n) => ask(db, { method: `METHOD${n}` })],
    'many headers': ['', (n) => ask(db, { headers: { [`x-${n}`]: 'x' } })],
    'forged keys': ['', () => ask(db, { key: forged() })],
    'wrong secrets of one key': ['', () => ask(db, { key: withWrongSecret(victim) })],
    'texts that are no keys': ['', (n) => ask(db, { key: `text ${n}` })],
    'keys of one user': ['', async () => ask(db, { key: await newKey({ p_user_id: user }) })],
    'keys of one user that are dropped': ['', async () => {
      const { api_key: key, key_id: id } = await issue(db, { p_tier: 'pro', p_user_id: user })
      await ask(db, { key })
      await call(db, 'revoke_api_key', { p_key_id: id })
    }],
    'keys of one user and many tenants': ['', async () => ask(db, { key: await newKey({ p_user_id: user, p_tenant_id: randomUUID() }) })],
    'keys of one user, from many clients': ['clients', async (n) => ask(db, { client: ipv4(n), key: await newKey({ p_user_id: user }) })],
    'ids of keys of one user': ['', async () => check(db, 'key', (await issue(db, { p_tier: 'pro', p_user_id: user })).key_id)],
    'keys that are refused': ['', async () => {
      const { api_key: key, key_id: id } = await issue(db, { p_tier: 'pro' })
      await call(db, 'revoke_api_key', { p_key_id: id })
      assert.equal(await ask(db, { key }), 401)
    }],
    'limits that are defined again': ['', async (n) => {
      await define(db, 'again', { p_limit: 1 + n })
      await check(db, 'again', 'x')
    }, ROOM - 8],
  }

  for (const [attack, [fills, of, most = 3 * ROOM]] of Object.entries(ATTACKS)) {
    it(`is not taken from others by ${attack}`, async () => {
      victim = await newKey()
      bystanders = await times(8, () => newKey())
      await times(most, of)
      const { keys, clients, checks } = await full()
      if (fills !== 'checks') assert.ok(checks <= ROOM - 8, `${checks} checks`)
      if (fills !== 'clients') assert.ok(clients <= 2, `${clients} clients`)
      assert.ok(keys <= ONE_USER, `${keys} keys`)
      if (fills) assert.equal({ clients, checks }[fills], ROOM)
      // Known clients with keys that were not used yet, new clients, and new subjects.
      const client = fills === 'clients' ? ipv4(0) : '203.0.113.1'
      for (const key of bystanders)
        assert.equal(await ask(db, { key, client: fills === 'clients' ? await known() : client }), 200)
      if (fills !== 'clients') assert.equal(await ask(db, { client: '203.0.113.2' }), 200)
      if (fills !== 'checks') assert.equal(await isAllowed(db, 'calls', 'another'), true)
      await cluster.stop()
      await cluster.resume()
      db = await cluster.connect('app')
    })
  }

  /** A client that has its count already. */
  async function known() {
    for (let n = 0; n < ROOM; n++) {
      for (const client of [ipv4(n), `2001:db8:0:${n.toString(16)}::1`])
        if ((await ask(db, { client })) === 200) return client
    }
    return assert.fail('no client is known')
  }

  it('of one user is shared by the keys that are too many, under one rate', async () => {
    await define(db, 'key', { p_per: 'key', p_limit: 2 })
    const keys = await times(3 * ONE_USER, () => newKey({ p_user_id: user }))
    const round = () => times(keys.length, (n) => ask(db, { key: keys[n] }))
    const answers = [await round(), await round(), await round()]
    const apart = Array(ONE_USER - 1).fill(200)
    const others = Array(2 * ONE_USER + 1).fill(429)
    assert.deepEqual(answers[0], [...apart, 200, 200, ...others.slice(2)])
    assert.deepEqual(answers[1], [...apart, ...others])
    assert.deepEqual(answers[2], keys.map(() => 429))
    assert.equal(await ask(db, { key: await newKey() }), 200, 'another user')
    assert.equal((await full()).keys, ONE_USER + 1)
  })

  it('goes with what a check has counted, when the gate begins to count', async () => {
    await define(db, 'key', { p_per: 'key', p_limit: 3, p_period: '2 hours' })
    for (const args of [{}, { p_user_id: null }]) {
      const { api_key: key, key_id: id } = await issue(db, { p_tier: 'pro', ...args })
      const before = await full()
      assert.equal(await isAllowed(db, 'key', id), true)
      assert.equal((await full()).checks, before.checks + 1)
      assert.deepEqual([await ask(db, { key }), await isAllowed(db, 'key', id)], [200, true])
      const { keys, checks } = await full()
      assert.deepEqual([keys, checks], [before.keys + 1, before.checks])
      assert.deepEqual([await ask(db, { key }), await isAllowed(db, 'key', id)], [429, false])
    }
  })
})

describe('room for failure budgets', () => {
  let db, keys
  useCluster({ ...CHEAP, 'api_key.failure_entries': ROOM }, async (cluster) => {
    db = await application(cluster, 'app')
    keys = await times(2 * ROOM, async () => (await issue(db, { p_tier: 'pro' })).api_key)
  })
  const guess = (key) => codeOf(db, withWrongSecret(key))

  it('is found where one has run out, so that it is counted', async () => {
    await db.query('SET api_key.failure_limit = 1000000')
    await times(keys.length, (n) => guess(keys[n]))
    await db.query('SET api_key.failure_limit = 1')
    for (const key of keys.slice(0, ROOM))
      assert.deepEqual([await guess(key), await guess(key)], ['NOT_FOUND', 'THROTTLED'])
    assert.equal((await stats(db)).failure_entries, ROOM)
  })

  it('is bounded: what there is none for is not counted', async () => {
    const last = keys[ROOM]
    assert.deepEqual([await guess(last), await guess(last)], ['NOT_FOUND', 'NOT_FOUND'])
    assert.equal(await guess(keys[0]), 'THROTTLED')
  })
})

describe('room for counts to be written', () => {
  let db
  useCluster(
    { ...CHEAP, 'api_key.usage_entries': ROOM, 'api_key.refusal_entries': ROOM },
    async (cluster) => {
      db = await application(cluster, 'app')
    }
  )

  it('is had by as many keys as are documented, three quarters of them before a flush begins', async () => {
    const keys = await times(ROOM * 3 / 4 - 1, async () => (await issue(db, { p_tier: 'pro' })).api_key)
    const { flushes } = await stats(db)
    await times(keys.length, (n) => codeOf(db, keys[n]))
    const { usage_entries: entries, usage_dropped: dropped, flushes: since } = await stats(db)
    assert.deepEqual([entries, dropped, since], [keys.length, 0, flushes])
    await call(db, 'flush_usage')
    assert.equal(
      await value(db, 'SELECT sum(usage_count)::integer FROM api_key_internal.key_usage'),
      keys.length
    )
  })

  it('is kept by a flood of addresses for kinds of refusals', async () => {
    const flood = 5 * ROOM
    await times(flood, (n) => codeOf(db, forged(), { p_client_ip: ipv4(n) }))
    await codeOf(db, 'x', { p_client_ip: '192.0.2.1' })
    const { refusal_entries: entries, refusal_capacity: capacity } = await stats(db)
    assert.deepEqual([entries, capacity], [ROOM * 3 / 4 + 2, ROOM])
    await call(db, 'flush_usage')
    const { rows } =
      await db.query(`SELECT details ->> 'code' AS code, sum((details ->> 'count')::integer)::integer AS count
      FROM api_key_internal.audit_log WHERE event = 'refused' GROUP BY 1 ORDER BY 1`)
    assert.deepEqual(rows, [{ code: 'MALFORMED', count: 1 }, { code: 'NOT_FOUND', count: flood }])
  })
})
