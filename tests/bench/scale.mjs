// Ten million keys against ten thousand.

import { bareSelect, keyFiles, verify } from './contenders.mjs'
import { fill } from './fill.mjs'
import { interleave, least, median, number, ratio, say } from './measure.mjs'

export async function scale({ server, report, options }) {
  const { rounds, seconds, clients, scaleKeys } = options
  const began = Date.now()
  // So that the memo holds nothing but these keys.
  await server.restart()
  const contenders = {}
  for (const [name, keys, real] of
    [['few', 10_000, 10_000], ['many', scaleKeys, Math.min(scaleKeys, 100_000)]]) {
    const database = `scale_${name}`
    await server.createDatabase(database, { memoryKib: 8, iterations: 1 })
    say(`filling ${number(keys)} keys`)
    await fill(server, database, keys, Math.floor(keys / real))
    const { texts, ids } = await keyFiles(server, database, real)
    for (const [what, load] of
      [['bare', { ...bareSelect, params: ids }], ['verify', { ...verify, params: texts }]]) {
      await server.load({ database, clients, once: true, ...load })
      contenders[`${what} ${name}`] = async (seed) =>
        (await server.load({ database, clients, seconds, seed, ...load })).rate
    }
  }
  const results = await interleave(rounds, contenders)
  const rate = (name) => `${number(median(results[name]))}/s`
  const many = number(scaleKeys)
  report.row('verify_api_key, 10,000 keys', rate('verify few'))
  report.row(`verify_api_key, ${many} keys, against 10,000`, rate('verify many'),
    ratio(results['verify many'], results['verify few']), least(0.8))
  report.row(`bare SELECT, ${many} keys, against 10,000`, rate('bare many'),
    ratio(results['bare many'], results['bare few']))
  report.note(`Of ${many} keys, ${number(Math.min(scaleKeys, 100_000))} all over the table were ` +
    `verified in random order; the row took ${number((Date.now() - began) / 1000)} s.`)
}
