// What a thief of the disk finds: no key that was ever issued or presented, in no file.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { readFileSync, readdirSync } from 'node:fs'
import { join, relative } from 'node:path'
import { describe, it } from 'node:test'
import { partsOf, useCluster, value, withWrongSecret } from './harness.mjs'

const KEYS = 1000
const ROTATED = 50
const HALF = 16

describe('keys at rest', () => {
  let cluster, client
  const presented = []

  const settings = {
    'api_key.argon2_memory_kib': 8192, // A thousand hashes, and the test is not about their cost.
    'api_key.argon2_iterations': 1,
    log_statement: 'all',
    log_min_duration_statement: 0,
    log_min_messages: 'debug1',
    log_error_verbosity: 'verbose',
    // PostgreSQL logs the values of bind parameters unless told not to: README says so too.
    log_parameter_max_length: 0,
    log_parameter_max_length_on_error: 0,
  }
  useCluster(settings, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
    client = await cluster.connect('app')
  })

  const issue = () => value(client,
    `SELECT api_key.issue_api_key(p_user_id => $1, p_name => 'At rest')`, [randomUUID()])
  const code = (key) => value(client, `SELECT api_key.verify_api_key($1) ->> 'code'`, [key])
  const fails = (text, values) =>
    assert.rejects(client.query(text, values), (error) => typeof error.code === 'string')

  it(`keeps ${KEYS} plaintexts out of the data folder, the WAL and the log`, async () => {
    const canaries = { table: 'canary'.repeat(6), log: 'budgie'.repeat(6), wal: 'parrot'.repeat(6) }

    for (let n = 0; n < KEYS; n++) {
      const { api_key: key, key_id: id } = await issue()
      presented.push(key)
      assert.equal(await code(key), 'VALID')
      if (n < ROTATED) {
        const rotated = await value(client, 'SELECT api_key.rotate_api_key($1)', [id])
        presented.push(rotated.api_key)
        assert.equal(await code(rotated.api_key), 'VALID')
        assert.equal(await code(key), 'VALID')
      }
    }
    await presentInCallsThatFail(presented.slice(0, 20))
    await presentWrongSecrets(presented.slice(20, 25))

    await client.query('CREATE TABLE canaries AS SELECT $1::text', [canaries.table])
    await client.query(`SELECT '${canaries.log}'`)
    await client.query(`SELECT pg_logical_emit_message(true, 'canary', '${canaries.wal}')`)
    await client.query('CHECKPOINT')
    await cluster.stop()

    const found = search(cluster.dir, new Set([
      ...presented.flatMap((key) => halves(partsOf(key).secret)),
      ...Object.values(canaries).flatMap(halves),
    ]))
    // The search can find: what was left lying about on purpose, in each kind of place.
    const places = (canary) => halves(canary).flatMap((half) => [...found.get(half) ?? []]).join(' ')
    assert.match(places(canaries.table), /data\/base\//)
    assert.match(places(canaries.wal), /data\/pg_wal\//)
    assert.match(places(canaries.log), /(^| )log( |$)/)

    for (const canary of Object.values(canaries)) halves(canary).forEach((half) => found.delete(half))
    const leaks = [...found.values()].flatMap((files) => [...files])
    assert.deepEqual([...new Set(leaks)], [], `${found.size} parts of secrets were found in these files`)
    assert.ok(presented.length > KEYS + ROTATED)
  })

  async function presentInCallsThatFail(keys) {
    for (const key of keys) {
      await fails(`SELECT (api_key.verify_api_key($1) ->> 'code')::integer`, [key])
      await fails('SELECT 1 / (length($1) - length($1)), api_key.verify_api_key($1::text)', [key])
      await fails('SELECT api_key.issue_api_key(p_user_id => $1, p_prefix => $2)', [randomUUID(), key])
      await fails('SELECT api_key.issue_api_key(p_user_id => $1, p_tier => $2)', [randomUUID(), key])
      await fails(`SELECT api_key.update_api_key($1, jsonb_build_object($2::text, 1))`, [randomUUID(), key])
      await client.query('BEGIN')
      const { api_key: rolledBack } = await issue()
      presented.push(rolledBack)
      assert.equal(await code(rolledBack), 'VALID')
      await client.query('ROLLBACK')
      assert.equal(await code(rolledBack), 'NOT_FOUND')
    }
  }

  async function presentWrongSecrets(keys) {
    for (const key of keys) {
      const wrong = withWrongSecret(key)
      presented.push(wrong)
      assert.equal(await code(wrong), 'NOT_FOUND')
      assert.equal(await value(client, 'SELECT api_key.revoke_own_api_key($1)', [wrong]), false)
    }
  }
})

/** Halves, so that a page boundary in the middle of a secret does not hide it. */
function halves(secret) {
  return [secret.slice(0, HALF), secret.slice(-HALF)]
}

/** Which files hold which of `needles`, each of HALF characters: reads every byte under `dir` once. */
function search(dir, needles) {
  const found = new Map()
  for (const file of filesUnder(dir)) {
    const text = readFileSync(file, 'latin1')
    for (const { 0: run } of text.matchAll(/[0-9A-Za-z]{16,}/g)) {
      for (let at = 0; at + HALF <= run.length; at++) {
        const part = run.slice(at, at + HALF)
        if (needles.has(part)) found.set(part, (found.get(part) ?? new Set()).add(relative(dir, file)))
      }
    }
  }
  return found
}

function* filesUnder(dir) {
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name)
    if (entry.isDirectory()) yield* filesUnder(path)
    else if (entry.isFile()) yield path
  }
}
