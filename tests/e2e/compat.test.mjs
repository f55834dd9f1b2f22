// Callers that were there before: each calling convention, called with the real client through a
// real PostgREST, by the names of arguments that its callers use.

import assert from 'node:assert/strict'
import { createHash, randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { before, describe, it } from 'node:test'
import { call, forged, stats, useCluster, userClaims, value, withWrongSecret } from './harness.mjs'

const PROFILES = ['bearer_row', 'jsonb_envelope', 'table_row', 'any_name', 'stored_hash_pair']
const VECTORS = readFileSync(new URL('../vectors/legacy.txt', import.meta.url), 'utf8').split('\n')
  .map((line) => /^(?!#)(\w+) (\S+) (.*)$/.exec(line)).filter(Boolean)
  .map(([, scheme, hash, text]) => ({ scheme, hash, text }))
const LEGACY = 'the text of a legacy key'
const NOBODYS = [forged(), 'not a key', '']

describe('legacy calling conventions through PostgREST', () => {
  let cluster, admin, api, keyId
  const owner = randomUUID()

  useCluster({ 'api_key.argon2_memory_kib': 64, 'api_key.argon2_iterations': 1 }, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
    admin = await cluster.connect('app')
    await admin.query(`SELECT api_key.setup_postgrest(p_create_roles => true);
      SELECT api_key.define_tier('free', NULL); SELECT api_key.define_tier('pro', 1, 'reject')`)
    for (const schema of [...PROFILES, 'overloads']) {
      await admin.query(
        `CREATE SCHEMA ${schema}; GRANT USAGE ON SCHEMA ${schema} TO anon, authenticated, service_role`
      )
    }
    for (const profile of PROFILES)
      await admin.query(`SELECT api_key.install_compat('${profile}', '${profile}', 'acme_')`)
    await admin.query(
      `SELECT api_key.install_compat('jsonb_envelope', 'overloads'), api_key.install_compat('any_name', 'overloads')`
    )
    keyId = await call(admin, 'import_api_key_hash', {
      p_hash: createHash('md5').update(LEGACY).digest('hex'),
      p_scheme: 'md5',
      p_user_id: owner,
      p_name: 'Old',
      p_tier: 'pro',
      p_created_at: '2020-02-02T02:02:02Z',
      p_metadata: { tier_limit: 1000, rate_limit: 60 },
    })
    api = await cluster.postgrest('app', { 'db-schemas': [...PROFILES, 'overloads', 'api_key'].join(',') })
  })

  const SERVICE = { role: 'service_role' }
  const everybody = () => Object.entries({ anon: undefined, authenticated: userClaims(), service: SERVICE })

  /** What a client of this profile gets; an error of PostgREST is the caller's to expect. */
  const rpc = (profile, claims, name, args, options) =>
    api.client(claims).schema(profile).rpc(name, args, options)

  async function data(...request) {
    const { data, error } = await rpc(...request)
    assert.equal(error, null, JSON.stringify(error))
    return data
  }

  const keysOf = (object) => Object.keys(object).sort()

  function assertFailure(answer, pattern) {
    assert.deepEqual(keysOf(answer), ['error', 'success'])
    assert.equal(answer.success, false)
    assert.match(answer.error, pattern)
  }

  describe('bearer_row', () => {
    const verify = (claims, auth_header, options) =>
      data('bearer_row', claims, 'verify_api_key_hash', { auth_header }, options)
    const row = () => [{ key_id: keyId, user_tier: 'pro', tier_limit: '1000' }]

    it('answers with a row, whoever asks and however Bearer is written', async () => {
      for (const [, claims] of everybody()) {
        for (const prefix of ['', 'Bearer ', 'bearer ', 'BEARER  ', ' bEaReR ']) {
          assert.deepEqual(await verify(claims, prefix + LEGACY), row())
        }
      }
    })

    it('answers with no row to a miss', async () => {
      for (const text of [...NOBODYS, ...NOBODYS.map((text) => `Bearer ${text}`), 'Bearer', null]) {
        assert.deepEqual(await verify(undefined, text), [])
      }
    })

    it('answers to GET too', async () => {
      assert.deepEqual(await verify(undefined, `Bearer ${LEGACY}`, { get: true }), row())
    })
  })

  describe('table_row', () => {
    it('answers with a row or none, whoever asks', async () => {
      for (const [, claims] of everybody()) {
        const verify = (input_api_key) => data('table_row', claims, 'verify_api_key_hash', { input_api_key })
        const [row, ...others] = await verify(LEGACY)
        assert.deepEqual(others, [])
        assert.equal(new Date(row.created_at).toISOString(), '2020-02-02T02:02:02.000Z')
        assert.deepEqual({ ...row, created_at: 0 }, { id: keyId, name: 'Old', tier: 'pro', created_at: 0 })
        assert.deepEqual(await verify(NOBODYS[0]), [])
      }
    })
  })

  describe('jsonb_envelope', () => {
    const ask = (claims, name, args) => data('jsonb_envelope', claims, name, args)

    it('verifies, whoever asks', async () => {
      for (const [, claims] of everybody()) {
        assert.deepEqual(await ask(claims, 'verify_api_key_hash', { p_api_key: LEGACY }), {
          success: true, data: { user_id: owner, key_id: keyId, tier: 'pro', environment: 'live' } })
        assert.deepEqual(await ask(claims, 'verify_api_key_bcrypt', { p_api_key: LEGACY }), {
          valid: true, user_id: owner, tier: 'pro', key_id: keyId, api_key_id: keyId, rate_limit: 60 })
        assert.deepEqual(await ask(claims, 'verify_api_key_complete_v2', { p_api_key: LEGACY }), {
          valid: true, key_id: keyId, user_id: owner, name: 'Old', tier: 'pro' })
        for (const p_api_key of [...NOBODYS, null]) {
          assert.deepEqual(await ask(claims, 'verify_api_key_hash', { p_api_key }),
            { success: false, error: 'Invalid API key' })
          const bcrypt = await ask(claims, 'verify_api_key_bcrypt', { p_api_key })
          assert.deepEqual(
            [keysOf(bcrypt), bcrypt.valid, typeof bcrypt.error],
            [['error', 'message', 'valid'], false, 'string']
          )
          const complete = await ask(claims, 'verify_api_key_complete_v2', { p_api_key })
          assert.deepEqual([keysOf(complete), complete.valid], [['error', 'valid'], false])
        }
      }
    })

    const four = (p_user_id, more = {}) => ({
      p_user_id,
      p_name: 'New',
      p_tier: 'free',
      p_description: 'Made in a test',
      ...more,
    })
    const shapes = {
      issue_api_key: [
        'api_key',
        'created_at',
        'key_id',
        'key_prefix',
        'masked_key',
        'name',
        'success',
        'tier',
      ],
      create_api_key_complete_v2: ['api_key', 'full_key', 'key_id', 'key_info', 'name', 'success', 'tier'],
      create_api_key_bcrypt: ['api_key', 'full_key', 'key_id', 'key_info', 'name', 'success', 'tier'],
    }

    for (const [name, shape] of Object.entries(shapes)) {
      it(`${name}: users issue to themselves, the service to anyone, with the caller's prefix`, async () => {
        const user = userClaims()
        for (const claims of [user, SERVICE]) {
          const issued = await ask(claims, name, four(user.sub))
          assert.deepEqual(keysOf(issued), shape)
          assert.deepEqual([issued.success, issued.name, issued.tier], [true, 'New', 'free'])
          assert.match(issued.api_key, /^acme_[0-9A-Za-z]{60}$/)
          if (shape.includes('full_key')) {
            assert.equal(issued.full_key, issued.api_key)
            assert.ok(!JSON.stringify(issued.key_info).includes(issued.api_key))
          }
          const verified = await ask(undefined, 'verify_api_key_hash', { p_api_key: issued.api_key })
          assert.deepEqual(verified.data, {
            user_id: user.sub,
            key_id: issued.key_id,
            tier: 'free',
            environment: 'live',
          })
        }
      })

      it(`${name}: what cannot be is {success: false, error}`, async () => {
        const user = userClaims()
        const before = await value(admin, 'SELECT count(*) FROM api_key_internal.keys')
        assertFailure(await ask(SERVICE, name, four(user.sub, { p_tier: 'no such tier' })), /\w/)
        assertFailure(await ask(user, name, four(randomUUID())), /not allowed/)
        assertFailure(await ask(user, name, four(user.sub, { p_name: 'x'.repeat(10_000) })), /\w/)
        assertFailure(await ask({ role: 'authenticated' }, name, four(null)), /no user/)
        assert.equal(await value(admin, 'SELECT count(*) FROM api_key_internal.keys'), before)
        await ask(SERVICE, name, four(user.sub, { p_tier: 'pro' }))
        assertFailure(await ask(SERVICE, name, four(user.sub, { p_tier: 'pro' })), /\w/)
      })

      it(`${name}: not for anonymous callers`, async () => {
        const { error, status } = await rpc('jsonb_envelope', undefined, name, four(owner))
        assert.deepEqual([error.code, status], ['42501', 401])
      })
    }

    it('create_api_key: the text of the key, and errors as errors', async () => {
      const user = userClaims()
      for (const [claims, p_environment] of [[user, 'live'], [SERVICE, 'test']]) {
        const key = await ask(claims, 'create_api_key', { p_user_id: user.sub, p_name: 'New', p_environment })
        assert.match(key, /^acme_[0-9A-Za-z]{60}$/)
        const verified = await ask(undefined, 'verify_api_key_hash', { p_api_key: key })
        assert.equal(verified.data.environment, p_environment)
      }
      const refused = { p_user_id: owner, p_name: 'New', p_environment: 'live' }
      assert.equal((await rpc('jsonb_envelope', user, 'create_api_key', refused)).error.code, '42501')
      assert.equal((await rpc('jsonb_envelope', undefined, 'create_api_key', refused)).error.code, '42501')
    })

    it('generate_my_api_key, get_my_api_keys, revoke_my_api_key: a user and its own keys', async () => {
      const [user, other] = [userClaims(), userClaims()]
      const generated = await ask(user, 'generate_my_api_key', { p_name: 'Mine', p_tier: 'free' })
      assert.deepEqual(keysOf(generated), ['data', 'success'])
      const { api_key: key, key_id: id } = generated.data
      assert.match(key, /^acme_/)
      const listed = await ask(user, 'get_my_api_keys')
      assert.deepEqual([listed.success, listed.data.map((row) => row.key_id)], [true, [id]])
      assert.ok(!JSON.stringify(listed).includes(key))
      assert.deepEqual(await ask(other, 'get_my_api_keys'), { success: true, data: [] })

      assertFailure(await ask(other, 'revoke_my_api_key', { p_key_id: id }), /\w/)
      assertFailure(await ask(user, 'revoke_my_api_key', { p_key_id: randomUUID() }), /\w/)
      assert.equal((await ask(undefined, 'verify_api_key_hash', { p_api_key: key })).success, true)
      assert.deepEqual(await ask(user, 'revoke_my_api_key', { p_key_id: id }),
        { success: true, data: { key_id: id, revoked: true } })
      assert.equal((await ask(undefined, 'verify_api_key_hash', { p_api_key: key })).success, false)
      assertFailure(await ask(user, 'generate_my_api_key', { p_name: 'Mine', p_tier: 'no such tier' }), /\w/)
    })

    it('get_my_api_keys: nobody is nobody, not everybody', async () => {
      assertFailure(await ask({ role: 'authenticated' }, 'get_my_api_keys'), /no user/)
      const service = await ask(SERVICE, 'get_my_api_keys')
      assert.ok(
        !service.success || service.data.length === 0,
        `${service.data?.length} keys are "mine" to the service`
      )
    })

    it('the functions for users are not for anonymous callers', async () => {
      const requests = { generate_my_api_key: { p_name: 'x', p_tier: 'free' }, get_my_api_keys: {},
        revoke_my_api_key: { p_key_id: keyId } }
      for (const [name, args] of Object.entries(requests)) {
        const { error, status } = await rpc('jsonb_envelope', undefined, name, args)
        assert.deepEqual([error.code, status], ['42501', 401], name)
      }
    })
  })

  describe('any_name', () => {
    const names = ['p_api_key', 'api_key', 'key', 'input_api_key', 'apiKey', 'auth_header', 'x']

    it('answers whatever the one argument is called, whoever asks', async () => {
      for (const [, claims] of everybody()) {
        for (const name of names) {
          const verify = (text) => data('any_name', claims, 'verify_api_key_hash', { [name]: text })
          const answer = await verify(LEGACY)
          assert.deepEqual([answer.success, answer.key_id, answer.data.user_id], [true, keyId, owner], name)
          for (const text of [...NOBODYS, null]) assert.equal(await verify(text), null)
        }
      }
    })

    it('takes nothing else for a key', async () => {
      for (const args of [{ one: LEGACY, other: LEGACY }, {}, { nested: { key: LEGACY } }]) {
        assert.equal(
          await data('any_name', undefined, 'verify_api_key_hash', args),
          null,
          JSON.stringify(args)
        )
      }
    })

    it('leaves its own argument names to an overload with them', async () => {
      const verify = (name) => data('overloads', undefined, 'verify_api_key_hash', { [name]: LEGACY })
      const envelope = {
        success: true,
        data: { user_id: owner, key_id: keyId, tier: 'pro', environment: 'live' },
      }
      assert.deepEqual(await verify('p_api_key'), envelope)
      for (const name of names.slice(1)) {
        const answer = await verify(name)
        assert.deepEqual([answer.success, answer.valid, answer.api_key_id], [true, true, keyId], name)
      }
    })
  })

  describe('stored_hash_pair', () => {
    const compare = (plain_key, stored_hash) =>
      data('stored_hash_pair', SERVICE, 'verify_api_key_hash', { plain_key, stored_hash })

    it('compares with a hash of any scheme, for the service', async () => {
      assert.deepEqual([...new Set(VECTORS.map(({ scheme }) => scheme))].sort(),
        ['argon2', 'bcrypt', 'md5', 'sha1', 'sha256', 'sha512'])
      for (const { hash, text } of VECTORS) {
        assert.equal(await compare(text, hash), true, hash)
        assert.equal(await compare(`another ${text}`, hash), false, hash)
      }
    })

    it('says false of what is no hash', async () => {
      for (const hash of ['', 'plain', '$2b$04$short', '$argon2id$v=19$', null]) {
        assert.equal(await compare('plain', hash), false, hash)
      }
      assert.equal(await compare(null, VECTORS[0].hash), false)
    })

    it('hashes within the bounds of all hashes, and no text or hash that no key may have', async () => {
      const run = async () => (await stats(admin)).hashes_run
      const before = await run()
      const { hash, text } = VECTORS.find(({ scheme }) => scheme === 'argon2')
      assert.equal(await compare(text, hash), true)
      assert.equal(await run(), before + 1)
      assert.equal(await compare('x'.repeat(513), hash), false)
      for (const costly of [hash.replace(/m=\d+/, 'm=4294967295'), hash.replace(/t=\d+/, 't=1000000'),
        '$2b$31$9WGB9f8D8rZ97bQTkPeUMemdUDYP0m2dpbxLqCzTapcpST8JgeEbC']) {
        const { error } = await rpc('stored_hash_pair', SERVICE, 'verify_api_key_hash', {
          plain_key: text,
          stored_hash: costly,
        })
        assert.equal(error.code, '22023')
      }
      assert.equal(await run(), before + 1)
    })

    it('is for nobody else: it would be an oracle', async () => {
      for (const [claims, status] of [[undefined, 401], [userClaims(), 403]]) {
        const answer = await rpc('stored_hash_pair', claims, 'verify_api_key_hash',
          { plain_key: VECTORS[0].text, stored_hash: VECTORS[0].hash })
        assert.deepEqual([answer.error.code, answer.status], ['42501', status])
      }
    })
  })

  // How published callers decide. Each gets what the client library answers, and lets in or not.
  describe('callers', () => {
    const ask = (profile, args, claims, name = 'verify_api_key_hash') => rpc(profile, claims, name, args)
    const rows = {
      'rows: no error, data, and some': async (call) => { const { data, error } = await call(); return !(error || !data || data.length === 0) },
      'rows: an array that is not empty': async (call) => { const { data } = await call(); return !(!data || !Array.isArray(data) || data.length === 0) },
      'rows: the first': async (call) => { const { data } = await call(); return Boolean(data?.[0]) },
      'rows: length alone': async (call) => { const { data } = await call(); return data.length !== 0 },
      'rows: single, or an error': async (call) => { const { data, error } = await call().single(); return !(error || !data) },
      'rows: single': async (call) => { const { data } = await call().single(); return Boolean(data) },
      'rows: maybeSingle': async (call) => { const { data } = await call().maybeSingle(); return Boolean(data) },
    }
    const answer = {
      'the answer, or an error': async (call) => { const { data, error } = await call(); return !(error || !data) },
      'the answer': async (call) => { const { data } = await call(); return Boolean(data) },
      'the answer, single': async (call) => { const { data } = await call().single(); return Boolean(data) },
      'the answer, maybeSingle': async (call) => { const { data, error } = await call().maybeSingle(); return !(error || !data) },
      'the answer, and a length': async (call) => { const { data } = await call(); return !(!data || data.length === 0) },
      'the answer, unless false': async (call) => { const { data } = await call(); return data !== false && data !== null },
    }
    const success = {
      'success': async (call) => { const { data, error } = await call(); return !(error || !data?.success) },
      'success is true': async (call) => { const { data } = await call(); return data?.success === true },
      'data of it': async (call) => { const { data } = await call(); return Boolean(data?.data?.user_id) },
    }
    const valid = {
      'valid': async (call) => { const { data, error } = await call(); return !(error || !data?.valid) },
      'valid is true': async (call) => { const { data } = await call(); return data?.valid === true },
      'the id of it': async (call) => { const { data } = await call(); return Boolean(data?.key_id) },
    }
    const boolean = {
      'true': async (call) => { const { data, error } = await call(); return !error && data === true },
      'truthy': async (call) => { const { data } = await call(); return Boolean(data) },
    }
    const conventions = {
      bearer_row: [rows, (key) => ask('bearer_row', { auth_header: key && `Bearer ${key}` })],
      table_row: [rows, (key) => ask('table_row', { input_api_key: key })],
      any_name: [{ ...answer, ...success, ...valid }, (key) => ask('any_name', { whatever: key })],
      'jsonb_envelope, hash': [success, (key) => ask('jsonb_envelope', { p_api_key: key })],
      'jsonb_envelope, bcrypt': [valid, (key) => ask('jsonb_envelope', { p_api_key: key }, undefined, 'verify_api_key_bcrypt')],
      'jsonb_envelope, complete_v2': [valid, (key) => ask('jsonb_envelope', { p_api_key: key }, undefined, 'verify_api_key_complete_v2')],
      stored_hash_pair: [boolean, (key) => ask('stored_hash_pair',
        { plain_key: key, stored_hash: createHash('sha256').update(good).digest('hex') }, SERVICE)],
      'verify_api_key_row': [rows, (key) => api.client().schema('api_key').rpc('verify_api_key_row', { p_api_key: key })],
    }
    let good, misses

    before(async () => {
      const issue = async (args = {}) =>
        await call(admin, 'issue_api_key', { p_user_id: randomUUID(), ...args })
      const [live, revoked, disabled, rotated] = [await issue(), await issue(), await issue(), await issue()]
      await call(admin, 'revoke_api_key', { p_key_id: revoked.key_id })
      await call(admin, 'update_api_key', { p_key_id: disabled.key_id, p_changes: { enabled: false } })
      await call(admin, 'rotate_api_key', { p_key_id: rotated.key_id, p_grace: '0' })
      const expired = await issue()
      await admin.query(
        `UPDATE api_key_internal.keys SET expires_at = now() - interval '1 s' WHERE key_id = $1`,
        [expired.key_id]
      )
      good = live.api_key
      misses = {
        'made up': forged(),
        'with a wrong secret': withWrongSecret(good),
        malformed: 'sk_live_typo',
        'another text': 'not a key',
        revoked: revoked.api_key,
        disabled: disabled.api_key,
        expired: expired.api_key,
        'rotated away': rotated.api_key,
        'not valid yet': (await issue({ p_not_before: '2999-01-01' })).api_key,
        'for another address': (await issue({ p_allowed_ips: ['192.0.2.1'] })).api_key,
        NULL: null,
        empty: '',
        'a space': ' ',
        '"null"': 'null',
        '"true"': 'true',
      }
    })

    for (const [convention, [tests, request]] of Object.entries(conventions)) {
      for (const [how, letsIn] of Object.entries(tests)) {
        it(`${convention}: who tests ${how} lets in a good key, and nothing else`, async () => {
          assert.equal(await letsIn(() => request(good)), true, 'a good key')
          for (const [what, text] of Object.entries(misses)) {
            assert.equal(await letsIn(() => request(text)), false, `a key that is ${what}`)
          }
        })
      }
    }
  })

  describe('after a dump and restore', () => {
    it('goes with the extension, and is removed with what it had replaced brought back', async () => {
      await admin.query(`CREATE SCHEMA dumped; CREATE FUNCTION dumped.verify_api_key_hash(p_api_key text) RETURNS jsonb
        LANGUAGE sql AS $$ SELECT '"hand-written"'::jsonb $$`)
      await admin.query(`SELECT api_key.install_compat('jsonb_envelope', 'dumped', p_replace => true)`)
      const { stdout: script } = await cluster.run('pg_dump', ['app'])
      await cluster.database('restored', { extension: false })
      await cluster.run(
        'psql',
        ['--no-psqlrc', '--quiet', '--set', 'ON_ERROR_STOP=1', '--dbname', 'restored'],
        { input: script }
      )
      const restored = await cluster.connect('restored')
      const functions = (db) =>
        value(
          db,
          `SELECT jsonb_object_agg(p.oid::regprocedure::text, ARRAY[prosrc, proacl::text, d.deptype::text])
        FROM pg_proc AS p LEFT JOIN pg_depend AS d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'x'
        WHERE pronamespace = 'dumped'::regnamespace`
        )
      assert.deepEqual(await functions(restored), await functions(admin))
      assert.equal((await value(restored, 'SELECT dumped.verify_api_key_hash($1)', [LEGACY])).success, true)
      await restored.query('BEGIN; DROP EXTENSION api_key')
      assert.deepEqual(Object.keys(await functions(restored)), [
        'dumped.verify_api_key_hash_before_api_key(text)',
      ])
      await restored.query('ROLLBACK')
      await restored.query(`SELECT api_key.remove_compat('jsonb_envelope', 'dumped')`)
      assert.deepEqual(Object.keys(await functions(restored)), ['dumped.verify_api_key_hash(text)'])
      assert.equal(await value(restored, `SELECT dumped.verify_api_key_hash('x')`), 'hand-written')
    })
  })

  describe('installed and removed', () => {
    const functions = () => value(admin, `
      SELECT jsonb_object_agg(oid::regprocedure::text, prosrc || coalesce(proacl::text, '')) FROM pg_proc
      WHERE pronamespace = 'scratch'::regnamespace`)
    const act = (what, profile, more = '') =>
      admin.query(`SELECT api_key.${what}('${profile}', 'scratch'${more})`)
    const REPLACE = ', p_replace => true'

    it('leaves no trace', async () => {
      await admin.query('CREATE SCHEMA scratch')
      for (const profile of PROFILES) {
        await act('install_compat', profile)
        await act('install_compat', profile) // Again is the same.
        assert.notEqual(await functions(), null)
        await act('remove_compat', profile)
        assert.equal(await functions(), null, profile)
      }
    })

    it('does not replace a function of another unless told to, and then brings it back', async () => {
      await admin.query(`CREATE FUNCTION scratch.verify_api_key_hash(p_api_key text) RETURNS jsonb LANGUAGE sql
        AS $$ SELECT '"hand-written"'::jsonb $$; GRANT EXECUTE ON FUNCTION scratch.verify_api_key_hash(text) TO anon`)
      const before = await functions()
      await assert.rejects(act('install_compat', 'jsonb_envelope'), { code: '42723' })
      assert.deepEqual(await functions(), before)
      await act('install_compat', 'jsonb_envelope', REPLACE)
      await act('install_compat', 'jsonb_envelope', REPLACE)
      assert.equal((await value(admin, 'SELECT scratch.verify_api_key_hash($1)', [LEGACY])).success, true)
      await act('remove_compat', 'jsonb_envelope')
      assert.deepEqual(await functions(), before)
    })

    for (const order of [['bearer_row', 'jsonb_envelope'], ['jsonb_envelope', 'bearer_row']]) {
      for (const stands of ['a hand-written function', 'nothing']) {
        it(`two profiles over ${stands}, removed ${order.join(' before ')}: it is back, or the second was refused`, async () => {
          await admin.query('BEGIN')
          try {
            if (stands === 'nothing') await admin.query('DROP FUNCTION scratch.verify_api_key_hash(text)')
            const before = await functions()
            await act('install_compat', 'jsonb_envelope', REPLACE)
            await admin.query('SAVEPOINT one')
            const refused = await act('install_compat', 'bearer_row', REPLACE).then(
              () => null,
              (error) => error
            )
            if (refused) await admin.query('ROLLBACK TO one')
            else await act('remove_compat', order[0])
            await act('remove_compat', refused ? 'jsonb_envelope' : order[1])
            assert.ok(
              refused === null || (refused.code === '42723' && refused.hint),
              `${refused} says what to do`
            )
            assert.deepEqual(await functions(), before)
          } finally {
            await admin.query('ROLLBACK')
          }
        })
      }
    }
  })
})
