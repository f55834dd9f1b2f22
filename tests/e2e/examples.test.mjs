// The folder examples/, as it is: against a real PostgREST, with real keys, and for the proxy with a
// real service behind it.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { after, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import edge, { handler } from '../../examples/edge-function/handler.mjs'
import { createProxy } from '../../examples/express-proxy/proxy.mjs'
import { clientAddress } from '../../examples/verify.mjs'
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

const EXAMPLES = new URL('../../examples/', import.meta.url)
// Most promises here are that something ends. One that is broken must not hang the run.
const GUARD = { timeout: 120_000 }
const CHALLENGE = 'Bearer realm="api_key"'
const SETTINGS = {
  'api_key.argon2_memory_kib': 64, 'api_key.argon2_iterations': 1, 'api_key.flush_interval': 3600,
  'api_key.failure_limit': 1, 'api_key.max_concurrent_hashes': 1, 'api_key.hash_queue_timeout': 0 }

let cluster, db, postgrest

async function setUp(fresh) {
  cluster = fresh
  await cluster.database('app')
  db = await cluster.connect('app')
  await db.query('SELECT api_key.setup_postgrest(p_create_roles => true)')
  postgrest = await cluster.postgrest('app', { 'db-schemas': 'public, api_key' })
}

const servers = new Set()
/** An HTTP server on a port of its own, for as long as this file runs. Returns its URL. */
async function serve(server) {
  servers.add(server)
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return `http://127.0.0.1:${server.address().port}`
}
after(() => servers.forEach((server) => { server.close(); server.closeAllConnections?.() }))

/** Where nobody listens. */
async function nowhere() {
  const server = net.createServer()
  const url = await serve(server)
  await new Promise((resolve) => server.close(resolve))
  return url
}

const environment = (changes) => ({ POSTGREST_URL: postgrest.url, ...changes })

// The two examples, as functions from a request's headers to an answer.
const DOORS = {
  'the edge function': async (changes) => (headers = {}) =>
    handler(new Request('http://edge.test/', { headers }), environment(changes)),
  'the proxy': async (changes) => {
    const service = await serve(http.createServer((request, response) => response.end('let in')))
    const proxy = await serve(createProxy(environment({ UPSTREAM_URL: service, ...changes })))
    return (headers = {}) => fetch(proxy, { headers })
  },
}

/** What was answered, after a look at what no answer may have. */
async function read(response, key) {
  const text = await response.text()
  const headers = JSON.stringify([...response.headers])
  if (key) assert.ok(!`${text}${headers}`.includes(partsOf(key).secret), 'the answer has no secret')
  if (response.status !== 200) {
    assert.equal(response.headers.get('Cache-Control'), 'no-store')
    assert.equal(response.headers.get('Content-Type'), 'application/json')
  }
  return { status: response.status, challenge: response.headers.get('WWW-Authenticate'),
    retryAfter: response.headers.get('Retry-After'), body: response.status === 200 ? text : JSON.parse(text) }
}

const change = (key, changes) =>
  call(db, 'update_api_key', { p_key_id: key.key_id, p_changes: JSON.stringify(changes) })
const revoke = (key) => call(db, 'revoke_api_key', { p_key_id: key.key_id })
/** A key that was verified before, so that nothing has to be hashed for it. */
async function known(args) {
  const key = await issue(db, args)
  await codeOf(db, key.api_key)
  return key
}

