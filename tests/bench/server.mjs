// The server under measurement: a PostgreSQL of the bench's own (made by tests/cluster), psql for
// what prepares it, load.c for what measures it. Nothing outlives the bench, however it ends.

import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const here = (path) => fileURLToPath(new URL(path, import.meta.url))
const CLUSTER = here('../cluster')
const PG_CONFIG = process.env.PG_CONFIG || 'pg_config'

// So that an interrupt passes through the 'exit' handler below.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1))

/** Starts a program; `output` resolves to what it printed when it ends well. */
function start(program, args, { env = {}, input } = {}) {
  const child = spawn(program, args, {
    env: { ...process.env, ...env },
    stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
  })
  const output = new Promise((resolve, reject) => {
    let [stdout, stderr] = ['', '']
    child.stdout.setEncoding('utf8').on('data', (data) => (stdout += data))
    child.stderr.setEncoding('utf8').on('data', (data) => (stderr += data))
    child.on('error', reject)
    child.on('close', (status) => status === 0 ? resolve(stdout)
      : reject(new Error(`${program} ended with ${status}: ${stderr.trim()}`)))
  })
  // Whoever awaits it is told; until then it must not end the process.
  output.catch(() => {})
  // A program that ends without reading says why by its status.
  child.stdin?.on('error', () => {}).end(input)
  return { child, output }
}

export const run = (...args) => start(...args).output

/** @typedef {{ database: string, query: string, params: string, expect?: string,
 *    clients?: number, seconds?: number, once?: boolean, rate?: number, seed?: number }} Load */

export class Server {
  /**
   * @param {Record<string, string>} settings for postgresql.conf
   * @param {string} pgConfig of the installation
   */
  static async start(settings, pgConfig = PG_CONFIG) {
    const server = new Server()
    server.#env.PG_CONFIG = pgConfig
    server.dir = mkdtempSync(join(tmpdir(), 'api_key-bench-'))
    process.on('exit', () => server.#destroy())
    // What can fail before there is a server comes before.
    await server.#compile()
    await run(CLUSTER, ['start', server.dir, ...Object.entries(settings).map((s) => s.join('='))],
      { env: server.#env })
    for (const [, name, value] of (await run(CLUSTER, ['env', server.dir]))
      .matchAll(/^export (\w+)='?(.*?)'?$/gm)) server.#env[name] = value
    return server
  }

  #env = {}
  #bindir
  #databases = []

  get host() { return this.#env.PGHOST }
  get port() { return this.#env.PGPORT }

  /** Forgets the memo, and what is in shared buffers. */
  async restart() {
    await run(CLUSTER, ['restart', this.dir], { env: this.#env })
  }

  /** A new database with the extension; its new keys are hashed at `cost`. */
  async createDatabase(database, { memoryKib = 19456, iterations = 2 } = {}) {
    this.#databases.push(database)
    await this.sql('postgres', `CREATE DATABASE ${database}`)
    // For the whole database: a hash weaker than what is set would be replaced when verified.
    await this.sql('postgres', `
      ALTER DATABASE ${database} SET api_key.argon2_memory_kib = ${memoryKib};
      ALTER DATABASE ${database} SET api_key.argon2_iterations = ${iterations};`)
    await this.sql(database, `
      CREATE EXTENSION api_key;
      SELECT api_key.define_tier('bench');
      CREATE SCHEMA bench;
      CREATE TABLE bench.texts (n bigint PRIMARY KEY, key_id uuid NOT NULL, api_key text NOT NULL);
      SELECT api_key.issue_api_key();
      CREATE TABLE bench.shared_hash AS SELECT secret_hash AS hash FROM api_key_internal.keys;
      DELETE FROM api_key_internal.keys;`)
  }

  /** So that nothing that one bench leaves to be done (vacuuming, flushing) disturbs the next. */
  async dropDatabases() {
    for (const database of this.#databases.splice(0))
      await this.sql('postgres', `DROP DATABASE ${database} WITH (FORCE)`)
  }

  /** Runs SQL, each statement for itself, and gives the rows' text. */
  async sql(database, sql, variables = {}) {
    const assignments = Object.entries(variables).flatMap((v) => ['-v', v.join('=')])
    const text = await run(join(this.#bindir, 'psql'),
      ['-XqAt', '-v', 'ON_ERROR_STOP=1', ...assignments],
      { env: { ...this.#env, PGDATABASE: database }, input: sql })
    return text.trimEnd()
  }

  /** Writes lines to a file that `load` takes its parameters from. */
  file(name, lines) {
    const path = join(this.dir, name)
    writeFileSync(path, `${lines.join('\n')}\n`)
    return path
  }

  /** Sends a load and waits for its end. @param {Load} load */
  async load(load) {
    return this.#loaded(this.#startLoad(load).output)
  }

  /** Resolves when the load is running; `ended` resolves when it is not. @param {Load} load */
  async startLoad(load) {
    const { child, output } = this.#startLoad(load)
    await Promise.race([output, new Promise((resolve) =>
      createInterface(child.stdout).once('line', resolve))])
    return { ended: this.#loaded(output) }
  }

  /** Argon2 runs since the server started, or null where the extension does not count them. */
  async hashesRun(database) {
    const stats = await this.sql(database, `
      SELECT to_regclass('api_key.stats') IS NOT NULL AS counted \\gset
      \\if :counted
        SELECT to_jsonb(s) ->> 'hashes_run' FROM api_key.stats AS s;
      \\endif`)
    return stats === '' ? null : Number(stats)
  }

  /** Seconds that libargon2 takes for one verify. @param {string[]} lines PHC string, tab, secret */
  async libargon2(lines) {
    const [hashes, seconds] =
      (await run(join(this.dir, 'libargon2'), [], { input: lines.join('\n') })).split(' ').map(Number)
    return seconds / hashes
  }

  #startLoad({ database, ...options }) {
    const args = Object.entries(options).flatMap(([name, value]) =>
      value === true ? [`--${name}`] : [`--${name}`, value])
    return start(join(this.dir, 'load'), args, { env: { ...this.#env, PGDATABASE: database } })
  }

  async #loaded(output) {
    const [transactions, seconds] = (await output).split('\n')[1].split(' ').map(Number)
    return { transactions, seconds, rate: transactions / seconds }
  }

  async #compile() {
    const [include, lib, bindir] =
      (await run(PG_CONFIG, ['--includedir', '--libdir', '--bindir'])).trim().split('\n')
    this.#bindir = bindir
    const compile = async (program, lacks, ...args) => {
      try {
        await run('cc', ['-O2', here(`${program}.c`), '-o', join(this.dir, program), ...args])
      } catch (error) {
        throw new Error(`${error.message}\n${program}.c needs a C compiler and ${lacks}: ` +
          'tests/prerequisites build test')
      }
    }
    await compile('load', 'libpq-dev',
      '-pthread', `-I${include}`, `-L${lib}`, `-Wl,-rpath,${lib}`, '-lpq')
    await compile('libargon2', "Debian's package argon2", '-l:libargon2.so.1')
  }

  #destroy() {
    spawnSync(CLUSTER, ['stop', this.dir, 'immediate'])
    rmSync(this.dir, { recursive: true, force: true })
  }
}
