// A dump of the database is a dump of the keys: both of pg_dump's ways bring everything back.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { before, describe, it } from 'node:test'
import { actAs, call, useCluster, userClaims } from './harness.mjs'

describe('keys after dump and restore', () => {
  let cluster, source, keys, listed, audited, grants, guarded
  const user = userClaims()

  // What is written of refused verifies is not to be part of the comparison.
  useCluster({ 'api_key.flush_interval': 3600 }, async (fresh) => {
    cluster = fresh
    await cluster.database('source')
    source = await cluster.connect('source')
    keys = await fill(source)
    listed = await list(source)
    audited = await audit(source)
    grants = await privileges(source)
    guarded = await guards(source)
  })

  /** Ways to copy the database `source` into a new one; each gives back what was printed as errors. */
  const ways = {
    'pg_dump | psql': (target) => throughPsql('source', target),

    'pg_dump -Fc, pg_restore': async (target) => {
      await cluster.database(target, { extension: false })
      const archive = join(cluster.dir, 'archive')
      await cluster.run('pg_dump', ['--format=custom', '--file', archive, 'source'])
      return (await cluster.run('pg_restore', ['--exit-on-error', '--dbname', target, archive])).stderr
    },

    'a dump of a restored database': async (target) =>
      await throughPsql('source', 'between') + await throughPsql('between', target),
  }

  async function throughPsql(from, target) {
    await cluster.database(target, { extension: false })
    const { stdout: script } = await cluster.run('pg_dump', [from])
    const options = ['--no-psqlrc', '--quiet', '--set', 'ON_ERROR_STOP=1', '--dbname', target]
    return (await cluster.run('psql', options, { input: script })).stderr
  }

  /** A key in every state, with everything around it that a user can make. */
  async function fill(db) {
    await db.query('SELECT api_key.setup_postgrest(p_create_roles => true)')
    await db.query(`SELECT api_key.define_scope('articles:read', 'Read articles')`)
    await db.query(`SELECT api_key.define_tier('free', 2, 'reject')`)
    await db.query(`SELECT api_key.define_tier('team', 5, 'deactivate_oldest')`)
    const keys = {}
    const issue = (args) => call(db, 'issue_api_key', { p_user_id: randomUUID(), ...args })

    keys.valid = await issue({ p_name: 'Wörk', p_metadata: { team: 'α' }, p_tier: 'team',
      p_scopes: ['articles:read'], p_allowed_ips: ['10.0.0.0/8'], p_tenant_id: randomUUID() })
    keys.previous = await issue({})
    keys.current = await call(db, 'rotate_api_key', { p_key_id: keys.previous.key_id })
    keys.replaced = await issue({})
    keys.replacement = await call(db, 'rotate_api_key',
      { p_key_id: keys.replaced.key_id, p_grace: '0 seconds' })
    keys.revoked = await issue({})
    await call(db, 'revoke_api_key', { p_key_id: keys.revoked.key_id, p_reason: 'test' })
    keys.disabled = await issue({})
    await call(db, 'update_api_key', { p_key_id: keys.disabled.key_id, p_changes: { enabled: false } })
    keys.later = await issue({ p_not_before: '2999-01-01' })
    keys.deleted = await issue({})
    await call(db, 'delete_api_key', { p_key_id: keys.deleted.key_id })
    await db.query(`CREATE SCHEMA app;
      CREATE TABLE app.notes (id integer PRIMARY KEY, tenant_id uuid DEFAULT '${randomUUID()}', owner_id uuid, published boolean);
      INSERT INTO app.notes VALUES (1, gen_random_uuid(), NULL, true), (2, gen_random_uuid(), NULL, false);
      CREATE TABLE app.gone (LIKE app.notes INCLUDING ALL);
      CREATE TABLE app.days (tenant_id uuid, day integer) PARTITION BY RANGE (day);
      CREATE TABLE app.days_1 PARTITION OF app.days FOR VALUES FROM (1) TO (2)`)
    await db.query(
      `SELECT api_key.isolate_tenants(t::regclass) FROM unnest('{app.notes,app.gone,app.days}'::text[]) AS t`
    )
    await db.query(
      `SELECT api_key.define_resource('note', 'app.notes', p_public_when => 'published'), api_key.define_resource('gone', 'app.gone')`
    )
    await db.query(`SELECT api_key.protect_resource('note')`)
    // What is left of it must not become another table's.
    await db.query('DROP TABLE app.gone')
    keys.mine = await asUser(db, () => call(db, 'issue_api_key', { p_request_id: 'once' }))
    return keys
  }

  const codes = {
    valid: 'VALID', previous: 'VALID', current: 'VALID', replaced: 'NOT_FOUND', replacement: 'VALID',
    revoked: 'REVOKED', disabled: 'DISABLED', later: 'NOT_YET_VALID', deleted: 'NOT_FOUND', mine: 'VALID',
  }

  async function asUser(db, action) {
    await actAs(db, user)
    try {
      return await action()
    } finally {
      await db.query('RESET ROLE')
      await db.query(`SELECT set_config('request.jwt.claims', '', false)`)
    }
  }

  it('has in the source what the restored databases are compared with', async () => {
    await assertCodes(source)
    assert.equal(listed.length, 7)
    assert.ok(audited.length > 10)
  })

  for (const [index, [way, restore]] of Object.entries(ways).entries()) {
    describe(way, () => {
      let db, errors
      before(async () => {
        errors = await restore(`target_${index}`)
        db = await cluster.connect(`target_${index}`)
      })

      it('restores without a word', () => assert.equal(errors, ''))

      it('gives back keys that verify as before', () => assertCodes(db))

      it('gives back every property of the keys', async () => {
        assert.deepEqual(await list(db), listed)
      })

      it('gives back the audit, and adds nothing to it', async () => {
        assert.deepEqual(await audit(db), audited)
      })

      it('gives back the grants of setup_postgrest', async () => {
        assert.deepEqual(await privileges(db), grants)
        assert.ok(grants.some((grant) => grant.startsWith('anon ')))
      })

      it('still replays a request', async () => {
        const again = await asUser(db, () => call(db, 'issue_api_key', { p_request_id: 'once' }))
        assert.equal(again.replayed, true)
        assert.equal(again.key_id, keys.mine.key_id)
        assert.ok(!('api_key' in again))
      })

      it('gives back tiers, also the one that ships, as they were redefined', async () => {
        const p_user_id = randomUUID()
        const issue = (args) => call(db, 'issue_api_key', { p_user_id, ...args })
        await issue({})
        await issue({})
        await assert.rejects(issue({}), { code: '53400' })
        await issue({ p_tier: 'team' })
      })

      it('gives back the scopes registry', async () => {
        const issue = (scope) => call(db, 'issue_api_key', { p_user_id: randomUUID(), p_scopes: [scope] })
        await issue('articles:read')
        await assert.rejects(issue('articles:write'), { code: '22023' })
      })

      it('gives back isolated tables and protected resources, and the way back from them', async () => {
        assert.deepEqual(await guards(db), guarded)
        const { rows: protection } = await db.query(
          'SELECT "table", missing FROM api_key.protection ORDER BY 1'
        )
        assert.deepEqual(protection.map(({ table, missing }) => [table, missing]),
          [['app.days', []], ['app.days_1', []], ['app.notes', []], ['app.notes', []]])
        const authorized = (id) =>
          call(db, 'authorize', { p_resource_type: 'note', p_resource_id: id, p_action: 'read' })
        assert.deepEqual([await authorized('1'), await authorized('2')], [true, false])
        await db.query(`SELECT api_key.remove_resource('note'), api_key.remove_tenant_isolation('app.notes'),
          api_key.remove_tenant_isolation('app.days')`)
        const left = await guards(db)
        for (const table of left) {
          assert.deepEqual([table.relrowsecurity, table.policies, table.triggers], [false, null, null])
          assert.equal(table.indexes?.includes('tenant_id') ?? false, false)
          assert.doesNotMatch(table.default ?? '', /current_tenant_id/)
        }
        assert.ok(left.some((table) => table.default))
      })

      it('goes on: issues, rotates, revokes and audits', async () => {
        const issued = await call(db, 'issue_api_key', { p_user_id: randomUUID() })
        const rotated = await call(db, 'rotate_api_key', { p_key_id: issued.key_id })
        assert.equal(await code(db, issued), 'VALID')
        assert.equal(await code(db, rotated), 'VALID')
        await call(db, 'revoke_api_key', { p_key_id: keys.valid.key_id })
        assert.equal(await code(db, keys.valid, { p_client_ip: '10.0.0.1' }), 'REVOKED')
        const rows = (await audit(db)).length
        assert.ok(rows >= audited.length + 3)
      })
    })
  }

  async function assertCodes(db) {
    const found = {}
    for (const name of Object.keys(codes)) {
      found[name] = await code(db, keys[name], name === 'valid' ? { p_client_ip: '10.0.0.1' } : {})
    }
    assert.deepEqual(found, codes)
  }

  const code = async (db, issued, args = {}) =>
    (await call(db, 'verify_api_key', { p_api_key: issued.api_key, ...args })).code

  // Not what a verify may write: it differs by when the worker ran, not by what was restored.
  const list = async (db) => (await db.query(`
    SELECT to_jsonb(k) - ARRAY['last_used_at', 'usage_count'] AS key
    FROM api_key.list_api_keys() AS k ORDER BY key_id`)).rows.map((row) => row.key)

  const audit = async (db) =>
    (await db.query('SELECT to_jsonb(a) AS row FROM api_key.audit_log AS a ORDER BY a::text')).rows
      .map(({ row }) => row)

  /** Every table of the application, with what guards it. */
  const guards = async (db) =>
    (
      await db.query(`
    SELECT relname, relrowsecurity, relforcerowsecurity,
      (SELECT jsonb_agg(to_jsonb(p) ORDER BY policyname) FROM pg_policies AS p
       WHERE schemaname = 'app' AND tablename = relname) AS policies,
      (SELECT string_agg(tgname, ' ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal) AS triggers,
      (SELECT string_agg(indexdef, ' ' ORDER BY indexdef) FROM pg_indexes WHERE schemaname = 'app' AND tablename = relname) AS indexes,
      api_key_internal.column_default(c.oid, 'tenant_id') AS default,
      (SELECT jsonb_agg(to_jsonb(r) ORDER BY type) FROM api_key.resources AS r WHERE r.table = c.oid::regclass::text) AS resources,
      (SELECT to_jsonb(g) - 'table' FROM api_key_internal.protected_tables AS g WHERE g.table = c.oid) AS before
    FROM pg_class AS c WHERE relnamespace = 'app'::regnamespace AND relkind IN ('r', 'p')
    ORDER BY relname`)
    ).rows

  /** Every privilege on the extension's schemas, functions and relations, one line each. */
  const privileges = async (db) => (await db.query(`
    SELECT format('%s %s %s', grantee::regrole, privilege_type, object) AS line
    FROM (SELECT nspname AS object, nspacl AS acl FROM pg_namespace WHERE nspname LIKE 'api\\_key%'
          UNION ALL SELECT oid::regprocedure::text, proacl FROM pg_proc
          WHERE pronamespace IN ('api_key'::regnamespace, 'api_key_internal'::regnamespace)
          UNION ALL SELECT oid::regclass::text, relacl FROM pg_class
          WHERE relnamespace IN ('api_key'::regnamespace, 'api_key_internal'::regnamespace)) AS objects,
      aclexplode(acl) ORDER BY line`)).rows.map((row) => row.line)
})
