// Bytes on disk for a key, indexes included.

import { fill, FILLED_KEY } from './fill.mjs'
import { most, number, say } from './measure.mjs'

export async function disk({ server, report, options: { keys } }) {
  const database = 'disk'
  await server.createDatabase(database)
  say(`filling ${number(keys)} keys`)
  // No real ones: the hash of one secret takes as much room as those of many.
  await fill(server, database, keys, keys + 1)
  // The worker has written the use of each key twice.
  await server.sql(database, `
    INSERT INTO api_key_internal.key_usage
      SELECT key_id, 1, 0, now(), '192.0.2.1' FROM api_key_internal.keys;
    VACUUM api_key_internal.key_usage;
    UPDATE api_key_internal.key_usage SET usage_count = usage_count + 1, last_used_at = now();
    VACUUM api_key_internal.keys, api_key_internal.key_usage;`)
  const [key, usage] = (await server.sql(database, `
    SELECT pg_total_relation_size('api_key_internal.keys'),
           pg_total_relation_size('api_key_internal.key_usage')`))
    .split('|').map((bytes) => Number(bytes) / keys)
  report.row(`disk for a key, indexes included, ${number(keys)} keys`,
    `${number(key)} bytes`, key, most(400))
  report.row('disk for a key that is used, with its row of use counts',
    `${number(key + usage)} bytes`, key + usage, most(400))
  report.note(`Disk is of keys with ${FILLED_KEY}.`)
}
