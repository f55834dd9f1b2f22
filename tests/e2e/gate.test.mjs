// The gate as clients meet it: real PostgREST, requests as they are on the wire.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { describe, it } from 'node:test'
import { CHEAP, REQUESTS, admitted, gate } from './gate.mjs'
import {
  call,
  forged,
  jwt,
  partsOf,
  stats,
  until,
  useCluster,
  userClaims,
  value,
  withWrongSecret,
} from './harness.mjs'

const CHALLENGE = 'Bearer realm="api_key"'
const NOT_GOOD = 'This API key is not valid.'

const bearer = (claims) => ({ Authorization: `Bearer ${jwt(claims)}` })

describe('the gate', () => {
  let cluster, open, strict, proxied
  const secrets = []

  useCluster({ ...CHEAP, 'api_key.max_concurrent_hashes': 2, max_connections: 100 }, async (fresh) => {
    cluster = fresh
    open = await gate(cluster, 'open', {
      'api_key.header_names': 'X-API-Key, apikey',
      'api_key.key_roles': 'robots, outsiders',
    })
    strict = await gate(cluster, 'strict', { 'api_key.require_key': 'on' })
    proxied = await gate(cluster, 'proxied', { 'api_key.trusted_proxies': 1 })
  })

  /** A key, its text remembered for the search for plaintexts at the end. */
  async function issue(at, args) {
    const issued = await at.issue(args)
    secrets.push(partsOf(issued.api_key).secret)
    return issued
  }

  const identity = async (at, options) => admitted(await at.ask('GET', '/rpc/identity', options)).body

  /** Asserts that each kind of request is refused alike; the body where there is one. */
  async function refused(at, options, { status, code, message, headers = {}, requests = REQUESTS }) {
    let refusal
    for (const [method, path, body] of requests) {
      const answer = await at.ask(method, path, { ...options, body })
      const what = `${method} ${path}: ${answer.status} ${answer.text}`
      assert.equal(answer.status, status, what)
      for (const [name, expected] of Object.entries(headers)) {
        if (expected instanceof RegExp) assert.match(answer.headers[name] ?? '', expected, what)
        else assert.equal(answer.headers[name], expected, what)
      }
      if (method === 'HEAD') continue
      assert.equal(answer.body.code, code, what)
      assert.deepEqual(Object.keys(answer.body).sort(), ['code', 'details', 'hint', 'message'])
      if (message) assert.equal(answer.body.message, message)
      refusal = answer.body
    }
    return refusal
  }

  const notGood = { status: 401, message: NOT_GOOD,
    headers: { 'www-authenticate': `${CHALLENGE}, error="invalid_token"` } }

  describe('refuses', () => {
    it('a request without a key where one is required, whatever its token', async () => {
      const expected = { status: 401, code: 'KEY_REQUIRED', headers: { 'www-authenticate': CHALLENGE } }
      await refused(strict, {}, expected)
      await refused(strict, { headers: bearer(userClaims()) }, expected)
    })

    it('what is not the text of a key: MALFORMED', async () => {
      for (const key of [
        'x',
        '',
        '   ',
        `sk_live_${'0'.repeat(60)}`,
        'sk live 1',
        '{"a": 1}',
        "' OR 1=1 --",
      ]) {
        await refused(open, { key }, { ...notGood, code: 'MALFORMED', requests: REQUESTS.slice(0, 1) })
      }
      await refused(open, { key: 'x' }, { ...notGood, code: 'MALFORMED' })
      await refused(strict, { key: '' }, { ...notGood, code: 'MALFORMED' })
    })

    it('an unknown key and a wrong secret alike: NOT_FOUND', async () => {
      const { api_key: key } = await issue(open)
      const unknown = await refused(open, { key: forged() }, { ...notGood, code: 'NOT_FOUND' })
      const wrong = await refused(open, { key: withWrongSecret(key) }, { ...notGood, code: 'NOT_FOUND' })
      assert.deepEqual(wrong, unknown)
    })

    it('a key that is not good any more, or not yet, with one public message', async () => {
      const bodies = []
      for (const [code, change] of [
        ['REVOKED', ({ key_id: id }) => call(open.db, 'revoke_api_key', { p_key_id: id, p_reason: 'leaked' })],
        ['DISABLED', ({ key_id: id }) => call(open.db, 'update_api_key', { p_key_id: id, p_changes: { enabled: false } })],
        ['NOT_YET_VALID', ({ key_id: id }) => call(open.db, 'update_api_key', { p_key_id: id, p_changes: { not_before: '2999-01-01' } })],
        ['EXPIRED', ({ key_id: id }) => open.db.query(
          `UPDATE api_key_internal.keys SET not_before = NULL, created_at = now() - interval '2 days', expires_at = now() - interval '1 day' WHERE key_id = $1`, [id])],
      ]) {
        const issued = await issue(open)
        admitted(await open.ask('GET', '/documents', { key: issued.api_key }))
        await change(issued)
        const { code: _, ...rest } = await refused(open, { key: issued.api_key }, { ...notGood, code })
        bodies.push(rest)
      }
      for (const body of bodies) assert.deepEqual(body, { message: NOT_GOOD, details: null, hint: null })
    })

    it('a key without a scope that a function requires, and says which', async () => {
      const requests = [['GET', '/rpc/publish'], ['POST', '/rpc/publish', {}]] // HEAD calls no function.
      const { api_key: key } = await issue(open, { p_scopes: ['articles:read', 'articles:write'] })
      const { details } = await refused(
        open,
        { key },
        {
          status: 403,
          code: 'INSUFFICIENT_SCOPE',
          requests,
          headers: {
            'www-authenticate': `${CHALLENGE}, error="insufficient_scope", scope="articles:write articles:publish"`,
          },
        }
      )
      assert.deepEqual(JSON.parse(details), { required_scopes: ['articles:write', 'articles:publish'],
        granted_scopes: ['articles:read', 'articles:write'] })
      const withoutKey = {
        status: 401,
        code: 'KEY_REQUIRED',
        requests,
        headers: { 'www-authenticate': CHALLENGE },
      }
      await refused(open, {}, withoutKey)
      await refused(open, { headers: bearer({ ...userClaims(), scopes: ['admin'] }) }, withoutKey)
      for (const scopes of [['articles:write', 'articles:publish'], ['articles:*'], ['admin']]) {
        const { api_key: good } = await issue(open, { p_scopes: scopes })
        for (const [method, path, body] of requests)
          admitted(await open.ask(method, path, { key: good, body }))
      }
    })

    it('a key from an address that it is not for, or from one that nobody vouches for', async () => {
      const args = { p_allowed_ips: ['198.51.100.0/24', '2001:db8::/32'] }
      const expected = {
        status: 403,
        code: 'IP_NOT_ALLOWED',
        message: 'This API key may not be used from this address.',
      }
      const { api_key: key } = await issue(proxied, args)
      const from = (address) => ({ key, headers: { 'X-Forwarded-For': address } })
      await refused(proxied, { key }, expected)
      await refused(proxied, from('203.0.113.1'), expected)
      for (const address of ['198.51.100.7, 203.0.113.1', '198.51.100.7,', 'unknown', '198.51.100.7.1']) {
        await refused(proxied, from(address), { ...expected, requests: REQUESTS.slice(0, 1) })
      }
      for (const address of [
        '198.51.100.7',
        '203.0.113.1, 198.51.100.7',
        '2001:db8::7',
        '[2001:db8::7]:443',
        '::ffff:198.51.100.7',
      ]) {
        admitted(await proxied.ask('GET', '/documents', from(address)))
      }
      const unproxied = await issue(open, args)
      await refused(open, { key: unproxied.api_key, headers: { 'X-Forwarded-For': '198.51.100.7' } },
        { ...expected, requests: REQUESTS.slice(0, 1) })
    })

    it('wrong secrets beyond the failure budget: THROTTLED, while the right one goes on', async () => {
      const { api_key: key } = await issue(open)
      admitted(await open.ask('GET', '/documents', { key }))
      const { id } = partsOf(key)
      for (let n = 0; n < 10; n++) {
        assert.equal((await open.ask('GET', '/documents', { key: forged({ id }) })).body.code, 'NOT_FOUND')
      }
      await refused(
        open,
        { key: forged({ id }) },
        {
          status: 429,
          code: 'THROTTLED',
          headers: {
            'retry-after': '6',
            ratelimit: '"failures";r=0;t=60',
            'ratelimit-policy': '"failures";q=10;w=60',
          },
        }
      )
      admitted(await open.ask('GET', '/documents', { key }))
    })

    it('a request over a rate limit, and says when to come again', async () => {
      await call(open.db, 'define_rate_limit', {
        p_name: 'refused',
        p_limit: 1,
        p_period: '1 hour',
        p_per: 'user',
        p_tier: 'free',
      })
      const { api_key: key } = await issue(open, { p_tier: 'free' })
      const first = admitted(await open.ask('GET', '/documents', { key }))
      assert.equal(first.headers.ratelimit, '"refused";r=0;t=3600')
      assert.equal(first.headers['ratelimit-policy'], '"refused";q=1;w=3600')
      const { details, message } = await refused(
        open,
        { key },
        {
          status: 429,
          code: 'RATE_LIMITED',
          headers: {
            'retry-after': /^3[56]\d\d$/,
            ratelimit: /^"refused";r=0;t=3[56]\d\d$/,
            'ratelimit-policy': '"refused";q=1;w=3600',
          },
        }
      )
      assert.deepEqual([message, details], ['Too many requests.', 'The limit is "refused".'])
      await call(open.db, 'remove_rate_limit', { p_name: 'refused' })
      admitted(await open.ask('GET', '/documents', { key }))
    })

    it('a key that there is no room to hash: OVERLOADED', async () => {
      // One session hashes; it is stopped meanwhile, so that it certainly holds the room.
      const [{ api_key: slow, key_id: id }, { api_key: known }, { api_key: other }] =
        [await issue(open), await issue(open), await issue(open)]
      admitted(await open.ask('GET', '/documents', { key: known }))
      await open.db.query(`UPDATE api_key_internal.keys SET secret_hash =
        regexp_replace(secret_hash, 'm=64,t=1', 'm=65536,t=12') WHERE key_id = $1`, [id])
      const holder = await cluster.connect('open')
      const pid = await value(holder, 'SELECT pg_backend_pid()')
      await open.db.query(`ALTER SYSTEM SET api_key.max_concurrent_hashes = 1`)
      await open.db.query(`ALTER SYSTEM SET api_key.hash_queue_timeout = 0`)
      await open.db.query('SELECT pg_reload_conf()')
      await until('the settings to hold everywhere', async () => (await stats(open.db)).hashes_limit === 1)
      // A new PostgREST, whose sessions begin with them.
      const crowded = await open.another()
      const answer = call(holder, 'verify_api_key', { p_api_key: slow })
      await until('a hash to run', async () => (await stats(open.db)).hashes_running === 1)
      process.kill(pid, 'SIGSTOP')
      try {
        await refused(crowded, { key: other }, { status: 503, code: 'OVERLOADED' })
        // PostgREST adds one of its own to each 503.
        const { raw } = await crowded.ask('GET', '/documents', { key: other })
        assert.ok(raw.includes('Retry-After') && raw.includes('1'), raw.join('\n'))
        await refused(
          crowded,
          { key: slow },
          { status: 503, code: 'OVERLOADED', requests: REQUESTS.slice(0, 1) }
        )
        admitted(await crowded.ask('GET', '/documents', { key: known }))
      } finally {
        process.kill(pid, 'SIGCONT')
        await answer
        await open.db.query('ALTER SYSTEM RESET ALL')
        await open.db.query('SELECT pg_reload_conf()')
        crowded.server.stop()
      }
      await until('the settings to be as before', async () => (await stats(open.db)).hashes_limit === 2)
      assert.equal((await stats(open.db)).hashes_running, 0)
    })

    it('two keys that differ, in whichever headers, and takes the same one twice', async () => {
      const [one, two] = [(await issue(open)).api_key, (await issue(open)).api_key]
      await refused(open, { key: one, headers: { apikey: two } }, { status: 400, code: 'SEVERAL_KEYS' })
      await refused(
        open,
        { key: one, headers: { APIKey: 'x' } },
        { status: 400, code: 'SEVERAL_KEYS', requests: REQUESTS.slice(0, 1) }
      )
      await refused(
        open,
        { key: one, headers: { apikey: '' } },
        { status: 400, code: 'SEVERAL_KEYS', requests: REQUESTS.slice(0, 1) }
      )
      admitted(await open.ask('GET', '/documents', { key: one, headers: { apikey: one } }))
      admitted(await open.ask('GET', '/documents', { headers: { ApiKey: two } }))
    })

    it('a key whose role is not allowed any more', async () => {
      const { api_key: key, key_id: id } = await issue(open)
      await open.db.query(`SET api_key.key_roles = 'robots, service_role'`)
      await call(open.db, 'set_api_key_role', { p_key_id: id, p_role: 'service_role' })
      await open.db.query('RESET api_key.key_roles')
      await refused(open, { key }, { status: 403, code: 'ROLE_NOT_ALLOWED' })
    })

    it('a key whose role PostgREST may not take, without telling of the key', async () => {
      const { api_key: key, key_id: id } = await issue(open)
      await open.db.query(`DO $$ BEGIN CREATE ROLE outsiders; END $$`)
      await open.db.query(`UPDATE api_key_internal.keys SET role = 'outsiders' WHERE key_id = $1`, [id])
      const answer = await open.ask('GET', '/documents', { key })
      assert.ok([401, 403].includes(answer.status), answer.text)
      assert.equal(answer.body.code, '42501')
      assert.ok(!answer.text.includes(partsOf(key).id))
    })
  })

  describe('lets in', () => {
    it('a key as its user, with all that is to be known of it', async () => {
      const [user, tenant] = [randomUUID(), randomUUID()]
      const { api_key: key, key_id: id } = await issue(open, {
        p_user_id: user,
        p_tenant_id: tenant,
        p_name: 'ci',
        p_scopes: ['articles:read', 'users:*'],
        p_resource_id: 'repo-1',
        p_metadata: { team: 'β"\\' },
      })
      for (const [method, body] of [['GET'], ['POST', {}]]) {
        const {
          key: answer,
          claims,
          ...rest
        } = admitted(await open.ask(method, '/rpc/identity', { key, body })).body
        assert.deepEqual(rest, {
          role: 'authenticated',
          key_id: id,
          user_id: user,
          tenant_id: tenant,
          scopes: ['articles:read', 'users:*'],
        })
        assert.deepEqual(claims, {
          sub: user,
          role: 'authenticated',
          tenant_id: tenant,
          scopes: ['articles:read', 'users:*'],
          tier: 'pro',
          key_id: id,
        })
        const verified = await call(open.db, 'verify_api_key', { p_api_key: key })
        assert.deepEqual(answer, verified)
      }
    })

    it('a key of no user and no tenant', async () => {
      const { api_key: key, key_id: id } = await issue(open, { p_user_id: null })
      const { claims, user_id: user, tenant_id: tenant, scopes } = await identity(open, { key })
      assert.deepEqual(claims, { role: 'authenticated', scopes: [], tier: 'pro', key_id: id })
      assert.deepEqual([user, tenant, scopes], [null, null, []])
    })

    it('a key with a role of its own as that role', async () => {
      const { api_key: key, key_id: id } = await issue(open)
      await call(open.db, 'set_api_key_role', { p_key_id: id, p_role: 'robots' })
      const { role, claims, key_id: acting } = await identity(open, { key })
      assert.deepEqual([role, claims.role, acting], ['robots', 'robots', id])
      await call(open.db, 'set_api_key_role', { p_key_id: id, p_role: null })
      assert.equal((await identity(open, { key })).role, 'authenticated')
    })

    it('a request without a key as it came: as its token, or as anon', async () => {
      const nobody = { key_id: null, user_id: null, tenant_id: null, scopes: null, key: null }
      const { claims: none, ...anon } = await identity(open, {})
      assert.deepEqual(anon, { role: 'anon', ...nobody })
      assert.equal(none?.sub, undefined)
      const user = userClaims()
      const { claims, ...rest } = await identity(open, { headers: bearer({ ...user, scopes: ['admin'] }) })
      assert.deepEqual(rest, { role: 'authenticated', ...nobody })
      assert.equal(claims.sub, user.sub)
    })

    it('a key beside a token as the key, of whatever role the token is', async () => {
      const { api_key: key, key_id: id } = await issue(open)
      for (const claims of [userClaims(), { role: 'service_role', extra: 'x', exp: 32503680000 }]) {
        const who = await identity(open, { key, headers: bearer(claims) })
        assert.equal(who.role, 'authenticated')
        assert.deepEqual(Object.keys(who.claims).sort(), ['key_id', 'role', 'scopes', 'sub', 'tier'])
        assert.equal(who.claims.key_id, id)
      }
      await refused(open, { key: forged(), headers: bearer({ role: 'service_role' }) },
        { ...notGood, code: 'NOT_FOUND', requests: REQUESTS.slice(0, 1) })
    })

    it('a token as an identity where token claims are trusted, and the key before it', async () => {
      const trusting = await gate(cluster, 'trusting', { 'api_key.trust_token_claims': 'on' })
      const user = { ...userClaims(), scopes: ['articles:*'] }
      const who = await identity(trusting, { headers: bearer(user) })
      assert.deepEqual([who.key_id, who.key, who.user_id, who.tenant_id, who.scopes],
        [null, null, user.sub, user.tenant_id, ['articles:*']])
      admitted(await trusting.ask('GET', '/rpc/publish', { headers: bearer(user) }))
      assert.equal((await trusting.ask('GET', '/rpc/publish')).status, 401)
      const { api_key: key, key_id: id } = await issue(trusting)
      assert.equal((await identity(trusting, { key, headers: bearer(user) })).key_id, id)
      assert.equal((await trusting.ask('GET', '/rpc/publish', { key, headers: bearer(user) })).status, 403)
    })
  })

  describe('serves policies', () => {
    it('that were written for tokens, the same under a key', async () => {
      const [ada, bob] = [userClaims(), userClaims()]
      const keyOf = async ({ sub, tenant_id: tenant }) =>
        ({ key: (await issue(open, { p_user_id: sub, p_tenant_id: tenant })).api_key })
      for (const [n, who] of [{ headers: bearer(ada) }, await keyOf(ada)].entries()) {
        admitted(await open.ask('POST', '/documents', { ...who, body: { title: `ada ${n}` } }))
        admitted(await open.ask('POST', '/invoices', { ...who, body: { title: `ada ${n}` } }))
        const stolen = await open.ask('POST', '/documents', { ...who, body: { title: 'x', owner: bob.sub } })
        assert.equal(stolen.body.code, '42501') // 401 under a key: PostgREST saw no token.
      }
      const titles = async (path, who) =>
        admitted(await open.ask('GET', path, who))
          .body.map(({ title }) => title)
          .sort()
      for (const path of ['/documents', '/invoices']) {
        assert.deepEqual(await titles(path, { headers: bearer(ada) }), ['ada 0', 'ada 1'])
        assert.deepEqual(await titles(path, await keyOf(ada)), ['ada 0', 'ada 1'])
        assert.deepEqual(await titles(path, { headers: bearer(bob) }), [])
        assert.deepEqual(await titles(path, await keyOf(bob)), [])
        assert.deepEqual(await titles(path, {}), [])
      }
    })

    it('that ask for scopes and keys', async () => {
      const { api_key: writer } = await issue(open, { p_scopes: ['articles:*'] })
      const { api_key: reader } = await issue(open, { p_scopes: ['articles:read'] })
      admitted(await open.ask('POST', '/articles', { key: writer, body: { title: 'mine' } }))
      for (const who of [{ key: reader }, {}, { headers: bearer({ ...userClaims(), scopes: ['admin'] }) }]) {
        assert.equal(
          (await open.ask('POST', '/articles', { ...who, body: { title: 'x' } })).body.code,
          '42501'
        )
        assert.deepEqual(admitted(await open.ask('GET', '/articles', who)).body, [])
      }
      assert.equal(admitted(await open.ask('GET', '/articles', { key: writer })).body.length, 1)
    })
  })

  it('lets no key manage keys that lacks api_keys:manage', async () => {
    const post = (path, key, body = {}) =>
      open.ask('POST', path, { key, body, headers: { 'Content-Profile': 'api_key' } })
    const user = randomUUID()
    const { api_key: key, key_id: id } = await issue(open, { p_user_id: user, p_scopes: ['articles:*'] })
    const statuses = []
    for (const [name, args] of Object.entries({
      issue_api_key: { p_name: 'child' },
      list_api_keys: {},
      update_api_key: { p_key_id: id, p_changes: { name: 'x' } },
      rotate_api_key: { p_key_id: id },
      revoke_api_key: { p_key_id: id },
      revoke_api_keys: { p_user_id: user },
      delete_api_key: { p_key_id: id },
    })) {
      const answer = await post(`/rpc/${name}`, key, args)
      assert.equal(answer.body.code, '42501', `${name}: ${answer.text}`)
      statuses.push(answer.status)
    }
    const { api_key: manager } = await issue(open, {
      p_user_id: user,
      p_scopes: ['api_keys:manage', 'articles:*'],
    })
    const listed = admitted(await post('/rpc/list_api_keys', manager)).body
    assert.equal(listed.length, 2)
    const child = admitted(
      await post('/rpc/issue_api_key', manager, { p_tier: 'pro', p_scopes: ['articles:read'] })
    ).body
    secrets.push(partsOf(child.api_key).secret)
    const more = await post('/rpc/issue_api_key', manager, { p_tier: 'pro', p_scopes: ['admin'] })
    assert.equal(more.body.code, '42501', 'no more than it has itself')
    const own = await open.ask('POST', '/rpc/list_api_keys', {
      headers: { ...bearer({ role: 'authenticated', sub: user }), 'Content-Profile': 'api_key' },
      body: {},
    })
    assert.equal(admitted(own).body.length, 3)
    assert.equal(admitted(await post('/rpc/revoke_own_api_key', key, { p_api_key: key })).body, true)
    assert.equal((await open.ask('GET', '/documents', { key })).body.code, 'REVOKED')
    assert.deepEqual(statuses, Array(7).fill(403))
  })

  it('lets no key manage keys without it whose own role may do all, either', async () => {
    const strong = await gate(cluster, 'strong', { 'api_key.key_roles': 'service_role' })
    const { api_key: key, key_id: id } = await issue(strong)
    await call(strong.db, 'set_api_key_role', { p_key_id: id, p_role: 'service_role' })
    assert.equal((await identity(strong, { key })).role, 'service_role')
    const answer = await strong.ask('POST', '/rpc/issue_api_key', {
      key,
      headers: { 'Content-Profile': 'api_key' },
      body: { p_tier: 'pro' },
    })
    assert.deepEqual([answer.status, answer.body.code], [403, '42501'])
  })

  it('hides the key from the statements of the request, and leaves them the other headers', async () => {
    const { api_key: key } = await issue(open)
    const { secret } = partsOf(key)
    const options = { key, headers: { apikey: key, 'X-Other': 'kept "', 'X-Forwarded-For': '198.51.100.7' } }
    const settings = admitted(await open.ask('GET', '/rpc/settings', options)).text
    assert.ok(!settings.includes(secret))
    assert.ok(settings.includes('kept') && settings.includes('198.51.100.7'))
  })

  it('sees a revocation in the next request', async () => {
    for (let n = 0; n < 20; n++) {
      const { api_key: key, key_id: id } = await issue(open)
      admitted(await open.ask('GET', '/documents', { key }))
      await call(open.db, 'revoke_api_key', { p_key_id: id })
      assert.equal((await open.ask('GET', '/documents', { key })).body.code, 'REVOKED')
    }
  })

  it('stands in front of a standby too, with limits of its own', async () => {
    const { api_key: key, key_id: id } = await issue(open, { p_scopes: ['articles:*'] })
    await call(open.db, 'define_rate_limit', { p_name: 'node', p_limit: 2, p_period: '1 day', p_per: 'key' })
    const { ask } = await open.another(await cluster.standby(CHEAP), { 'db-channel-enabled': false })
    const answers = []
    for (let n = 0; n < 3; n++) answers.push(await ask('GET', '/rpc/identity', { key }))
    assert.deepEqual(answers.map(({ status }) => status), [200, 200, 429])
    assert.equal(answers[0].body.key_id, id)
    admitted(await open.ask('GET', '/rpc/identity', { key }))
    await call(open.db, 'remove_rate_limit', { p_name: 'node' })
    await call(open.db, 'revoke_api_key', { p_key_id: id })
    await until(
      'the revocation to arrive',
      async () => (await ask('GET', '/documents', { key })).body.code === 'REVOKED'
    )
  })

  describe('limits', () => {
    const define = (at, name, args) =>
      call(at.db, 'define_rate_limit', { p_name: name, p_period: '1 hour', ...args })

    it('by several at once, of which the one that refuses costs nothing of the others', async () => {
      await define(open, 'a-tier', { p_limit: 5, p_per: 'user', p_tier: 'free' })
      await define(open, 'b-path', { p_limit: 2, p_per: 'key', p_path: '/rpc/%' })
      const { api_key: key } = await issue(open, { p_tier: 'free' })
      const seen = async (path) => {
        const { status, headers } = await open.ask('GET', path, { key })
        return [status, headers.ratelimit.replaceAll(/;t=\d+/g, '')]
      }
      assert.deepEqual(await seen('/documents'), [200, '"a-tier";r=4'])
      assert.deepEqual(await seen('/rpc/identity'), [200, '"a-tier";r=3, "b-path";r=1'])
      assert.deepEqual(await seen('/rpc/identity'), [200, '"a-tier";r=2, "b-path";r=0'])
      for (let n = 0; n < 5; n++) assert.deepEqual(await seen('/rpc/identity'), [429, '"b-path";r=0'])
      assert.deepEqual(await seen('/documents'), [200, '"a-tier";r=1'])
      assert.deepEqual(await seen('/documents'), [200, '"a-tier";r=0'])
      assert.deepEqual(await seen('/rpc/identity'), [429, '"a-tier";r=0'])
      const other = await open.ask('GET', '/rpc/identity', { key: (await issue(open)).api_key })
      assert.equal(other.headers.ratelimit.replaceAll(/;t=\d+/g, ''), '"b-path";r=1')
      for (const name of ['a-tier', 'b-path']) await call(open.db, 'remove_rate_limit', { p_name: name })
      assert.equal((await open.ask('GET', '/documents', { key })).headers.ratelimit, undefined)
    })

    it('clients by the address that the proxy saw, whatever they write before it', async () => {
      await define(proxied, 'client', { p_limit: 2, p_per: 'client' })
      const statusFrom = async (address) => (await proxied.ask('GET', '/documents',
        address === undefined ? {} : { headers: { 'X-Forwarded-For': address } })).status
      assert.equal(await statusFrom('192.0.2.1'), 200)
      assert.equal(await statusFrom('6.6.6.6, 192.0.2.1'), 200)
      for (const spoofed of ['7.7.7.7', '192.0.2.2', '', 'x', '::1', '"', ','.repeat(500)]) {
        assert.equal(await statusFrom(`${spoofed}, 192.0.2.1`), 429, spoofed)
      }
      for (const form of ['192.0.2.1:5000', '::ffff:192.0.2.1', ' 192.0.2.1 ', '[::ffff:192.0.2.1]:80']) {
        assert.equal(await statusFrom(form), 429, form)
      }
      // Of an IPv6 address the client chooses the last 64 bits.
      assert.equal(await statusFrom('2001:db8:0:1::1'), 200)
      assert.equal(await statusFrom('2001:db8:0:1:ffff::2'), 200)
      assert.equal(await statusFrom('[2001:db8:0:1:aaaa:bbbb:cccc:dddd]:99'), 429)
      assert.equal(await statusFrom('2001:db8:0:2::1'), 200)
      // All of whom nothing is known are one.
      assert.deepEqual(
        [
          await statusFrom(undefined),
          await statusFrom('unknown'),
          await statusFrom('_hidden'),
          await statusFrom(''),
        ],
        [200, 200, 429, 429]
      )
    })

    it('clients by what the proxy adds as a header of its own', async () => {
      await define(proxied, 'client', { p_limit: 1, p_per: 'client' })
      const statusFrom = async (...addresses) =>
        (await proxied.ask('GET', '/documents', { headers: { 'X-Forwarded-For': addresses } })).status
      assert.equal(await statusFrom('6.6.6.1', '192.0.2.9'), 200)
      assert.equal(await statusFrom('6.6.6.2', '192.0.2.9'), 429)
      assert.equal(await statusFrom('6.6.6.2', '192.0.2.10'), 200)
    })

    it('those who guess, before their key is looked at', async () => {
      await define(proxied, 'client', { p_limit: 3, p_per: 'client' })
      const headers = { 'X-Forwarded-For': '192.0.2.77' }
      const codes = []
      for (let n = 0; n < 5; n++)
        codes.push((await proxied.ask('GET', '/documents', { key: forged(), headers })).body.code)
      assert.deepEqual(codes, ['NOT_FOUND', 'NOT_FOUND', 'NOT_FOUND', 'RATE_LIMITED', 'RATE_LIMITED'])
      await call(proxied.db, 'remove_rate_limit', { p_name: 'client' })
    })
  })

  describe('takes headers as they come', () => {
    it('in any case', async () => {
      const { api_key: key, key_id: id } = await issue(open)
      for (const name of ['x-api-key', 'X-API-KEY', 'x-aPi-KeY']) {
        assert.equal((await identity(open, { headers: { [name]: key } })).key_id, id)
      }
    })

    it('with spaces around the key, and with none within it', async () => {
      const { api_key: key, key_id: id } = await issue(open)
      assert.equal((await identity(open, { key: ` ${key}` })).key_id, id)
      assert.equal((await identity(open, { key: `${key} \t ` })).key_id, id)
      for (const text of [
        `${key.slice(0, 20)} ${key.slice(20)}`,
        `"${key}"`,
        `Bearer ${key}`,
        `${key},${key}`,
        `${key}\t${key}`,
      ]) {
        await refused(open, { key: text }, { ...notGood, code: 'MALFORMED', requests: REQUESTS.slice(0, 1) })
      }
    })

    it('repeated: the last, which PostgREST passes on', async () => {
      const [one, two] = [await issue(open), await issue(open)]
      const asking = (...keys) => open.ask('GET', '/rpc/identity', { headers: { 'X-API-Key': keys } })
      assert.equal(admitted(await asking(one.api_key, one.api_key)).body.key_id, one.key_id)
      assert.equal(admitted(await asking(one.api_key, two.api_key)).body.key_id, two.key_id)
      assert.equal(admitted(await asking(forged(), one.api_key)).body.key_id, one.key_id)
      assert.equal((await asking(one.api_key, forged())).body.code, 'NOT_FOUND')
      assert.equal((await asking(one.api_key, '')).body.code, 'MALFORMED')
    })

    it('however long, or in whatever bytes', async () => {
      const { api_key: key, key_id: id } = await issue(open)
      for (const text of ['a'.repeat(32_000), `${key}${'0'.repeat(60_000)}`, ' '.repeat(10_000) + 'x']) {
        const { status } = await open.ask('GET', '/documents', { key: text })
        assert.ok([400, 401, 413, 431].includes(status), String(status))
      }
      for (const text of ['\xe9', `${key}\xff`, '\x80\x81']) {
        const { status } = await open.ask('GET', '/documents', { key: text })
        assert.ok(status >= 400, String(status))
      }
      assert.equal((await identity(open, { key })).key_id, id)
    })
  })

  it('writes no key into a log, of the database or of PostgREST', async () => {
    assert.ok(secrets.length > 30)
    const logs = [cluster.log, ...[open, strict, proxied].map(({ server }) => server.log)]
    for (const secret of secrets) for (const log of logs) assert.ok(!log.includes(secret))
  })
})
