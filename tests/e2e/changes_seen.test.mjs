// Whatever happens to a key is seen by the very next statement, although its secret is remembered.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { call, codeOf, issue, stats, until, useCluster, value } from './harness.mjs'

const IP = { p_client_ip: '192.0.2.1' }
const update = (changes) => (client, id) =>
  call(client, 'update_api_key', { p_key_id: id, p_changes: changes })

/** What may happen to a key, and the code of its next verify. */
const CHANGES = {
  revoked: ['REVOKED', (client, id) => call(client, 'revoke_api_key', { p_key_id: id })],
  disabled: ['DISABLED', update({ enabled: false })],
  'not valid yet': ['NOT_YET_VALID', update({ not_before: '2999-01-01' })],
  // A time that has passed is refused as an argument; see below for one that passes.
  expired: ['EXPIRED', (client, id) => client.query(
    `UPDATE api_key_internal.keys SET expires_at = now() - interval '1 second' WHERE key_id = $1`, [id])],
  'closed to the address': ['IP_NOT_ALLOWED', update({ allowed_ips: ['198.51.100.0/24'] })],
  deleted: ['NOT_FOUND', (client, id) => call(client, 'delete_api_key', { p_key_id: id })],
  'rotated without grace': ['NOT_FOUND',
    (client, id) => call(client, 'rotate_api_key', { p_key_id: id, p_grace: '0 seconds' })],
  'past the grace of a rotation': ['NOT_FOUND', async (client, id) => {
    await call(client, 'rotate_api_key', { p_key_id: id })
    await client.query(
      `UPDATE api_key_internal.keys SET grace_expires_at = now() - interval '1 second' WHERE key_id = $1`,
      [id]
    )
  }],
}

describe('a key that is remembered', () => {
  let owner, other
  const settings = { 'api_key.argon2_memory_kib': 64, 'api_key.argon2_iterations': 1 }
  useCluster(settings, async (cluster) => {
    await cluster.database('app')
    owner = await cluster.connect('app')
    other = await cluster.connect('app')
    await owner.query(`
      CREATE FUNCTION code_after(change text, k text) RETURNS text LANGUAGE plpgsql AS $$
      BEGIN
        IF api_key.verify_api_key(k, p_client_ip => '192.0.2.1') ->> 'code' = 'VALID' THEN
          EXECUTE change;
          RETURN api_key.verify_api_key(k, p_client_ip => '192.0.2.1') ->> 'code';
        END IF;
      END $$`)
  })

  /** A key that both sessions have verified. */
  async function remembered(args) {
    const issued = await issue(owner, args)
    for (const client of [owner, other]) assert.equal(await codeOf(client, issued.api_key, IP), 'VALID')
    const { hashes_run: before } = await stats(other)
    assert.equal(await codeOf(other, issued.api_key, IP), 'VALID')
    assert.equal((await stats(other)).hashes_run, before)
    return issued
  }

  for (const [state, [code, change]] of Object.entries(CHANGES)) {
    it(`is ${code} in every session as soon as it is ${state}`, async () => {
      const { api_key: key, key_id: id } = await remembered()
      await change(owner, id)
      assert.equal(await codeOf(other, key, IP), code)
      assert.equal(await codeOf(owner, key, IP), code)
    })

    it(`is ${code} in the transaction that made it ${state}, and VALID when that rolls back`, async () => {
      const { api_key: key, key_id: id } = await remembered()
      await owner.query('BEGIN')
      try {
        await change(owner, id)
        assert.equal(await codeOf(owner, key, IP), code)
        assert.equal(await codeOf(other, key, IP), 'VALID')
      } finally {
        await owner.query('ROLLBACK')
      }
      assert.equal(await codeOf(owner, key, IP), 'VALID')
      assert.equal(await codeOf(other, key, IP), 'VALID')
    })
  }

  it('is REVOKED for the next statement inside a function, and in an old snapshot still VALID', async () => {
    const { api_key: key, key_id: id } = await remembered()
    await other.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
    assert.equal(await codeOf(other, key, IP), 'VALID')
    assert.equal(await value(owner, 'SELECT code_after($1, $2)',
      [`SELECT api_key.revoke_api_key('${id}')`, key]), 'REVOKED')
    assert.equal(await codeOf(other, key, IP), 'VALID')
    await other.query('COMMIT')
    assert.equal(await codeOf(other, key, IP), 'REVOKED')
  })

  it('ends at its time, and so does the grace of a rotation', async () => {
    const passed = (time) => until('the time', () => value(owner, 'SELECT clock_timestamp() >= $1', [time]))
    const soon = await value(owner, `SELECT (clock_timestamp() + interval '2 seconds')::text`)
    const { api_key: key } = await remembered({ p_expires_at: soon })
    await passed(soon)
    assert.equal(await codeOf(other, key, IP), 'EXPIRED')

    const old = await remembered()
    const rotated = await call(owner, 'rotate_api_key', { p_key_id: old.key_id, p_grace: '2 seconds' })
    assert.equal(
      (await call(other, 'verify_api_key', { p_api_key: old.api_key })).grace_expires_at !== null,
      true
    )
    await passed(rotated.grace_expires_at)
    assert.equal(await codeOf(other, old.api_key, IP), 'NOT_FOUND')
    assert.equal(await codeOf(other, rotated.api_key, IP), 'VALID')
  })
})
