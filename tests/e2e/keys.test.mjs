// A key's life as an application lives it: every call goes through a real PostgREST, most of them
// from the real JavaScript client.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { describe, it } from 'node:test'
import { jwt, partsOf, useCluster, userClaims, value, withWrongSecret } from './harness.mjs'

// What PostgREST 12 makes of a SQLSTATE, for callers that are signed in.
const STATUS = { 22023: 400, '22P02': 400, 42501: 403, P0002: 404, 53400: 409 }

describe('keys through PostgREST', () => {
  let api, database
  const service = { role: 'service_role' }

  useCluster({}, async (cluster) => {
    await cluster.database('app')
    database = await cluster.connect('app')
    await database.query('SELECT api_key.setup_postgrest(p_create_roles => true)')
    await database.query(`SELECT api_key.define_tier('many')`)
    api = await cluster.postgrest('app')
  })

  /** Calls a function; its result, or a failed test. */
  async function call(claims, name, args = {}, options = {}) {
    const { data, error, status } = await api.client(claims).rpc(name, args, options)
    assert.equal(error, null, `${name}: ${JSON.stringify(error)}`)
    assert.equal(status, 200)
    return data
  }

  /** Calls a function that must refuse, with this SQLSTATE in a body that is PostgREST's error. */
  async function refused(claims, sqlstate, name, args = {}) {
    const { error, status } = await api.client(claims).rpc(name, args)
    assertRefusal(error, sqlstate)
    assert.equal(status, claims ? STATUS[sqlstate] : 401, JSON.stringify(error))
    return error
  }

  function assertRefusal(error, sqlstate) {
    assert.equal(error?.code, sqlstate, JSON.stringify(error))
    assert.deepEqual(Object.keys(error).sort(), ['code', 'details', 'hint', 'message'])
    assert.ok(error.message)
  }

  /** Someone else's key must look exactly like a key that does not exist. */
  async function refusedAsMissing(claims, name, keyId, args = {}) {
    const missing = randomUUID()
    const forText = (error, id) => JSON.stringify(error).replaceAll(id, 'ID')
    const others = await refused(claims, 'P0002', name, { p_key_id: keyId, ...args })
    const nobodys = await refused(claims, 'P0002', name, { p_key_id: missing, ...args })
    assert.equal(forText(others, keyId), forText(nobodys, missing))
    assert.ok(others.details && others.hint, 'an error of ours has a detail and a hint')
  }

  const verify = (key, args = {}) => call(undefined, 'verify_api_key', { p_api_key: key, ...args })
  const codeOf = async (key, args) => (await verify(key, args)).code

  it('issues a key to the caller, and shows it once', async () => {
    const user = userClaims()
    const issued = await call(user, 'issue_api_key', { p_name: 'Laptop' })
    assert.equal(issued.success, true)
    assert.match(issued.api_key, /^sk_live_[0-9A-Za-z]{60}$/)
    assert.equal(issued.name, 'Laptop')
    const [listed] = await call(user, 'list_api_keys')
    assert.equal(listed.user_id, user.sub)
    assert.equal(listed.key_id, issued.key_id)
    assert.equal(listed.status, 'active')
    const { secret } = partsOf(issued.api_key)
    assert.ok(!JSON.stringify(listed).includes(secret.slice(0, 16)))
    assert.ok(!issued.masked_key.includes(secret))
  })

  it('verifies a key for anyone who holds it', async () => {
    const user = userClaims()
    const issued = await call(user, 'issue_api_key', { p_scopes: ['articles:read'] })
    const verified = await verify(issued.api_key)
    assert.deepEqual(
      { valid: true, code: 'VALID', key_id: issued.key_id, user_id: user.sub, scopes: ['articles:read'] },
      pick(verified, ['valid', 'code', 'key_id', 'user_id', 'scopes']))
    const missing = await verify(issued.api_key, { p_required_scopes: ['articles:write'] })
    assert.equal(missing.code, 'INSUFFICIENT_SCOPE')
    assert.deepEqual(missing.required_scopes, ['articles:write'])
  })

  it('verifies with GET, in the READ ONLY transaction that PostgREST gives it', async () => {
    const { api_key: key } = await call(userClaims(), 'issue_api_key')
    const viaGet = { get: true }
    assert.equal((await call(undefined, 'verify_api_key', { p_api_key: key }, viaGet)).code, 'VALID')
    assert.equal((await call(undefined, 'verify_api_key', { p_api_key: 'x' }, viaGet)).code, 'MALFORMED')
  })

  it('verifies by the drop-in call, which names the same key twice', async () => {
    const user = userClaims()
    const issued = await call(user, 'issue_api_key')
    const dropIn = (key) => call(undefined, 'verify_api_key_hash', { p_api_key: key })
    const verified = await dropIn(issued.api_key)
    assert.equal(verified.success, true)
    assert.equal(verified.valid, true)
    assert.equal(verified.key_id, issued.key_id)
    assert.equal(verified.api_key_id, issued.key_id)
    assert.equal(verified.data.user_id, user.sub)
    const refusal = await dropIn('nonsense')
    assert.deepEqual(pick(refusal, ['success', 'valid', 'code']),
      { success: false, valid: false, code: 'MALFORMED' })
    assert.ok(refusal.error && refusal.message)
  })

  it('refuses a wrong secret as it refuses a key that never was', async () => {
    const { api_key: key } = await call(userClaims(), 'issue_api_key')
    const deleted = await call(userClaims(), 'issue_api_key')
    await call(service, 'delete_api_key', { p_key_id: deleted.key_id })
    const refusal = await verify(withWrongSecret(key))
    assert.equal(refusal.code, 'NOT_FOUND')
    assert.deepEqual(refusal, await verify(deleted.api_key))
    assert.equal(await codeOf(key.slice(0, -1) + (key.endsWith('0') ? '1' : '0')), 'MALFORMED')
  })

  it('takes JSON arrays as text[] and inet[]', async () => {
    const scopes = ['articles:read', 'articles:write']
    const issued = await call(userClaims(), 'issue_api_key',
      { p_scopes: scopes, p_allowed_ips: ['10.1.0.0/16', '2001:db8::/32'] })
    assert.deepEqual(issued.scopes, scopes)
    assert.equal(await codeOf(issued.api_key, { p_client_ip: '10.1.2.3' }), 'VALID')
    assert.equal(await codeOf(issued.api_key, { p_client_ip: '2001:db8::1' }), 'VALID')
    assert.equal(await codeOf(issued.api_key, { p_client_ip: '10.2.0.1' }), 'IP_NOT_ALLOWED')
  })

  it('lists to a user that user\'s keys and no others, to the service all', async () => {
    const [alice, bob] = [userClaims(), userClaims()]
    const hers = await call(alice, 'issue_api_key')
    const his = await call(bob, 'issue_api_key')
    const ids = async (claims, args) => (await call(claims, 'list_api_keys', args)).map((row) => row.key_id)
    assert.deepEqual(await ids(alice), [hers.key_id])
    assert.deepEqual(await ids(bob), [his.key_id])
    const all = await ids(service)
    assert.ok(all.includes(hers.key_id) && all.includes(his.key_id))
    assert.deepEqual(await ids(service, { p_user_id: bob.sub }), [his.key_id])
  })

  it('updates what is named and nothing else', async () => {
    const user = userClaims()
    const { api_key: key, key_id: id } = await call(user, 'issue_api_key', { p_scopes: ['articles:read'] })
    const change = (p_changes) => call(user, 'update_api_key', { p_key_id: id, p_changes })
    const updated = await change({ name: 'Renamed', metadata: { team: 7 } })
    assert.deepEqual(pick(updated, ['key_id', 'name', 'metadata', 'scopes', 'status']),
      { key_id: id, name: 'Renamed', metadata: { team: 7 }, scopes: ['articles:read'], status: 'active' })
    await change({ enabled: false })
    assert.equal(await codeOf(key), 'DISABLED')
    await change({ enabled: true })
    assert.equal(await codeOf(key), 'VALID')
  })

  it('rotates: the new secret verifies, the old one until its grace ends', async () => {
    const user = userClaims()
    const first = await call(user, 'issue_api_key')
    const second = await call(user, 'rotate_api_key', { p_key_id: first.key_id, p_grace: '1 hour' })
    assert.equal(second.key_id, first.key_id)
    assert.notEqual(second.api_key, first.api_key)
    const [before, now] = [await verify(first.api_key), await verify(second.api_key)]
    assert.equal(before.code, 'VALID')
    assert.ok(Date.parse(before.grace_expires_at) > Date.now())
    assert.equal(now.code, 'VALID')
    assert.equal(now.grace_expires_at, null)
    assert.equal(now.secret_version, 2)

    const third = await call(user, 'rotate_api_key', { p_key_id: first.key_id, p_grace: '0 seconds' })
    assert.equal(await codeOf(third.api_key), 'VALID')
    assert.equal(await codeOf(second.api_key), 'NOT_FOUND')
    assert.equal(await codeOf(first.api_key), 'NOT_FOUND')
  })

  it('revokes, and the next request sees it', async () => {
    const user = userClaims()
    const { api_key: key, key_id: id } = await call(user, 'issue_api_key')
    assert.equal(await codeOf(key), 'VALID')
    assert.equal(await call(user, 'revoke_api_key', { p_key_id: id, p_reason: 'lost laptop' }), true)
    assert.equal(await codeOf(key), 'REVOKED')
    assert.equal(await call(user, 'revoke_api_key', { p_key_id: id }), false)
    const [listed] = await call(user, 'list_api_keys')
    assert.deepEqual(pick(listed, ['status', 'revoked_reason']),
      { status: 'revoked', revoked_reason: 'lost laptop' })
    assert.deepEqual(await call(user, 'list_api_keys', { p_include_inactive: false }), [])
  })

  it('lets whoever holds a key revoke it, and nobody who merely knows its id', async () => {
    const { api_key: key } = await call(userClaims(), 'issue_api_key')
    const revokeOwn = (p_api_key) => call(undefined, 'revoke_own_api_key', { p_api_key })
    assert.equal(await revokeOwn(withWrongSecret(key)), false)
    assert.equal(await codeOf(key), 'VALID')
    assert.equal(await revokeOwn(key), true)
    assert.equal(await codeOf(key), 'REVOKED')
  })

  it('deletes, and the key is as if it had never been', async () => {
    const user = userClaims()
    const { api_key: key, key_id: id } = await call(user, 'issue_api_key')
    assert.equal(await call(user, 'delete_api_key', { p_key_id: id }), true)
    assert.equal(await codeOf(key), 'NOT_FOUND')
    assert.deepEqual(await call(user, 'list_api_keys'), [])
  })

  it('keeps one user from another\'s key, as if it did not exist', async () => {
    const [alice, mallory] = [userClaims(), userClaims()]
    const { api_key: key, key_id: id } = await call(alice, 'issue_api_key')
    await refusedAsMissing(mallory, 'update_api_key', id, { p_changes: { name: 'Mine' } })
    await refusedAsMissing(mallory, 'rotate_api_key', id)
    await refusedAsMissing(mallory, 'revoke_api_key', id)
    await refusedAsMissing(mallory, 'delete_api_key', id)
    assert.equal(await codeOf(key), 'VALID')
    assert.equal((await call(alice, 'list_api_keys'))[0].name, 'API Key')
  })

  it('lets a user issue for that user only, the service for anyone', async () => {
    const [alice, mallory] = [userClaims(), userClaims()]
    await refused(mallory, '42501', 'issue_api_key', { p_user_id: alice.sub })
    assert.deepEqual(await call(alice, 'list_api_keys'), [])
    await call(service, 'issue_api_key', { p_user_id: alice.sub })
    assert.equal((await call(alice, 'list_api_keys')).length, 1)
  })

  it('lets the anonymous verify and revoke by possession, and do nothing else', async () => {
    const p_key_id = randomUUID()
    for (const [name, args] of Object.entries({
      issue_api_key: { p_user_id: randomUUID() },
      list_api_keys: {},
      update_api_key: { p_key_id, p_changes: {} },
      rotate_api_key: { p_key_id },
      revoke_api_key: { p_key_id },
      revoke_api_keys: { p_user_id: randomUUID() },
      delete_api_key: { p_key_id },
      purge_api_keys: {},
      define_tier: { p_name: 'mine' },
      define_scope: { p_name: 'mine:all', p_description: 'Mine' },
      setup_postgrest: {},
    })) await refused(undefined, '42501', name, args)
  })

  it('lets only the service purge, define tiers and scopes, and revoke in bulk', async () => {
    const [alice, mallory] = [userClaims(), userClaims()]
    const { api_key: key } = await call(alice, 'issue_api_key')
    await refused(mallory, '42501', 'purge_api_keys')
    await refused(mallory, '42501', 'define_tier', { p_name: 'mine' })
    await refused(mallory, '42501', 'define_scope', { p_name: 'mine:all', p_description: 'Mine' })
    await refused(mallory, '42501', 'revoke_api_keys', { p_user_id: alice.sub })
    assert.equal(await codeOf(key), 'VALID')
    assert.equal(await call(service, 'revoke_api_keys', { p_user_id: alice.sub }), 1)
    assert.equal(await codeOf(key), 'REVOKED')
  })

  it('answers wrong arguments with 400 and says what to do', async () => {
    for (const args of [
      { p_tier: 'no such tier' },
      { p_prefix: 'Not A Prefix' },
      { p_environment: 'moon' },
      { p_expires_at: '2001-01-01T00:00:00Z' },
    ]) {
      const error = await refused(userClaims(), '22023', 'issue_api_key', args)
      assert.ok(error.details && error.hint, JSON.stringify(error))
    }
    await refused(userClaims(), '22P02', 'issue_api_key', { p_allowed_ips: ['not an address'] })
  })

  it('answers a full tier with the limit that was reached', async () => {
    const user = userClaims()
    await database.query(`SELECT api_key.define_tier('single', 1, 'reject')`)
    const forUser = { p_user_id: user.sub, p_tier: 'single' }
    const { api_key: key } = await call(service, 'issue_api_key', forUser)
    const error = await refused(service, '53400', 'issue_api_key', forUser)
    assert.ok(error.details && error.hint)
    assert.equal(await codeOf(key), 'VALID')
  })

  it('deactivates the older key of the free tier', async () => {
    const user = userClaims()
    const older = await call(user, 'issue_api_key')
    const newer = await call(user, 'issue_api_key')
    assert.equal(await codeOf(newer.api_key), 'VALID')
    assert.equal((await verify(older.api_key)).valid, false)
  })

  it('makes a retried request once, for each caller', async () => {
    const [alice, bob] = [userClaims(), userClaims()]
    const request = { p_request_id: `retry-${randomUUID()}`, p_name: 'Once' }
    const first = await call(alice, 'issue_api_key', request)
    const again = await call(alice, 'issue_api_key', request)
    assert.deepEqual(pick(again, ['success', 'replayed', 'key_id', 'name']),
      { success: true, replayed: true, key_id: first.key_id, name: 'Once' })
    assert.ok(!('api_key' in again))
    assert.equal((await call(alice, 'list_api_keys')).length, 1)
    assert.equal(await codeOf(first.api_key), 'VALID')
    const his = await call(bob, 'issue_api_key', request)
    assert.ok(his.api_key && his.key_id !== first.key_id)
  })

  it('makes one key of a request that arrives many times at once', async () => {
    const alice = userClaims()
    const request = { p_request_id: `race-${randomUUID()}` }
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => call(alice, 'issue_api_key', request)))
    assert.equal(answers.filter((answer) => answer.api_key).length, 1)
    assert.equal(new Set(answers.map((answer) => answer.key_id)).size, 1)
  })

  it('shows the audit to the service, and to nobody else', async () => {
    const user = userClaims()
    const { api_key: key, key_id: id } = await call(user, 'issue_api_key')
    await call(user, 'rotate_api_key', { p_key_id: id })
    await call(user, 'revoke_api_key', { p_key_id: id })
    const auditOf = (claims) => api.client(claims).from('audit_log').select().eq('key_id', id)
    const { data, error } = await auditOf(service)
    assert.equal(error, null, JSON.stringify(error))
    assert.deepEqual(data.map((row) => row.event).sort(), ['issued', 'revoked', 'rotated'])
    assert.ok(!JSON.stringify(data).includes(partsOf(key).secret))
    assert.ok(!JSON.stringify(data).includes('$argon2'))
    for (const claims of [undefined, user]) {
      const { error, status } = await auditOf(claims)
      assertRefusal(error, '42501')
      assert.equal(status, claims ? 403 : 401)
    }
  })

  it('lets nobody change or delete the audit', async () => {
    await call(userClaims(), 'issue_api_key')
    const rows = await value(database, 'SELECT count(*) FROM api_key.audit_log')
    for (const claims of [undefined, userClaims(), service]) {
      const table = () => api.client(claims).from('audit_log')
      for (const { error } of [
        await table().delete().not('key_id', 'is', null),
        await table().update({ event: 'forged' }).not('key_id', 'is', null),
        await table().insert({ event: 'forged' }),
      ]) assert.ok(error, `as ${claims?.role ?? 'anon'}`)
    }
    assert.equal(await value(database, 'SELECT count(*) FROM api_key.audit_log'), rows)
  })

  it('describes to each role what it may call, and no more', async () => {
    const paths = async (claims) => {
      const answer = await fetch(api.url, {
        headers: claims ? { Authorization: `Bearer ${jwt(claims)}` } : {},
      })
      return Object.keys((await answer.json()).paths).filter((path) => path !== '/').sort()
    }
    const anon = [
      'admit_request',
      'authenticate_request',
      'authorize',
      'current_api_key',
      'current_key_id',
      'current_scopes',
      'current_tenant_id',
      'current_user_id',
      'has_scope',
      'require_authorization',
      'require_scope',
      'revoke_own_api_key',
      'verify_api_key',
      'verify_api_key_hash',
      'verify_api_key_row',
    ].map((name) => `/rpc/${name}`)
    assert.deepEqual(await paths(undefined), anon)
    const [user, all] = [await paths(userClaims()), await paths(service)]
    assert.ok(anon.every((path) => user.includes(path)) && user.every((path) => all.includes(path)))
    assert.ok(user.includes('/rpc/issue_api_key') && !user.includes('/rpc/define_tier'))
    assert.ok(all.includes('/rpc/define_tier') && all.includes('/audit_log') && !user.includes('/audit_log'))
    assert.ok(!all.includes('/rpc/setup_postgrest'))
  })

  it('shows no table and no helper of its own', async () => {
    for (const claims of [undefined, userClaims(), service]) {
      const { error } = await api.client(claims).schema('api_key_internal').from('keys').select()
      assert.equal(error?.code, 'PGRST106', JSON.stringify(error))
    }
  })
})

function pick(object, names) {
  return Object.fromEntries(names.map((name) => [name, object[name]]))
}
