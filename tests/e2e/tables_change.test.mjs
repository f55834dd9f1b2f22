// Whatever is done to the tables that the library reads, it answers as before or says what is wrong:
// in sessions that have read them before, and in new ones. An upgrade of ours is such a change, made
// while the old library is loaded.

import assert from 'node:assert/strict'
import { createHash, randomUUID } from 'node:crypto'
import { describe, it } from 'node:test'
import { application, CHEAP } from './gate.mjs'
import { call, codeOf, issue, useCluster, value } from './harness.mjs'

const TABLES = ['keys', 'rate_limits', 'root_key']
const LEGACY = 'old_text_of_a_key'

/** In all of the tables. */
const everywhere = (change) => TABLES.map((table) => change(`api_key_internal.${table}`)).join(';')

/** Puts a column behind the others, with what it holds. */
const moved = (table, column) => `
  ALTER TABLE api_key_internal.${table} RENAME COLUMN ${column} TO old_${column};
  DO $$ BEGIN EXECUTE (SELECT format('ALTER TABLE api_key_internal.${table} ADD COLUMN ${column} %s',
    format_type(atttypid, atttypmod)) FROM pg_attribute
    WHERE attrelid = 'api_key_internal.${table}'::regclass AND attname = 'old_${column}'); END $$;
  ALTER TABLE api_key_internal.${table} ALTER COLUMN old_${column} DROP NOT NULL;
  UPDATE api_key_internal.${table} SET ${column} = old_${column}`

const columns = (count, definition) => (table) =>
  `ALTER TABLE ${table} ${Array.from({ length: count }, (_, n) => `ADD COLUMN more_${n} ${definition}`)}`

/** Changes after which all is as before. */
const HARMLESS = {
  'a column more': everywhere(columns(1, 'text')),
  'a hundred columns more': everywhere(columns(100, 'text')),
  'as many columns as there can be': columns(1592, 'bigint')('api_key_internal.rate_limits'),
  'a column more, of rows that are older': everywhere(columns(1, 'integer DEFAULT 7')),
  'a column more, never NULL': everywhere(columns(3, `text NOT NULL DEFAULT 'x'`)),
  'a column more, and all rows anew': everywhere(columns(1, 'uuid DEFAULT gen_random_uuid()')),
  'a column more and less': everywhere((t) => `${columns(1, 'text')(t)}; ALTER TABLE ${t} DROP COLUMN more_0`),
  'fifty columns more and less': everywhere((t) => `${columns(50, 'text')(t)};
    ALTER TABLE ${t} ${Array.from({ length: 50 }, (_, n) => `DROP COLUMN more_${n}`)}`),
  'columns of rate limits in another order': ['burst', 'max_requests', 'tier', 'path', 'period', 'method', 'per']
    .map((column) => moved('rate_limits', column)).join(';'),
  'columns of keys in another order': ['user_id', 'enabled', 'secret_hash', 'scopes', 'metadata', 'expires_at']
    .map((column) => moved('keys', column)).join(';'),
  'tables written anew': everywhere((t) => `CLUSTER ${t} USING ${t.split('.')[1]}_pkey`),
  'indexes made anew': everywhere((t) => `REINDEX TABLE ${t}`),
  'unlogged tables': `ALTER TABLE api_key_internal.issue_requests SET UNLOGGED; ALTER TABLE api_key_internal.rate_limits SET UNLOGGED`,
  'values out of line': `ALTER TABLE api_key_internal.rate_limits ALTER COLUMN path SET STORAGE EXTERNAL;
    UPDATE api_key_internal.rate_limits SET path = repeat('%', 9000) WHERE name = 'gate'`,
  'no constraints': `ALTER TABLE api_key_internal.rate_limits ALTER COLUMN burst DROP NOT NULL`,
  'row security': everywhere((t) => `ALTER TABLE ${t} ENABLE ROW LEVEL SECURITY`),
  'a child': `CREATE TABLE api_key_internal.child () INHERITS (api_key_internal.rate_limits);
    INSERT INTO api_key_internal.child (name, max_requests, period, burst, per) VALUES ('child', 1, 1000000, 1, 'key')`,
  'a rule and a trigger': `CREATE RULE r AS ON INSERT TO api_key_internal.root_key DO ALSO NOTHING;
    CREATE TRIGGER t BEFORE UPDATE ON api_key_internal.rate_limits FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()`,
  'the schema under another name and back': `ALTER SCHEMA api_key_internal RENAME TO elsewhere;
    ALTER SCHEMA elsewhere RENAME TO api_key_internal`,
  'many rate limits': `INSERT INTO api_key_internal.rate_limits (name, max_requests, period, burst)
    SELECT 'more-' || n, 1, 1000, 1 FROM generate_series(1, 2000) AS n`,
}

