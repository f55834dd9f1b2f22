// Identity cannot be forged, and does not leak: what SQL of the caller's own can do about whom a
// transaction acts as, on direct connections and through PgBouncer, is nothing.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { describe, it } from 'node:test'
import { CHEAP, admitted, application, gate } from './gate.mjs'
import { call, forged, until, useCluster, value, withWrongSecret } from './harness.mjs'

const NOBODY = {
  key_id: null,
  user_id: null,
  tenant_id: null,
  scopes: null,
  key: null,
  admin: false,
  articles: 0,
}

const WHO = `SELECT jsonb_build_object('key_id', api_key.current_key_id(), 'user_id', api_key.current_user_id(),
  'tenant_id', api_key.current_tenant_id(), 'scopes', api_key.current_scopes(), 'key', api_key.current_api_key(),
  'admin', api_key.has_scope('admin'), 'articles', (SELECT count(*) FROM app.articles))`

const headers = (all) =>
  `SELECT set_config('request.headers', '${JSON.stringify(all).replaceAll("'", "''")}', false)`
const act = (key) => `${headers({ 'x-api-key': key })}; SELECT api_key.authenticate_request();`

describe('identity', () => {
  let cluster, owner, bouncer, ada, bob, limited

  useCluster({ ...CHEAP, max_prepared_transactions: 4, max_connections: 60 }, async (fresh) => {
    cluster = fresh
    owner = await application(cluster, 'app')
    await owner.query(`ALTER ROLE anon LOGIN; ALTER ROLE authenticated LOGIN;
      GRANT TEMPORARY ON DATABASE app TO anon, authenticated; ALTER TABLE app.articles FORCE ROW LEVEL SECURITY`)
    const key = (args) =>
      call(owner, 'issue_api_key', {
        p_user_id: randomUUID(),
        p_tenant_id: randomUUID(),
        p_tier: 'pro',
        ...args,
      })
    ada = await key({ p_scopes: ['articles:*'], p_name: 'ada' })
    bob = await key({ p_scopes: ['articles:read'], p_name: 'bob' })
    limited = await key({ p_scopes: ['admin'], p_allowed_ips: ['198.51.100.7'] })
    await owner.query('INSERT INTO app.articles VALUES ($1, $2), ($3, $2), ($4, $5)',
      ['a1', ada.key_id, 'a2', 'b1', bob.key_id])
    await owner.query(`
      CREATE FUNCTION app.lend() RETURNS jsonb LANGUAGE sql SECURITY DEFINER AS 'SELECT api_key.admit_request()';
      CREATE FUNCTION app.lend_again() RETURNS jsonb LANGUAGE sql SECURITY DEFINER AS 'SELECT app.lend()';
      CREATE FUNCTION app.mislabelled() RETURNS uuid LANGUAGE plpgsql STABLE PARALLEL SAFE AS
        'BEGIN RETURN api_key.current_key_id(); END';
      CREATE TABLE app.seen (key_id uuid, moment text);
      CREATE FUNCTION app.see() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO app.seen VALUES (api_key.current_key_id(), TG_ARGV[0]); RETURN NULL; END $$;
      CREATE TABLE app.events (id integer);
      CREATE CONSTRAINT TRIGGER late AFTER INSERT ON app.events DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION app.see('commit');
      GRANT SELECT, INSERT ON app.seen, app.events TO authenticated`)
    bouncer = await cluster.pgbouncer({ user: 'authenticator', default_pool_size: 1, max_client_conn: 50 })
  })

  const direct = (user = 'authenticated', options = {}) => cluster.connect('app', user, options)
  const pooled = () => cluster.connect('app', 'authenticator', { port: bouncer.port })
  const keyId = (client) => value(client, 'SELECT api_key.current_key_id()')
  const titles = async (client, text = 'SELECT title FROM app.articles') =>
    (await client.query(text)).rows.map(({ title }) => title).sort()

  /** The SQLSTATE of a text of statements; '00000' if they succeed. */
  const sqlstate = (client, text) => client.query(text).then(() => '00000', ({ code }) => code)

  async function assertNobody(client, what) {
    assert.deepEqual(await value(client, WHO), NOBODY, what)
  }

  /** Attacks on whoever runs the transaction: claims, headers, settings, roles, functions. */
  async function attacks() {
    const claims = JSON.stringify({
      sub: (await call(owner, 'verify_api_key', { p_api_key: ada.api_key })).user_id,
      role: 'service_role',
      key_id: ada.key_id,
      scopes: ['admin'],
    })
    const forgeries = [forged(), withWrongSecret(ada.api_key), limited.api_key, ada.key_id, '', 'x']
    const own = (await owner.query(`SELECT name FROM pg_settings WHERE name LIKE 'api\\_key.%'`)).rows.map(
      ({ name }) => name
    )
    assert.ok(own.length > 15)
    const settings = [
      ...['jwt.claims', 'jwt.claim.sub', 'jwt.claim.key_id', 'jwt.claim.scopes', 'jwt', 'headers', 'header.x-api-key', 'method', 'path', 'cookies', 'spec']
        .map((name) => [`request.${name}`, claims]),
      ['response.headers', '[]'],
      ...own.map((name) => [name, /require|trust_token/.test(name) ? 'on' : /roles?$|names$|file$|command$/.test(name) ? 'service_role' : '1']),
      ...['key_id', 'current_key_id', 'identity', 'scopes', 'user_id'].map((name) => [`api_key.${name}`, ada.key_id]),
    ]
    return [
      ...settings.flatMap(([name, text]) => [
        `SELECT set_config('${name}', '${text}', false)`, `SELECT set_config('${name}', '${text}', true)`,
        .../-/.test(name) ? [] : [`SET ${name} = '${text}'`, `SET LOCAL ${name} = '${text}'`, `SET SESSION ${name} TO '${text}'`,
          `CREATE OR REPLACE FUNCTION pg_temp.f() RETURNS jsonb LANGUAGE sql SET ${name} = '${text}' AS 'SELECT api_key.admit_request()'; SELECT pg_temp.f()`,
          `ALTER ROLE CURRENT_USER SET ${name} = '${text}'`, `ALTER DATABASE app SET ${name} = '${text}'`],
      ]),
      `SELECT set_config('request.jwt.claims', '${claims}', false); SELECT api_key.authenticate_request()`,
      ...forgeries.map((key) => `${headers({ 'x-api-key': key })}; SELECT api_key.admit_request(), app.lend(), app.lend_again()`),
      ...forgeries.map((key) => act(key)),
      `${headers({ 'x-api-key': limited.api_key, 'x-forwarded-for': '198.51.100.7' })}; SELECT api_key.admit_request()`,
      // Not even with the right key: neither owner's rights are lent, nor half an identity made.
      `${headers({ 'x-api-key': ada.api_key })}; SELECT app.lend()`,
      `${headers({ 'x-api-key': ada.api_key })}; SELECT app.lend_again()`,
      ...['garbage', '[]', 'null', '{"x-api-key": 1}', '{"x-api-key": null}', '{"x-api-key": {}}'].map((text) =>
        `SELECT set_config('request.headers', '${text}', false); SELECT api_key.admit_request()`),
      'SET ROLE service_role', 'SET ROLE postgres', 'RESET ROLE', 'SET ROLE NONE', 'SET SESSION AUTHORIZATION postgres',
      'SET SESSION AUTHORIZATION authenticated', 'RESET SESSION AUTHORIZATION', 'DISCARD ALL', 'RESET ALL', 'DISCARD PLANS',
      `CREATE FUNCTION pg_temp.c() RETURNS jsonb LANGUAGE c AS '$libdir/api_key', 'admit_request'`,
      `CREATE OR REPLACE FUNCTION api_key.current_key_id() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'`,
      `CREATE FUNCTION pg_temp.current_key_id() RETURNS uuid LANGUAGE sql AS $$SELECT '${ada.key_id}'::uuid$$; SET search_path = pg_temp, api_key`,
      'ALTER FUNCTION api_key.has_scope(text) VOLATILE', 'ALTER TABLE app.articles DISABLE ROW LEVEL SECURITY',
      `LOAD 'api_key'`, `UPDATE api_key_internal.keys SET scopes = '{admin}'`,
      'SELECT * FROM api_key_internal.keys', `SELECT api_key_internal.is_key_role('service_role')`,
    ]
  }

  for (const user of ['anon', 'authenticated']) {
    it(`is not made of settings, roles, functions or headers by ${user}`, async () => {
      const every = await attacks()
      let [session, inTransaction] = [await direct(user), await direct(user)]
      for (const attack of every) {
        await sqlstate(session, attack)
        await assertNobody(session, attack)
        await inTransaction.query('BEGIN; SAVEPOINT s')
        if (await sqlstate(inTransaction, attack) !== '00000') await inTransaction.query('ROLLBACK TO s')
        await assertNobody(inTransaction, attack)
        await inTransaction.query('ROLLBACK')
        await Promise.all([session, inTransaction].map((client) => client.query('RESET search_path')))
      }
      await Promise.all([session.end(), inTransaction.end()])
    })
  }

  it('is not made of them through PgBouncer either', async () => {
    const client = await pooled()
    for (const attack of await attacks()) {
      await client.query('BEGIN; SET LOCAL ROLE authenticated; SAVEPOINT s')
      if (await sqlstate(client, attack) !== '00000') await client.query('ROLLBACK TO s')
      await client.query('SET LOCAL ROLE authenticated; RESET search_path')
      await assertNobody(client, attack)
      await client.query('ROLLBACK')
      await client.query('RESET ALL; RESET ROLE')
    }
    await client.end()
  })

  it('cannot be brought along by the options of a connection', async () => {
    for (const setting of [
      'trust_token_claims=on',
      'key_roles=service_role',
      'require_key=off',
      'authenticated_role=service_role',
    ]) {
      const client = await direct('authenticated', { options: `-c api_key.${setting}` }).catch(() => null)
      if (!client) continue
      const [name, given] = setting.split('=')
      assert.notEqual(await value(client, `SHOW api_key.${name}`), name === 'require_key' ? 'x' : given)
      await client.end()
    }
  })

  it('leaves no helper of the extension to be called', async () => {
    const { rows } =
      await owner.query(`SELECT format('SELECT %s(%s)', p.oid::regproc, (SELECT string_agg(format('NULL::%s', t::regtype), ', ')
      FROM unnest(proargtypes) AS t)) AS text FROM pg_proc AS p WHERE pronamespace = 'api_key_internal'::regnamespace AND prokind = 'f'
      AND prorettype <> 'trigger'::regtype AND NOT 'internal'::regtype = ANY (proargtypes)`)
    assert.ok(rows.length > 10)
    for (const user of ['anon', 'authenticated']) {
      const client = await direct(user)
      for (const { text } of rows) assert.equal(await sqlstate(client, text), '42501', text)
    }
  })

  it('needs the key, and ends with the statement, the transaction, or its error', async () => {
    const client = await direct()
    await client.query(headers({ 'x-api-key': ada.api_key }))
    await client.query('SELECT api_key.authenticate_request()')
    await assertNobody(client, 'in the next transaction')
    for (const [end, text] of [
      ['COMMIT', 'SELECT 1'],
      ['ROLLBACK', 'SELECT 1'],
      ['ROLLBACK', 'SELECT 1/0'],
      ['COMMIT', 'SELECT 1/0'],
      ['COMMIT AND CHAIN', 'SELECT 1'],
      ['ROLLBACK AND CHAIN', 'SELECT 1'],
    ]) {
      await client.query(
        `BEGIN; ${headers({ 'x-api-key': ada.api_key })}; SELECT api_key.authenticate_request()`
      )
      const { key_id: id, articles, admin } = await value(client, WHO)
      assert.deepEqual([id, articles, admin], [ada.key_id, 2, false])
      await sqlstate(client, text)
      await client.query(end)
      await assertNobody(client, `after ${text}; ${end}`)
      if (/CHAIN/.test(end)) await client.query('COMMIT')
    }
  })

  it('ends when a query is cancelled, or runs out of time', async () => {
    const client = await direct()
    const pid = await value(client, 'SELECT pg_backend_pid()')
    await client.query(`BEGIN; ${act(ada.api_key)}`)
    const cancelled = sqlstate(client, 'SELECT pg_sleep(60), api_key.current_key_id()')
    await until('the query to run', () =>
      value(
        owner,
        `SELECT state = 'active' AND wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1`,
        [pid]
      )
    )
    await owner.query('SELECT pg_cancel_backend($1)', [pid])
    assert.equal(await cancelled, '57014')
    await client.query('ROLLBACK')
    await assertNobody(client, 'after a cancel')
    await client.query(`BEGIN; ${act(ada.api_key)}; SET LOCAL statement_timeout = '20ms'`)
    assert.equal(await sqlstate(client, 'SELECT pg_sleep(60)'), '57014')
    await client.query('ROLLBACK')
    await assertNobody(client, 'after a timeout')
  })

  it('follows savepoints', async () => {
    const client = await direct()
    const [a, b] = [ada.key_id, bob.key_id]
    /** Steps and whom the transaction acts as after each. */
    const script = async (...steps) => {
      await client.query('BEGIN')
      for (const [n, [text, expected]] of steps.entries()) {
        const failed = await sqlstate(client, text)
        if (expected === undefined) continue
        assert.equal(await keyId(client), expected, `${n}: ${text} (${failed})`)
        const claims = JSON.parse(
          await value(client, `SELECT nullif(current_setting('request.jwt.claims', true), '')`)
        )
        assert.equal(claims?.key_id ?? null, expected, `claims after ${n}: ${text}`)
        assert.deepEqual(
          await titles(client),
          expected === a ? ['a1', 'a2'] : expected === b ? ['b1'] : [],
          text
        )
      }
      await client.query('ROLLBACK')
      await assertNobody(client)
    }
    const [A, B] = [act(ada.api_key), act(bob.api_key)]
    await script(['SAVEPOINT s', null], [A, a], ['ROLLBACK TO s', null])
    await script(['SAVEPOINT s', null], [A, a], ['RELEASE s', a])
    await script([A, a], ['SAVEPOINT s', a], [B, b], ['ROLLBACK TO s', a], [B, b], ['RELEASE s', b])
    await script([A, a], [B, b], ['SAVEPOINT s', b], [A, a], [B, b], [A, a], ['ROLLBACK TO s', b])
    await script(
      ['SAVEPOINT s', null],
      [A, a],
      ['SAVEPOINT t', a],
      [B, b],
      ['RELEASE t', b],
      ['ROLLBACK TO s', null]
    )
    await script(
      [A, a],
      ['SAVEPOINT s', a],
      ['SAVEPOINT t', a],
      [B, b],
      ['SAVEPOINT u', b],
      [A, a],
      ['ROLLBACK TO u', b],
      ['RELEASE t', b],
      ['ROLLBACK TO s', a]
    )
    await script([A, a], ['SAVEPOINT s', a], [B, b], ['SELECT 1/0'], ['ROLLBACK TO s', a])
    await script([A, a], ['SAVEPOINT s', a], [act(forged())], ['ROLLBACK TO s', a])
    await script(
      [A, a],
      [
        `DO $$ BEGIN BEGIN ${B.replaceAll('SELECT', 'PERFORM')} RAISE 'x'; EXCEPTION WHEN raise_exception THEN END; END $$`,
        a,
      ],
      [
        `DO $$ BEGIN BEGIN ${B.replaceAll('SELECT', 'PERFORM')} EXCEPTION WHEN raise_exception THEN END; END $$`,
        b,
      ]
    )
  })

  it('survives no COMMIT in a procedure', async () => {
    const client = await direct()
    for (const end of ['COMMIT', 'ROLLBACK']) {
      await client.query(`DO $$ DECLARE before uuid; after uuid; BEGIN
        ${act(ada.api_key).replaceAll('SELECT', 'PERFORM')}
        before := api_key.current_key_id();
        ${end};
        after := api_key.current_key_id();
        PERFORM set_config('test.seen', concat_ws(' ', before, 'then', after), false);
      END $$`)
      assert.equal(await value(client, `SELECT current_setting('test.seen')`), `${ada.key_id} then`)
      await assertNobody(client)
    }
  })

  it('is read into a cursor that is held, and not beyond', async () => {
    const client = await direct()
    await client.query(`BEGIN; ${act(ada.api_key)}; DECLARE held CURSOR WITH HOLD FOR
      SELECT title, api_key.current_key_id() AS key_id, api_key.current_api_key() ->> 'name' AS name FROM app.articles ORDER BY title; COMMIT`)
    await client.query(`BEGIN; ${act(bob.api_key)}`)
    const { rows } = await client.query('FETCH ALL FROM held')
    assert.deepEqual(rows, ['a1', 'a2'].map((title) => ({ title, key_id: ada.key_id, name: 'ada' })))
    await client.query('COMMIT')
    await assertNobody(client)
  })

  it('holds for what is deferred to the commit', async () => {
    const client = await direct()
    await client.query(`BEGIN; ${act(ada.api_key)}; INSERT INTO app.events VALUES (1); COMMIT`)
    assert.equal(await value(owner, `SELECT key_id FROM app.seen WHERE moment = 'commit'`), ada.key_id)
    await assertNobody(client)
  })

  it('is not part of a prepared transaction', async () => {
    const client = await direct()
    await client.query(
      `BEGIN; ${act(ada.api_key)}; INSERT INTO app.articles VALUES ('a3'); PREPARE TRANSACTION 'x'`
    )
    await assertNobody(client, 'after PREPARE TRANSACTION')
    await client.query(`COMMIT PREPARED 'x'`)
    await assertNobody(client, 'after COMMIT PREPARED')
    assert.equal(await value(owner, `SELECT key_id FROM app.articles WHERE title = 'a3'`), ada.key_id)
    await owner.query(`DELETE FROM app.articles WHERE title = 'a3'`)
  })

  it('is what a plan made under another key goes by', async () => {
    const client = await direct()
    await client.query(`SET plan_cache_mode = force_generic_plan; PREPARE q AS SELECT title FROM app.articles;
      CREATE FUNCTION pg_temp.q() RETURNS SETOF app.articles LANGUAGE plpgsql STABLE AS 'BEGIN RETURN QUERY SELECT * FROM app.articles; END'`)
    const named = { name: 'articles', text: 'SELECT title FROM app.articles' }
    const every = async () => [
      await titles(client, 'EXECUTE q'),
      await titles(client, named),
      await titles(client, 'SELECT title FROM pg_temp.q()'),
    ]
    for (let round = 0; round < 7; round++) {
      for (const [key, expected] of [[ada.api_key, ['a1', 'a2']], [bob.api_key, ['b1']], [null, []]]) {
        await client.query('BEGIN')
        if (key) await client.query(act(key))
        assert.deepEqual(await every(), Array(3).fill(expected))
        await client.query('COMMIT')
      }
      await client.query(`BEGIN; ${act(ada.api_key)}`)
      assert.deepEqual(await every(), Array(3).fill(['a1', 'a2']))
      await client.query(act(bob.api_key))
      assert.deepEqual(await every(), Array(3).fill(['b1']))
      await client.query('COMMIT')
    }
  })

  it('is known in no parallel worker, and policies that ask for it run where it is', async () => {
    const client = await direct()
    await owner.query(`CREATE TABLE app.many AS SELECT g AS id, CASE g % 3 WHEN 0 THEN '${ada.key_id}'::uuid ELSE '${bob.key_id}' END AS key_id
        FROM generate_series(1, 30000) AS g; ANALYZE app.many; ALTER TABLE app.many ENABLE ROW LEVEL SECURITY; GRANT SELECT ON app.many TO authenticated;
      CREATE POLICY readers ON app.many USING (key_id = api_key.current_key_id() AND api_key.has_scope('articles:read'))`)
    const version = Number(await value(owner, 'SHOW server_version_num'))
    const force = version >= 160000 ? 'debug_parallel_query' : 'force_parallel_mode'
    for (const forced of ['off', 'on', 'regress']) {
      await client.query(`SET ${force} = ${forced}; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
        SET max_parallel_workers_per_gather = 2`)
      for (const [key, count] of [[ada, '10000'], [bob, '20000']]) {
        await client.query(`BEGIN; ${act(key.api_key)}`)
        assert.equal(await value(client, 'SELECT count(*) FROM app.many'), count)
        const { rows } = await client.query(
          'SELECT DISTINCT app.mislabelled() AS id FROM generate_series(1, 100)'
        )
        for (const { id } of rows) assert.ok([null, key.key_id].includes(id))
        await client.query('COMMIT')
      }
      assert.equal(await value(client, 'SELECT count(*) FROM app.many'), '0')
    }
  })

  it('stays with its client where many share one backend of PgBouncer', async () => {
    const clients = await Promise.all(Array.from({ length: 6 }, pooled))
    const pids = new Set()
    await Promise.all(clients.map(async (client, n) => {
      const [mine, count] = [[ada, 2], [bob, 1], [null, 0]][n % 3]
      for (let round = 0; round < 25; round++) {
        await client.query('BEGIN; SET LOCAL ROLE authenticated')
        if (mine) await client.query(act(mine.api_key).replaceAll(', false)', ', true)'))
        const { key_id: id, articles } = await value(client, WHO)
        assert.deepEqual([id, articles], [mine?.key_id ?? null, count])
        pids.add(await value(client, 'SELECT pg_backend_pid()'))
        if (round % 3 === 0) await sqlstate(client, 'SELECT 1/0')
        await client.query(round % 2 ? 'COMMIT' : 'ROLLBACK')
        if (round % 5 === 0)
          assert.equal(
            await keyId(client).catch(({ code }) => code),
            '42501',
            'authenticator inherits nothing'
          )
      }
    }))
    assert.equal(pids.size, 1)
    // A client that goes away in its transaction leaves nobody behind.
    await clients[0].query(`BEGIN; SET LOCAL ROLE authenticated; ${act(ada.api_key)}`)
    clients[0].connection.stream.destroy()
    await clients[1].query('BEGIN; SET LOCAL ROLE authenticated')
    await assertNobody(clients[1])
    await clients[1].query('COMMIT')
  })

  it('is each request\'s own where PostgREST has one connection', async () => {
    const one = await gate(cluster, 'one', { 'api_key.key_roles': 'robots' }, { 'db-pool': 1 })
    const [first, second, robot, gone] =
      [await one.issue(), await one.issue(), await one.issue({ p_scopes: ['articles:*'] }), await one.issue()]
    await call(one.db, 'set_api_key_role', { p_key_id: robot.key_id, p_role: 'robots' })
    await call(one.db, 'revoke_api_key', { p_key_id: gone.key_id })
    const kinds = [
      { key: first, role: 'authenticated' },
      { key: second, role: 'authenticated' },
      { key: robot, role: 'robots' },
      { role: 'anon' },
      { key: gone, status: 401 },
      { path: '/rpc/fail', key: first, status: 400 },
    ]
    await Promise.all(Array.from({ length: 240 }, async (_, n) => {
      const { key, role, status, path = '/rpc/identity' } = kinds[n % kinds.length]
      const answer = await one.ask('POST', path, { key: key?.api_key, body: {} })
      if (status) return assert.equal(answer.status, status, answer.text)
      const { role: as, key_id: id, claims } = admitted(answer).body
      assert.deepEqual([as, id, claims?.key_id ?? null], [role, key?.key_id ?? null, key?.key_id ?? null])
    }))
  })

  it('keeps its key when a request passes the gate again without one, even if claims are trusted', async () => {
    const name = 'trusting'
    await application(cluster, name).then((db) =>
      db.query(`ALTER DATABASE ${name} SET api_key.trust_token_claims = on`)
    )
    const admin = await cluster.connect(name)
    const key = await call(admin, 'issue_api_key', {
      p_user_id: randomUUID(),
      p_tier: 'pro',
      p_scopes: ['articles:read'],
    })
    const client = await cluster.connect(name, 'authenticator')
    await client.query(
      `BEGIN; SET LOCAL ROLE authenticated; ${act(key.api_key)} SELECT api_key.authenticate_request()`
    )
    assert.equal(await keyId(client), key.key_id)
    assert.equal(await sqlstate(client, 'SELECT api_key.issue_api_key()'), '42501')
  })

  it('leaves to procedures that COMMIT what was passed to them', async () => {
    const client = await direct()
    await owner.query(`CREATE PROCEDURE app.long(key jsonb, id uuid, scopes text[], other text) LANGUAGE plpgsql AS $$ BEGIN
      COMMIT;
      -- What was freed is used again by now.
      FOR n IN 1..50 LOOP
        PERFORM set_config('request.headers', json_build_object('x-api-key', other)::text, false);
        PERFORM api_key.authenticate_request();
      END LOOP;
      PERFORM set_config('test.seen', concat_ws(' ', key ->> 'name', id, scopes), false);
    END $$`)
    await client.query(`SELECT set_config('test.ada', $1, false), set_config('test.bob', $2, false)`, [
      ada.api_key,
      bob.api_key,
    ])
    await client.query(`DO $$ BEGIN
      PERFORM set_config('request.headers', json_build_object('x-api-key', current_setting('test.ada'))::text, false);
      PERFORM api_key.authenticate_request();
      CALL app.long(api_key.current_api_key(), api_key.current_key_id(), api_key.current_scopes(), current_setting('test.bob'));
    END $$`)
    assert.equal(await value(client, `SELECT current_setting('test.seen')`), `ada ${ada.key_id} {articles:*}`)
  })
})
