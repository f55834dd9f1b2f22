// Known and forged keys against the bare SELECT, and against what people write by hand.

import { readFileSync } from 'node:fs'
import { bareSelect, issue, keyFiles, refuseForged, verify, verifyBcrypt, verifySha512 }
  from './contenders.mjs'
import { forged } from './keys.mjs'
import { interleave, least, median, most, number, ratio, say } from './measure.mjs'

export async function hotPath({ server, report, options }) {
  const { rounds, seconds, clients, keys } = options
  const database = 'hot_path'
  // What a hash costs does not matter to a verify that need not hash; 100,000 hashes of 19 MiB do.
  await server.createDatabase(database, { memoryKib: 8, iterations: 1 })
  await issue(server, database, keys, { chunk: 20_000 })
  say('making the tables of the incumbents')
  await server.sql(database, readFileSync(new URL('incumbents.sql', import.meta.url), 'utf8'))
  await server.sql(database, 'VACUUM ANALYZE; CHECKPOINT;')

  const { texts, ids } = await keyFiles(server, database, keys)
  const bcryptTexts = server.file('bcrypt.texts', (await server.sql(database,
    'SELECT api_key FROM bench.texts WHERE n <= 1000')).split('\n'))
  const forgedTexts = server.file('forged.texts', Array.from({ length: keys }, forged))
  const contenders = {
    bare: { ...bareSelect, params: ids },
    verify: { ...verify, params: texts },
    forged: { ...refuseForged, params: forgedTexts },
    sha512: { ...verifySha512, params: texts,
      before: 'CALL bench.settle_sha512(); VACUUM bench.sha512_keys;' },
    bcrypt: { ...verifyBcrypt, params: bcryptTexts },
  }
  say('sending each parameter once: every answer must be right, and the memo warms')
  for (const { before, ...load } of Object.values(contenders))
    await server.load({ database, clients, once: true, ...load })

  const hashes = { verify: 0, forged: 0 }
  const results = await interleave(rounds, Object.fromEntries(Object.entries(contenders).map(
    ([name, { before, ...load }]) => [name, async (seed) => {
      if (before) await server.sql(database, before)
      const hashesBefore = await server.hashesRun(database)
      const { rate } = await server.load({ database, clients, seconds, seed, ...load })
      if (hashesBefore === null) hashes[name] = null
      else hashes[name] += await server.hashesRun(database) - hashesBefore
      return rate
    }])))

  const rate = (name) => `${number(median(results[name]))}/s`
  report.row(`bare indexed SELECT by id, ${number(keys)} keys`, rate('bare'))
  report.row('verify_api_key, known keys, against the bare SELECT', rate('verify'),
    ratio(results.verify, results.bare), least(0.9))
  report.row('verify_api_key, forged keys, against the bare SELECT', rate('forged'),
    ratio(results.forged, results.bare), least(0.9))
  report.row('SHA-512 in plpgsql, last use once a minute: how much faster verify is',
    rate('sha512'), ratio(results.verify, results.sha512), least(2.5))
  report.row('bcrypt cost 6 in plpgsql (pgcrypto): how much faster verify is',
    rate('bcrypt'), ratio(results.verify, results.bcrypt), least(100))
  report.note(`These ${number(keys)} keys were hashed with 8 KiB, t=1: a memo hit does not hash.`)
  if (hashes.forged === null) report.note('No view api_key.stats: argon2 runs were not counted.')
  else {
    report.row('argon2 runs by forged keys, all rounds', '', hashes.forged, most(0))
    report.note(`argon2 runs by known keys, all rounds: ${hashes.verify}.`)
  }
}
