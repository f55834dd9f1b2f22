// Keys that came with hashes of another kind: how fast they are wrapped, and what verifying them
// costs against keys of our own.

import { randomBytes } from 'node:crypto'
import { cpus } from 'node:os'
import { issue, keyFiles, refuseAny, verify } from './contenders.mjs'
import { interleave, least, median, most, number, ratio, say } from './measure.mjs'

// A round of wrapping.
const TO_WRAP = 400
// Of each scheme and state. Few enough that all that wait to be upgraded find room in memory.
const KEYS = 100
const CROWD = 1000
const MISSES = 10

// What each scheme makes of a text.
const SCHEMES = {
  md5: 'md5(api_key)',
  sha256: "encode(sha256(api_key::bytea), 'hex')",
  bcrypt: "crypt(api_key, gen_salt('bf', 6))",
}

const sessions = cpus().length

export async function legacy({ server, report, options }) {
  await wrapping({ server, report, options })
  await verifying({ server, report, options })
  await missing({ server, report })
}

/** Runs SQL in as many sessions as there are processors; seconds until the last one ends. */
async function inAllSessions(server, database, sql) {
  const start = performance.now()
  await Promise.all(Array.from({ length: sessions }, () => server.sql(database, sql)))
  return (performance.now() - start) / 1000
}

// In small batches, so that one session is not left alone with the last of them.
const WRAP = 'SET client_min_messages = warning; CALL api_key.migrate_legacy_hashes(p_batch_size => 10);'

async function createDatabase(server, database, cost) {
  await server.createDatabase(database, cost)
  await server.sql(database, `
    CREATE EXTENSION pgcrypto;
    CREATE TABLE bench.legacy (hash text NOT NULL, prefix text NOT NULL);`)
}

/** Imports keys of these texts. */
async function adopt(server, database, scheme, texts, prefixLength) {
  const values = texts.map((text) => `('${text}')`).join(', ')
  await server.sql(database, `
    SET client_min_messages = error;
    TRUNCATE bench.legacy;
    INSERT INTO bench.legacy
      SELECT ${SCHEMES[scheme]}, left(api_key, ${prefixLength}) FROM (VALUES ${values}) AS t (api_key);
    SELECT api_key.import_api_keys('bench.legacy', '{"hash": "hash", "key_prefix": "prefix"}', '${scheme}');`)
}

const newTexts = (count) =>
  Array.from({ length: count }, () => `acme_${randomBytes(20).toString('hex')}`)

async function wrapping({ server, report, options: { rounds } }) {
  const database = 'wrapping'
  await createDatabase(server, database)
  const each = Math.ceil(TO_WRAP / sessions)
  say(`wrapping ${TO_WRAP} hashes a round, in ${sessions} sessions`)
  const results = await interleave(rounds, {
    argon2id: async () => (each * sessions) / await inAllSessions(server, database, `
      SELECT count(api_key_internal.wrap_hash('{md5}AAAAAAAAAAAAAAAAAAAAAA=='))
      FROM generate_series(1, ${each});`),
    wrapping: async () => {
      await server.sql(database, 'DELETE FROM api_key_internal.keys')
      await server.sql(database, 'VACUUM ANALYZE api_key_internal.keys')
      await adopt(server, database, 'md5', newTexts(TO_WRAP), 10)
      const seconds = await inAllSessions(server, database, WRAP)
      const left = await server.sql(database, 'SELECT sum(remaining) FROM api_key.legacy_hash_progress')
      if (left !== '0') throw new Error(`${left} hashes were not wrapped`)
      return TO_WRAP / seconds
    },
  })
  report.row(`argon2id alone, ${sessions} sessions`, `${number(median(results.argon2id))}/s`)
  report.row('migrate_legacy_hashes, as many sessions: against argon2id alone',
    `${number(median(results.wrapping))}/s`, ratio(results.wrapping, results.argon2id), least(0.9))
}

async function verifying({ server, report, options: { rounds, seconds, clients } }) {
  const database = 'legacy'
  // A memo hit does not hash.
  await createDatabase(server, database, { memoryKib: 8, iterations: 1 })
  // The worker must not upgrade what is to be measured as wrapped.
  const flushInterval = (change) => server.sql('postgres', `${change}; SELECT pg_reload_conf();`)
  await flushInterval("ALTER SYSTEM SET api_key.flush_interval = '1h'")
  try {
    await issue(server, database, KEYS)
    const contenders = { native: (await keyFiles(server, database, KEYS)).texts }
    // The wrapped ones last: upgrading is for all that was verified before.
    for (const state of ['upgraded', 'wrapped']) {
      for (const scheme of Object.keys(SCHEMES)) {
        const texts = newTexts(KEYS)
        contenders[`${scheme}, ${state}`] = server.file(`${scheme}.${state}`, texts)
        await adopt(server, database, scheme, texts, 16)
      }
      await inAllSessions(server, database, WRAP)
      for (const params of Object.values(contenders))
        await server.load({ database, clients, once: true, ...verify, params })
      if (state === 'upgraded') await server.sql(database, 'SELECT api_key.flush_usage()')
    }
    const expected = `${3 * KEYS}|${3 * KEYS}|0`
    const states = () => server.sql(database,
      'SELECT sum(upgraded), sum(wrapped), sum(remaining) FROM api_key.legacy_hash_progress')
    await server.sql(database, 'VACUUM ANALYZE api_key_internal.keys; CHECKPOINT;')
    // Once more: the memo knows the upgraded hash too.
    for (const params of Object.values(contenders))
      await server.load({ database, clients, once: true, ...verify, params })

    const results = await interleave(rounds, Object.fromEntries(Object.entries(contenders).map(
      ([name, params]) => [name, async (seed) =>
        (await server.load({ database, clients, seconds, seed, ...verify, params })).rate])))
    const found = await states()
    if (found !== expected) throw new Error(`upgraded, wrapped, bare: ${found}, not ${expected}`)

    report.row(`verify_api_key, ${KEYS} known keys of our own`, `${number(median(results.native))}/s`)
    for (const name of Object.keys(contenders).slice(1))
      report.row(`verify_api_key, known legacy keys, ${name}: their time against our own`,
        `${number(median(results[name]))}/s`, ratio(results.native, results[name]), most(1.2))
  } finally {
    await flushInterval('ALTER SYSTEM RESET api_key.flush_interval')
  }
}

async function missing({ server, report }) {
  const database = 'legacy_miss'
  await createDatabase(server, database)
  say(`importing ${number(CROWD)} bcrypt keys of one prefix`)
  await adopt(server, database, 'bcrypt', newTexts(CROWD), 5)
  const miss = async (state) => {
    const params = server.file('misses', newTexts(MISSES))
    const before = await server.hashesRun(database)
    const { seconds } = await server.load({ database, clients: 1, once: true, ...refuseAny, params })
    const hashes = (await server.hashesRun(database) - before) / MISSES
    report.row(`a miss among ${number(CROWD)} bcrypt keys (cost 6, ${state}): hashes`,
      `${number((1000 * seconds) / MISSES)} ms`, hashes, most(CROWD))
  }
  await miss('bare')
  say('wrapping them')
  await inAllSessions(server, database, WRAP)
  await miss('wrapped')
}
