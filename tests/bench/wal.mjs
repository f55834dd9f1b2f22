// What verifying writes: use counts, by the worker, at the default flush interval.

import { issue, keyFiles, verify } from './contenders.mjs'
import { most, number, say } from './measure.mjs'

const KEYS = 1000
const VERIFIES_A_MINUTE = 1_000_000

export async function wal({ server, report, options }) {
  const { clients, walSeconds } = options
  const database = 'wal'
  await server.createDatabase(database, { memoryKib: 8, iterations: 1 })
  await issue(server, database, KEYS)
  const { texts } = await keyFiles(server, database, KEYS)
  // Where there is no such function, nothing is kept back either.
  const flush = () => server.sql(database, `
    SELECT to_regproc('api_key.flush_usage') IS NOT NULL AS flushes \\gset
    \\if :flushes
      SELECT api_key.flush_usage() \\g /dev/null
    \\endif`)
  const used = async () => Number(await server.sql(database,
    'SELECT coalesce(sum(usage_count), 0) FROM api_key_internal.key_usage'))
  await server.load({ database, clients, once: true, ...verify, params: texts })
  await flush()

  say(`verifying for ${walSeconds} s at ${number(VERIFIES_A_MINUTE)} a minute`)
  const usedBefore = await used()
  const start = await server.sql(database, 'CHECKPOINT; SELECT pg_current_wal_lsn();')
  const { transactions, seconds } = await server.load({
    database, clients, seconds: walSeconds, rate: VERIFIES_A_MINUTE / 60, ...verify, params: texts })
  await flush()
  const bytes = Number(await server.sql(database,
    'SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), :\'start\')', { start }))
  const perMinute = (bytes / 1e6) * (60 / seconds)
  report.row(`WAL of ${number(transactions)} verifies over ${number(KEYS)} keys in ${number(seconds)} s`,
    `${number(bytes / 1e6)} MB`, perMinute, most(1))
  report.note(`WAL is in MB a minute, right after a checkpoint. Counted uses: ` +
    `${number(await used() - usedBefore)} of ${number(transactions)}.`)
}
