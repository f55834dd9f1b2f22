// Makes very many keys (fill.sql).

import { readFileSync } from 'node:fs'
import { number, say } from './measure.mjs'

const FILL = readFileSync(new URL('fill.sql', import.meta.url), 'utf8')
const CHUNK = 1_000_000

/** What fill.sql gives each key. */
export const FILLED_KEY = 'a user, a name of 10 characters, a tier, two scopes of 14 characters each'

/** Makes `count` keys, of which every `step`-th is a real one. */
export async function fill(server, database, count, step) {
  for (let from = 1; from <= count; from += CHUNK) {
    await server.sql(database, FILL,
      { from, to: Math.min(from + CHUNK - 1, count), step })
    if (count > CHUNK) say(`filled ${number(Math.min(from + CHUNK - 1, count))} of ${number(count)} keys`)
  }
  await server.sql(database, 'VACUUM ANALYZE api_key_internal.keys; CHECKPOINT;')
}
