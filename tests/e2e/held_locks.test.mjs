// Nobody stops the extension by holding a lock: what it locks has no name in SQL.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { describe, it } from 'node:test'
import { actAs, call, codeOf, useCluster, value } from './harness.mjs'

const WAIT = `SET lock_timeout = '5s'`
const FUNCTIONS = ['', 'try_'].flatMap((attempt) => ['', 'xact_'].flatMap((until) =>
  ['', '_shared'].map((mode) => `pg_${attempt}advisory_${until}lock${mode}`)))

describe('a stranger who may run statements', () => {
  let cluster, owner, stranger, other
  const user = randomUUID()
  const issue = (client) => call(client, 'issue_api_key', { p_user_id: user })

  useCluster({ 'api_key.argon2_memory_kib': 64, 'api_key.argon2_iterations': 1 }, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
    ;[owner, stranger, other] = await Promise.all([1, 2, 3].map(() => cluster.connect('app')))
    await owner.query('SELECT api_key.setup_postgrest(p_create_roles => true)')
    for (const client of [owner, other]) await client.query(WAIT)
    await actAs(stranger, undefined)
  })

  /** What pg_locks shows of the locks that an issue holds, besides those of relations. */
  async function shown() {
    await owner.query('BEGIN')
    await issue(owner)
    const { rows } = await owner.query(`SELECT database, classid, objid, objsubid FROM pg_locks
      WHERE pid = pg_backend_pid() AND locktype NOT IN ('relation', 'virtualxid', 'transactionid')`)
    await owner.query('COMMIT')
    return rows
  }

  it('sees what an issue locks, and can take no lock that is in its way', async (test) => {
    const [lock] = await shown()
    const half = (number) =>
      `(${number}::bigint - CASE WHEN ${number} > 2147483647 THEN 4294967296 ELSE 0 END)::integer`
    const [high, low] = [half(lock.classid), half(lock.objid)]
    const whole = `(${high}::bigint << 32) | ${lock.objid}::bigint`
    const keys = {
      'the text of user and tier': [`hashtextextended('api_key ${user} free', 0)`],
      'what pg_locks shows': [whole],
      'its halves': [high, low],
      'its halves the other way': [low, high],
      'its second half': [low],
      'its class': [`${lock.objsubid}`],
      nothing: ['0'],
      'the table of keys': [
        half(`${await value(owner, `SELECT 'api_key_internal.keys'::regclass::oid`)}`),
        low,
      ],
    }
    let attempts = 0
    for (const [what, key] of Object.entries(keys)) {
      for (const name of FUNCTIONS) {
        await stranger.query('BEGIN')
        await stranger.query(`SELECT ${name}(${key.join(', ')})`)
        assert.ok((await issue(other)).api_key, `${name} of ${what}`)
        await stranger.query('ROLLBACK')
        await stranger.query('SELECT pg_advisory_unlock_all()')
        attempts++
      }
    }
    test.diagnostic(`${attempts} locks held`)
    assert.ok(attempts >= 50)
  })

  it('cannot give back the lock of another, nor does the holder by pg_advisory_unlock_all', async () => {
    await owner.query('BEGIN')
    await issue(owner)
    for (const client of [stranger, owner]) await client.query('SELECT pg_advisory_unlock_all()')
    await other.query(`SET lock_timeout = '200ms'`)
    await assert.rejects(issue(other), { code: '55P03' }, 'two issues still take turns')
    await owner.query('COMMIT')
    await other.query(WAIT)
    assert.ok((await issue(other)).api_key)
  })

  it('waits in no one\'s way: users and tiers do not share a lock', async () => {
    await owner.query(`SELECT api_key.define_tier('single', 1)`)
    await owner.query('BEGIN')
    await issue(owner)
    await call(other, 'issue_api_key', { p_user_id: user, p_tier: 'single' })
    await call(other, 'issue_api_key', { p_user_id: randomUUID() })
    await owner.query('ROLLBACK')
  })

  it('who holds the row of a key of his own keeps no other counts from being written', async () => {
    const [held, free] = await Promise.all(
      [1, 2].map(() => call(owner, 'issue_api_key', { p_user_id: randomUUID() }))
    )
    const use = async () => {
      for (const { api_key } of [held, free]) assert.equal(await codeOf(owner, api_key), 'VALID')
    }
    const counts = async () =>
      value(
        owner,
        `SELECT jsonb_object_agg(key_id, usage_count) FROM api_key_internal.key_usage
      WHERE key_id IN ($1, $2)`,
        [held.key_id, free.key_id]
      )
    await use()
    await call(owner, 'flush_usage')
    await other.query('BEGIN')
    await call(other, 'delete_api_key', { p_key_id: held.key_id })
    await use()
    await call(owner, 'flush_usage')
    assert.deepEqual(await counts(), { [held.key_id]: 1, [free.key_id]: 2 })
    await other.query('ROLLBACK')
    await call(owner, 'flush_usage')
    assert.deepEqual(await counts(), { [held.key_id]: 2, [free.key_id]: 2 }, 'none is lost')
  })

  it('may lock no table, row or object of the extension', async () => {
    const { rows } = await owner.query(`SELECT oid::regclass::text AS name FROM pg_class
      WHERE relnamespace IN ('api_key'::regnamespace, 'api_key_internal'::regnamespace) AND relkind IN ('r', 'v')`)
    assert.ok(rows.length > 10)
    for (const { name } of rows) {
      for (const text of [`LOCK TABLE ${name} IN ACCESS SHARE MODE`, `SELECT * FROM ${name} FOR KEY SHARE`]) {
        await stranger.query('BEGIN')
        await assert.rejects(stranger.query(text), { code: '42501' }, text)
        await stranger.query('ROLLBACK')
      }
    }
  })
})