for (const [name, open] of Object.entries(DOORS)) {
  describe(`what ${name} answers`, GUARD, () => {
    useCluster(SETTINGS, setUp)

    it('asks for a key in X-API-Key, and takes none from elsewhere', async () => {
      const ask = await open()
      const { api_key: key } = await known()
      for (const headers of [{}, { 'X-API-Key': '' }, { Authorization: `Bearer ${key}` }]) {
        const { status, challenge, body } = await read(await ask(headers), key)
        assert.deepEqual([status, challenge, body.error], [401, CHALLENGE, 'no_key'])
      }
    })

    it('lets a valid key in', async () => {
      const ask = await open()
      const { api_key: key } = await issue(db)
      assert.equal((await read(await ask({ 'X-API-Key': key }), key)).status, 200)
    })

    it('tells no one what is the matter with a key that cannot be used', async () => {
      const ask = await open()
      const states = {
        MALFORMED: async () => ({ api_key: 'sk_live_typo' }),
        NOT_FOUND: async () => ({ api_key: forged() }),
        REVOKED: async (key) => { await revoke(key); return key },
        DISABLED: async (key) => { await change(key, { enabled: false }); return key },
        NOT_YET_VALID: async (key) => { await change(key, { not_before: '2999-01-01' }); return key },
        EXPIRED: async (key) => {
          await db.query(`UPDATE api_key_internal.keys SET expires_at = now() WHERE key_id = $1`, [
            key.key_id,
          ])
          return key
        },
      }
      const answers = []
      for (const [code, make] of Object.entries(states)) {
        const { api_key: key } = await make(await known())
        assert.equal(await codeOf(db, key), code)
        answers.push(await read(await ask({ 'X-API-Key': key })))
      }
      assert.deepEqual(answers, answers.map(() => ({
        status: 401, challenge: `${CHALLENGE}, error="invalid_token"`, retryAfter: null,
        body: { error: 'invalid_token', message: 'This API key is not accepted.' } })))
    })

    it('says which scopes are required, and which the key has', async () => {
      const ask = await open({ REQUIRED_SCOPES: 'articles:read, articles:write' })
      const reader = await known({ p_scopes: ['articles:read'] })
      const { status, challenge, body } = await read(
        await ask({ 'X-API-Key': reader.api_key }),
        reader.api_key
      )
      assert.equal(status, 403)
      assert.equal(
        challenge,
        `${CHALLENGE}, error="insufficient_scope", scope="articles:read articles:write"`
      )
      assert.deepEqual(body, { error: 'insufficient_scope', message: 'This API key lacks a required scope.',
        required_scopes: ['articles:read', 'articles:write'], granted_scopes: ['articles:read'] })
      const writer = await known({ p_scopes: ['articles:*'] })
      assert.equal((await ask({ 'X-API-Key': writer.api_key })).status, 200)
    })

    it('takes the address from the proxies that it trusts, not from the client', async () => {
      const { api_key: key } = await known({ p_allowed_ips: ['192.0.2.0/24'] })
      const from = async (proxies, forwarded) => {
        const ask = await open({ TRUSTED_PROXIES: proxies })
        const { status, body } = await read(
          await ask({ 'X-API-Key': key, 'X-Forwarded-For': forwarded }),
          key
        )
        return status === 200 ? 'let in' : `${status} ${body.error}`
      }
      assert.equal(await from('1', '192.0.2.7'), 'let in')
      assert.equal(await from('1', '6.6.6.6, 192.0.2.7'), 'let in')
      assert.equal(await from('2', '192.0.2.7, 10.0.0.1'), 'let in')
      const refused = '403 ip_not_allowed'
      assert.equal(await from('0', '192.0.2.7'), refused)
      assert.equal(await from('', '192.0.2.7'), refused)
      assert.equal(await from('1', '192.0.2.7, 6.6.6.6'), refused)
      assert.equal(await from('2', '192.0.2.7'), refused)
      assert.equal(await from('1', 'unknown'), refused)
      for (const count of ['one', '-1', '1.5']) {
        await assert.rejects(from(count, '192.0.2.7'), /TRUSTED_PROXIES is not a number/)
      }
    })

    it('refuses a key of another resource', async () => {
      const ask = await open({ RESOURCE_ID: 'shop' })
      const [shop, office] = [
        await known({ p_resource_id: 'shop' }),
        await known({ p_resource_id: 'office' }),
      ]
      assert.equal((await ask({ 'X-API-Key': shop.api_key })).status, 200)
      const { status, body } = await read(await ask({ 'X-API-Key': office.api_key }), office.api_key)
      assert.deepEqual([status, body.error], [403, 'resource_mismatch'])
    })

    it('says when to come back after too many wrong secrets', async () => {
      const ask = await open()
      const wrong = withWrongSecret((await issue(db)).api_key)
      const { status, retryAfter, body } = await until('the end of the budget', async () => {
        const answer = await read(await ask({ 'X-API-Key': wrong }), wrong)
        return answer.status !== 401 && answer
      })
      assert.deepEqual([status, retryAfter, body.error], [429, '60', 'throttled'])
    })

    it('says when to come back if there is no room to hash', async () => {
      const ask = await open()
      const { api_key: key } = await issue(db)
      await whileHashing(async () => {
        const { status, retryAfter, body } = await read(await ask({ 'X-API-Key': key }), key)
        assert.deepEqual([status, retryAfter, body.error], [503, '1', 'unavailable'])
      })
      assert.equal((await ask({ 'X-API-Key': key })).status, 200)
    })

    it('sees a revocation at the next request', async () => {
      const ask = await open()
      const key = await issue(db)
      assert.equal((await ask({ 'X-API-Key': key.api_key })).status, 200)
      await revoke(key)
      assert.equal((await ask({ 'X-API-Key': key.api_key })).status, 401)
    })

    it('lets nobody in when there is no verdict', async () => {
      const { api_key: key } = await known()
      const garbage = await serve(http.createServer((request, response) => response.end('{"valid": true}')))
      const silent = await serve(http.createServer(() => {}))
      const broken = {
        'nobody listens': { POSTGREST_URL: await nowhere() },
        'the schema is not exposed': {
          POSTGREST_URL: (await cluster.postgrest('app', { 'db-schemas': 'public' })).url },
        'it is another service': { POSTGREST_URL: garbage },
        'it sends one elsewhere': { POSTGREST_URL: await serve(http.createServer((request, response) =>
          response.writeHead(307, { Location: `${postgrest.url}${request.url}` }).end())) },
        'it never answers': { POSTGREST_URL: silent, VERIFY_TIMEOUT_SECONDS: '0.1' },
      }
      for (const [what, changes] of Object.entries(broken)) {
        const ask = await open(changes)
        const { status, retryAfter, body } = await read(await ask({ 'X-API-Key': key }), key)
        assert.deepEqual([status, retryAfter, body],
          [503, '5', { error: 'unavailable', message: 'API keys cannot be checked now.' }], what)
      }
    })

    it('lets nobody in once PostgREST is gone', async () => {
      const { api_key: key } = await known()
      const other = await cluster.postgrest('app')
      const ask = await open({ POSTGREST_URL: other.url })
      assert.equal((await ask({ 'X-API-Key': key })).status, 200)
      other.stop()
      await once(other.process, 'exit')
      assert.equal((await read(await ask({ 'X-API-Key': key }), key)).status, 503)
    })
  })
}

