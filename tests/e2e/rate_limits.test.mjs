// Rate limits let through what they say, whoever asks from how many sides at once.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { describe, it } from 'node:test'
import { CHEAP, application, gate } from './gate.mjs'
import { call, jwt, stats, useCluster, userClaims, value } from './harness.mjs'

const CLIENTS = 32
const HOUR = 3600

const define = (client, name, args = {}) =>
  call(client, 'define_rate_limit', { p_name: name, p_limit: 10, p_period: '1 hour', ...args })

const check = (client, name, subject = 'x', cost = 1) =>
  call(client, 'check_rate_limit', { p_name: name, p_subject: subject, p_cost: cost })

/** How many of a number of checks are allowed. */
async function allowed(client, name, checks, subject) {
  let count = 0
  for (let n = 0; n < checks; n++) count += (await check(client, name, subject)).allowed
  return count
}

/**
 * How many GCRA lets through from the first decision to the last, when there is always someone who
 * asks: the burst, and one for each interval since. `first` and `last` are times around the
 * decisions, in milliseconds: [not before, not after].
 */
function bounds(burst, intervalMs, first, last) {
  const within = (ms) => burst + Math.floor(ms / intervalMs)
  return [within(last[0] - first[1]), within(last[1] - first[0])]
}

/** Asks from many sides until the time is up; notes when the first and the last decision were made. */
async function hammer(clients, seconds, ask) {
  const figures = { allowed: 0, refused: 0, first: [Infinity, Infinity], last: [0, 0] }
  const end = performance.now() + seconds * 1000
  await Promise.all(Array.from({ length: clients }, async (_, n) => {
    for (let round = 0; performance.now() < end; round++) {
      const before = performance.now()
      const isAllowed = await ask(n, round)
      const after = performance.now()
      figures[isAllowed ? 'allowed' : 'refused']++
      figures.first = [Math.min(figures.first[0], before), Math.min(figures.first[1], after)]
      figures.last = [Math.max(figures.last[0], before), Math.max(figures.last[1], after)]
    }
  }))
  return figures
}

function assertExact(test, { allowed, refused, first, last }, burst, intervalMs) {
  const [least, most] = bounds(burst, intervalMs, first, last)
  test.diagnostic(
    `${allowed} allowed of ${allowed + refused}; GCRA allows ${least === most ? most : `${least} to ${most}`} in ${((last[1] - first[0]) / 1000).toFixed(2)} s`
  )
  // Requests that wait for a busy machine blur the ends; the middle still counts for most.
  assert.ok(most - least <= 2 + (last[1] - first[0]) / intervalMs / 20, 'the times say how many')
  assert.ok(allowed >= least && allowed <= most, `${allowed} allowed, of ${least} to ${most}`)
  return [least, most]
}

