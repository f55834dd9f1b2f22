// What verify refused fills no disk: an hour has at most 21 rows of a code, whatever callers vary, and
// the counts add up.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { describe, it } from 'node:test'
import { call, codeOf, issue, partsOf, forged, useCluster, value } from './harness.mjs'

const CODES = ['MALFORMED', 'NOT_FOUND', 'THROTTLED', 'OVERLOADED', 'REVOKED', 'DISABLED', 'NOT_YET_VALID',
  'EXPIRED', 'IP_NOT_ALLOWED', 'RESOURCE_MISMATCH', 'INSUFFICIENT_SCOPE']
const ROWS = 21
const FLUSHES = 12
const KINDS = 300
const HOUR = 3_600_000_000
/** Some hour, in microseconds since 2000. */
const START = 230_000 * HOUR

const ipv4 = (n) => `10.${n >> 16 & 255}.${n >> 8 & 255}.${n & 255}/32`
const ipv6 = (n) => `2001:db8:${(n >> 16).toString(16)}:${(n & 65535).toString(16)}::/64`
const uuid = (n) => `00000000-0000-4000-8000-${n.toString(16).padStart(12, '0')}`

/** What is varied: a refusal of this flush and this kind; `n` counts on over all flushes. */
const FLOODS = {
  nothing: () => ({}),
  'addresses, new ones in each flush': ({ n }) => ({ client_ip: ipv4(n) }),
  'addresses, the same in each flush': ({ kind }) => ({ client_ip: ipv4(kind) }),
  'networks of IPv6': ({ n }) => ({ client_ip: ipv6(n) }),
  'families of addresses': ({ n }) => ({ client_ip: n % 2 ? ipv4(n) : ipv6(n) }),
  'lengths of prefixes': ({ kind }) => ({ client_ip: `0.0.0.0/${kind % 33}` }),
  keys: ({ n }) => ({ key_id: uuid(n) }),
  'keys and addresses': ({ n }) => ({ key_id: uuid(n % 40), client_ip: ipv4(n) }),
  'keys with and without addresses': ({ n }) => ({
    key_id: n % 3 ? uuid(n) : null,
    client_ip: n % 2 ? ipv4(n) : null,
  }),
  'counts, ever higher, so that each drives others out': ({ n }) => ({ client_ip: ipv4(n), count: n + 1 }),
  'counts, ever lower': ({ n }) => ({ client_ip: ipv4(n), count: FLUSHES * KINDS - n }),
  'counts, huge': ({ n }) => ({ client_ip: ipv4(n), count: 2 ** 50 }),
  'times within the hour': ({ n }) => ({ client_ip: ipv4(n), at: n * 900_000 }),
  'times, backwards': ({ n }) => ({ client_ip: ipv4(n), at: HOUR - 1 - n * 900_000 }),
  'times around the end of the hour': ({ n }) => ({ client_ip: ipv4(n), at: (n % 2) * HOUR }),
  'hours of a day': ({ n }) => ({ client_ip: ipv4(n), at: (n % 24) * HOUR }),
  codes: ({ n }) => ({ client_ip: ipv4(n), code: CODES[n % CODES.length] }),
  'codes, hours, keys and addresses': ({ n }) => ({
    client_ip: ipv4(n),
    key_id: uuid(n),
    code: CODES[n % CODES.length],
    at: (n % 7) * HOUR,
  }),
}