/** Runs `action` while all room to hash is taken, by a session that is stopped in the middle of a hash. */
async function whileHashing(action) {
  const session = await cluster.connect('app')
  const pid = await value(session, 'SELECT pg_backend_pid()')
  await session.query('SET api_key.argon2_memory_kib = 19456; SET api_key.argon2_iterations = 13')
  const { api_key: costly } = await issue(session)
  const running = async () => (await stats(db)).hashes_running
  const hashing = codeOf(session, costly)
  try {
    await until('the hash to begin', async () => await running() === 1)
    process.kill(pid, 'SIGSTOP')
    await action()
    assert.equal(await running(), 1, 'the hash was to be stopped in the middle')
  } finally {
    process.kill(pid, 'SIGCONT')
  }
  assert.equal(await hashing, 'VALID')
  await session.end()
}

describe('the edge function', GUARD, () => {
  useCluster(SETTINGS, setUp)

  it('tells whom the key acts for, and what it may do', async () => {
    const [user, tenant] = [randomUUID(), randomUUID()]
    const key = await issue(db, { p_user_id: user, p_tenant_id: tenant, p_scopes: ['articles:read'] })
    const ask = async (text) => {
      const request = new Request('http://edge.test/', { headers: { 'X-API-Key': text } })
      const response = await edge.fetch(request, environment())
      assert.equal(response.headers.get('Cache-Control'), 'no-store')
      return response.json()
    }
    const expected = {
      user_id: user,
      tenant_id: tenant,
      scopes: ['articles:read'],
      expires_at: null,
      rotated: false,
    }
    assert.deepEqual(await ask(key.api_key), expected)
    const rotated = await call(db, 'rotate_api_key', { p_key_id: key.key_id })
    assert.deepEqual(await ask(rotated.api_key), expected)
    const old = await ask(key.api_key)
    assert.equal(old.rotated, true)
    assert.ok(Date.parse(old.expires_at) > Date.now())
  })
})

