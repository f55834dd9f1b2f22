// Whatever is passed in: a code or an error that says what to do, nothing half done, no plaintext
// repeated, and a server that is still up.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { before, describe, it } from 'node:test'
import { actAs, call, partsOf, useCluster, userClaims, value } from './harness.mjs'

const MEGABYTE = 'a'.repeat(1 << 20)
const CONTROL = 'a\tb\r\n\x01\x1b[31m\x7f'
const MULTIBYTE = 'schlüssel-鍵-🔑-\u202e-\ufffd'
const NAME_63 = 'n'.repeat(63)

// Bytes that are not UTF-8: a stray continuation, an overlong NUL, a surrogate, a cut-off emoji.
const NOT_UTF8 = [[0x80], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf0, 0x9f, 0x94], [0xff, 0xfe]]
  .map((bytes) => Buffer.from([...Buffer.from('sk_live_'), ...bytes]))
const NUL = Buffer.from('sk\0live')

// Errors of ours have a detail and a hint; these are PostgreSQL's, raised before it calls us.
const POSTGRES_OWN = ['22021', '22P02', '22007', '22008', '22003', '22009']

describe('bad input', () => {
  let cluster, db, started, backend, key, id

  useCluster({ 'api_key.argon2_memory_kib': 1024, log_line_prefix: '%e ' }, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
    db = await cluster.connect('app')
    await db.query('SELECT api_key.setup_postgrest(p_create_roles => true)')
    await db.query(`SELECT api_key.define_tier('many')`)
    started = await value(db, 'SELECT pg_postmaster_start_time()')
    backend = await value(db, 'SELECT pg_backend_pid()')
    ;({ api_key: key, key_id: id } = await issue())
  })

  const issue = (args = {}, client = db) =>
    call(client, 'issue_api_key', { p_user_id: randomUUID(), p_tier: 'many', ...args })
  const verify = (args, client = db) => call(client, 'verify_api_key', args)

  /** What all tables of the extension hold, as one comparable value. */
  const contents = async (client = db) => value(client, `
    SELECT string_agg(query_to_xml(format('SELECT * FROM %s AS t ORDER BY t', oid::regclass),
      true, true, '')::text, '' ORDER BY oid)
    FROM pg_class WHERE relkind = 'r' AND relnamespace = 'api_key_internal'::regnamespace`)

  /** A call that must be refused with this SQLSTATE and leave everything as it was. */
  async function refused(sqlstate, name, args, client = db) {
    const before = await contents(client)
    const error = await call(client, name, args).then(
      (result) => assert.fail(`${name} took it and answered ${JSON.stringify(result)?.slice(0, 200)}`),
      (error) => error)
    if (error instanceof assert.AssertionError) throw error
    assert.equal(error.code, sqlstate, `${name}: ${error.message}`)
    if (!POSTGRES_OWN.includes(sqlstate)) {
      assert.ok(error.detail && error.hint, `${name}: ${error.message} has a detail and a hint`)
    }
    for (const part of [...Object.values(error).filter((field) => typeof field === 'string'), error.message]) {
      assert.ok(!part.includes(partsOf(key).secret), `${name} repeats the plaintext: ${part}`)
      assert.ok(part.length < 5000, `${name} repeats a large argument`)
    }
    assert.equal(await contents(client), before, `${name} leaves everything as it was`)
    return error
  }

  describe('verify', () => {
    const texts = {
      'NULL': null,
      'the empty text': '',
      'one megabyte': MEGABYTE,
      'control characters': CONTROL,
      'multi-byte text': MULTIBYTE,
      'a name of 63 characters': NAME_63,
      '60 multi-byte characters behind a prefix': `sk_live_${'é'.repeat(60)}`,
      'full-width digits behind a prefix': `sk_live_${'0'.repeat(60)}`,
      'an id beyond a uuid': `sk_live_${'z'.repeat(60)}`,
    }
    for (const [what, text] of Object.entries(texts)) {
      it(`calls ${what} MALFORMED`, async () => {
        const answer = await verify({ p_api_key: text })
        assert.equal(answer.valid, false)
        assert.equal(answer.code, 'MALFORMED')
        assert.deepEqual(Object.keys(answer).sort(), ['code', 'message', 'valid'])
        const dropIn = await call(db, 'verify_api_key_hash', { p_api_key: text })
        assert.equal(dropIn.code, 'MALFORMED')
        assert.equal(dropIn.success, false)
        assert.ok(!await call(db, 'revoke_own_api_key', { p_api_key: text }))
      })
    }

    it('calls a key with anything around it, or anything less, MALFORMED', async () => {
      for (const text of [` ${key}`, `${key} `, `${key}\n`, `Bearer ${key}`, key.slice(1), key.slice(0, -1),
        key.toUpperCase(), key.replace('sk_', 'pk_'), key + key]) {
        assert.equal((await verify({ p_api_key: text })).code, 'MALFORMED', JSON.stringify(text))
      }
    })

    it('takes odd requirements as requirements that the key does not meet', async () => {
      const code = async (args) => (await verify({ p_api_key: key, ...args })).code
      const many = Array.from({ length: 10_000 }, (_, n) => `r${n}:read`)
      const odd = [[''], [null], [CONTROL], [MULTIBYTE], [MEGABYTE], many, ['*'], ['*:*'], [':']]
      for (const p_required_scopes of odd) {
        assert.equal(await code({ p_required_scopes }), 'INSUFFICIENT_SCOPE')
      }
      assert.equal(await code({ p_required_scopes: [] }), 'VALID')
      assert.equal(await code({ p_required_scopes: null }), 'VALID')
      assert.equal(await code({ p_required_scopes: '{{a:b,c:d},{e:f,g:h}}' }), 'INSUFFICIENT_SCOPE')
      const bound = await issue({ p_resource_id: 'r' })
      for (const p_resource_id of ['', CONTROL, MULTIBYTE, MEGABYTE]) {
        assert.equal((await verify({ p_api_key: bound.api_key, p_resource_id })).code, 'RESOURCE_MISMATCH')
      }
    })

    it('answers the same key when it is asked again after all of this', async () => {
      assert.equal((await verify({ p_api_key: key })).code, 'VALID')
    })
  })

  describe('bytes of other encodings', () => {
    it('are refused by PostgreSQL before a function sees them', async () => {
      for (const bytes of [...NOT_UTF8, NUL]) {
        await refused('22021', 'verify_api_key', { p_api_key: bytes })
        await refused('22021', 'issue_api_key', { p_user_id: randomUUID(), p_name: bytes })
      }
    })

    for (const encoding of ['SQL_ASCII', 'LATIN1']) {
      it(`are text like any other in a ${encoding} database`, async () => {
        const name = encoding.toLowerCase()
        await cluster.database(name, { options: `ENCODING '${encoding}' LOCALE 'C' TEMPLATE template0` })
        const raw = await cluster.connect(name)
        await raw.query(`SET client_encoding = '${encoding}'`)
        const odd = Buffer.from([0x53, 0xe9, 0xff, 0x80, 0xc0])
        for (const bytes of [...NOT_UTF8, odd]) {
          assert.equal((await verify({ p_api_key: bytes }, raw)).code, 'MALFORMED')
          assert.ok(!await call(raw, 'revoke_own_api_key', { p_api_key: bytes }))
        }
        const user = randomUUID()
        await raw.query(`CREATE TABLE made AS
          SELECT api_key.issue_api_key(p_user_id => $1, p_description => $2) AS key`, [user, odd])
        const made = await value(raw, `SELECT key ->> 'api_key' FROM made`)
        const madeId = await value(raw, `SELECT key ->> 'key_id' FROM made`)
        assert.equal((await verify({ p_api_key: made }, raw)).code, 'VALID')
        const bytesOf = (column) =>
          value(raw, `SELECT ${column}::bytea FROM (SELECT encode(${column}::bytea, 'hex') AS ${column}
            FROM api_key.list_api_keys($1)) AS listed`, [user])
        assert.equal((await bytesOf('description')).toString(), odd.toString('hex'))
        assert.equal((await verify({ p_api_key: made, p_resource_id: odd }, raw)).code, 'VALID')
        assert.equal((await call(raw, 'rotate_api_key', { p_key_id: madeId })).key_id, madeId)
        assert.equal(await call(raw, 'revoke_api_key', { p_key_id: madeId, p_reason: odd }), true)
        await refused('22021', 'verify_api_key', { p_api_key: NUL }, raw)
        // Keys from elsewhere, hashes, and all else that is no UTF-8.
        await call(raw, 'import_api_key_hash', { p_hash: odd, p_scheme: 'plaintext', p_user_id: user, p_description: odd })
        assert.equal((await verify({ p_api_key: odd }, raw)).code, 'VALID')
        await raw.query('CREATE TABLE old AS SELECT $1::text AS hash', [Buffer.from([0xe9, 0xff])])
        assert.equal(await call(raw, 'import_api_keys',
          { p_source: 'old', p_columns: { hash: 'hash' }, p_scheme: 'plaintext' }), '1')
        assert.equal((await verify({ p_api_key: Buffer.from([0xe9, 0xff]) }, raw)).code, 'VALID')
        for (const p_scheme of ['md5', 'sha256', 'bcrypt', 'argon2', odd]) {
          await refused('22023', 'import_api_key_hash', { p_hash: odd, p_scheme, p_user_id: user }, raw)
        }
        assert.equal(await call(raw, 'matches_hash', { p_text: odd, p_hash: odd }), false)
        assert.equal(await value(raw, 'SELECT api_key.matches_hash($1, md5($1))', [odd]), true)
        await refused('22023', 'set_api_key_role', { p_key_id: madeId, p_role: odd }, raw)
        await raw.query(`SET request.jwt.claims = '{"sub": "${user}", "scopes": ["\u00e9:read"]}'`).catch(() => {})
        await refused('22023', 'issue_api_key', { p_user_id: user, p_scopes: [odd] }, raw)
        await raw.query('RESET request.jwt.claims')
        await raw.query(`CREATE TABLE docs (id text PRIMARY KEY, owner_id uuid, "\u00e9" boolean)`)
        await raw.query('INSERT INTO docs VALUES ($1, NULL, true)', [odd])
        await call(raw, 'define_resource', { p_type: 'doc', p_table: 'docs', p_public_when: '"\u00e9"' })
        await call(raw, 'protect_resource', { p_type: 'doc' })
        const read = { p_resource_type: 'doc', p_action: 'read' }
        assert.equal(await call(raw, 'authorize', { ...read, p_resource_id: odd }), true)
        assert.equal(await call(raw, 'authorize', { ...read, p_resource_id: '\u00e9' }), false)
        await refused('22023', 'issue_api_key', { p_user_id: user, p_tier: odd }, raw)
        await refused('22023', 'issue_api_key', { p_user_id: user, p_prefix: odd }, raw)
        await refused('22023', 'define_scope', { p_name: odd }, raw)
      })
    }
  })

  describe('issue', () => {
    const tenThousand = Array.from({ length: 10_000 }, (_, n) => `articles:action${n}`)
    const bad = {
      'an empty name': { p_name: '' },
      'a name of one megabyte': { p_name: MEGABYTE },
      'a name with control characters': { p_name: CONTROL },
      'a description of one megabyte': { p_description: MEGABYTE },
      'a resource of one megabyte': { p_resource_id: MEGABYTE },
      'an empty resource': { p_resource_id: '' },
      'an empty request id': { p_request_id: '' },
      'a request id of one megabyte': { p_request_id: MEGABYTE },
      'a tier that is not defined': { p_tier: 'platinum' },
      'the empty tier': { p_tier: '' },
      'a tier of one megabyte': { p_tier: MEGABYTE },
      'another environment': { p_environment: 'moon' },
      'another kind': { p_kind: 'open' },
      'an empty prefix': { p_prefix: '' },
      'a prefix in capitals': { p_prefix: 'SK_' },
      'a prefix without its underscore': { p_prefix: 'sk' },
      'a prefix that starts with a digit': { p_prefix: '1_' },
      'a prefix with a newline': { p_prefix: 'sk_\n' },
      'a prefix of 33 characters': { p_prefix: `${'a'.repeat(32)}_` },
      'a prefix of one megabyte': { p_prefix: MEGABYTE },
      'a multi-byte prefix': { p_prefix: 'schlüssel_' },
      'an expiry in the past': { p_expires_at: '2001-01-01' },
      'an expiry at the beginning of time': { p_expires_at: '-infinity' },
      'an expiry before the beginning': { p_expires_at: '2998-01-01', p_not_before: '2999-01-01' },
      'ten thousand scopes': { p_scopes: tenThousand },
      'an empty scope': { p_scopes: [''] },
      'a NULL scope': { p_scopes: ['articles:read', null] },
      'a scope with spaces': { p_scopes: ['articles: read'] },
      'a scope with a newline behind it': { p_scopes: ['articles:read\n'] },
      'a scope of one megabyte': { p_scopes: [MEGABYTE] },
      'a multi-byte scope': { p_scopes: [MULTIBYTE] },
      'scopes in two dimensions': { p_scopes: '{{a:read,b:read},{c:read,d:read}}' },
      'no address at all': { p_allowed_ips: [] },
      'a NULL address': { p_allowed_ips: [null] },
      'addresses in two dimensions': { p_allowed_ips: '{{10.0.0.1,10.0.0.2},{10.0.0.3,10.0.0.4}}' },
      'ten thousand addresses': { p_allowed_ips: tenThousand.map(() => '10.0.0.1') },
      'metadata that is an array': { p_metadata: '[1]' },
      'metadata that is a text': { p_metadata: '"text"' },
      'metadata that is JSON null': { p_metadata: 'null' },
      'metadata of one megabyte': { p_metadata: { MEGABYTE } },
    }
    for (const [what, args] of Object.entries(bad)) {
      it(`refuses ${what}`, () => refused('22023', 'issue_api_key', { p_user_id: randomUUID(), ...args }))
    }

    const unreadable = {
      'metadata that is not JSON': ['22P02', { p_metadata: '{' }],
      'metadata with a NUL': ['22P05', { p_metadata: '{"a": "\\u0000"}' }],
      'an address that is none': ['22P02', { p_allowed_ips: ['localhost'] }],
      'a user that is no uuid': ['22P02', { p_user_id: 'alice' }],
      'an expiry that is no time': ['22007', { p_expires_at: 'tomorrowish' }],
    }
    for (const [what, [sqlstate, args]] of Object.entries(unreadable)) {
      it(`is not reached by ${what}`, async () => {
        const before = await contents()
        await assert.rejects(issue(args), { code: sqlstate })
        assert.equal(await contents(), before)
      })
    }

    it('keeps duplicate scopes once, in the order given', async () => {
      const issued = await issue({ p_scopes: ['b:read', 'a:read', 'b:read', 'a:read'] })
      assert.deepEqual(issued.scopes, ['b:read', 'a:read'])
    })

    it('keeps multi-byte names and names of 63 characters as they are', async () => {
      for (const p_name of [MULTIBYTE, NAME_63, '鍵'.repeat(63), `"'; DROP TABLE keys; --`, '%s %n', '{a,b}']) {
        const issued = await issue({ p_name })
        assert.equal(issued.name, p_name)
        assert.equal((await verify({ p_api_key: issued.api_key })).name, p_name)
      }
    })

    it('takes the longest prefix and the shortest', async () => {
      for (const p_prefix of ['a_', `a${'b'.repeat(30)}_`, 'mcp_live_', 'x___']) {
        const issued = await issue({ p_prefix })
        assert.ok(issued.api_key.startsWith(p_prefix) && issued.api_key.length === p_prefix.length + 60)
        assert.equal((await verify({ p_api_key: issued.api_key })).code, 'VALID')
      }
    })

    it('takes NULL in place of anything as the default', async () => {
      const nothing = Object.fromEntries(['p_name', 'p_tier', 'p_description', 'p_scopes', 'p_tenant_id',
        'p_resource_id', 'p_environment', 'p_kind', 'p_prefix', 'p_expires_at', 'p_not_before',
        'p_allowed_ips', 'p_metadata', 'p_request_id'].map((name) => [name, null]))
      const issued = await issue(nothing)
      assert.match(issued.api_key, /^sk_live_/)
      assert.deepEqual([issued.name, issued.tier, issued.scopes], ['API Key', 'free', []])
      assert.equal((await verify({ p_api_key: issued.api_key })).code, 'VALID')
    })

    it('refuses a user whose claims cannot be read, rather than guessing who it is', async () => {
      const client = await cluster.connect('app')
      // An administrator acts for others: its token may name a service instead of a user.
      await client.query('SET ROLE authenticated')
      for (const claims of ['not json', '{"sub": "alice"}', '{"sub": 1}', '{"sub": {}}']) {
        await client.query(`SELECT set_config('request.jwt.claims', $1, false)`, [claims])
        await assert.rejects(call(client, 'issue_api_key', {}), { code: '22023' }, claims)
      }
    })

    it('refuses a signed-in request that names no user', async () => {
      const client = await cluster.connect('app')
      await client.query('SET ROLE authenticated')
      for (const claims of ['', 'null', '[]', '"text"', '{}', '{"sub": null}']) {
        await client.query(`SELECT set_config('request.jwt.claims', $1, false)`, [claims])
        await assert.rejects(call(client, 'issue_api_key', {}), { code: '42501' }, claims)
        await assert.rejects(call(client, 'list_api_keys', {}), { code: '42501' }, claims)
      }
    })
  })

  describe('update', () => {
    const bad = {
      'NULL': null,
      'an array': '[]',
      'a text': '"name"',
      'JSON null': 'null',
      'an unknown field': { colour: 'red' },
      'a field that only the extension sets': { secret_hash: 'x' },
      'a known field beside an unknown one': { name: 'Renamed', colour: 'red' },
      'an empty field name': { '': 1 },
      'a name that is a number': { name: 1 },
      'a name that is null': { name: null },
      'a name that is an object': { name: {} },
      'an empty name': { name: '' },
      'a name with control characters': { name: CONTROL },
      'a name of one megabyte': { name: MEGABYTE },
      'enabled as a text': { enabled: 'yes' },
      'enabled as null': { enabled: null },
      'scopes as a text': { scopes: 'articles:read' },
      'scopes as null': { scopes: null },
      'scopes of numbers': { scopes: [1] },
      'scopes with a null': { scopes: [null] },
      'scopes of arrays': { scopes: [['articles:read']] },
      'ten thousand scopes': { scopes: Array.from({ length: 10_000 }, (_, n) => `a:b${n}`) },
      'addresses as a text': { allowed_ips: '10.0.0.1' },
      'an empty list of addresses': { allowed_ips: [] },
      'an address that is none': { allowed_ips: ['localhost'] },
      'metadata as an array': { metadata: [] },
      'metadata as null': { metadata: null },
      'an expiry that is no time': { expires_at: 'tomorrowish' },
      'an expiry that is a number': { expires_at: 1 },
      'an expiry in the past': { expires_at: '2001-01-01' },
      'an expiry out of range': { expires_at: '999999999-01-01' },
      'a beginning after the end': { not_before: '2999-01-01', expires_at: '2998-01-01' },
      'a tier that is not defined': { tier: 'platinum' },
      'a tier that is a number': { tier: 1 },
    }
    for (const [what, changes] of Object.entries(bad)) {
      it(`refuses ${what}`, () => refused('22023', 'update_api_key', { p_key_id: id, p_changes: changes }))
    }

    it('takes no change as no change', async () => {
      const before = await contents()
      const row = await call(db, 'update_api_key', { p_key_id: id, p_changes: {} })
      assert.equal(row.key_id, id)
      await call(db, 'update_api_key', { p_key_id: id, p_changes: { name: row.name, scopes: row.scopes } })
      assert.equal(await contents(), before)
    })

    it('takes null where null means none', async () => {
      const { key_id: own } = await issue(
        { p_description: 'x', p_expires_at: '2999-01-01', p_allowed_ips: ['10.0.0.1'] })
      const row = await call(db, 'update_api_key',
        { p_key_id: own, p_changes: { description: null, expires_at: null, allowed_ips: null } })
      assert.deepEqual([row.description, row.expires_at, row.allowed_ips], [null, null, null])
    })
  })

  describe('the others', () => {
    const nobody = randomUUID()
    const cases = [
      ['a rotation with negative grace', '22023', 'rotate_api_key', () => ({ p_key_id: id, p_grace: '-1 second' })],
      ['a rotation with grace for ever', '22023', 'rotate_api_key', () => ({ p_key_id: id, p_grace: '9999 years' })],
      ['a rotation of no key', 'P0002', 'rotate_api_key', () => ({ p_key_id: nobody })],
      ['a rotation of NULL', 'P0002', 'rotate_api_key', () => ({ p_key_id: null })],
      ['a purge of what is yet to come', '22023', 'purge_api_keys', () => ({ p_older_than: '-1 day' })],
      ['a purge of NULL', '22023', 'purge_api_keys', () => ({ p_older_than: null })],
      ['an update of no key', 'P0002', 'update_api_key', () => ({ p_key_id: nobody, p_changes: {} })],
      ['a revocation of no key', 'P0002', 'revoke_api_key', () => ({ p_key_id: nobody })],
      ['a revocation of NULL', 'P0002', 'revoke_api_key', () => ({ p_key_id: null })],
      ['a reason of one megabyte', '22023', 'revoke_api_key', () => ({ p_key_id: id, p_reason: MEGABYTE })],
      ['a revocation of everybody', '22023', 'revoke_api_keys', () => ({})],
      ['a revocation of NULL and NULL', '22023', 'revoke_api_keys', () => ({ p_user_id: null, p_tenant_id: null })],
      ['a deletion of no key', 'P0002', 'delete_api_key', () => ({ p_key_id: nobody })],
      ['a deletion of NULL', 'P0002', 'delete_api_key', () => ({ p_key_id: null })],
      ['a tier without a name', '22023', 'define_tier', () => ({ p_name: null })],
      ['a tier with an empty name', '22023', 'define_tier', () => ({ p_name: '' })],
      ['a tier with control characters', '22023', 'define_tier', () => ({ p_name: CONTROL })],
      ['a tier of 64 characters', '22023', 'define_tier', () => ({ p_name: `${NAME_63}n` })],
      ['a tier of no keys', '22023', 'define_tier', () => ({ p_name: 'none', p_max_active_keys: 0 })],
      ['a tier of less than none', '22023', 'define_tier', () => ({ p_name: 'less', p_max_active_keys: -1 })],
      ['a tier that explodes on excess', '22023', 'define_tier', () => ({ p_name: 'boom', p_on_excess: 'explode' })],
      ['a scope without a name', '22023', 'define_scope', () => ({ p_name: null })],
      ['a scope with a space', '22023', 'define_scope', () => ({ p_name: 'a b' })],
      ['a scope of one megabyte', '22023', 'define_scope', () => ({ p_name: MEGABYTE })],
    ]
    for (const [what, sqlstate, name, args] of cases) {
      it(`refuses ${what}`, () => refused(sqlstate, name, args()))
    }

    it('takes a tier name of 63 characters', async () => {
      await call(db, 'define_tier', { p_name: NAME_63 })
      assert.equal((await issue({ p_tier: NAME_63 })).tier, NAME_63)
    })

    it('purges nothing when asked for what is older than time', async () => {
      assert.equal(await call(db, 'purge_api_keys', { p_older_than: '178000000 years' }), 0)
    })
  })

  it('is not repeated when it is a plaintext in the wrong place', async () => {
    const p_user_id = randomUUID()
    for (const argument of ['p_tier', 'p_environment', 'p_kind', 'p_prefix']) {
      await refused('22023', 'issue_api_key', { p_user_id, [argument]: key })
    }
    await refused('22023', 'issue_api_key', { p_user_id, p_scopes: [`${key}!`] })
    await refused('22023', 'issue_api_key', { p_user_id, p_name: `${key}\n` })
    await refused('22023', 'update_api_key', { p_key_id: id, p_changes: { [key]: true } })
    await refused('22023', 'update_api_key', { p_key_id: id, p_changes: { expires_at: key } })
    await refused('22023', 'update_api_key', { p_key_id: id, p_changes: { allowed_ips: [key] } })
    await refused('22023', 'update_api_key', { p_key_id: id, p_changes: { tier: key } })
    await refused('22023', 'define_tier', { p_name: key })
    await refused('22023', 'define_tier', { p_name: 'odd', p_on_excess: key })
    await refused('22023', 'define_scope', { p_name: `${key} ` })
  })

  // A key's text in place of each argument of each function, as each way of calling passes it.
  describe('the text of a key in any argument', () => {
    // Types of PostgreSQL's own, whose errors repeat what they cannot read. No client takes one of these
    // for the key; what clients do take for it, ids and texts, is of our types or text.
    const REPEATS = {
      'text[]': 'arrays of scopes: "malformed array literal"',
      'inet': 'the address, which proxies pass', 'inet[]': 'addresses that an administrator or owner configures',
      'jsonb': 'a whole document: where it comes as JSON, as from PostgREST, any text is one',
      'interval': 'a duration', 'timestamp with time zone': 'a time', 'integer': 'a number', 'bigint': 'a number', 'boolean': 'a switch',
      'regclass': 'a table, named by an administrator',
    }
    // Texts that these errors name are an administrator's: of roles, and of what import_api_keys imports.
    const NAMES = ['setup_postgrest', 'import_key_rows.p_source']
    let secret, functions, api

    before(async () => {
      secret = partsOf(key).secret
      const { rows } = await db.query(`
        SELECT p.proname AS name, a.name AS argument, format_type(a.type, NULL) AS type, p.prokind,
               ARRAY(SELECT other.name FROM unnest(p.proargnames[1:p.pronargs - p.pronargdefaults]) AS other (name)
                     WHERE other.name <> a.name) AS required, p.provariadic <> 0 AS variadic
        FROM pg_proc AS p, unnest(p.proargtypes::oid[], p.proargnames[1:p.pronargs]) AS a (type, name)
        WHERE p.pronamespace = 'api_key'::regnamespace ORDER BY 1, 2`)
      functions = rows
      api = await cluster.postgrest('app')
      await db.query(`CREATE TABLE public.pages (id integer PRIMARY KEY, owner_id uuid)`)
      await db.query(`SELECT api_key.define_resource('page', 'public.pages')`)
    })

    const repeats = (text) => text.includes(secret.slice(0, 16)) || text.includes(secret.slice(-8))

    function expectSilence(what, answer, logBefore) {
      assert.ok(!repeats(answer), `${what}: the answer repeats it: ${answer.slice(0, 500)}`)
      const logged = cluster.log.slice(logBefore)
      assert.ok(!repeats(logged), `${what}: the server's log repeats it: ${logged.slice(0, 500)}`)
    }

    const asText = (error) => JSON.stringify([error.message, error.detail, error.details, error.hint, error.where, error.code])
    const concerned = () => functions.filter(({ name, argument, type }) =>
      !(type in REPEATS) && !NAMES.includes(name) && !NAMES.includes(`${name}.${argument}`))

    it('meets every function that has arguments, and each exception is one', () => {
      const ids = functions.filter(({ argument }) => /^p_(key|user|tenant)_id$/.test(argument))
      assert.ok(ids.length >= 12, `${ids.length} ids`)
      assert.deepEqual([...new Set(ids.map(({ type }) => type))], ['api_key.id'])
      assert.ok(concerned().length > 50, `${concerned().length} arguments`)
      for (const type of Object.keys(REPEATS)) assert.ok(functions.some((one) => one.type === type), type)
    })

    it('is repeated by no error to a driver that binds parameters, and not in the log', async () => {
      const client = await cluster.connect('app')
      for (const { name, argument, type, prokind, required } of concerned()) {
        const before = cluster.log.length
        const args = [`${argument} => $1::${type === 'name' ? 'text::name' : type}`, ...required.map((other) => `${other} => NULL`)]
        for (const bound of [args, [`${argument} => $1`, ...args.slice(1)]]) {
          await client.query('BEGIN')
          const answer = await client.query(`${prokind === 'p' ? 'CALL' : 'SELECT'} api_key.${name}(${bound.join(', ')})`, [`${key}`])
            .then(() => '', asText)
          await client.query('ROLLBACK')
          expectSilence(`${name}(${argument})`, answer, before)
        }
      }
    })

    for (const role of ['anon', 'authenticated', 'service_role']) {
      it(`is repeated by no error to a client of PostgREST as ${role}, by POST or GET, and not in the log`, async () => {
        const claims = role === 'anon' ? undefined : { ...userClaims(), role }
        for (const { name, argument, required } of concerned().filter(({ prokind, variadic }) => prokind === 'f' && !variadic)) {
          // A verify answers; what issues keeps what it is told. Neither is an error.
          for (const get of [false, true]) {
            const before = cluster.log.length
            const args = { [argument]: key, ...Object.fromEntries(required.map((other) => [other, get ? '' : null])) }
            const { error } = await api.client(claims).rpc(name, args, { get })
            if (error) expectSilence(`${name}(${argument}) as ${role}`, asText(error), before)
          }
        }
        assert.ok(!repeats(api.log), 'the log of PostgREST')
      })
    }

    it('is no id, whatever is around it or left of it', async () => {
      const ids = functions.filter(({ type }) => type === 'api_key.id')
      const texts = [key, ` ${key}`, `${key}\n`, `Bearer ${key}`, key.slice(0, -1), key.slice(8), `{${key}}`, `"${key}"`, `${id}${key}`, `${id} ${key}`, `{${id}${key}`]
      for (const { name, argument, required } of ids) {
        for (const text of texts) {
          const before = cluster.log.length
          const error = await call(db, name, { [argument]: text, ...Object.fromEntries(required.map((other) => [other, null])) })
            .then(() => assert.fail('it is taken'), (error) => error)
          assert.deepEqual([error.code, error.message], ['22P02', 'invalid id'], `${name}(${argument})`)
          expectSilence(`${name}(${argument})`, asText(error), before)
        }
      }
    })

    it('does not reach the log through an id in JSON, an array or a row', async () => {
      for (const [sql, text] of [
        ['SELECT * FROM jsonb_to_record($1) AS r (id api_key.id)', JSON.stringify({ id: key })],
        ['SELECT $1::api_key.id[]', `{${key}}`],
        [`SELECT api_key.import_key_rows($1, 'md5', 't', 1)`, JSON.stringify([{ hash: 'x', key_id: key }])],
        [`SELECT api_key.import_key_rows($1, 'md5', 't', 1)`, JSON.stringify([{ hash: 'x', user_id: key }])],
        [`SELECT api_key.import_key_rows($1, 'md5', 't', 1)`, JSON.stringify([{ hash: 'x', tenant_id: key }])],
        [`SELECT api_key.authorize('page', $1, 'read')`, key],
        [`SELECT api_key.require_authorization('page', $1, 'read')`, key],
      ]) {
        const before = cluster.log.length
        expectSilence(sql, await db.query(sql, [text]).then(() => '', asText), before)
      }
    })
  })

  it('leaves nothing behind in a transaction that goes on after a refusal', async () => {
    const before = await contents()
    await db.query('BEGIN')
    const issued = await issue()
    await db.query('SAVEPOINT before_refusal')
    await assert.rejects(issue({ p_tier: 'platinum' }), { code: '22023' })
    await db.query('ROLLBACK TO before_refusal')
    assert.equal((await verify({ p_api_key: issued.api_key })).code, 'VALID')
    await db.query('ROLLBACK')
    assert.equal(await contents(), before)
    assert.equal((await verify({ p_api_key: issued.api_key })).code, 'NOT_FOUND')
  })

  it('shows a user who is refused nothing of the table behind', async () => {
    const client = await cluster.connect('app')
    await actAs(client, userClaims())
    for (const name of ['rotate_api_key', 'revoke_api_key', 'delete_api_key']) {
      const refusal = (p_key_id) => call(client, name, { p_key_id }).then(assert.fail,
        ({ code, message, detail, hint, where }) => ({ code, message, detail, hint, where }))
      const others = await refusal(id)
      assert.equal(others.code, 'P0002')
      assert.deepEqual(others, await refusal(randomUUID()))
    }
  })

  it('took no backend down and made none panic', async () => {
    assert.deepEqual(await value(db, 'SELECT pg_postmaster_start_time()'), started)
    assert.equal(await value(db, 'SELECT pg_backend_pid()'), backend)
    const alarming = cluster.log.split('\n').filter((line) => /^XX|panicked|terminated by signal/.test(line))
    assert.deepEqual(alarming, [])
  })
})