describe('a rate limit', () => {
  let cluster, open, db

  useCluster({ ...CHEAP, max_connections: 100 }, async (fresh) => {
    cluster = fresh
    open = await gate(cluster, 'open', { 'api_key.trusted_proxies': 1 }, { 'db-pool': 16 })
    db = open.db
  })

  const sessions = (count = CLIENTS) =>
    Promise.all(Array.from({ length: count }, () => cluster.connect('open')))
  const remove = (name) => call(db, 'remove_rate_limit', { p_name: name })

  it(`lets through exactly what it says, of ${CLIENTS} clients of PostgREST for 30 seconds`, async (test) => {
    // 20 at once, then one each 1.7 s.
    await define(db, 'exact', { p_limit: 2, p_period: '3.4 seconds', p_burst: 20, p_per: 'key' })
    const { api_key: key } = await open.issue({ p_scopes: ['articles:*'] })
    const kinds = [
      ['GET', '/documents'],
      ['POST', '/documents', { title: 'x' }],
      ['POST', '/rpc/fail', {}],
      ['GET', '/rpc/publish'],
      ['GET', '/documents?title=eq.x&limit=1'],
      ['HEAD', '/documents'],
      ['GET', '/documents?nonsense=eq.1'],
    ]
    const statuses = {}
    const figures = await hammer(CLIENTS, 30, async (n, round) => {
      const [method, path, body] = kinds[(n + round) % kinds.length]
      const { status, headers } = await open.ask(method, path, { key, body })
      statuses[status] = (statuses[status] ?? 0) + 1
      if (status === 429)
        assert.ok(Number(headers['retry-after']) >= 1 && /^"exact";r=0;/.test(headers.ratelimit))
      return status !== 429
    })
    test.diagnostic(`statuses: ${JSON.stringify(statuses)}`)
    assertExact(test, figures, 20, 1700)
    assert.ok(statuses[200] && statuses[400] && statuses[429] > 1000)
    await remove('exact')
  })

  it(`lets through exactly what it says, of ${CLIENTS} sessions that ask directly`, async (test) => {
    await define(db, 'direct', { p_limit: 1, p_period: '750 milliseconds', p_burst: 50 })
    const clients = await sessions()
    const figures = await hammer(CLIENTS, 5, async (n, round) => {
      if (round % 4 === 1) await clients[n].query('BEGIN READ ONLY')
      else if (round % 4 === 2) await clients[n].query('BEGIN')
      const { allowed: is } = await check(clients[n], 'direct')
      if (round % 4 === 2) await clients[n].query('ROLLBACK')
      else if (round % 4 === 1) await clients[n].query('COMMIT')
      return is
    })
    assertExact(test, figures, 50, 750)
  })

  it('that is changed amid the rush lets through what it said and what it says, and no more', async (test) => {
    await define(db, 'changed', { p_limit: 30 })
    const clients = await sessions()
    const first = clients.slice(0, 16)
    // Transactions that hold on to the old definition.
    for (const client of first) await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1')
    let total = 0
    const rush = (some) =>
      Promise.all(
        some.map(async (client) => {
          const count = await allowed(client, 'changed', 8)
          total += count
        })
      )
    await rush(clients)
    assert.equal(total, 30)
    const changing = Promise.all([rush(clients), define(db, 'changed', { p_limit: 45 })])
    await changing
    await rush(clients)
    await rush(first)
    for (const client of first) await client.query('COMMIT')
    await rush(clients)
    test.diagnostic(`${total} allowed of 30 and 45`)
    assert.equal(total, 75)
    await define(db, 'changed', { p_limit: 45 })
    await rush(clients)
    assert.equal(total, 75, 'the same definition again changes nothing')
    await define(db, 'changed', { p_limit: 30 })
    await rush(clients)
    assert.equal(total, 75, 'nor does the old one again')
    await Promise.all(clients.map((client) => client.end()))
  })

  it('that is changed holds for the next statement, and in old snapshots not at all', async () => {
    await define(db, 'seen', { p_limit: 2 })
    const [plain, snapshot] = await sessions(2)
    await plain.query('BEGIN')
    await snapshot.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
    assert.equal(await allowed(plain, 'seen', 3), 2)
    assert.equal(await allowed(snapshot, 'seen', 3), 0)
    await define(db, 'seen', { p_limit: 5 })
    const { limit, remaining } = await check(plain, 'seen')
    assert.deepEqual([limit, remaining], [5, 4])
    const old = await check(snapshot, 'seen')
    assert.deepEqual([old.limit, old.allowed], [2, false])
    assert.equal(await allowed(plain, 'seen', 10), 4)
    assert.equal(await allowed(snapshot, 'seen', 10), 0)
    for (const client of [plain, snapshot]) await client.query('COMMIT')
    assert.equal(await allowed(snapshot, 'seen', 10), 0)
  })

  it('is kept however wide it is', async () => {
    const wide = { p_limit: 1, p_period: '366 days' }
    assert.equal(
      await define(db, 'wide', { ...wide, p_burst: 2_147_483_647 }).catch(({ code }) => code),
      '22023'
    )
    await define(db, 'wide', { ...wide, p_burst: 100 })
    const answers = []
    for (const cost of [100, 100, 1, 2_147_483_647])
      answers.push((await check(db, 'wide', 'x', cost)).allowed)
    assert.deepEqual(answers, [true, false, false, false])
  })

  it('counts in READ ONLY transactions, and in those that roll back', async () => {
    await define(db, 'kept', { p_limit: 4 })
    for (const [begin, end] of [
      ['BEGIN READ ONLY', 'COMMIT'],
      ['BEGIN', 'ROLLBACK'],
      ['BEGIN; SAVEPOINT s', 'ROLLBACK TO s; COMMIT'],
      ['BEGIN READ ONLY ISOLATION LEVEL SERIALIZABLE', 'ROLLBACK'],
    ]) {
      await db.query(begin)
      assert.equal((await check(db, 'kept')).allowed, true)
      assert.equal(await value(db, 'SELECT pg_current_xact_id_if_assigned()::text'), null)
      await db.query(end)
    }
    assert.equal((await check(db, 'kept')).allowed, false)
  })

  it('that is removed limits nobody, and that is defined in a transaction that rolls back never was', async () => {
    await db.query('BEGIN')
    await define(db, 'never', { p_limit: 1, p_per: 'key' })
    assert.equal((await check(db, 'never')).allowed, true)
    await db.query('ROLLBACK')
    assert.equal(await check(db, 'never').catch(({ code }) => code), '22023')
    await define(db, 'gone', { p_limit: 1, p_per: 'client' })
    assert.deepEqual(
      [(await open.ask('GET', '/documents')).status, (await open.ask('GET', '/documents')).status],
      [200, 429]
    )
    assert.equal(await remove('gone'), true)
    assert.equal(await remove('gone'), false)
    assert.equal((await open.ask('GET', '/documents')).status, 200)
  })

  describe('counts requests', () => {
    /** Whether each request is let in, in turn. */
    const outcomes = async (...requests) => {
      const answers = []
      for (const [method, path, options] of requests)
        answers.push((await open.ask(method, path, options)).status !== 429)
      return answers
    }
    const get = (options, path = '/documents') => ['GET', path, options]

    /** Asserts the outcomes of requests under a limit, which is gone afterwards. */
    const under = async (args, requests, expected) => {
      const name = `limit-${randomUUID()}`
      await define(db, name, { p_limit: 1, p_per: 'key', ...args })
      try {
        assert.deepEqual(await outcomes(...requests), expected, JSON.stringify(args))
      } finally {
        await remove(name)
      }
    }
    const issue = (args) => open.issue(args).then(({ api_key: key }) => ({ key }))

    it('by key, user, tenant and tier', async () => {
      const [user, tenant] = [randomUUID(), randomUUID()]
      const [one, two] = [
        await issue({ p_user_id: user, p_tenant_id: tenant }),
        await issue({ p_user_id: user, p_tenant_id: tenant }),
      ]
      const [colleague, other] = [await issue({ p_tenant_id: tenant }), await issue({ p_tier: 'free' })]
      for (const [per, expected] of Object.entries({
        key: [true, false, true, true, true], user: [true, false, false, true, true],
        tenant: [true, false, false, false, true], tier: [true, false, false, false, true],
      })) await under({ p_per: per }, [get(one), get(one), get(two), get(colleague), get(other)], expected)
    })

    it('of tokens, by the user and tenant that they name', async () => {
      const bearer = (claims) => get({ headers: { Authorization: `Bearer ${jwt(claims)}` } })
      const [ada, bob] = [userClaims(), userClaims()]
      const key = get(await issue({ p_user_id: ada.sub }))
      await under(
        { p_limit: 2, p_per: 'user' },
        [bearer(ada), key, bearer(ada), key, bearer(bob)],
        [true, true, false, false, true]
      )
      const { tenant_id: tenant } = ada
      await under(
        { p_per: 'tenant' },
        [bearer(ada), bearer({ ...bob, tenant_id: tenant }), bearer({ role: 'authenticated' })],
        [true, false, true]
      )
    })

    it('of one method, path or tier only', async () => {
      const [pro, free] = [await issue({}), await issue({ p_tier: 'free' })]
      const post = ['POST', '/documents', { ...pro, body: { title: 'x' } }]
      await under(
        { p_method: 'POST' },
        [get(pro), post, get(pro), post, get(pro)],
        [true, true, true, false, true]
      )
      await under({ p_method: 'GET' }, [get(pro), ['HEAD', '/documents', pro], post], [true, false, true])
      await under(
        { p_path: '/rpc/%' },
        [get(pro), get(pro, '/rpc/identity'), get(pro, '/rpc/settings'), get(pro)],
        [true, true, false, true]
      )
      await under({ p_tier: 'free' }, [get(free), get(free), get(pro), get(pro)], [true, false, true, true])
    })

    it('of a path however it is written', async () => {
      const requests = [
        '/rpc/identity',
        '/rpc/identity?',
        '/rpc/identity?columns=x',
        '/%72pc/identity',
        '/rpc/%69dentity',
        '/rpc/identit%79',
        '/%72%70%63/identity',
        'rpc/identity',
        'http://x/rpc/identity',
      ]
      const pro = await issue({})
      await under(
        { p_path: '/rpc/identity' },
        requests.map((path) => get(pro, path)),
        [true, ...Array(requests.length - 1).fill(false)]
      )
    })

    it('also if they fail behind the gate, and not if they are refused at it', async () => {
      const { api_key: key, key_id: id } = await open.issue()
      const fail = ['POST', '/rpc/fail', { key, body: {} }]
      await under({ p_limit: 2 }, [fail, fail, fail], [true, true, false])
      const enable = (enabled) => call(db, 'update_api_key', { p_key_id: id, p_changes: { enabled } })
      const requests = Array(3).fill(get({ key }))
      await define(db, 'f', { p_limit: 2, p_per: 'key' })
      await enable(false)
      assert.deepEqual(await outcomes(...requests), [true, true, true])
      await enable(true)
      assert.deepEqual(await outcomes(...requests), [true, true, false])
      assert.equal((await check(db, 'f', id)).allowed, false, 'the subject is the same for check_rate_limit')
      await remove('f')
    })
  })

  it('survives a dump and a restore, and whoever defined it is in the audit', async () => {
    await define(db, 'dumped', {
      p_limit: 7,
      p_period: '1 minute',
      p_burst: 3,
      p_per: 'tier',
      p_tier: 'pro',
      p_method: 'GET',
      p_path: '/a%',
    })
    const list = async (client) =>
      (await client.query('SELECT * FROM api_key.rate_limits ORDER BY name')).rows
    await cluster.database('restored', { extension: false })
    const { stdout: dump } = await cluster.run('pg_dump', ['open'])
    await cluster.run(
      'psql',
      ['--no-psqlrc', '--quiet', '--set', 'ON_ERROR_STOP=1', '--dbname', 'restored'],
      { input: dump }
    )
    const restored = await cluster.connect('restored')
    assert.deepEqual(await list(restored), await list(db))
    assert.equal((await check(restored, 'dumped')).remaining, 2, 'counts of its own')
    await remove('dumped')
    const { rows } = await db.query(`SELECT event, actor_role FROM api_key.audit_log
      WHERE details ->> 'name' = 'dumped' ORDER BY audit_id`)
    assert.deepEqual(rows.map(({ event }) => event), ['rate_limit_defined', 'rate_limit_removed'])
  })
})