describe('a client\'s address', () => {
  it('is read in the forms that proxies write, and in no other', () => {
    const forms = {
      '192.0.2.7': '192.0.2.7',
      ' 192.0.2.7:51234 ': '192.0.2.7',
      '2001:db8::7': '2001:db8::7',
      '[2001:db8::7]': '2001:db8::7',
      '[2001:db8::7]:443': '2001:db8::7',
      '::ffff:192.0.2.7': '::ffff:192.0.2.7',
      '': null,
      unknown: null,
      '0.0.0.0/0': null,
      _hidden: null,
      'fe80::1%eth0': null,
    }
    for (const [text, address] of Object.entries(forms))
      assert.equal(clientAddress(text, null, 1), address, text)
  })

  it('is that of the connection where no proxy is trusted', () => {
    assert.equal(clientAddress('192.0.2.7', '198.51.100.1', 0), '198.51.100.1')
    assert.equal(clientAddress('192.0.2.7', '198.51.100.1', 1), '192.0.2.7')
    assert.equal(clientAddress(undefined, '198.51.100.1', 1), null)
    assert.equal(clientAddress('192.0.2.7', null, 0), null)
  })
})

describe('the proxy', GUARD, () => {
  const RECHECK = { RECHECK_SECONDS: '0.02' }
  const sockets = new Set()
  let service, proxy

  useCluster(SETTINGS, async (fresh) => {
    await setUp(fresh)
    service = http.createServer()
    proxy = await open(RECHECK)
  })
  after(() => sockets.forEach((socket) => socket.destroy()))

  async function open(changes) {
    service.address() ?? await serve(service)
    return serve(createProxy(environment({
      UPSTREAM_URL: `http://127.0.0.1:${service.address().port}`, ...changes })))
  }

  /** A request through the proxy on a connection of its own: it, and what the service gets of it. */
  async function reach(key, { url = proxy, headers, ...options } = {}) {
    const arrived = once(service, 'request')
    const request = http.request(url, { agent: false, headers: { 'X-API-Key': key, ...headers }, ...options })
    request.on('socket', (socket) => sockets.add(socket))
    const answered = once(request, 'response').then(([response]) => response)
    answered.catch(() => {}) // Of requests that are given up.
    request[options.method ? 'flushHeaders' : 'end']()
    const [incoming, response] = await arrived
    return { request, answered, incoming, response }
  }

  /** An open stream of events: how to send one, and all that the client receives. */
  async function stream(key, options) {
    const { request, answered, response } = await reach(key, options)
    response.writeHead(200, { 'Content-Type': 'text/event-stream' }).flushHeaders()
    const received = await answered
    return { request, response, received, send: (text) => response.write(text), events: eventsOf(received) }
  }

  async function* eventsOf(received) {
    let text = ''
    for await (const chunk of received.setEncoding('utf8')) {
      const events = (text + chunk).split('\n\n')
      text = events.pop()
      yield* events
    }
    if (text) yield text
  }

  const next = async (events) => (await events.next()).value
  const all = async (readable) => (await readable.setEncoding('utf8').toArray()).join('')

  /** Until the key was asked about again, and once more. */
  async function untilRechecked() {
    const { memo_hits: before } = await stats(db)
    await until('the next checks', async () => (await stats(db)).memo_hits >= before + 2)
  }

  it('tells the service who the client is, whatever the client says, and not its key', async () => {
    const [user, tenant] = [randomUUID(), randomUUID()]
    const scopes = ['articles:read', 'articles:write']
    const key = await issue(db, { p_user_id: user, p_tenant_id: tenant, p_scopes: scopes })
    const { incoming, response, answered } = await reach(key.api_key, { path: '/a?b=c%2Fd', headers: {
      'X-User-Id': 'mallory', x_user_id: 'mallory', 'X-TENANT-ID': 'mallory', 'X-Scopes': 'admin',
      'X-Key-Id': 'mallory', X_Key_ID: 'mallory', X_API_Key: key.api_key,
      Connection: 'x-user-id, X-Scopes, keep-alive', Accept: 'text/plain', Authorization: 'Basic bWU6',
      'X-Forwarded-For': '203.0.113.1' } })
    assert.equal(incoming.url, '/a?b=c%2Fd')
    const { host, connection, ...headers } = incoming.headers
    assert.deepEqual(headers, {
      'x-user-id': user, 'x-tenant-id': tenant, 'x-scopes': scopes.join(' '), 'x-key-id': key.key_id,
      'x-forwarded-for': '203.0.113.1, 127.0.0.1', accept: 'text/plain', authorization: 'Basic bWU6' })
    assert.equal(host, `127.0.0.1:${service.address().port}`)
    assert.ok(!incoming.rawHeaders.join().includes(partsOf(key.api_key).secret))
    response.writeHead(201, { 'Set-Cookie': ['a=1', 'b=2'], 'Proxy-Authenticate': 'Basic' }).end('made')
    const received = await answered
    assert.equal(received.statusCode, 201)
    assert.deepEqual(received.headers['set-cookie'], ['a=1', 'b=2'])
    assert.equal(received.headers['proxy-authenticate'], undefined)
    assert.equal(await all(received), 'made')
  })

  it('names no tenant for a key without one', async () => {
    const { api_key: key } = await issue(db)
    const { incoming, response } = await reach(key, { headers: { 'X-Tenant-Id': randomUUID() } })
    assert.equal(incoming.headers['x-tenant-id'], undefined)
    assert.equal(incoming.headers['x-scopes'], '')
    response.end()
  })

  it('streams bodies in both directions as they come', async () => {
    const { api_key: key } = await issue(db)
    for (const method of ['POST', 'DELETE']) {
      const headers = { 'Transfer-Encoding': 'chunked' }
      const { request, incoming, response, answered } = await reach(key, { method, headers })
      incoming.pipe(response.writeHead(200))
      request.write('one')
      const received = (await answered).setEncoding('utf8')
      for (const part of ['two', 'three']) {
        const [echo] = await once(received, 'data')
        assert.ok(echo)
        request.write(part)
      }
      const [last] = await once(received, 'data')
      assert.equal(last, 'three')
      const ended = once(received, 'end')
      request.end()
      await ended
    }
  })

  it('passes a body on as a body, never as another request', async () => {
    const { api_key: key } = await issue(db)
    const body = 'GET /smuggled HTTP/1.1\r\nHost: service\r\nX-User-Id: mallory\r\n\r\n'
    const socket = net.connect(new URL(proxy).port, '127.0.0.1')
    sockets.add(socket)
    const arrived = once(service, 'request')
    socket.write(`DELETE / HTTP/1.1\r\nHost: proxy\r\nX-API-Key: ${key}\r\n`
      + `Connection: content-length\r\nContent-Length: ${body.length}\r\n\r\n${body}`)
    const [incoming, response] = await arrived
    assert.equal(await all(incoming), body)
    response.end()
    socket.destroy()
  })

  it('takes paths, and no whole URLs', async () => {
    const { api_key: key } = await issue(db)
    for (const path of ['http://service.internal/', '*']) {
      const request = http.request(proxy, {
        path,
        method: 'OPTIONS',
        agent: false,
        headers: { 'X-API-Key': key },
      })
      const [received] = await once(request.end(), 'response')
      assert.equal(received.statusCode, 400)
      received.resume()
    }
    await assert.rejects(open({ UPSTREAM_URL: 'http://127.0.0.1/api/' }), /UPSTREAM_URL has a path/)
  })

  it('starts with no interval that a timer cannot wait for', async () => {
    for (const interval of ['0', '-1', 'never', 'Infinity', '3000000']) {
      await assert.rejects(open({ RECHECK_SECONDS: interval }), /RECHECK_SECONDS is not a number of seconds/)
    }
  })

  it('passes each event on before there is another', async () => {
    const { api_key: key } = await issue(db)
    const { received, response, send, events } = await stream(key)
    assert.equal(received.headers['content-type'], 'text/event-stream')
    for (let n = 0; n < 5; n++) {
      send(`data: ${n}\n\n`)
      assert.equal(await next(events), `data: ${n}`)
    }
    response.end()
    assert.deepEqual(await events.next(), { value: undefined, done: true })
  })

  it('ends the request to the service when the client goes away', async () => {
    const { api_key: key } = await issue(db)
    const { request, response, send, events } = await stream(key)
    send('data: 1\n\n')
    await next(events)
    const ended = once(response, 'close')
    request.destroy()
    await ended
    assert.equal(response.writableFinished, false)

    const unanswered = await reach(key)
    const given = once(unanswered.response, 'close')
    unanswered.request.on('error', () => {}).destroy()
    await given

    const upload = await reach(key, { method: 'POST' })
    const broken = once(upload.incoming, 'error')
    upload.incoming.resume()
    upload.request.on('error', () => {}).destroy()
    assert.equal((await broken)[0].code, 'ECONNRESET')
  })

  it('asks nothing of the service for a client that left before the verdict', async () => {
    const { api_key: key } = await known()
    const other = await cluster.postgrest('app')
    const server = createProxy(environment({
      POSTGREST_URL: other.url, UPSTREAM_URL: `http://127.0.0.1:${service.address().port}` }))
    const url = await serve(server)
    const paths = []
    const note = (incoming) => paths.push(incoming.url)
    service.on('request', note)
    const { memo_hits: before } = await stats(db)

    other.process.kill('SIGSTOP')
    const asked = once(server, 'request')
    const request = http.request(url, {
      method: 'POST',
      path: '/left',
      agent: false,
      headers: { 'X-API-Key': key },
    })
    request.flushHeaders()
    const [, response] = await asked
    const left = once(response, 'close')
    request.on('error', () => {}).destroy()
    await left
    other.process.kill('SIGCONT')
    await until('the verdict', async () => (await stats(db)).memo_hits > before)

    const stayed = await reach(key, { url, path: '/stayed' })
    stayed.response.end()
    await stayed.answered
    service.off('request', note)
    assert.deepEqual(paths, ['/stayed'])
  })

  it('ends the client\'s connection when the service dies', async () => {
    const { api_key: key } = await issue(db)
    for (const die of ['destroy', 'resetAndDestroy']) {
      const { response, send, events } = await stream(key)
      send('data: 1\n\n')
      assert.equal(await next(events), 'data: 1')
      const ended = assert.rejects(events.next(), { code: 'ECONNRESET' })
      response.socket[die]()
      await ended

      const unanswered = await reach(key)
      unanswered.response.socket[die]()
      const received = await unanswered.answered
      assert.equal(received.statusCode, 502)
      assert.equal(JSON.parse(await all(received)).message, 'The service cannot be reached.')
    }
    const url = await open({ UPSTREAM_URL: await nowhere() })
    assert.equal((await fetch(url, { headers: { 'X-API-Key': key } })).status, 502)
  })

  it('waits for an answer no longer than it was told, but for an event as long as it takes', async () => {
    const { api_key: key } = await issue(db)
    const url = await open({ ...RECHECK, UPSTREAM_TIMEOUT_SECONDS: '0.2' })
    const { request, send, events } = await stream(key, { url })
    const unanswered = await reach(key, { url }) // Later, so the stream is silent for longer.
    const given = once(unanswered.response, 'close')
    const { statusCode } = (await unanswered.answered).resume()
    assert.equal(statusCode, 504)
    await given
    send('data: late\n\n')
    assert.equal(await next(events), 'data: late')
    request.destroy()
  })

  it('keeps a stream open for as long as its key is valid, and no longer', async () => {
    const key = await issue(db)
    const { response, send, events } = await stream(key.api_key)
    await untilRechecked()
    send('data: 1\n\n')
    assert.equal(await next(events), 'data: 1')
    const ended = once(response, 'close')
    await revoke(key)
    const [name, data] = (await next(events)).split('\n')
    assert.equal(name, 'event: refused')
    assert.deepEqual(JSON.parse(data.slice('data: '.length)),
      { error: 'invalid_token', message: 'This API key is not accepted.' })
    assert.deepEqual(await events.next(), { value: undefined, done: true })
    await ended
  })

  it('adds no event where the service has begun one, or where the client could not read it', async () => {
    const begun = {
      'an event': [{ 'Content-Type': 'text/event-stream' }, 'data: 1\n\ndata: {"half'],
      'a compressed stream': [
        { 'Content-Type': 'text/event-stream', 'Content-Encoding': 'gzip' },
        '\x1f\n\n',
      ],
      'a download': [{ 'Content-Type': 'text/plain' }, 'text\n\n'],
    }
    for (const [what, [headers, text]] of Object.entries(begun)) {
      const key = await issue(db)
      const { response, answered } = await reach(key.api_key)
      response.writeHead(200, headers).write(text)
      let received = ''
      const body = (await answered).setEncoding('utf8').on('data', (part) => { received += part })
      await until('what was sent', () => received === text)
      const [ended, broken] = [once(response, 'close'), once(body, 'error')]
      await revoke(key)
      assert.equal((await broken)[0].code, 'ECONNRESET', what)
      await ended
      assert.equal(received, text, what)
    }
  })

  it('refuses a request whose key is revoked before the service has answered', async () => {
    const key = await issue(db)
    const { response, answered } = await reach(key.api_key)
    const ended = once(response, 'close')
    await revoke(key)
    const received = await answered
    assert.equal(received.statusCode, 401)
    assert.equal(received.headers['www-authenticate'], `${CHALLENGE}, error="invalid_token"`)
    await ended
  })

  it('ends a stream when PostgREST can no longer be asked', async () => {
    const { api_key: key } = await issue(db)
    const other = await cluster.postgrest('app')
    const { response, events } = await stream(key, {
      url: await open({ ...RECHECK, POSTGREST_URL: other.url }),
    })
    const ended = once(response, 'close')
    other.stop()
    assert.match(await next(events), /^event: refused\ndata: \{"error":"unavailable"/)
    await ended
  })

  it('goes on with a connection whose upload the service did not want', async () => {
    const { api_key: key } = await issue(db)
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
    const { request, response, answered } = await reach(key, { method: 'POST', agent })
    request.write('x'.repeat(1 << 20))
    response.writeHead(413, { Connection: 'close' }).end()
    const received = await answered
    assert.equal(received.statusCode, 413)
    const ended = once(received.resume(), 'end')
    request.end('x'.repeat(1 << 20))
    await ended
    const second = await reach(key, { agent })
    second.response.end('second')
    assert.equal(await all(await second.answered), 'second')
    agent.destroy()
  })

  it('starts with the command of its README', async () => {
    const { api_key: key } = await issue(db)
    const start = (env) => spawn(process.execPath, ['server.mjs'], {
      cwd: fileURLToPath(new URL('express-proxy/', EXAMPLES)), env: { ...env, PORT: '0' }, stdio: 'pipe' })
    const running = start(environment({ UPSTREAM_URL: `http://127.0.0.1:${service.address().port}` }))
    try {
      const [line] = await once(running.stdout.setEncoding('utf8'), 'data')
      const { response, answered } = await reach(key, { url: /http:\S+/.exec(line)[0] })
      response.end('reached')
      assert.equal(await all(await answered), 'reached')
    } finally {
      running.kill()
    }
    const failing = start({ POSTGREST_URL: postgrest.url })
    const [error] = await once(failing.stderr.setEncoding('utf8'), 'data')
    assert.match(error, /UPSTREAM_URL is not set/)
  })
})