const rename = (table, column) => `ALTER TABLE api_key_internal.${table} RENAME COLUMN ${column} TO other`
const retyped = (table, column, type, of = 'NULL') => `${rename(table, column)};
  ALTER TABLE api_key_internal.${table} ADD COLUMN ${column} ${type} DEFAULT ${of}`
const instead = (table, what) => `ALTER TABLE api_key_internal.${table} RENAME TO other; ${what}`
const index = (name, definition) =>
  `ALTER INDEX api_key_internal.${name} RENAME TO other; CREATE INDEX ${name} ON api_key_internal.${definition}`

/** Changes that nobody can work with, and what says so: the table that it concerns. */
const HARMFUL = {
  'a column of keys under another name': ['keys', rename('keys', 'tier')],
  'a column of rate limits under another name': ['rate_limits', rename('rate_limits', 'burst')],
  'the column of the root key under another name': ['root_key', rename('root_key', 'fingerprint')],
  'a text that is a number': ['rate_limits', retyped('rate_limits', 'path', 'bigint', 7)],
  'a number that is a text': ['rate_limits', retyped('rate_limits', 'max_requests', 'text', `'7'`)],
  'a number of another size': ['rate_limits', retyped('rate_limits', 'period', 'integer', 7)],
  'a fingerprint that is a number': ['root_key', retyped('root_key', 'fingerprint', 'bigint', 9)],
  'a domain': ['rate_limits', `CREATE DOMAIN public.d AS text; ${retyped('rate_limits', 'tier', 'public.d')}`],
  'an array that is none': ['keys', retyped('keys', 'scopes', 'text', `'x'`)],
  'an array of other things': ['keys', retyped('keys', 'allowed_ips', 'text[]', `'{x}'`)],
  'a document that is a text': ['keys', retyped('keys', 'metadata', 'text', `'x'`)],
  'a uuid that is a number': ['keys', retyped('keys', 'user_id', 'bigint', 1)],
  'a time that is a text': ['keys', retyped('keys', 'expires_at', 'text', `'x'`)],
  'a hash that is a number': ['keys', retyped('keys', 'secret_hash', 'bigint', 1)],
  'no keys': ['keys', 'ALTER TABLE api_key_internal.keys RENAME TO other'],
  'no rate limits': ['rate_limits', 'ALTER TABLE api_key_internal.rate_limits RENAME TO other'],
  'no root key': ['root_key', 'ALTER TABLE api_key_internal.root_key RENAME TO other'],
  'a view of rate limits': ['rate_limits', instead('rate_limits', 'CREATE VIEW api_key_internal.rate_limits AS TABLE api_key_internal.other')],
  'a view of the root key': ['root_key', instead('root_key', 'CREATE VIEW api_key_internal.root_key AS TABLE api_key_internal.other')],
  'partitions of rate limits': ['rate_limits', instead('rate_limits',
    'CREATE TABLE api_key_internal.rate_limits (LIKE api_key_internal.other) PARTITION BY LIST (name)')],
  'a sequence of rate limits': ['rate_limits', instead('rate_limits', 'CREATE SEQUENCE api_key_internal.rate_limits')],
  'a materialized view of rate limits': ['rate_limits', instead('rate_limits',
    'CREATE MATERIALIZED VIEW api_key_internal.rate_limits AS TABLE api_key_internal.other')],
  'no index': ['rate_limits', 'ALTER TABLE api_key_internal.rate_limits DROP CONSTRAINT rate_limits_pkey'],
  'an index on another column': ['rate_limits', index('rate_limits_pkey', 'rate_limits (tier)')],
  'an index that is a hash': ['rate_limits', index('rate_limits_pkey', 'rate_limits USING hash (name)')],
  'an index of another collation': ['rate_limits', index('rate_limits_pkey', 'rate_limits (name COLLATE "POSIX")')],
  'an index on an expression': ['rate_limits', index('rate_limits_pkey', 'rate_limits (lower(name))')],
  'an index of another table': ['keys', index('keys_pkey', 'issue_requests (key_id)')],
  'a table for an index': ['keys', `ALTER INDEX api_key_internal.keys_pkey RENAME TO other;
    CREATE TABLE api_key_internal.keys_pkey (key_id uuid)`],
}