describe('room for rate limits', () => {
  let cluster, db
  useCluster({ ...CHEAP, 'api_key.rate_limit_entries': 64 }, async (fresh) => {
    cluster = fresh
    db = await application(cluster, 'app')
    await define(db, 'narrow', { p_limit: 1 })
  })

  it('is found again when a count has run out', async () => {
    await define(db, 'brief', { p_limit: 1, p_period: '1 microsecond' })
    for (let n = 0; n < 400; n++) assert.equal((await check(db, 'brief', `subject ${n}`)).allowed, true)
    const { rate_limits_full: full, rate_limit_check_entries: entries } = await stats(db)
    assert.equal(full, 0)
    assert.ok(entries <= 64)
  })

  it('is empty after a restart: limits begin anew', async () => {
    await define(db, 'forgotten', { p_limit: 1, p_period: `${HOUR} seconds` })
    await cluster.stop()
    await cluster.resume({ 'api_key.rate_limit_entries': 1024 })
    db = await cluster.connect('app')
    assert.equal((await stats(db)).rate_limit_check_entries, 0)
    assert.equal(await allowed(db, 'forgotten', 3), 1)
  })
})

describe('a rate limit without preloading', () => {
  let open
  useCluster({ ...CHEAP, shared_preload_libraries: '' }, async (cluster) => {
    open = await gate(cluster, 'app')
  })

  it('says what is missing, and the gate lets nobody through whom it cannot count', async () => {
    const { db } = open
    await define(db, 'x', { p_limit: 1, p_per: 'key' })
    const { code, hint } = await check(db, 'x').catch((error) => error)
    assert.deepEqual(
      [code, hint],
      ['55000', 'Add api_key to shared_preload_libraries and restart the server.']
    )
    const { api_key: key } = await open.issue()
    const answer = await open.ask('GET', '/documents', { key })
    assert.equal(answer.body.code, '55000', answer.text)
    assert.ok(answer.status >= 500)
    await call(db, 'remove_rate_limit', { p_name: 'x' })
    assert.equal((await open.ask('GET', '/documents', { key })).status, 200)
  })
})
