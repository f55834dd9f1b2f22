// Legitimate clients beside as many that send forged keys and wrong secrets for the very ids that
// are in use. Held against the same clients beside as many harmless ones: they take their share
// of the processor too.

import { bareSelect, issue, keyFiles, refuseAny, verify } from './contenders.mjs'
import { forged, withWrongSecret } from './keys.mjs'
import { interleave, least, median, number, ratio } from './measure.mjs'

const KEYS = 1000
const ATTACKERS = 4
const WRONG_SECRETS = 100_000

export async function underAttack({ server, report, options }) {
  const { rounds, seconds, clients } = options
  const database = 'under_attack'
  await server.createDatabase(database)
  await issue(server, database, KEYS)
  const { lines, texts, ids } = await keyFiles(server, database, KEYS)
  const attack = server.file('attack', Array.from({ length: WRONG_SECRETS }, (_, n) =>
    n % 2 ? forged() : withWrongSecret(lines[(n / 2) % KEYS])))
  const legitimate = { database, clients, ...verify, params: texts }
  await server.load({ ...legitimate, once: true })

  const beside = (others) => async (seed) => {
    const { ended } = await server.startLoad(
      { database, clients: ATTACKERS, seconds: seconds + 1, seed: seed + 1000, ...others })
    const { rate } = await server.load({ ...legitimate, seconds, seed })
    sent.push((await ended).rate)
    return rate
  }
  const sent = []
  const results = await interleave(rounds, {
    'beside harmless clients': beside({ ...bareSelect, params: ids }),
    'beside attackers': beside({ ...refuseAny, params: attack }),
  })

  report.row(`known keys, beside ${ATTACKERS} clients with the bare SELECT`,
    `${number(median(results['beside harmless clients']))}/s`)
  report.row(`known keys, beside ${ATTACKERS} attackers`,
    `${number(median(results['beside attackers']))}/s`,
    ratio(results['beside attackers'], results['beside harmless clients']), least(0.5))
  report.note(`The attackers sent ${number(median(sent.filter((_, n) => n % 2)))} a second, half ` +
    `of them forged, half wrong secrets for the ${number(KEYS)} ids in use.`)
}