describe('refusals', () => {
  let cluster, db
  useCluster(
    { 'api_key.argon2_memory_kib': 64, 'api_key.argon2_iterations': 1, 'api_key.flush_interval': 3600 },
    async (fresh) => {
      cluster = fresh
      await cluster.database('app')
      db = await cluster.connect('app')
    }
  )

  const flush = (refusals) => call(db, 'import_usage', { p_usage: { usage: [], refusals } })
  const rows = async () =>
    (
      await db.query(`
    SELECT details ->> 'code' AS code, date_trunc('hour', occurred_at) AS hour, count(*)::integer AS rows,
      sum((details ->> 'count')::numeric)::text AS refusals,
      ((extract(epoch FROM min((details ->> 'first_at')::timestamptz)) - 946684800) * 1000000)::bigint::text AS first,
      ((extract(epoch FROM max(occurred_at)) - 946684800) * 1000000)::bigint::text AS last
    FROM api_key.audit_log WHERE event = 'refused' GROUP BY 1, 2 ORDER BY 1, 2`)
    ).rows
  const clear = () => db.query(`DELETE FROM api_key_internal.audit_log WHERE event = 'refused'`)

  /** Does it again if an hour ended meanwhile, since each hour has rows of its own. */
  async function withinAnHour(act) {
    const hour = () => value(db, `SELECT date_trunc('hour', clock_timestamp())::text`)
    for (let began; began !== await hour();) {
      began = await hour()
      await act()
    }
  }

  describe('that vary', () => {
    for (const [what, refusal] of Object.entries(FLOODS)) {
      it(what, async (test) => {
        await clear()
        const expected = new Map()
        for (let flushed = 0; flushed < FLUSHES; flushed++) {
          await flush(Array.from({ length: KINDS }, (_, kind) => {
            const { code = 'NOT_FOUND', at = 0, count = 1, key_id = null, client_ip = null } =
              refusal({ n: flushed * KINDS + kind, kind })
            const [first_at, last_at] = [START + at, START + at + 7]
            const place = `${code} ${Math.floor(last_at / HOUR)}`
            const sum = expected.get(place) ?? { count: 0n, first: Infinity, last: 0 }
            sum.count += BigInt(count)
            sum.first = Math.min(sum.first, first_at)
            sum.last = Math.max(sum.last, last_at)
            expected.set(place, sum)
            return { code, key_id, client_ip, count, first_at, last_at }
          }))
        }
        const found = await rows()
        const most = Math.max(...found.map((group) => group.rows))
        test.diagnostic(`${FLUSHES} flushes of ${KINDS} kinds: ${most} rows of a code and hour at most`)
        assert.ok(most <= ROWS)
        assert.equal(found.length, expected.size)
        assert.deepEqual(
          found.map(({ refusals, first, last }) => `${refusals} ${first} ${last}`).sort(),
          [...expected.values()].map(({ count, first, last }) => `${count} ${first} ${last}`).sort())
      })
    }
  })

  it('name those that are most frequent in the hour, also when they come late', async () => {
    await clear()
    const noise = (from) => Array.from({ length: 100 }, (_, n) =>
      ({ code: 'NOT_FOUND', client_ip: ipv4(from + n), count: 2, first_at: START, last_at: START }))
    for (let n = 0; n < 5; n++) await flush(noise(n * 100))
    await flush([
      ...noise(900),
      {
        code: 'NOT_FOUND',
        client_ip: '192.0.2.7/32',
        key_id: uuid(7),
        count: 40,
        first_at: START,
        last_at: START,
      },
    ])
    assert.equal(await value(db, `SELECT (details ->> 'count')::integer FROM api_key.audit_log
      WHERE event = 'refused' AND key_id = $1 AND details ->> 'client_ip' = '192.0.2.7'`, [uuid(7)]), 40)
  })

  it('stay rows of their own: the same kind has the same audit_id all hour, and other events stay as they are', async () => {
    await clear()
    const events = () =>
      value(db, `SELECT jsonb_agg(a ORDER BY audit_id) FROM api_key.audit_log AS a WHERE event <> 'refused'`)
    await issue(db)
    const before = await events()
    const ids = new Set()
    for (let n = 0; n < 4; n++) {
      await flush([
        {
          code: 'REVOKED',
          client_ip: '192.0.2.1/32',
          key_id: uuid(1),
          count: 1,
          first_at: START + n,
          last_at: START + n,
        },
      ])
      ids.add(await value(db, `SELECT audit_id FROM api_key.audit_log WHERE event = 'refused'`))
    }
    assert.equal(ids.size, 1)
    assert.deepEqual(await events(), before)
  })

  it('name the owner of a key that was deleted since', async () => {
    await clear()
    const { key_id } = await issue(db)
    const refusal = () => flush([{ code: 'NOT_FOUND', key_id, count: 1, first_at: START, last_at: START }])
    await refusal()
    await call(db, 'delete_api_key', { p_key_id: key_id })
    await refusal()
    assert.equal(
      await value(
        db,
        `SELECT user_id IS NOT NULL AND (details ->> 'count') = '2' FROM api_key.audit_log
      WHERE event = 'refused'`
      ),
      true
    )
  })

  it('of one client of IPv6 are one row, whatever address of its network it takes', async () => {
    const { api_key: key } = await issue(db)
    await withinAnHour(async () => {
      await call(db, 'flush_usage')
      await clear()
      for (let n = 0; n < 200; n++) {
        await codeOf(db, forged({ ...partsOf(key), id: undefined }), {
          p_client_ip: `2001:db8:7:7::${n.toString(16)}`,
        })
      }
      await codeOf(db, 'no key', { p_client_ip: '::ffff:192.0.2.3' })
      await call(db, 'flush_usage')
    })
    const { rows: found } =
      await db.query(`SELECT details ->> 'client_ip' AS client, details ->> 'count' AS count
      FROM api_key.audit_log WHERE event = 'refused' ORDER BY 1`)
    assert.deepEqual(found, [
      { client: '192.0.2.3', count: '1' },
      { client: '2001:db8:7:7::/64', count: '200' },
    ])
  })

  it('written by the worker and by import_usage at once lose nothing', async () => {
    await clear()
    const { api_key: key } = await issue(db)
    const importer = await cluster.connect('app')
    const at = await value(db, `SELECT (floor(extract(epoch FROM now())) - 946684800)::bigint::text`)
    const refusals = [{ code: 'NOT_FOUND', count: 5, first_at: at * 1e6, last_at: at * 1e6 }]
    for (let n = 0; n < 10; n++) {
      await codeOf(db, forged({ ...partsOf(key), id: undefined }))
      await Promise.all([
        call(db, 'flush_usage'),
        call(importer, 'import_usage', { p_usage: { usage: [], refusals } }),
      ])
    }
    assert.equal(await value(db, `SELECT sum((details ->> 'count')::integer)::integer FROM api_key.audit_log
      WHERE event = 'refused'`), 60)
  })

  it('are purged in time', async () => {
    await flush([{ code: 'REVOKED', key_id: randomUUID(), count: 1, first_at: START, last_at: START }])
    await call(db, 'purge_api_keys', { p_older_than: '0 seconds' })
    assert.deepEqual(await rows(), [])
  })
})
