// A hot standby verifies like its primary, and writes what it has counted once it is promoted.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { call, codeOf, forged, issue, partsOf, stats, until, useCluster, value } from './harness.mjs'

describe('a standby', () => {
  let primary, standby, onPrimary, onStandby, used, revoked

  const settings = { 'api_key.argon2_memory_kib': 64, 'api_key.argon2_iterations': 1 }
  useCluster(settings, async (cluster) => {
    primary = cluster
    await primary.database('app')
    onPrimary = await primary.connect('app')
    used = await issue(onPrimary)
    revoked = await issue(onPrimary)
    assert.equal(await codeOf(onPrimary, used.api_key), 'VALID')
    await call(onPrimary, 'flush_usage')
    standby = await primary.standby({ 'api_key.argon2_memory_kib': 128, 'api_key.flush_interval': 1 })
    onStandby = await standby.connect('app')
  })

  async function replayed() {
    const lsn = await value(onPrimary, 'SELECT pg_current_wal_lsn()')
    await until('replay', () => value(onStandby, 'SELECT pg_last_wal_replay_lsn() >= $1', [lsn]))
  }

  it('verifies what the primary issued, remembers it, and writes nothing', async () => {
    assert.equal(await value(onStandby, 'SELECT pg_is_in_recovery()'), true)
    const late = await issue(onPrimary)
    await replayed()
    for (const { api_key: key } of [used, revoked, late]) {
      for (let n = 0; n < 5; n++) assert.equal(await codeOf(onStandby, key), 'VALID')
    }
    assert.equal(await codeOf(onStandby, forged(partsOf(used.api_key))), 'NOT_FOUND')
    const { hashes_run: run, memo_hits: hits, upgrade_entries: upgrades } = await stats(onStandby)
    assert.deepEqual([run, hits, upgrades], [4, 12, 0], 'three secrets and a wrong one; no better hashes')
    await assert.rejects(call(onStandby, 'flush_usage'), { code: '55000' })
    await assert.rejects(issue(onStandby), { code: '25006' })
  })

  it('sees a revocation as soon as it is replayed, although the secret is remembered', async () => {
    await call(onPrimary, 'revoke_api_key', { p_key_id: revoked.key_id })
    await replayed()
    assert.equal(await codeOf(onStandby, revoked.api_key), 'REVOKED')
    assert.equal(await codeOf(onStandby, used.api_key), 'VALID')
  })

  it('writes its counts when it is promoted, and goes on as a primary', async () => {
    const usage = () => value(onStandby,
      'SELECT usage_count::integer FROM api_key_internal.key_usage WHERE key_id = $1', [used.key_id])
    assert.equal(await usage(), 1, "the primary's")
    await primary.stop('immediate')
    assert.equal(await value(onStandby, 'SELECT pg_promote()'), true)
    await until('the counts', async () => await usage() === 1 + 6)
    assert.equal(await codeOf(onStandby, used.api_key), 'VALID')
    assert.equal(await codeOf(onStandby, revoked.api_key), 'REVOKED')
    const fresh = await issue(onStandby)
    assert.equal(await codeOf(onStandby, fresh.api_key), 'VALID')
    await call(onStandby, 'flush_usage')
    assert.equal(await usage(), 1 + 7)
  })
})
