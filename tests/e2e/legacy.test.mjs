// The story of a whole table: adopted as it is, wrapped while it is in use and while the wrap is
// killed again and again. LEGACY_ROWS sets its size.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { describe, it } from 'node:test'
import { codeOf, until, useCluster, value } from './harness.mjs'

const ROWS = Number(process.env.LEGACY_ROWS ?? 100_000)
const BCRYPT_ROWS = 600
const PLAINTEXT_ROWS = 300
/** How many texts of each scheme are verified again and again. */
const SAMPLE = 400
const BATCH = 500
const SESSIONS = 2
const VERIFIERS = 2
/** What is said to clients of a server that is being killed, or starts. */
const CONNECTION_LOST = /^(08...|57P0[123])$/
const RESTART_WITHIN_MS = 60_000

const sha256 = (text) => createHash('sha256').update(text).digest()
const md5 = (text) => createHash('md5').update(text).digest()

describe(`a table of ${ROWS} legacy keys`, () => {
  let cluster, admin, sample, needles, verifying
  let wraps = new Set()
  const settings = {
    'api_key.argon2_memory_kib': 8, // A hundred thousand hashes, and the test is not about their cost.
    'api_key.argon2_iterations': 1,
    'api_key.flush_interval': 1, // Keys are upgraded while others are wrapped.
    'api_key.hash_queue_timeout': 60_000,
  }

  useCluster(settings, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
    admin = await cluster.connect('app')
    await makeOldTable()
    sample = (await admin.query(`
      SELECT kind, text, user_id FROM (
        SELECT *, row_number() OVER (PARTITION BY kind ORDER BY md5(text)) AS place FROM old.texts) AS t
      WHERE place <= $1 ORDER BY place, kind`, [SAMPLE])).rows
    needles = await needlesOf(sample)
  })

  /** The table as applications have it, and beside it what only the holders of the keys know. */
  async function makeOldTable() {
    await admin.query(`
      CREATE EXTENSION pgcrypto;
      CREATE SCHEMA old;
      CREATE TABLE old.texts AS
      SELECT n, kind, gen_random_uuid() AS user_id,
        -- Three bcrypt keys share what they begin with.
        format('app_%s_%s', lpad(to_hex(CASE kind WHEN 'bcrypt' THEN n / 3 ELSE n END), 7, '0'),
          md5(gen_random_uuid()::text)) AS text
      FROM generate_series(1, ${ROWS}) AS n,
        LATERAL (SELECT CASE
          WHEN n <= ${BCRYPT_ROWS} THEN 'bcrypt'
          WHEN n <= ${BCRYPT_ROWS + PLAINTEXT_ROWS} THEN 'plaintext'
          ELSE (ARRAY['md5', 'sha256 hex', 'sha256 base64'])[1 + n % 3] END) AS k (kind);
      CREATE TABLE old.api_keys AS
      SELECT n AS id, user_id, 'Key ' || n AS title, left(text, 12) AS prefix, split_part(kind, ' ', 1) AS algorithm,
        CASE kind
          WHEN 'bcrypt' THEN crypt(text, gen_salt('bf', 4 + n % 3))
          WHEN 'plaintext' THEN text
          WHEN 'md5' THEN md5(text)
          WHEN 'sha256 hex' THEN encode(digest(text, 'sha256'), 'hex')
          ELSE encode(digest(text, 'sha256'), 'base64') END AS key_hash
      FROM old.texts;
      CREATE UNIQUE INDEX ON old.texts (user_id);
      ANALYZE old.texts, old.api_keys`)
  }

  /** Every way to write down the fast hash of a key in the sample, and half of it. */
  async function needlesOf(keys) {
    const forms = (digest) => [...new Set([digest, digest.subarray(0, digest.length / 2)].flatMap((bytes) => [
      bytes.toString('hex'), bytes.toString('hex').toUpperCase(),
      bytes.toString('base64').replace(/.=*$/, ''), bytes.toString('base64url').slice(0, -1)]))]
    const { rows } = await admin.query(`SELECT key_hash FROM old.api_keys WHERE algorithm = 'bcrypt'`)
    const few = (kind) => keys.filter((key) => key.kind === kind).slice(0, 10)
    return {
      md5: few('md5').flatMap(({ text }) => forms(md5(text))),
      sha256: [...few('sha256 hex'), ...few('sha256 base64')].flatMap(({ text }) => forms(sha256(text))),
      bcrypt: rows.slice(0, 100).map((row) => row.key_hash.slice(29)), // What follows cost and salt, which stay.
      text: keys.slice(0, 50).map((key) => key.text),
    }
  }

  /** How many of the needles of each kind are in a row of any of the extension's tables. */
  async function found() {
    const { rows: tables } = await admin.query(`
      SELECT oid::regclass::text AS name FROM pg_class
      WHERE relnamespace = 'api_key_internal'::regnamespace AND relkind IN ('r', 'p', 'm')`)
    assert.ok(tables.length > 5)
    const counts = Object.fromEntries(Object.keys(needles).map((kind) => [kind, 0]))
    for (const { name } of tables) {
      const { stdout: text } = await cluster.run('psql', [
        '--no-psqlrc',
        '--tuples-only',
        '--no-align',
        '--dbname',
        'app',
        '--command',
        `SELECT * FROM ${name}`,
      ])
      for (const [kind, list] of Object.entries(needles)) {
        counts[kind] += list.filter((needle) => text.includes(needle)).length
      }
    }
    return counts
  }

  /** Rows that hold a hash which can be attacked fast, by their form. */
  const fastDigests = () =>
    value(
      admin,
      `
    SELECT count(*)::integer FROM api_key_internal.keys,
      unnest(ARRAY[secret_hash, previous_secret_hash]) AS stored
    WHERE stored !~ '^(\\{(md5|sha1|sha256|sha512)\\}|\\{bcrypt\\}\\$2[abxy]\\$\\d\\d\\$[./0-9A-Za-z]{22})?\\$argon2id\\$v=19\\$'`
    )

  const progress = async () => (await admin.query(`
    SELECT scheme, total::integer, wrapped::integer, upgraded::integer, remaining::integer
    FROM api_key.legacy_hash_progress ORDER BY scheme`)).rows
  const sum = (rows, column) => rows.reduce((total, row) => total + row[column], 0)

  /** Asks for every text of the table at once: all are VALID, each is its own key's. */
  async function verifyAll(test, when) {
    const started = Date.now()
    const { rows: [seen] } = await admin.query(`
      SELECT count(*)::integer AS asked, count(DISTINCT answer ->> 'key_id')::integer AS keys,
        count(*) FILTER (WHERE answer ->> 'code' = 'VALID')::integer AS valid,
        count(*) FILTER (WHERE answer ->> 'user_id' = user_id::text)::integer AS own
      FROM (SELECT user_id, api_key.verify_api_key(text) AS answer FROM old.texts OFFSET 0) AS answers`)
    test.diagnostic(`${when}: ${rate(ROWS, Date.now() - started)} verifies, every text once`)
    assert.deepEqual(seen, { asked: ROWS, keys: ROWS, valid: ROWS, own: ROWS })
  }

  const rate = (count, ms) => `${count} in ${(ms / 1000).toFixed(1)} s, ${Math.round(count / ms * 1000)}/s`

  /** Clients that verify until told to end, and come back when their server does. */
  function verifiers() {
    const seen = { answers: 0, lost: 0, wrong: [], ids: new Map() }
    let ended = false
    const one = async (n) => {
      let client
      for (let at = n; !ended; at += VERIFIERS) {
        const { kind, text, user_id } = sample[at % sample.length]
        try {
          client ??= await cluster.connect('app')
          const answer = await value(client, 'SELECT api_key.verify_api_key($1)', [text])
          seen.answers++
          const known = seen.ids.get(text) ?? answer.key_id
          seen.ids.set(text, known)
          if (answer.code !== 'VALID' || answer.user_id !== user_id || answer.key_id !== known) {
            seen.wrong.push(`${kind}: ${answer.code}`)
          }
        } catch (error) {
          // Without an SQLSTATE it is the socket's.
          if (
            error.code?.length === 5 &&
            !/^E[A-Z]{4}$/.test(error.code) &&
            !CONNECTION_LOST.test(error.code)
          ) {
            seen.wrong.push(`${kind}: ${error}`)
          }
          seen.lost++
          await client?.end().catch(() => {})
          client = await until(
            'the server',
            () => cluster.connect('app').catch(() => false),
            RESTART_WITHIN_MS
          )
        }
      }
      await client?.end().catch(() => {})
    }
    const running = Promise.all(Array.from({ length: VERIFIERS }, (_, n) => one(n)))
    return { seen, end: () => ((ended = true), running) }
  }

  /** A session that wraps; its `done` says how it ended. */
  async function wrap() {
    const client = await cluster.connect('app')
    const session = { pid: await value(client, 'SELECT pg_backend_pid()'), remain: Infinity }
    client.on('notice', ({ message }) => {
      const [, remain] = /^wrapped \d+ keys, (\d+) remain$/.exec(message) ?? []
      if (remain) session.remain = Number(remain)
    })
    session.done = client.query('CALL api_key.migrate_legacy_hashes($1)', [BATCH])
      .then(() => 'done', () => 'killed').finally(() => client.end().catch(() => {}))
    wraps.add(session)
    session.done.then(() => wraps.delete(session))
    return session
  }

  /** Wraps in all sessions; gives them back when no more than this share of the keys remains. */
  async function wrapUntil(share) {
    while (wraps.size < SESSIONS) await wrap()
    const sessions = [...wraps]
    await until(
      `${share * 100} % to remain`,
      () => sessions.some(({ remain }) => remain <= share * ROWS),
      600_000
    )
    return sessions
  }

  it('is adopted as it is', async (test) => {
    const notices = []
    admin.on('notice', (notice) => notices.push(notice))
    const columns = {
      hash: 'key_hash',
      scheme: 'algorithm',
      key_prefix: 'prefix',
      user_id: 'user_id',
      name: 'title',
    }
    const started = Date.now()
    const imported = Number(await value(admin,
      `SELECT api_key.import_api_keys('old.api_keys', $1, NULL)`, [columns]))
    test.diagnostic(`imported ${rate(ROWS, Date.now() - started)}`)
    assert.equal(imported, ROWS)
    assert.deepEqual(notices.map((notice) => notice.severity), ['NOTICE'])
    const { rows } = await admin.query('SELECT algorithm, count(*)::integer FROM old.api_keys GROUP BY 1')
    const schemes = Object.fromEntries(rows.map((row) => [row.algorithm, row.count]))
    assert.deepEqual(JSON.parse(notices[0].message.replace(/^imported \d+ keys: /, '')), schemes)
    assert.deepEqual(Object.fromEntries((await progress()).map((row) => [row.scheme, row.total])), schemes)
    assert.equal(sum(await progress(), 'remaining'), ROWS - PLAINTEXT_ROWS)
  })

  it('has its fast digests, and no text, before the wrap', async () => {
    const counts = await found()
    // Base64, whole and half.
    assert.deepEqual(counts, { md5: 20, sha256: 40, bcrypt: 100, text: 0 })
    assert.equal(await fastDigests(), ROWS - PLAINTEXT_ROWS)
  })

  it('is not adopted twice', async () => {
    const before = await value(admin, 'SELECT count(*) FROM api_key_internal.keys')
    for (const scheme of ['md5', 'sha256', 'bcrypt', 'plaintext']) {
      await admin.query(`CREATE OR REPLACE VIEW old.again AS
        SELECT * FROM old.api_keys WHERE algorithm = '${scheme}' LIMIT 5`)
      await assert.rejects(
        admin.query(
          `SELECT api_key.import_api_keys('old.again', '{"hash": "key_hash", "key_prefix": "prefix"}', $1)`,
          [scheme]
        ),
        { code: '23505' },
        scheme
      )
    }
    assert.equal(await value(admin, 'SELECT count(*) FROM api_key_internal.keys'), before)
  })

  it('survives a session that is terminated in mid-wrap, and a server that is killed, and goes on', async (test) => {
    verifying = verifiers()
    test.after(() => verifying.end())
    const started = Date.now()
    let down = 0
    await until('verifies before the wrap', () => verifying.seen.answers > 100)

    const [victim] = await wrapUntil(0.8)
    assert.equal(await value(admin, 'SELECT pg_terminate_backend($1)', [victim.pid]), true)
    assert.equal(await victim.done, 'killed')
    const left = sum(await progress(), 'remaining')
    test.diagnostic(`session terminated when ${left} remained`)
    assert.ok(left > 0)

    for (const share of [0.6, 0.3]) {
      const sessions = await wrapUntil(share)
      const killed = Date.now()
      // What computes does not notice that the postmaster is gone: all of it is killed.
      const { postmaster } = cluster
      for (const pid of [postmaster, ...await cluster.processes('')]) {
        try { process.kill(pid, 'SIGKILL') } catch (error) { assert.equal(error.code, 'ESRCH') }
      }
      assert.deepEqual(await Promise.all(sessions.map(({ done }) => done)), sessions.map(() => 'killed'))
      await until('the server', () => cluster.resume().then(() => true, () => false), RESTART_WITHIN_MS)
      down += Date.now() - killed
      admin = await until('the server', () => cluster.connect('app').catch(() => false))
      const remaining = sum(await progress(), 'remaining')
      test.diagnostic(`server killed when ${remaining} remained`)
      assert.ok(remaining > 0)
    }

    await wrapUntil(0)
    const outcomes = await Promise.all([...wraps].map(({ done }) => done))
    assert.ok(outcomes.every((outcome) => outcome === 'done'))
    const took = Date.now() - started
    await verifying.end()
    const { answers, lost, wrong, ids } = verifying.seen
    test.diagnostic(
      `wrapped ${rate(ROWS - PLAINTEXT_ROWS, took - down)}, ${down / 1000} s of restarts besides`
    )
    test.diagnostic(`${answers} verifies meanwhile, of ${ids.size} keys; ${lost} met a server that was down`)
    assert.deepEqual(wrong, [])
    assert.equal(ids.size, sample.length)
    assert.equal(new Set(ids.values()).size, ids.size, 'no two texts have one key')
  })

  it('holds no digest that can be attacked fast afterwards', async (test) => {
    assert.deepEqual(await found(), { md5: 0, sha256: 0, bcrypt: 0, text: 0 })
    assert.equal(await fastDigests(), 0)
    const rows = await progress()
    test.diagnostic(
      rows.map((row) => `${row.scheme}: ${row.wrapped} wrapped, ${row.upgraded} upgraded`).join('; ')
    )
    assert.equal(sum(rows, 'remaining'), 0)
    for (const { scheme, total, wrapped, upgraded } of rows) assert.equal(wrapped + upgraded, total, scheme)
    assert.equal(sum(rows, 'total'), ROWS)
    assert.ok(sum(rows, 'wrapped') > 0 && sum(rows, 'upgraded') > PLAINTEXT_ROWS)
  })

  it('answers every text of the table, and each with its own key', (test) => verifyAll(test, 'wrapped'))

  it('is upgraded by use', async (test) => {
    const upgraded = async () => sum(await progress(), 'upgraded')
    const before = await upgraded()
    await admin.query('SELECT api_key.flush_usage()')
    const after = await upgraded()
    test.diagnostic(`${before} upgraded, ${after} after a flush`)
    assert.ok(after > SAMPLE * 4)
    await verifyAll(test, 'upgraded in part')
    assert.equal(await fastDigests(), 0)
  })

  it('answers a text of nobody as such', async () => {
    for (const text of ['app_zzzzzzz_0', `${sample.find((key) => key.kind === 'md5').text}x`]) {
      assert.equal(await codeOf(admin, text), 'NOT_FOUND')
    }
  })
})