describe('a change of the tables', () => {
  let cluster, key, made = 0
  useCluster({ ...CHEAP, max_locks_per_transaction: 256 }, async (fresh) => {
    cluster = fresh
    const db = await application(cluster, 'base')
    key = (await issue(db, { p_tier: 'pro' })).api_key
    await call(db, 'define_rate_limit', {
      p_name: 'gate',
      p_limit: 1_000_000,
      p_period: '1 second',
      p_per: 'key',
    })
    await call(db, 'define_rate_limit', { p_name: 'direct', p_limit: 1_000_000, p_period: '1 second' })
    await db.query(
      `CREATE TABLE old (hash text, user_id uuid); INSERT INTO old VALUES ($1, $2)`
        .replace('$1', `'${createHash('sha256').update(LEGACY).digest('hex')}'`)
        .replace('$2', `'${randomUUID()}'`)
    )
    await call(db, 'import_api_keys', {
      p_source: 'old',
      p_columns: { hash: 'hash', user_id: 'user_id' },
      p_scheme: 'sha256',
    })
    await db.end()
  })

  /** Everything that reads a table: what it reads, and what it answers when all is well. */
  const asks = {
    verify: { reads: ['keys'], of: (db) => codeOf(db, key), well: 'VALID' },
    legacy: { reads: ['keys', 'root_key'], of: (db) => codeOf(db, LEGACY), well: 'VALID' },
    check: { reads: ['rate_limits'], well: true,
      of: async (db) => (await call(db, 'check_rate_limit', { p_name: 'direct', p_subject: 'x' })).allowed },
    gate: { reads: ['rate_limits', 'keys'], well: 'pro',
      of: async (db) => {
        await db.query('BEGIN')
        try {
          await db.query(
            `SELECT set_config('request.headers', $1, true), set_config('request.path', '/x', true)`,
            [JSON.stringify({ 'x-api-key': key })]
          )
          await db.query('SELECT api_key.authenticate_request()')
          return await value(db, `SELECT api_key.current_api_key() ->> 'tier'`)
        } finally {
          await db.query('ROLLBACK')
        }
      } },
  }

  /** What each way of asking answers: a value, or the SQLSTATE of an error. */
  async function answers(db) {
    const all = {}
    for (const [name, { of }] of Object.entries(asks)) all[name] = await of(db).catch(({ code }) => code)
    return all
  }
  const well = Object.fromEntries(Object.entries(asks).map(([name, ask]) => [name, ask.well]))
  const failing = (table) => Object.fromEntries(Object.entries(asks)
    .map(([name, ask]) => [name, ask.reads.includes(table) ? '55000' : ask.well]))

  /** A copy of the database, changed behind the back of a session that has read its tables. */
  async function changed(change) {
    const name = `changed_${made++}`
    const admin = await cluster.connect('postgres')
    await admin.query(`CREATE DATABASE ${name} TEMPLATE base`)
    await admin.end()
    const [before, changer] = [await cluster.connect(name), await cluster.connect(name)]
    assert.deepEqual(await answers(before), well)
    await changer.query(change)
    return {
      before,
      changer,
      after: await cluster.connect(name),
      end: (all) => Promise.all(all.map((db) => db.end())),
    }
  }

  describe('that leaves what is read changes nothing:', () => {
    for (const [name, change] of Object.entries(HARMLESS)) {
      it(name, async () => {
        const { before, changer, after, end } = await changed(change)
        for (const db of [before, changer, after, before]) assert.deepEqual(await answers(db), well)
        await call(after, 'define_rate_limit', { p_name: 'direct', p_limit: 7, p_period: '1 hour' })
        const { limit, remaining } = await call(before, 'check_rate_limit', {
          p_name: 'direct',
          p_subject: 'y',
        })
        assert.deepEqual([limit, remaining], [7, 6])
        await call(after, 'flush_usage')
        assert.equal(await value(after, `SELECT last_error FROM api_key.stats`), null)
        await end([before, changer, after])
      })
    }

    it('a column that rows have by default only', async () => {
      const { before, changer, after, end } = await changed(`
        ALTER TABLE api_key_internal.rate_limits RENAME COLUMN max_requests TO older;
        ALTER TABLE api_key_internal.rate_limits ADD COLUMN max_requests integer NOT NULL DEFAULT 77;
        ALTER TABLE api_key_internal.keys RENAME COLUMN resource_id TO older;
        ALTER TABLE api_key_internal.keys ADD COLUMN resource_id text DEFAULT 'the default'`)
      for (const db of [before, changer, after]) {
        assert.equal((await call(db, 'check_rate_limit', { p_name: 'direct', p_subject: 'x' })).limit, 77)
        assert.equal(
          (await call(db, 'verify_api_key', { p_api_key: key, p_resource_id: 'the default' })).resource_id,
          'the default'
        )
      }
      await end([before, changer, after])
    })

    it('rolled back, or seen by its own transaction only', async () => {
      const { before, changer, after, end } = await changed('SELECT')
      for (const db of [changer, before]) {
        await db.query('BEGIN')
        await db.query(everywhere(columns(20, 'text DEFAULT 7')))
        assert.equal((await call(db, 'check_rate_limit', { p_name: 'direct', p_subject: 'x' })).allowed, true)
        assert.deepEqual([await codeOf(db, key), await codeOf(db, LEGACY)], ['VALID', 'VALID'])
        await db.query('ROLLBACK')
        for (const one of [db, after]) assert.deepEqual(await answers(one), well)
      }
      await end([before, changer, after])
    })

    it('indexes made anew beside requests', async () => {
      const { before, changer, after, end } = await changed('SELECT')
      for (const table of TABLES) {
        await changer.query(`REINDEX TABLE CONCURRENTLY api_key_internal.${table}`)
        for (const db of [before, after, changer]) assert.deepEqual(await answers(db), well)
      }
      await end([before, changer, after])
    })

    it('made in the middle of a crowd', async () => {
      const { before, changer, after, end } = await changed('SELECT')
      const name = await value(before, 'SELECT current_database()')
      const crowd = await Promise.all(Array.from({ length: 6 }, () => cluster.connect(name)))
      let asking = true
      const asked = Promise.all(crowd.map(async (db) => {
        while (asking) assert.deepEqual(await answers(db), well)
      }))
      for (let n = 0; n < 20; n++) {
        for (const table of TABLES)
          await changer.query(
            `ALTER TABLE api_key_internal.${table} ADD COLUMN crowd_${n} text DEFAULT '${n}'`
          )
        await changer.query(moved('rate_limits', 'per').replaceAll('old_per', `old_per_${n}`))
      }
      asking = false
      await asked
      await end([before, changer, after, ...crowd])
    })
  })

  describe('that nobody can work with is an error that says so:', () => {
    for (const [name, [table, change]] of Object.entries(HARMFUL)) {
      it(name, async () => {
        const { before, changer, after, end } = await changed(change)
        for (const db of [before, changer, after, before]) assert.deepEqual(await answers(db), failing(table))
        const ask = Object.values(asks).find(({ reads }) => reads.includes(table))
        const { message, detail, hint } = await ask.of(before).catch((error) => error)
        assert.equal(message, 'the tables of api_key are not those of its library')
        assert.match(detail, new RegExp(`api_key_internal\\.${table}\\b`))
        assert.match(hint, /ALTER EXTENSION api_key UPDATE/)
        await end([before, changer, after])
      })
    }

    it('and is over when it is undone', async () => {
      const { before, changer, after, end } = await changed(rename('rate_limits', 'burst'))
      for (const db of [before, after]) assert.deepEqual(await answers(db), failing('rate_limits'))
      await changer.query('ALTER TABLE api_key_internal.rate_limits RENAME COLUMN other TO burst')
      for (const db of [before, after]) assert.deepEqual(await answers(db), well)
      await end([before, changer, after])
    })
  })

  it('is seen in the fingerprint of the root key, which is kept until its table changes', async () => {
    const { before, changer, after, end } = await changed('SELECT')
    await changer.query('TRUNCATE api_key_internal.root_key')
    for (const db of [before, after]) assert.equal(await codeOf(db, LEGACY), 'MALFORMED')
    await end([before, changer, after])
  })
})
