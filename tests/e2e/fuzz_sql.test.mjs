// Calls that nobody means, of every function and procedure: the server stays up, reports no error of
// its inside, repeats no secret, and works as before when they are through.
//
// FUZZ_RUNS is how many statements each session gets, FUZZ_SEED makes a run repeatable.

import assert from 'node:assert/strict'
import { randomInt, randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'node:test'
import { ADDITIONS, CATALOG, DAMAGE, Generator, UNGUARD } from '../fuzz/sql/generate.mjs'
import {
  asServer,
  bindir,
  call,
  codeOf,
  issue,
  partsOf,
  run,
  stats,
  until,
  useCluster,
  value,
} from './harness.mjs'

const RUNS = Number(process.env.FUZZ_RUNS || 150)
const SEED = Number(process.env.FUZZ_SEED || randomInt(2 ** 31))
const OBJECTS = readFileSync(new URL('../fuzz/sql/objects.sql', import.meta.url), 'utf8')

const ROLES = ['postgres', 'authenticated', 'anon', 'service_role']
const SETTINGS = { 'api_key.argon2_memory_kib': 64, 'api_key.argon2_iterations': 1,
  log_line_prefix: '%e ', log_min_error_statement: 'panic', temp_file_limit: '500MB' }
const TIMEOUTS = '-c statement_timeout=2000 -c lock_timeout=100'
/** Hashing is slow on purpose, and a legacy scan hashes much: these are set to what is quick. */
const LEFT_ALONE = /argon2|legacy_scan|queue_timeout/

// XX001 of a hash that is none; and what PostgreSQL says of bytes that are no jsonb, and of an object
// that another session dropped.
const MEANT =
  /^a stored hash of an API key is damaged|^unsupported jsonb version|^cache lookup failed for (relation|type)|^could not open relation/
const CRASHED = /terminated by signal|PANIC|TRAP|server process .* exit code|panicked/

/** What was sent, and what must not have come back. */
class Judge {
  statements = 0
  codes = {}
  findings = []
  #secrets

  constructor(place, secrets) {
    this.place = place
    this.#secrets = secrets
  }

  error(error, statement) {
    this.codes[error.code ?? 'lost'] = (this.codes[error.code ?? 'lost'] ?? 0) + 1
    const texts = [error.message, error.detail, error.hint, error.where, error.internalQuery]
      .filter(Boolean)
      .join('\n')
    if (!error.code) this.find('the connection is lost', error, statement)
    else if (/^(XX|58)/.test(error.code) && !MEANT.test(error.message))
      this.find(error.code, error, statement)
    else if (this.tellsASecret(texts)) this.find('repeats a secret', error, statement)
  }

  tellsASecret(text) {
    return this.#secrets.some((secret) => text.includes(secret))
  }

  find(what, error, statement) {
    this.findings.push(`${what}: ${error.message}\n${JSON.stringify(statement).slice(0, 600)}`)
  }

  log(text) {
    for (const line of text.split('\n')) {
      if (CRASHED.test(line)) this.findings.push(`the server's log: ${line}`)
      if (this.tellsASecret(line)) this.findings.push(`the server's log repeats a secret: ${line}`)
    }
  }

  verdict() {
    const codes = Object.entries(this.codes)
      .sort(([, a], [, b]) => b - a)
      .map((code) => code.join(' '))
      .slice(0, 12)
    console.log(
      `fuzz-sql: ${this.place}, ${this.statements} statements, seed ${SEED}; errors: ${codes.join(', ')}`
    )
    const kind = (finding) => finding.split('\n')[0].replaceAll(/"[^"]*"|at character \d+|\d+/g, '')
    const different = [...new Map(this.findings.map((finding) => [kind(finding), finding])).values()]
    assert.equal(
      different.length,
      0,
      `seed ${SEED}: ${this.findings.length} findings\n${different.slice(0, 20).join('\n\n')}`
    )
  }
}

async function fill(cluster, name) {
  // A test before may have brought it down.
  await until('the server', () =>
    cluster.connect('postgres').then(
      (client) => client.end().then(() => true),
      () => false
    )
  )
  await cluster.database(name, { extension: false })
  const owner = await cluster.connect(name)
  await owner.query(`${OBJECTS}; ${ROLES.slice(1).map((role) => `ALTER ROLE ${role} LOGIN`).join(';')}`)
  return owner
}

/** What a generator needs to know of a database, and what no error of it may say. */
async function known(owner) {
  const functions = {}
  for (const role of ROLES) functions[role] = (await owner.query(CATALOG, [role])).rows
  const keys = (await owner.query(`SELECT key ->> 'api_key' AS key FROM fuzz.keys ORDER BY n`)).rows.map(
    ({ key }) => key
  )
  const hashes = (await owner.query(`SELECT right(secret_hash, 20) AS hash FROM api_key_internal.keys`)).rows
  const settings = (await owner.query(`SELECT name FROM pg_settings WHERE name LIKE 'api_key.%'
    AND context IN ('user', 'superuser') ORDER BY name`)).rows.map(({ name }) => name)
  return {
    functions,
    keys,
    settings: settings.filter((name) => !LEFT_ALONE.test(name)),
    secrets: [
      ...keys.map((key) => partsOf(key).secret.slice(0, 16)),
      ...hashes.map(({ hash }) => hash),
      'planted-',
    ],
  }
}

/** Sends a session's statements. */
async function session(connect, { seed, runs, every, judge, ...known }) {
  const generator = new Generator({ seed, ...known })
  let client = await connect()
  const send = async (statement) => {
    judge.statements++
    await client.query(statement).catch(async (error) => {
      judge.error(error, statement)
      if (!error.code) client = await until('the server', () => connect().catch(() => null))
      else if (generator.chance(0.8)) await client.query('ROLLBACK')
    })
  }
  if (every) for (const statement of generator.everyFunction()) await send(statement)
  for (let n = 0; n < runs; n++) {
    if (n % 20 === 0) for (const anew of ['ROLLBACK', 'DISCARD ALL']) await client.query(anew)
    await send(generator.chance(0.1) ? generator.bound() : generator.next())
  }
  await client.end()
}

/** Sessions of each role beside each other. */
async function attack(place, cluster, database, known) {
  const judge = new Judge(place, known.secrets)
  await Promise.all(
    ROLES.map((role, n) =>
      session(() => cluster.connect(database, role, { options: TIMEOUTS }), {
        ...known,
        seed: SEED + n,
        runs: RUNS,
        every: role === 'postgres',
        judge,
        functions: known.functions[role],
      })
    )
  )
  judge.log(cluster.log)
  return judge
}

async function worksAsBefore(client) {
  const key = await issue(client, { p_tier: 'free' })
  assert.equal(await codeOf(client, key.api_key), 'VALID')
  assert.equal((await stats(client)).hashes_running, 0, 'no slot is taken for ever')
}

describe('calls that nobody means', () => {
  let primary, owner, facts

  useCluster(SETTINGS, async (cluster) => {
    primary = cluster
    owner = await fill(primary, 'app')
    facts = await known(owner)
  })

  it('leave a standby as it was', async () => {
    const standby = await primary.standby(SETTINGS)
    const judge = await attack('standby', standby, 'app', facts)
    judge.verdict()
    const fresh = await issue(owner)
    const onStandby = await standby.connect('app')
    await until('replay', async () => await codeOf(onStandby, fresh.api_key) === 'VALID')
    await onStandby.end()
  })

  it('leave a primary as it was', async () => {
    const judge = await attack('primary', primary, 'app', facts)
    await owner.end()
    owner = await primary.connect('app')
    judge.verdict()
    await worksAsBefore(owner)
  })

  const probes = async (client) => {
    const { api_key: key, key_id: id } = await issue(client, { p_user_id: randomUUID() })
    assert.equal(await codeOf(client, key), 'VALID')
    await client.query('BEGIN')
    await client.query(`SELECT set_config('request.headers', $1, true)`, [
      JSON.stringify({ 'x-api-key': key }),
    ])
    await client.query('SELECT api_key.authenticate_request()')
    assert.equal(await value(client, 'SELECT api_key.current_key_id()'), id)
    await client.query('SELECT count(*) FROM fuzz.documents')
    await client.query('ROLLBACK')
    assert.equal((await call(client, 'check_rate_limit', { p_name: 'each', p_subject: 's' })).allowed, true)
    await call(client, 'list_api_keys', {})
    await call(client, 'rotate_api_key', { p_key_id: id })
    await call(client, 'flush_usage')
    await call(client, 'revoke_api_key', { p_key_id: id })
  }

  it('go on after columns, defaults and indexes were added to our tables', async () => {
    const altered = await fill(primary, 'altered')
    const { rows } = await altered.query(`SELECT oid::regclass AS table FROM pg_class
      WHERE relnamespace = 'api_key_internal'::regnamespace AND relkind = 'r' ORDER BY 1`)
    for (const statement of ADDITIONS(rows.map(({ table }) => table))) {
      await altered.query(statement)
      await probes(altered).catch((error) => assert.fail(`${error.message}, after ${statement}`))
    }
    const judge = await attack('altered', primary, 'altered', { ...await known(altered) })
    judge.verdict()
    await worksAsBefore(await primary.connect('altered'))
  })

  it('are refused, no more, after our tables were damaged', async () => {
    await fill(primary, 'damaged')
    let client = await primary.connect('damaged')
    const { rows: columns } = await client.query(`SELECT c.oid::regclass AS table, a.attname AS column
      FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
      WHERE c.relnamespace = 'api_key_internal'::regnamespace AND c.relkind = 'r' ORDER BY 1, 2`)
    const judge = new Judge('damaged', (await known(client)).secrets)
    const generator = new Generator({ seed: SEED })
    const all = DAMAGE(columns)
    const chosen = RUNS >= 2000 ? all : Array.from({ length: 15 }, () => generator.pick(all))
    const { api_key: key, key_id: id } = await issue(client)
    await client.query(UNGUARD)
    const uses = [
      `SELECT api_key.verify_api_key('${key}')`,
      `SELECT api_key.verify_api_key_hash('legacy_planted-plain-text-of-a-key')`,
      `SELECT api_key.check_rate_limit('fuzz', 's')`,
      'SELECT api_key.flush_usage()',
      'SELECT api_key.issue_api_key(gen_random_uuid())',
      `SELECT set_config('request.headers', '{"x-api-key":"${key}"}', true), api_key.authenticate_request()`,
      'SELECT api_key.authenticate_request()',
      `SELECT api_key.rotate_api_key('${id}')`,
      `DELETE FROM fuzz.authors WHERE id = 1`,
      `INSERT INTO fuzz.books VALUES (99, gen_random_uuid(), '', 1)`,
      `SELECT api_key.authorize('document', 'x', 'read')`,
    ]
    for (const damage of chosen) {
      for (const statement of [
        'BEGIN',
        damage,
        ...uses.flatMap((use) => ['SAVEPOINT u', use, 'ROLLBACK TO u']),
        'ROLLBACK',
      ]) {
        judge.statements++
        await client.query(statement).catch(async (error) => {
          judge.codes[error.code] = (judge.codes[error.code] ?? 0) + 1
          if (
            !error.code ||
            /panic|must not be null|unwrap|out of (bounds|range for slice)/.test(error.message)
          ) {
            judge.find(`after ${damage}`, error, statement)
          }
          if (!error.code)
            client = await until('the server', () => primary.connect('damaged').catch(() => null))
        })
      }
    }
    judge.log(primary.log)
    judge.verdict()
    assert.equal(await codeOf(client, key), 'VALID')
  })

  it('leave single-user mode as it was', async () => {
    await primary.stop()
    const generator = new Generator({ ...facts, seed: SEED, functions: facts.functions.postgres })
    const judge = new Judge('single-user mode', facts.secrets)
    const statements = [
      ...generator.everyFunction(),
      ...Array.from({ length: RUNS }, () => generator.next()),
    ].flatMap((statement, n) => [
      ...(n % 3 === 0 ? ['ROLLBACK'] : []),
      ...(n % 20 === 0 ? ['DISCARD ALL'] : []),
      statement,
    ])
    judge.statements = statements.length
    assert.ok(statements.every((statement) => !statement.includes('\n')), 'a line is a statement')
    const settings = ['statement_timeout=2000', 'log_destination=stderr', 'logging_collector=off']
    const { stderr } = await run(
      ...asServer(join(await bindir(), 'postgres'), [
        '--single',
        '-D',
        join(primary.dir, 'data'),
        ...settings.flatMap((setting) => ['-c', setting]),
        'app',
      ]),
      { input: `${statements.join('\n')}\n`, cwd: primary.dir }
    )
    judge.log(stderr)
    for (const [, code, message] of stderr.matchAll(/^(\w{5}) ERROR: {2}(.*)$/gm))
      judge.error({ code, message }, '(see the seed)')
    await primary.resume()
    judge.verdict()
    await worksAsBefore(await primary.connect('app'))
  })
})

describe('calls that nobody means, without preloading', () => {
  let cluster

  useCluster({ ...SETTINGS, shared_preload_libraries: '' }, async (fresh) => { cluster = fresh })

  it('leave the server as it was', async () => {
    const owner = await fill(cluster, 'app')
    const judge = await attack('not preloaded', cluster, 'app', await known(owner))
    judge.verdict()
    await worksAsBefore(owner)
  })
})
