// Hashing while strangers guess: holders get their turn, queries end when they are told to, and no
// slot is lost. HASHING_COST (bcrypt) and HASHING_HOLDERS scale the first part up.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { describe, it } from 'node:test'
import { call, codeOf, issue, stats, until, useCluster, value, withWrongSecret } from './harness.mjs'

const COST = Number(process.env.HASHING_COST ?? 7)
const HOLDERS = Number(process.env.HASHING_HOLDERS ?? 4)
const CROWD = 40
const PREFIX = 'app_'
const SLOTS = 2
/** Milliseconds that one call may search; by default as long as the crowd takes without guessers. */
const SCAN_TIME = Number(process.env.HASHING_SCAN_TIME)
/** How late a query may notice that it is to end. */
const HEEDED_WITHIN_MS = 500

const newText = () => PREFIX + randomBytes(16).toString('hex')

describe('hashing', () => {
  let cluster, admin
  const settings = {
    'api_key.max_concurrent_hashes': SLOTS, 'api_key.flush_interval': 3600, max_connections: 120 }

  useCluster(settings, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
    admin = await cluster.connect('app')
    await admin.query(`CREATE EXTENSION pgcrypto; SELECT api_key.setup_postgrest(p_create_roles => true);
      SELECT api_key.define_tier('free', NULL)`)
  })

  const session = async (settings = {}) => {
    const client = await cluster.connect('app')
    for (const [name, setting] of Object.entries(settings)) {
      await client.query(`SELECT set_config($1, $2, false)`, [name, String(setting)])
    }
    return client
  }

  const pidOf = (client) => value(client, 'SELECT pg_backend_pid()')
  const running = async () => (await stats(admin)).hashes_running

  /** Imports a bcrypt key of each text. */
  async function adopt(texts, { cost = COST, prefix = PREFIX } = {}) {
    for (const text of texts) {
      await admin.query(`SELECT api_key.import_api_key_hash(
        crypt($1, gen_salt('bf', $2)), 'bcrypt', NULL, $3)`, [text, cost, prefix])
    }
  }

  /** A hash of this cost that matches nothing; making one takes no time. */
  const someHash = (cost) => `$2b$${String(cost).padStart(2, '0')}$${
    'abcdefghijklmnopqrstuu'}${randomBytes(32).toString('hex').slice(0, 30)}.`

  async function adoptSlow(prefix, count, hash = () => someHash(14)) {
    for (let n = 0; n < count; n++) {
      await call(admin, 'import_api_key_hash', {
        p_hash: hash(), p_scheme: hash().startsWith('$a') ? 'argon2' : 'bcrypt', p_user_id: null, p_key_prefix: prefix })
    }
  }

  /** How long a hash takes while all slots are at work, in milliseconds. */
  async function hashTime(hash) {
    const clients = [await session(), await session()]
    const started = Date.now()
    await Promise.all(clients.map((client) => client.query(
      'SELECT count(api_key.matches_hash(n::text, $1)) FROM generate_series(1, 5) AS n', [hash])))
    await Promise.all(clients.map((client) => client.end()))
    return (Date.now() - started) / 5
  }

  /** Clients that ask in a closed loop until told to end; `text` makes the next text from the last answer. */
  async function guessers(count, settings, nextText = newText) {
    let ended = false
    let asked = 0
    const codes = {}
    const one = async (client, n) => {
      let last = {}
      while (!ended) {
        const text = nextText(last, n)
        const code = await codeOf(client, text).catch((error) => error.code)
        last = { text, code }
        codes[code] = (codes[code] ?? 0) + 1
        asked++
      }
      await client.end()
    }
    const clients = await Promise.all(Array.from({ length: count }, () => session(settings)))
    const all = Promise.all(clients.map(one))
    await until('guesses', async () => count === 0 || asked > 0 || await running() > 0)
    return { codes, end: () => { ended = true; return all } }
  }

  /** Asks until the answer is another than OVERLOADED: how many calls, and which code. */
  async function ask(client, text, most = 200) {
    for (let calls = 1; ; calls++) {
      const code = await codeOf(client, text)
      if (code !== 'OVERLOADED' || calls === most) return { calls, code }
    }
  }

  describe(`beside guessers on ${CROWD} slow legacy keys of one prefix`, () => {
    /** A text that comes back until it is answered. */
    const stubborn = ({ text, code }) => (code === 'OVERLOADED' ? text : newText())
    const theSame = newText()
    const cases = [
      { what: 'four guessers, each text new', count: 4, calls: 3 },
      { what: 'nobody', count: 0, calls: 2 },
      { what: 'four guessers who come back with a text until it is answered', count: 4, next: stubborn, calls: 20 },
      { what: 'four guessers with one text', count: 4, next: () => theSame, calls: 20 },
      { what: 'four guessers with a text each', count: 4, next: (_, n) => `${PREFIX}${n}`, calls: 20 },
      { what: 'fifty guessers, each text new', count: 50, calls: 20 },
    ]
    for (const { what, count, next, calls: most } of cases) {
      it(`${what}: native keys at the first call, legacy ones within ${most}`, async (test) => {
        await admin.query(`SELECT api_key.delete_api_key(key_id) FROM api_key_internal.keys`)
        const texts = Array.from({ length: CROWD }, newText)
        await adopt(texts)
        const holders = next || count !== 4 ? Math.min(HOLDERS, 2) : HOLDERS
        const scanTime = SCAN_TIME || Math.round(await hashTime(someHash(COST)) * CROWD)
        const scan = { 'api_key.legacy_scan_time': scanTime }
        const guessing = await guessers(count, scan, next)
        const native = await session()
        const legacy = await session(scan)
        const seen = { native: [], legacy: [] }
        let slowest = 0
        const [begun, before] = [Date.now(), (await stats(admin)).hashes_run]
        // Native ones all the while, legacy ones one after another.
        let done = false
        const natives = (async () => {
          while (!done || seen.native.length < 20) {
            const { api_key: key } = await issue(native)
            const started = Date.now()
            seen.native.push(await ask(native, key))
            slowest = Math.max(slowest, Date.now() - started)
          }
        })()
        for (const text of texts.slice(0, holders)) seen.legacy.push(await ask(legacy, text))
        // Of scans, one hashes at a time.
        const hash = (Date.now() - begun) / ((await stats(admin)).hashes_run - before - seen.native.length)
        done = true
        await natives
        await guessing.end()
        const worst = Math.max(...seen.legacy.map(({ calls }) => calls))
        test.diagnostic(`${seen.native.length} native first uses, slowest ${slowest} ms; ${holders} legacy ones within ${
          worst} calls (${seen.legacy.map(({ calls }) => calls)}); a hash ${Math.round(hash)} ms, scan time ${scanTime} ms; guesses ${JSON.stringify(guessing.codes)}`)
        assert.deepEqual(seen.native.filter(({ calls, code }) => calls > 1 || code !== 'VALID'), [])
        assert.deepEqual(seen.legacy.filter(({ calls, code }) => calls > most || code !== 'VALID'), [])
        assert.equal(await running(), 0)
        await native.end()
        await legacy.end()
      })
    }

    it('several calls at once with one text share the work', async () => {
      await admin.query(`SELECT api_key.delete_api_key(key_id) FROM api_key_internal.keys`)
      const texts = Array.from({ length: CROWD }, newText)
      await adopt(texts, { cost: 6 })
      const before = (await stats(admin)).hashes_run
      const clients = await Promise.all(Array.from({ length: 8 }, () => session()))
      const wrong = newText()
      for (const [text, code] of [[texts[0], 'VALID'], [wrong, 'NOT_FOUND']]) {
        const codes = await Promise.all(clients.map((client) => ask(client, text)))
        assert.ok(codes.every((answer) => answer.code === code), JSON.stringify(codes))
      }
      const hashes = (await stats(admin)).hashes_run - before
      // The last candidates may be in hand, and a call that begins later begins anew.
      assert.ok(hashes < 4 * CROWD, `${hashes} hashes for two texts asked eight times`)
      await Promise.all(clients.map((client) => client.end()))
    })

    it('a search that is cancelled again and again gets to its end', async () => {
      await admin.query(`SELECT api_key.delete_api_key(key_id) FROM api_key_internal.keys`)
      const texts = Array.from({ length: CROWD }, newText)
      await adopt(texts, { cost: 6 })
      const client = await session({ statement_timeout: 40 })
      let calls = 0
      const code = await until('the end of the search', async () => {
        calls++
        return codeOf(client, texts[7]).catch((error) => assert.equal(error.code, '57014'))
      })
      assert.equal(code, 'VALID')
      await client.end()
    })
  })

  describe('ends when it is told to', () => {
    const ARGON2 = '$argon2id$v=19$m=262144,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc'
    let key_id, wrong, wrapped, heededWithin
    /** What hashes for long enough to be cut short, or is made to wait for room. */
    const loops = {
      'verify, a scan of bcrypt keys': (client) => codeOf(client, `slow_${randomBytes(8).toString('hex')}`),
      'verify, a scan of argon2 keys': (client) => codeOf(client, `argon_${randomBytes(8).toString('hex')}`),
      'revoke_own_api_key, a scan': (client) =>
        call(client, 'revoke_own_api_key', { p_api_key: `slow_${randomBytes(8).toString('hex')}` }),
      'verify, a wrapped bcrypt key by its text': (client) => codeOf(client, wrapped),
      'stored_hash_pair': (client) => client.query(
        'SELECT api_key.matches_hash($1, $2)', ['text', someHash(14)]),
      'import of plaintext': (client) => client.query(`SELECT api_key.import_api_key_hash(
        'plain' || n || random(), 'plaintext', NULL) FROM generate_series(1, 10000) AS n`),
      'wrap_hash': (client) => client.query(`SELECT count(api_key_internal.wrap_hash(
        '{md5}AAAAAAAAAAAAAAAAAAAAAA==')) FROM generate_series(1, 10000)`),
      'migrate_legacy_hashes': (client) => client.query('CALL api_key.migrate_legacy_hashes()'),
      'issue_api_key': (client) => client.query(
        'SELECT count(api_key.issue_api_key()) FROM generate_series(1, 10000)'),
      'rotate_api_key': (client) => client.query(
        'SELECT count(api_key.rotate_api_key($1)) FROM generate_series(1, 10000)', [key_id]),
      'verify of a native key': (client) => client.query(
        'SELECT count(api_key.verify_api_key($1)) FROM generate_series(1, 10000)', [wrong]),
    }

    it('(there are slow keys)', async () => {
      await admin.query(`SELECT api_key.delete_api_key(key_id) FROM api_key_internal.keys`)
      await adoptSlow('slow_', 10)
      await adoptSlow('argon_', 10, () => ARGON2.replace('c29tZXNhbHQ', randomBytes(12).toString('base64url').replace(/[-_]/g, 'A')))
      const { api_key, ...issued } = await issue(admin)
      key_id = issued.key_id
      wrong = withWrongSecret(api_key)
      await admin.query(`UPDATE api_key_internal.keys SET secret_hash =
        regexp_replace(secret_hash, 'm=\\d+,t=\\d+', 'm=262144,t=1') WHERE key_id = $1`, [key_id])
      wrapped = newText()
      const wrappedId = await value(admin, `SELECT api_key.import_api_key_hash($1, 'plaintext', NULL)`, [wrapped])
      await admin.query(`UPDATE api_key_internal.keys SET secret_hash = '{bcrypt}' || $2 WHERE key_id = $1`,
        [wrappedId, someHash(14)])
      await admin.query(`SELECT count(api_key.import_api_key_hash(md5('digest' || n), 'md5', NULL)) FROM generate_series(1, 1000) AS n`)
      // Or within the costliest argon2, which cannot be interrupted, should the machine be that slow.
      heededWithin = Math.max(HEEDED_WITHIN_MS, 2 * await hashTime(ARGON2))
    })

    /** How long it went on after the moment when it was to end. */
    async function overtime(client, loop, end) {
      const outcome = loop(client).then(() => 'done', (error) => error.code)
      const told = await end()
      const code = await outcome
      return { code, late: Date.now() - told }
    }

    for (const [what, loop] of Object.entries(loops)) {
      it(`at its statement_timeout, by a cancel, by a termination: ${what}`, async (test) => {
        const client = await session({ statement_timeout: 150, 'api_key.failure_limit': 1_000_000 })
        const timeout = await overtime(client, loop, async () => Date.now() + 150)
        assert.equal(timeout.code, '57014')
        const lates = [timeout.late]
        await client.query('SET statement_timeout = 0')
        const pid = await pidOf(client)
        for (const [tell, code] of [['pg_cancel_backend', '57014'], ['pg_terminate_backend', '57P01']]) {
          const { code: seen, late } = await overtime(client, loop, async () => {
            await until('it to hash', async () => await running() > 0)
            await value(admin, `SELECT ${tell}($1)`, [pid])
            return Date.now()
          })
          assert.equal(seen, code)
          lates.push(late)
        }
        test.diagnostic(`ended ${lates} ms late`)
        assert.ok(Math.max(...lates) < heededWithin, `${lates} ms late`)
        await until('all slots to be free', async () => await running() === 0)
      })
    }

    it('also while it waits for room', async (test) => {
      const holders = await Promise.all(Array.from({ length: SLOTS }, () => session({ 'api_key.failure_limit': 1000 })))
      const pids = await Promise.all(holders.map(pidOf))
      const hashing = holders.map((client) => client.query('SELECT api_key.matches_hash($1, $2)', ['text', someHash(14)]))
      await until('all slots to be taken', async () => await running() === SLOTS)
      pids.forEach((pid) => process.kill(pid, 'SIGSTOP'))
      const lates = {}
      try {
        for (const [what, loop] of Object.entries(loops)) {
          const client = await session({ statement_timeout: 150, 'api_key.hash_queue_timeout': 60_000, 'api_key.legacy_scan_time': 60_000 })
          const { code, late } = await overtime(client, loop, async () => Date.now() + 150)
          assert.equal(code, '57014', what)
          lates[what] = late
          await client.end()
        }
        const impatient = await session({ 'api_key.hash_queue_timeout': 0 })
        for (const command of ['issue_api_key()', `rotate_api_key('${key_id}')`]) {
          await assert.rejects(impatient.query(`SELECT api_key.${command}`), (error) =>
            error.code === '53400' && error.message === 'no room to hash now' && error.hint === 'Try again in a moment.')
          await impatient.query('BEGIN; SET LOCAL "request.method" = \'POST\'')
          await assert.rejects(impatient.query(`SELECT api_key.${command}`), (error) =>
            error.code === 'PGRST' && JSON.parse(error.detail).status === 503)
          await impatient.query('ROLLBACK')
        }
        await impatient.end()
        assert.equal(await running(), SLOTS)
      } finally {
        pids.forEach((pid) => process.kill(pid, 'SIGCONT'))
      }
      await Promise.all(hashing)
      test.diagnostic(JSON.stringify(lates))
      assert.ok(Math.max(...Object.values(lates)) < heededWithin)
      assert.equal(await running(), 0)
    })

    it('and leaves no slot taken, however often it is terminated or cancelled', async (test) => {
      const ways = { hashing: 0, waiting: 0 }
      for (let n = 0; n < 50; n++) {
        const clients = await Promise.all([session(), session(), session()])
        const pids = await Promise.all(clients.map(pidOf))
        const ends = clients.map((client) => client.query(
          'SELECT api_key.matches_hash($1, $2)', ['text', someHash(14)]).then(() => 'done', (error) => error.code))
        await until('one to wait and the others to hash', async () => await running() === SLOTS && await value(admin, `
          SELECT count(*)::integer FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND pid = ANY ($1)`, [pids]) === 1)
        const waits = await value(admin, `SELECT pid FROM pg_stat_activity
          WHERE wait_event_type = 'Extension' AND pid = ANY ($1)`, [pids])
        // By turns the one that waits goes first, or those that hash.
        const order = n % 2 ? [waits, ...pids.filter((pid) => pid !== waits)] : [...pids.filter((pid) => pid !== waits), waits]
        const tell = n % 5 === 0 ? 'pg_cancel_backend' : 'pg_terminate_backend'
        for (const pid of order) {
          ways[pid === waits ? 'waiting' : 'hashing']++
          await value(admin, `SELECT ${tell}($1)`, [pid])
        }
        assert.deepEqual(await Promise.all(ends), Array(3).fill(n % 5 === 0 ? '57014' : '57P01'))
        await Promise.all(clients.map((client) => client.end().catch(() => {})))
        await until('all slots to be free', async () => await running() === 0)
      }
      test.diagnostic(JSON.stringify(ways))
    })

    it('a killed server begins with all slots free', async () => {
      const client = await session()
      const hashing = client.query('SELECT api_key.matches_hash($1, $2)', ['text', someHash(14)]).catch(() => {})
      await until('a hash to run', async () => await running() === 1)
      process.kill(await pidOf(await session()), 'SIGKILL')
      await hashing
      admin = await until('the server', () => cluster.connect('app').catch(() => false))
      assert.equal(await running(), 0)
    })
  })

  it('32 sessions issue 200 keys beside guessers, with none refused', async (test) => {
    await admin.query(`SELECT api_key.delete_api_key(key_id) FROM api_key_internal.keys`)
    await adopt(Array.from({ length: 10 }, newText))
    const guessing = await guessers(4)
    const clients = await Promise.all(Array.from({ length: 32 }, () => session()))
    const started = Date.now()
    let left = 200
    const keys = []
    await Promise.all(clients.map(async (client) => {
      while (left-- > 0) keys.push((await issue(client)).api_key)
    }))
    test.diagnostic(`200 keys in ${Date.now() - started} ms`)
    for (const key of keys.slice(0, 20)) assert.equal(await codeOf(clients[0], key), 'VALID')
    await guessing.end()
    assert.equal(await running(), 0)
  })

  it('an import and a wrap go on beside guessers who come back', async (test) => {
    const guessing = await guessers(6, {}, ({ text, code }) => (code === 'OVERLOADED' ? text : newText()))
    const started = Date.now()
    await admin.query(`SELECT count(api_key.import_api_key_hash(md5('beside' || n), 'md5', NULL)) FROM generate_series(1, 50) AS n`)
    await admin.query(`SELECT count(api_key.import_api_key_hash('beside' || n, 'plaintext', NULL)) FROM generate_series(1, 50) AS n`)
    await admin.query('CALL api_key.migrate_legacy_hashes()')
    test.diagnostic(`50 plaintext keys and the wrap in ${Date.now() - started} ms`)
    assert.equal(await value(admin, `SELECT count(*)::integer FROM api_key_internal.keys
      WHERE secret_hash LIKE '{%' AND secret_hash NOT LIKE '%$argon2id$%'`), 0)
    await guessing.end()
  })
})
