// What the first verify of a key costs, at the parameters that keys have by default.

import { issue, keyFiles, verify } from './contenders.mjs'
import { secretOf } from './keys.mjs'
import { interleave, median, most, number, ratio, say } from './measure.mjs'

// Per round: some for one client, as many for all of them.
const KEYS = 100

export async function firstVerify({ server, report, options }) {
  const { rounds, seconds, clients } = options
  const database = 'first_verify'
  await server.createDatabase(database)

  let alone, together
  const newKeys = async () => {
    await issue(server, database, 2 * KEYS)
    const { lines } = await keyFiles(server, database, 2 * KEYS)
    alone = lines.slice(0, KEYS)
    together = server.file('together', lines.slice(KEYS))
  }
  // What a backend does once (reading catalogs, attaching memory) is not what is measured.
  await newKeys()
  await server.load({ database, clients: 1, once: true, ...verify, params: together })

  say(`${2 * KEYS} new keys a round`)
  const milliseconds = (load) => (1000 * load.seconds) / load.transactions
  const results = await interleave(rounds, {
    'libargon2 ms': async () => {
      await newKeys()
      const hashes = await server.sql(database, `
        SELECT t.api_key, k.secret_hash
        FROM bench.texts AS t JOIN api_key_internal.keys AS k USING (key_id)
        ORDER BY n DESC LIMIT ${KEYS}`)
      return 1000 * await server.libargon2(hashes.split('\n').map((row) => {
        const [text, hash] = row.split('|')
        return `${hash}\t${secretOf(text)}`
      }))
    },
    'first ms': async () => milliseconds(await server.load(
      { database, clients: 1, once: true, ...verify, params: server.file('alone', alone) })),
    'first': async () => (await server.load(
      { database, clients, once: true, ...verify, params: together })).rate,
    'repeated': async (seed) => (await server.load(
      { database, clients, seconds, seed, ...verify, params: together })).rate,
  })

  report.row('libargon2, the same hashes, one at a time', `${number(median(results['libargon2 ms']))} ms`)
  report.row('verify_api_key, first time, one client: its time against libargon2',
    `${number(median(results['first ms']))} ms`,
    ratio(results['first ms'], results['libargon2 ms']), most(0.9))
  report.row(`verify_api_key, first time, ${clients} clients`, `${number(median(results.first))}/s`)
  report.row('verify_api_key, the same keys again: how much faster',
    `${number(median(results.repeated))}/s`, ratio(results.repeated, results.first))
}
