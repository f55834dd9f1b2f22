// Legitimate clients beside some that send forged keys and some that send wrong secrets for the
// very ids that are in use: apart, as a wrong secret may have to wait. Held against the same clients beside as many harmless ones: they take their share
// of the processor too.

import { bareSelect, issue, keyFiles, refuseAny, verify } from './contenders.mjs'
import { forged, withWrongSecret } from './keys.mjs'
import { interleave, least, median, number, ratio } from './measure.mjs'

const KEYS = 1000
const ATTACKERS = 4
const WRONG_TEXTS = 100_000

export async function underAttack({ server, report, options }) {
  const { rounds, seconds, clients } = options
  const database = 'under_attack'
  await server.createDatabase(database)
  await issue(server, database, KEYS)
  const { lines, texts, ids } = await keyFiles(server, database, KEYS)
  const wrongTexts = (name, make) => server.file(name, Array.from({ length: WRONG_TEXTS }, make))
  const forgedTexts = wrongTexts('forged', forged)
  const wrongSecrets = wrongTexts('wrong_secrets', (_, n) => withWrongSecret(lines[n % KEYS]))
  const legitimate = { database, clients, ...verify, params: texts }
  await server.load({ ...legitimate, once: true })

  const sent = { forged: [], wrong: [] }
  const beside = (others) => async (seed) => {
    const running = await Promise.all(others.map(async ({ rates, ...load }, n) => ({ rates,
      ...await server.startLoad({ database, clients: ATTACKERS / others.length,
        seconds: seconds + 1, seed: 1000 * (n + 1) + seed, ...load }) })))
    const { rate } = await server.load({ ...legitimate, seconds, seed })
    for (const { ended, rates } of running) {
      const other = await ended
      rates?.push(other.rate)
    }
    return rate
  }
  const results = await interleave(rounds, {
    'beside harmless clients': beside([{ ...bareSelect, params: ids }]),
    'beside attackers': beside([
      { ...refuseAny, params: forgedTexts, rates: sent.forged },
      { ...refuseAny, params: wrongSecrets, rates: sent.wrong }]),
  })

  report.row(`known keys, beside ${ATTACKERS} clients with the bare SELECT`,
    `${number(median(results['beside harmless clients']))}/s`)
  report.row(`known keys, beside ${ATTACKERS} attackers`,
    `${number(median(results['beside attackers']))}/s`,
    ratio(results['beside attackers'], results['beside harmless clients']), least(0.5))
  report.note(`The attackers sent ${number(median(sent.forged))} forged keys a second, and ` +
    `${number(median(sent.wrong))} wrong secrets for the ${number(KEYS)} ids in use.`)
}
