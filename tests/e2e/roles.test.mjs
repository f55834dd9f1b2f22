// Who may do what is decided by grants and by nothing that a caller can prepare: not by names put
// in the way of the extension's own, nor by claims that the caller's role does not bear out.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { before, describe, it } from 'node:test'
import { actAs, call, useCluster, userClaims, value, withWrongSecret } from './harness.mjs'

describe('roles', () => {
  let cluster, owner

  useCluster({ 'api_key.argon2_memory_kib': 1024 }, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
    owner = await cluster.connect('app')
    await owner.query('SELECT api_key.setup_postgrest(p_create_roles => true)')
    await owner.query('CREATE ROLE stranger LOGIN')
  })

  const list = async (client, args = '') =>
    (await client.query(`SELECT * FROM api_key.list_api_keys(${args})`)).rows

  describe('PUBLIC', () => {
    // One row for each thing there is, so that a thing added later is covered as well.
    const allowed = (kind, query) => it(`may not use any ${kind}`, async () => {
      const { rows } = await owner.query(`
        WITH here AS (SELECT oid FROM pg_namespace WHERE nspname IN ('api_key', 'api_key_internal'))
        ${query}`)
      assert.ok(rows.length > 0, 'the catalog has some')
      assert.deepEqual(rows.filter((row) => row.allowed).map((row) => row.name), [])
    })
    allowed(
      'schema',
      `
      SELECT oid::regnamespace::text AS name, has_schema_privilege('stranger', oid, 'USAGE, CREATE') AS allowed
      FROM here`
    )
    allowed(
      'function',
      `
      SELECT p.oid::regprocedure::text AS name, has_function_privilege('stranger', p.oid, 'EXECUTE') AS allowed
      FROM pg_proc AS p JOIN here ON here.oid = p.pronamespace`
    )
    allowed(
      'table or view',
      `
      SELECT c.oid::regclass::text AS name,
        has_table_privilege('stranger', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
          OR has_any_column_privilege('stranger', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES') AS allowed
      FROM pg_class AS c JOIN here ON here.oid = c.relnamespace WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f')`
    )
    allowed('sequence', `
      SELECT c.oid::regclass::text AS name,
        has_sequence_privilege('stranger', c.oid, 'USAGE, SELECT, UPDATE') AS allowed
      FROM pg_class AS c JOIN here ON here.oid = c.relnamespace WHERE c.relkind = 'S'`)

    it('is told so', async () => {
      const stranger = await cluster.connect('app', 'stranger')
      for (const text of [
        'SELECT api_key.issue_api_key(gen_random_uuid())',
        `SELECT api_key.verify_api_key('x')`,
        'SELECT * FROM api_key.list_api_keys()',
        'SELECT * FROM api_key.audit_log',
        'SELECT * FROM api_key_internal.keys',
        'SELECT api_key.setup_postgrest()',
      ]) await assert.rejects(stranger.query(text), { code: '42501' }, text)
    })
  })

  describe('the tables and helpers behind', () => {
    for (const role of ['anon', 'authenticated', 'service_role', 'authenticator']) {
      it(`are closed to ${role}`, async () => {
        const { rows } = await owner.query(
          `
          SELECT c.oid::regclass::text AS name FROM pg_class AS c
          WHERE c.relnamespace = 'api_key_internal'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p', 'f')
            AND has_table_privilege($1, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
          UNION ALL SELECT p.oid::regprocedure::text FROM pg_proc AS p
          WHERE p.pronamespace = 'api_key_internal'::regnamespace AND has_function_privilege($1, p.oid, 'EXECUTE')
          UNION ALL SELECT 'the schema'
          WHERE has_schema_privilege($1, 'api_key_internal', 'USAGE, CREATE')`,
          [role]
        )
        assert.deepEqual(rows, [])
      })
    }
  })

  describe('claims', () => {
    let session, alice, mallory, key

    before(async () => {
      ;[alice, mallory] = [userClaims(), userClaims()]
      key = await call(owner, 'issue_api_key', { p_user_id: alice.sub })
      session = await cluster.connect('app', 'authenticator')
    })

    it('do not make a user the service', async () => {
      for (const role of ['service_role', 'postgres', 'supabase_admin']) {
        await actAs(session, mallory)
        await session.query(`SELECT set_config('request.jwt.claims', $1, false)`,
          [JSON.stringify({ ...mallory, role, app_metadata: { role } })])
        await session.query(`SELECT set_config('request.jwt.claim.role', $1, false)`, [role])
        await assert.rejects(call(session, 'revoke_api_key', { p_key_id: key.key_id }), { code: 'P0002' })
        await assert.rejects(call(session, 'issue_api_key', { p_user_id: alice.sub }), { code: '42501' })
        assert.deepEqual(await list(session), [])
        await assert.rejects(call(session, 'purge_api_keys'), { code: '42501' })
      }
    })

    it('give the rights of a user to no role that was not granted them', async () => {
      await actAs(session, undefined)
      await session.query(`SELECT set_config('request.jwt.claims', $1, false)`, [JSON.stringify(alice)])
      await assert.rejects(call(session, 'issue_api_key'), { code: '42501' })
      await assert.rejects(list(session), { code: '42501' })
    })

    it('bind a user to the tenant of the token', async () => {
      const elsewhere = { ...alice, tenant_id: randomUUID() }
      await actAs(session, alice)
      const { key_id: p_key_id, tenant_id: tenant } = await call(session, 'issue_api_key')
      assert.equal(tenant, alice.tenant_id)
      await assert.rejects(call(session, 'issue_api_key', { p_tenant_id: elsewhere.tenant_id }), {
        code: '42501',
      })
      await actAs(session, elsewhere)
      assert.ok(!(await list(session)).some((row) => row.key_id === p_key_id))
      await assert.rejects(call(session, 'rotate_api_key', { p_key_id }), { code: 'P0002' })
      assert.equal(await call(session, 'revoke_api_keys', { p_tenant_id: alice.tenant_id }), 0)
      await actAs(session, alice)
      assert.equal(await call(session, 'revoke_api_key', { p_key_id }), true)
    })

    it('let no user give a key more than the user has', async () => {
      await actAs(session, mallory)
      await owner.query(`SELECT api_key.define_tier('enterprise')`)
      for (const args of [{ p_scopes: ['admin'] }, { p_tier: 'enterprise' }]) {
        await assert.rejects(call(session, 'issue_api_key', args), { code: '42501' })
      }
      await actAs(session, { ...mallory, scopes: ['articles:read'] })
      await assert.rejects(call(session, 'issue_api_key', { p_scopes: ['articles:write'] }), {
        code: '42501',
      })
      const { scopes } = await call(session, 'issue_api_key', { p_scopes: ['articles:read'] })
      assert.deepEqual(scopes, ['articles:read'])
    })
  })

  // Every operator and function of PostgreSQL's that an extension could mean, and every table of
  // ours, shadowed by one that raises: whichever the extension resolved through the caller's
  // search_path or temporary schema would end the call.
  describe('a caller who shadows every name', () => {
    const user = userClaims()
    const types = [
      'text',
      'uuid',
      'timestamptz',
      'interval',
      'jsonb',
      'text[]',
      'inet',
      'int4',
      'int8',
      'bool',
      'name',
    ]
    let mallory

    before(async () => {
      await owner.query('CREATE SCHEMA trap; GRANT ALL ON SCHEMA trap TO authenticated')
      await owner.query('GRANT TEMPORARY ON DATABASE app TO authenticated')
      const tables = (
        await owner.query(`
        SELECT relname FROM pg_class
        WHERE relnamespace IN ('api_key'::regnamespace, 'api_key_internal'::regnamespace) AND relkind IN ('r', 'v')
        UNION VALUES ('pg_roles'), ('pg_class'), ('pg_proc'), ('pg_namespace')`)
      ).rows.map((row) => row.relname)
      mallory = await cluster.connect('app', 'authenticator')
      await actAs(mallory, user)
      const traps = await value(
        mallory,
        `
        WITH types AS (SELECT oid FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b'
                         AND typcategory IN ('A', 'B', 'D', 'I', 'N', 'S', 'T', 'U'))
        SELECT string_agg(format(
          'CREATE FUNCTION trap.%I(%s) RETURNS %s LANGUAGE plpgsql AS
            $$BEGIN RAISE EXCEPTION ''trapped function''; END$$;',
          proname, pg_get_function_identity_arguments(p.oid), prorettype::regtype), '')
        FROM pg_proc AS p
        WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND NOT proretset AND provariadic = 0
          AND prorettype IN (TABLE types) AND proargtypes::oid[] <@ ARRAY(TABLE types)
          AND (pronargs = 0 OR proargtypes::oid[] && $1::regtype[]::oid[])`,
        [types]
      )
      await mallory.query(traps)
      const operators = await value(mallory, `
        SELECT string_agg(format('CREATE FUNCTION trap.op%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS
          $$BEGIN RAISE EXCEPTION ''trapped operator''; END$$;
          CREATE OPERATOR trap.%s (LEFTARG = %s, RIGHTARG = %3$s, FUNCTION = trap.op%1$s);',
          oid, oprleft::regtype, oprright::regtype, oprresult::regtype, oprname, oprleft::regtype), '')
        FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprleft <> 0
          AND ARRAY[oprleft, oprright] <@ $1::regtype[]::oid[]`, [types])
      await mallory.query(operators)
      for (const table of tables) {
        await mallory.query(`CREATE TEMPORARY TABLE ${table} (key_id uuid, secret_hash text)`)
        await mallory.query(`CREATE TABLE trap.${table} (key_id uuid, secret_hash text)`)
      }
      await mallory.query('CREATE DOMAIN trap.uuid AS text CHECK (false)')
      await mallory.query('CREATE DOMAIN pg_temp.text AS varchar CHECK (false)')
    })

    const inTheWay = `SET search_path = trap, pg_temp, public, pg_catalog, api_key`

    it('is caught by the traps itself, so they work', async () => {
      await mallory.query(inTheWay)
      for (const text of [
        `SELECT 'a'::pg_catalog.text = 'b'::pg_catalog.text`,
        'SELECT now()',
        `SELECT lower('A'::pg_catalog.text)`,
        `SELECT '{}'::jsonb -> 'a'::pg_catalog.text`,
      ]) await assert.rejects(mallory.query(text), { message: /trapped/ }, text)
      await mallory.query('RESET search_path')
    })

    // Once as the first calls of a session, when plans are made, and once with plans in place.
    for (const when of ['before anything else in the session', 'again', 'after calls with an honest path']) {
      it(`gets the same answers, ${when}`, async () => {
        if (when.startsWith('after')) {
          await mallory.query('RESET search_path')
          await call(mallory, 'issue_api_key')
        }
        await mallory.query(inTheWay)
        const issued = await call(mallory, 'issue_api_key', {
          p_scopes: ['a:read'],
          p_allowed_ips: ['10.0.0.0/8'],
          p_request_id: randomUUID(),
          p_resource_id: 'r',
          p_metadata: { a: 1 },
          p_expires_at: '2999-01-01',
          p_not_before: '2001-01-01',
        })
        const verify = (args) => call(mallory, 'verify_api_key', { p_api_key: issued.api_key,
          p_required_scopes: ['a:read'], p_client_ip: '10.0.0.1', p_resource_id: 'r', ...args })
        const { code, user_id: verified } = await verify({})
        assert.deepEqual([code, verified], ['VALID', user.sub])
        assert.equal((await verify({ p_required_scopes: ['a:write'] })).code, 'INSUFFICIENT_SCOPE')
        assert.equal((await verify({ p_client_ip: '11.0.0.1' })).code, 'IP_NOT_ALLOWED')
        assert.equal((await verify({ p_resource_id: 's' })).code, 'RESOURCE_MISMATCH')
        assert.equal((await verify({ p_api_key: withWrongSecret(issued.api_key) })).code, 'NOT_FOUND')
        const dropIn = await call(mallory, 'verify_api_key_hash', { p_api_key: issued.api_key })
        assert.equal(dropIn.code, 'IP_NOT_ALLOWED')

        const listed = await list(mallory, 'p_include_inactive => false')
        assert.deepEqual(listed.map((row) => row.key_id), [issued.key_id])
        const updated = await call(mallory, 'update_api_key', {
          p_key_id: issued.key_id,
          p_changes: {
            name: 'Renamed',
            scopes: ['a:read', 'a:write'],
            allowed_ips: ['10.0.0.0/8'],
            expires_at: '2998-01-01',
          },
        })
        assert.equal(updated.name, 'Renamed')
        const rotated = await call(mallory, 'rotate_api_key', { p_key_id: issued.key_id })
        assert.equal((await verify({ p_api_key: rotated.api_key })).code, 'VALID')
        assert.equal((await verify({})).code, 'VALID')
        const revokeOwn = (p_api_key) => call(mallory, 'revoke_own_api_key', { p_api_key })
        assert.equal(await revokeOwn(withWrongSecret(rotated.api_key)), false)
        assert.equal(await revokeOwn(rotated.api_key), true)
        assert.equal((await verify({ p_api_key: rotated.api_key })).code, 'REVOKED')
        await assert.rejects(call(mallory, 'delete_api_key', { p_key_id: randomUUID() }), { code: 'P0002' })
        assert.equal(await call(mallory, 'delete_api_key', { p_key_id: issued.key_id }), true)
        assert.equal((await verify({})).code, 'NOT_FOUND')
        await call(mallory, 'revoke_api_keys', { p_user_id: user.sub })
      })
    }

    it('does not lead the administrator into the traps either', async () => {
      await owner.query(inTheWay)
      await call(owner, 'define_tier',
        { p_name: 'trapped', p_max_active_keys: 1, p_on_excess: 'deactivate_oldest' })
      await call(owner, 'define_scope', { p_name: 'a:read', p_description: 'x' })
      const issued = await call(owner, 'issue_api_key',
        { p_user_id: randomUUID(), p_tier: 'trapped', p_scopes: ['a:read'] })
      assert.equal((await call(owner, 'verify_api_key', { p_api_key: issued.api_key })).code, 'VALID')
      await call(owner, 'purge_api_keys', { p_older_than: '0 seconds' })
      await call(owner, 'setup_postgrest')
      await owner.query('SELECT * FROM api_key.audit_log LIMIT 1')
      await owner.query('RESET search_path')
    })

    it('leaves nothing of the extension in the caller\'s tables', async () => {
      assert.equal(await value(mallory, 'SELECT pg_catalog.count(*) FROM pg_temp.keys'), '0')
      await mallory.query('RESET search_path')
    })
  })
})
