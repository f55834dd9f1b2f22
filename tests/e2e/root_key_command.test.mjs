// A command that does not give the root key costs little, however many ask: anybody can ask about a text.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { createHash, randomInt, randomUUID } from 'node:crypto'
import { appendFileSync, existsSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { promisify } from 'node:util'
import { call, codeOf, issue, until, useCluster, value } from './harness.mjs'

const ps = promisify(execFile)
const SESSIONS = 50
const KEY = 'cat api_key_root_key'
/** A command that hangs, and that no other run of this test has. */
const HANG = `sleep ${randomInt(100_000, 1_000_000_000)}`
const TEXT = 'a legacy key'
const refused = (error) => {
  assert.deepEqual([error.code, error.message], ['55000', 'the root key cannot be used'])
  assert.match(error.hint, /10 seconds/)
  return true
}

describe('the command of the root key', () => {
  let cluster, admin, native, runs

  useCluster({ 'api_key.argon2_memory_kib': 64, 'api_key.argon2_iterations': 1, max_connections: SESSIONS + 20 },
    async (fresh) => {
      cluster = fresh
      await cluster.database('app')
      admin = await cluster.connect('app')
      native = await issue(admin)
      await call(admin, 'import_api_key_hash',
        { p_hash: createHash('md5').update(TEXT).digest('hex'), p_scheme: 'md5', p_user_id: randomUUID() })
      runs = join(cluster.dir, 'data/runs')
    })

  const count = () => existsSync(runs) ? readFileSync(runs, 'latin1').trim().split('\n').length : 0

  /** Has new sessions run this instead, and counts from 0 how often. */
  async function use(command) {
    rmSync(runs, { force: true })
    const whole = `echo run >> runs; ${command} # ${randomUUID()}`
    await admin.query(`ALTER SYSTEM SET api_key.root_key_command = '${whole.replaceAll("'", "''")}'`)
    await admin.query('SELECT pg_reload_conf()')
    await until('the setting', async () => {
      const client = await cluster.connect('app')
      const shown = await value(client, 'SHOW api_key.root_key_command')
      await client.end()
      return shown === whole
    })
  }

  const sessions = (count) => Promise.all(Array.from({ length: count }, () => cluster.connect('app')))
  const leave = (clients) => Promise.all(clients.map((client) => client.end().catch(() => {})))

  /** The processes of the machine of which `ps` says this. */
  const processes = async (columns, like) =>
    (await ps('ps', ['-eo', columns])).stdout.split('\n').filter((line) => like.test(line))
  const hanging = () => processes('stat=,args=', new RegExp(`^[^Z].* ${HANG}$`))

  describe('is run once for many texts in many sessions when it', () => {
    const failures = {
      'fails': ['false', /failed/],
      'fails with the key on its output': [`${KEY}; exit 1`, /failed/],
      'is killed': ['kill -9 $$', /failed/],
      'is not there': ['no_such_program', /failed/],
      'is no shell command': ['sh -c if', /failed/],
      'prints nothing': ['true', /64 hexadecimal/],
      'prints white space': ['printf "\\n\\n"', /64 hexadecimal/],
      'prints garbage': ['echo CANARY-garbage', /64 hexadecimal/],
      'prints NULs': ['head -c 64 /dev/zero', /64 hexadecimal/],
      'prints too little': [`${KEY} | head -c 62`, /64 hexadecimal/],
      'prints the key twice': [`${KEY}; ${KEY}`, /64 hexadecimal/],
      'prints the key behind 300 spaces': [`printf "%300s"; ${KEY}`, /64 hexadecimal/],
      'prints without end': ['yes CANARY-endless', /64 hexadecimal/],
      'prints a gigabyte at once': ['head -c 1000000000 /dev/zero', /64 hexadecimal/],
      'writes to its standard error': ['echo CANARY-error >&2; exit 2', /failed/],
    }
    for (const [what, [command, detail]] of Object.entries(failures)) {
      it(what, async () => {
        await use(command)
        const clients = await sessions(4)
        for (let n = 0; n < 5; n++) {
          for (const client of clients) {
            await assert.rejects(codeOf(client, `text ${n}`), (error) => refused(error) && detail.test(error.detail))
          }
          assert.equal(await codeOf(clients[0], native.api_key), 'VALID')
        }
        await leave(clients)
        assert.equal(count(), 1)
      })
    }

    it(`fails slowly, and ${SESSIONS} sessions need it at once`, async () => {
      await use('sleep 0.5; false')
      const clients = await sessions(SESSIONS)
      await Promise.all(clients.map((client) => assert.rejects(codeOf(client, TEXT), refused)))
      await leave(clients)
      assert.equal(count(), 1)
    })

    it('takes longer than those who ask wait', async () => {
      await use(HANG)
      const clients = await sessions(5)
      for (const client of clients) await client.query(`SET statement_timeout = '1500ms'`)
      const ends = await Promise.all(clients.map((client) => codeOf(client, TEXT).catch((error) => error.code)))
      assert.ok(ends.every((end) => ['57014', '55000'].includes(end)), ends.join())
      for (const client of clients) await assert.rejects(codeOf(client, TEXT), refused)
      await leave(clients)
      assert.equal(count(), 1)
      assert.deepEqual(await hanging(), [])
    })
  })

  it('has not failed for others when a session gives up', async () => {
    await use(`sleep 2; ${KEY}`)
    const [hasty, other, patient, idle] = await sessions(4)
    for (const client of [hasty, other]) await client.query(`SET statement_timeout = '1200ms'`)
    await assert.rejects(codeOf(hasty, TEXT), { code: '57014' })
    const cancelled = assert.rejects(codeOf(idle, TEXT), { code: '57014' })
    await until('it to run', () => count() === 2)
    await new Promise((resolve) => setTimeout(resolve, 1200))
    await admin.query('SELECT pg_cancel_backend($1)', [await value(admin, `SELECT pid FROM pg_stat_activity
      WHERE query LIKE '%verify_api_key%' AND state = 'active' AND pid <> pg_backend_pid()`)])
    await cancelled
    // Who would give up as soon has it not run again; who waits has.
    await assert.rejects(codeOf(other, TEXT), (error) => refused(error) && /statement_timeout/.test(error.detail))
    assert.equal(count(), 2)
    assert.equal(await codeOf(patient, TEXT), 'VALID')
    assert.equal(await codeOf(patient, TEXT), 'VALID')
    assert.equal(count(), 3)
    await leave([hasty, other, patient, idle])
  })

  it(`that works is run once in each of ${SESSIONS} sessions, one at a time`, async () => {
    await use(`mkdir running || echo beside >> runs; ${KEY}; rmdir running`)
    const clients = await sessions(SESSIONS)
    const codes = await Promise.all(clients.map((client) => codeOf(client, TEXT)))
    for (const client of clients) assert.equal(await codeOf(client, TEXT), 'VALID')
    await leave(clients)
    assert.deepEqual(new Set(codes), new Set(['VALID']))
    assert.equal(count(), SESSIONS)
    assert.ok(!readFileSync(runs, 'latin1').includes('beside'))
  })

  it('is run at once when it is changed, and by itself 10 seconds after it failed', async () => {
    await use(`test -e repaired && ${KEY}`)
    const client = await cluster.connect('app')
    await assert.rejects(codeOf(client, TEXT), refused)
    appendFileSync(join(cluster.dir, 'data/repaired'), '')
    await assert.rejects(codeOf(client, TEXT), refused)
    await use(`test -e repaired && ${KEY}`)
    assert.equal(await codeOf(await cluster.connect('app'), TEXT), 'VALID')
    rmSync(join(cluster.dir, 'data/repaired'))
    await use(`test -e repaired && ${KEY}`)
    const waiting = await cluster.connect('app')
    await assert.rejects(codeOf(waiting, TEXT), refused)
    appendFileSync(join(cluster.dir, 'data/repaired'), '')
    await until('the next run', () => codeOf(waiting, TEXT).catch(() => false))
    assert.equal(count(), 2)
  })

  describe('that hangs is ended, with what it has started, by', () => {
    const ends = {
      'a cancel': ['57014', (pid) => call0(`SELECT pg_cancel_backend(${pid})`)],
      'a termination': ['57P01', (pid) => call0(`SELECT pg_terminate_backend(${pid})`)],
      'a statement timeout': ['57014', undefined, `SET statement_timeout = 300`],
      'its own bound': ['55000', undefined, 'SELECT'],
    }
    const call0 = (text) => admin.query(text)
    for (const [what, [code, end, before]] of Object.entries(ends)) {
      it(what, async () => {
        await use(`(${HANG}; true) & ${HANG}; true`)
        const client = await cluster.connect('app')
        if (before) await client.query(before)
        const pid = await value(client, 'SELECT pg_backend_pid()')
        const asked = assert.rejects(codeOf(client, TEXT), { code })
        if (end) {
          await until('it to hang', async () => (await hanging()).length >= 2)
          await end(pid)
        }
        await asked
        await until('its end', async () => (await hanging()).length === 0)
        if (what !== 'a termination') {
          assert.equal(await codeOf(client, native.api_key), 'VALID')
          assert.deepEqual(await processes('ppid=,args=', new RegExp(`^ *${pid} `)), [], 'no zombie')
        }
        await client.end().catch(() => {})
      })
    }
  })

  it('that leaves something running with its output open is not waited for', async () => {
    await use(`${HANG} & ${KEY}`)
    const client = await cluster.connect('app')
    assert.equal(await codeOf(client, TEXT), 'VALID')
    await until('its end', async () => (await hanging()).length === 0)
  })

  it('has nothing of its output in errors or in the log, and the server did not restart', () => {
    // The log quotes statements that set the command.
    const log = cluster.log.split('\n').filter((line) => !line.includes('ALTER SYSTEM')
      && !line.includes('"api_key.root_key_command" changed'))
    assert.deepEqual(log.filter((line) => line.includes('CANARY')), [])
    assert.ok(!cluster.log.includes(readFileSync(join(cluster.dir, 'data/api_key_root_key'), 'latin1').trim()))
    assert.doesNotMatch(cluster.log, /terminating any other active server processes/)
  })
})

describe('the command of the root key without preloading', () => {
  let cluster
  useCluster({ shared_preload_libraries: '' }, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
    const admin = await cluster.connect('app')
    await call(admin, 'import_api_key_hash', { p_hash: '0'.repeat(32), p_scheme: 'md5', p_user_id: randomUUID() })
    await admin.end()
    await cluster.stop()
    await cluster.resume({ 'api_key.root_key_command': 'echo run >> runs; false' })
  })

  it('is run once in each session when it fails', async () => {
    for (let session = 0; session < 3; session++) {
      const client = await cluster.connect('app')
      for (let n = 0; n < 10; n++) await assert.rejects(codeOf(client, TEXT), refused)
    }
    assert.equal(readFileSync(join(cluster.dir, 'data/runs'), 'latin1').trim().split('\n').length, 3)
  })
})
