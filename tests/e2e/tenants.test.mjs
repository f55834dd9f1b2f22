// Two tenants, generated data, every verb on every row: no row of the other tenant is ever read,
// counted, changed, referred to or revealed by an answer. The other tenant's row and one that is
// not there are asked for with the same requests, and get the same answers, byte for byte.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { before, describe, it } from 'node:test'
import { call, issue, until, useCluster, value } from './harness.mjs'

const AUTHORS = 3
const BOOKS = 4
const REVIEWS = 4

const SCHEMA = `
  CREATE ROLE app_owner;
  CREATE SCHEMA app AUTHORIZATION app_owner;
  GRANT USAGE ON SCHEMA app TO anon, authenticated;
  GRANT USAGE ON SCHEMA api_key TO app_owner;
  GRANT EXECUTE ON FUNCTION api_key.current_tenant_id() TO app_owner;
  SET ROLE app_owner;
  CREATE TABLE app.authors (
    id bigint GENERATED ALWAYS AS IDENTITY (START 5000000) PRIMARY KEY,
    tenant_id uuid NOT NULL, name text NOT NULL, UNIQUE (tenant_id, name));
  CREATE TABLE app.books (
    tenant_id uuid NOT NULL, isbn text, title text NOT NULL,
    author_id bigint REFERENCES app.authors ON DELETE CASCADE, PRIMARY KEY (tenant_id, isbn));
  CREATE TABLE app.reviews (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id uuid NOT NULL, isbn text NOT NULL,
    parent_id uuid REFERENCES app.reviews, body text,
    FOREIGN KEY (tenant_id, isbn) REFERENCES app.books ON UPDATE CASCADE ON DELETE CASCADE);
  CREATE TABLE app.documents (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id uuid NOT NULL, owner_id uuid NOT NULL,
    published boolean NOT NULL DEFAULT false, body text);
  CREATE VIEW app.shelf WITH (security_invoker = true) AS
    SELECT b.isbn, b.title, a.name AS author FROM app.books AS b JOIN app.authors AS a ON a.id = b.author_id;
  CREATE FUNCTION app.author_name(p_id bigint) RETURNS text LANGUAGE sql STABLE AS
    'SELECT name FROM app.authors WHERE id = p_id';
  CREATE FUNCTION app.author_name_as_owner(p_id bigint) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER AS
    'SELECT name FROM app.authors WHERE id = p_id';
  CREATE FUNCTION app.rename_author(p_id bigint, p_name text) RETURNS SETOF app.authors LANGUAGE sql AS
    'UPDATE app.authors SET name = p_name WHERE id = p_id RETURNING *';
  CREATE FUNCTION app.rename_author_as_owner(p_id bigint, p_name text) RETURNS SETOF app.authors LANGUAGE sql SECURITY DEFINER AS
    'UPDATE app.authors SET name = p_name WHERE id = p_id RETURNING *';
  CREATE FUNCTION app.add_book(p_author bigint) RETURNS text LANGUAGE sql SECURITY DEFINER AS
    $$INSERT INTO app.books (isbn, title, author_id) VALUES ('rpc', 'rpc', p_author) RETURNING isbn$$;
  CREATE FUNCTION app.edit_document(p_id uuid, p_body text) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
      PERFORM api_key.require_authorization('document', p_id::text, 'update');
      UPDATE app.documents SET body = p_body WHERE id = p_id;
    END $$;
  GRANT SELECT, INSERT, UPDATE, DELETE ON app.authors, app.books TO authenticated, anon;
  GRANT SELECT, DELETE, INSERT (tenant_id, isbn, parent_id, body), UPDATE (tenant_id, isbn, parent_id, body)
    ON app.reviews TO authenticated, anon;
  GRANT SELECT, DELETE, INSERT (tenant_id, owner_id, published, body), UPDATE (tenant_id, owner_id, published, body)
    ON app.documents TO authenticated, anon;
  GRANT SELECT ON app.shelf TO authenticated, anon;
  RESET ROLE;
  CREATE SCHEMA kept;`

const TABLES = ['authors', 'books', 'reviews']

describe('two tenants', () => {
  let owner, url, tenants, results

  useCluster({ 'api_key.argon2_memory_kib': 1024 }, async (cluster) => {
    await cluster.database('app')
    owner = await cluster.connect('app')
    await owner.query('SELECT api_key.setup_postgrest(p_create_roles => true)')
    await owner.query(SCHEMA)
    tenants = [await populate('amber'), await populate('birch')]
    for (const table of TABLES) await owner.query(`CREATE TABLE kept.${table} AS TABLE app.${table}`)
    results = {}
    for (const table of TABLES) {
      results[table] = await value(owner, 'SELECT api_key.isolate_tenants($1::text::regclass)', [
        `app.${table}`,
      ])
    }
    const server = await cluster.postgrest('app',
      { 'db-schemas': 'app', 'db-pre-request': 'api_key.authenticate_request' })
    url = server.url
  })

  /** A tenant with rows in every table, each with texts that none but this tenant may see. */
  async function populate(name) {
    const id = randomUUID()
    const user = randomUUID()
    const { api_key: key } = await issue(owner, { p_user_id: user, p_tenant_id: id })
    const rows = { authors: [], books: [], reviews: [] }
    const insert = async (table, row) => {
      const columns = Object.keys(row)
      const {
        rows: [inserted],
      } = await owner.query(
        `INSERT INTO app.${table} (tenant_id, ${columns.join(', ')})
        VALUES ('${id}', ${columns.map((_, n) => `$${n + 1}`).join(', ')}) RETURNING *`,
        Object.values(row)
      )
      rows[table].push(inserted)
      return inserted
    }
    for (let n = 0; n < AUTHORS; n++) await insert('authors', { name: `secret-${name}-author-${n}` })
    for (let n = 0; n < BOOKS; n++) {
      await insert('books', {
        isbn: `${randomUUID()}`,
        title: `secret-${name}-title-${n}`,
        author_id: rows.authors[n % AUTHORS].id,
      })
    }
    for (let n = 0; n < REVIEWS; n++) {
      await insert('reviews', {
        isbn: rows.books[n % BOOKS].isbn,
        body: `secret-${name}-review-${n}`,
        parent_id: rows.reviews[0]?.id,
      })
    }
    return { id, name, user, key, rows }
  }

  async function send(key, { method = 'GET', path, body, prefer, accept }) {
    const headers = { 'X-API-Key': key }
    if (prefer) headers.Prefer = prefer
    if (accept) headers.Accept = accept
    if (body !== undefined) headers['Content-Type'] = 'application/json'
    const response = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) })
    const told = [
      'content-range',
      'location',
      'content-type',
      'content-length',
      'www-authenticate',
      'preference-applied',
    ].map((name) => `${name}: ${response.headers.get(name)}`)
    return { status: response.status, told: told.join('\n'), body: await response.text() }
  }

  const contents = (id) =>
    value(
      owner,
      `SELECT jsonb_build_object(${TABLES.map(
        (table) =>
          `'${table}', (SELECT jsonb_agg(to_jsonb(t) ORDER BY t::text) FROM app.${table} AS t WHERE tenant_id = '${id}')`
      )})`
    )

  /** Puts back what a tenant has done to its own rows. */
  async function reset({ id }) {
    await owner.query(`BEGIN;
      ${[...TABLES]
        .reverse()
        .map((table) => `DELETE FROM app.${table} WHERE tenant_id = '${id}';`)
        .join('')}
      ${TABLES.map((table) => `INSERT INTO app.${table} OVERRIDING SYSTEM VALUE SELECT * FROM kept.${table} WHERE tenant_id = '${id}';`).join('')}
      COMMIT`)
  }

  const representation = 'return=representation,count=exact'
  const upsert = (how) => `resolution=${how},return=representation`

  /** Reads, changes and deletes what a filter finds, in every way there is. */
  const verbs = (table, filter, change) => [
    { path: `/${table}?${filter}` },
    { path: `/${table}?${filter}`, accept: 'application/vnd.pgrst.object+json' },
    { path: `/${table}?${filter}`, accept: 'text/csv' },
    { path: `/${table}?${filter}&select=tenant_id`, prefer: 'count=exact' },
    { method: 'HEAD', path: `/${table}?${filter}`, prefer: 'count=exact' },
    { method: 'HEAD', path: `/${table}?${filter}`, prefer: 'count=estimated' },
    { path: `/${table}?or=(${filter.replace('=', '.')},tenant_id.is.null)` },
    { method: 'PATCH', path: `/${table}?${filter}`, body: change, prefer: representation },
    { method: 'PATCH', path: `/${table}?${filter}`, body: change, prefer: 'return=headers-only,count=exact' },
    {
      method: 'PATCH',
      path: `/${table}?${filter}`,
      body: change,
      accept: 'application/vnd.pgrst.object+json',
      prefer: representation,
    },
    { method: 'DELETE', path: `/${table}?${filter}`, prefer: representation },
    { method: 'DELETE', path: `/${table}?${filter}` },
  ]

  /** What `me` may try on a row of `them`, or on one that is not there. */
  const attacks = {
    authors: ({ id, name }, me, them) => [
      ...verbs('authors', `id=eq.${id}`, { name: 'taken' }),
      ...verbs('authors', `name=eq.${name}`, { name: 'taken' }),
      { path: `/authors?id=eq.${id}&select=*,books(*,reviews(*))` },
      { path: `/books?author_id=eq.${id}&select=*,authors!inner(*)`, prefer: 'count=exact' },
      { method: 'PATCH', path: `/authors?id=eq.${id}`, body: { tenant_id: me.id }, prefer: representation },
      { method: 'PATCH', path: `/authors?id=eq.${me.rows.authors[0].id}`, body: { id }, prefer: representation },
      { method: 'PATCH', path: `/authors?id=eq.${me.rows.authors[0].id}`, body: { name }, prefer: representation },
      { method: 'POST', path: '/authors', body: { id, name: 'new' }, prefer: representation },
      { method: 'POST', path: '/authors?columns=name', body: { id, name }, prefer: representation.replace(',count=exact', '') },
      { method: 'POST', path: '/authors', body: { tenant_id: them.id, name }, prefer: upsert('merge-duplicates') },
      { method: 'POST', path: '/authors?on_conflict=tenant_id,name', body: { tenant_id: them.id, name }, prefer: upsert('merge-duplicates') },
      { method: 'POST', path: '/authors?on_conflict=tenant_id,name', body: { tenant_id: them.id, name }, prefer: upsert('ignore-duplicates') },
      { method: 'POST', path: '/books', body: { isbn: 'new', title: 'new', author_id: id }, prefer: representation },
      { method: 'POST', path: '/books?select=*,authors(*)', body: { isbn: 'new', title: 'new', author_id: id }, prefer: representation },
      { method: 'POST', path: '/books', body: [{ isbn: 'good', title: 'new', author_id: me.rows.authors[0].id }, { isbn: 'new', title: 'new', author_id: id }] },
      { method: 'POST', path: '/books', body: { isbn: me.rows.books[0].isbn, title: 'new', author_id: id }, prefer: upsert('merge-duplicates') },
      { method: 'PATCH', path: `/books?isbn=eq.${me.rows.books[0].isbn}`, body: { author_id: id }, prefer: representation },
      { method: 'PATCH', path: '/books', body: { author_id: id }, prefer: representation },
      { method: 'PUT', path: `/books?tenant_id=eq.${me.id}&isbn=eq.${me.rows.books[0].isbn}`,
        body: { tenant_id: me.id, isbn: me.rows.books[0].isbn, title: 'new', author_id: id }, prefer: representation },
      { path: `/rpc/author_name?p_id=${id}` },
      { path: `/rpc/author_name_as_owner?p_id=${id}` },
      { method: 'POST', path: '/rpc/author_name_as_owner', body: { p_id: id } },
      { method: 'POST', path: '/rpc/rename_author', body: { p_id: id, p_name: 'taken' }, prefer: 'count=exact' },
      { method: 'POST', path: '/rpc/rename_author_as_owner', body: { p_id: id, p_name: 'taken' }, prefer: 'count=exact' },
      { method: 'POST', path: '/rpc/rename_author?select=*,books(*)', body: { p_id: id, p_name: 'taken' } },
      { method: 'POST', path: '/rpc/add_book', body: { p_author: id } },
    ],
    books: ({ isbn, title }, me, them) => [
      ...verbs('books', `isbn=eq.${isbn}`, { title: 'taken' }),
      ...verbs('books', `title=eq.${title}`, { title: 'taken' }),
      { path: `/books?isbn=eq.${isbn}&tenant_id=eq.${them.id}&select=*,reviews(*),authors(*)`, prefer: 'count=exact' },
      { path: `/shelf?isbn=eq.${isbn}`, prefer: 'count=exact' },
      { path: `/shelf?title=eq.${title}`, prefer: 'count=exact' },
      { method: 'POST', path: '/books', body: { isbn, title: 'new' }, prefer: representation },
      { method: 'POST', path: '/books', body: { isbn, title: 'new' }, prefer: upsert('merge-duplicates') },
      ...['return=representation', upsert('merge-duplicates'), upsert('ignore-duplicates')].map((prefer) =>
        ({ method: 'POST', path: '/books', body: { tenant_id: them.id, isbn, title: 'new' }, prefer })),
      { method: 'PUT', path: `/books?tenant_id=eq.${them.id}&isbn=eq.${isbn}`, body: { tenant_id: them.id, isbn, title: 'taken' }, prefer: representation },
      { method: 'PUT', path: `/books?tenant_id=eq.${me.id}&isbn=eq.${isbn}`, body: { tenant_id: me.id, isbn, title: 'new' }, prefer: representation },
      { method: 'PATCH', path: `/books?isbn=eq.${me.rows.books[0].isbn}`, body: { isbn }, prefer: representation },
      { method: 'PATCH', path: `/books?isbn=eq.${me.rows.books[0].isbn}`, body: { tenant_id: them.id, isbn }, prefer: representation },
      { method: 'POST', path: '/reviews', body: { isbn, body: 'new' }, prefer: 'return=minimal' },
      { method: 'POST', path: '/reviews', body: { tenant_id: them.id, isbn, body: 'new' }, prefer: representation },
      { method: 'PATCH', path: `/reviews?id=eq.${me.rows.reviews[0].id}`, body: { isbn }, prefer: representation },
    ],
    reviews: ({ id, body }, me, them) => [
      ...verbs('reviews', `id=eq.${id}`, { body: 'taken' }),
      ...verbs('reviews', `body=eq.${body}`, { body: 'taken' }),
      { path: `/reviews?parent_id=eq.${id}&select=*,books(*)`, prefer: 'count=exact' },
      { method: 'POST', path: '/reviews', body: { id, isbn: me.rows.books[0].isbn }, prefer: representation },
      { method: 'POST', path: '/reviews', body: { isbn: me.rows.books[0].isbn, parent_id: id }, prefer: 'return=minimal' },
      { method: 'POST', path: '/reviews', body: { tenant_id: them.id, isbn: me.rows.books[0].isbn, parent_id: id }, prefer: representation },
      { method: 'PATCH', path: `/reviews?id=eq.${me.rows.reviews[0].id}`, body: { parent_id: id }, prefer: representation },
      { method: 'PATCH', path: '/reviews', body: { parent_id: id }, prefer: representation },
    ],
  }

  /** As long as a row of theirs, and nobody's. */
  const absent = {
    authors: (row) => ({
      id: String(9_000_000 + (Number(row.id) % 1000)),
      name: row.name.replace('secret', 'absent'),
    }),
    books: (row) => ({ isbn: randomUUID(), title: row.title.replace('secret', 'absent') }),
    reviews: (row) => ({ id: randomUUID(), body: row.body.replace('secret', 'absent') }),
  }

  /** An answer without what the request itself has named. */
  function stripped({ status, told, body }, row) {
    let text = `${status}\n${told}\n${body}`
    for (const column of ['id', 'name', 'isbn', 'title', 'body']) {
      if (row[column]) text = text.replaceAll(String(row[column]), `<${column}>`)
    }
    // A new row has an id of its own; numbers go up.
    return text.replace(/"id":5\d{6}\b/g, '"id":<new>')
  }

  for (const [mine, theirs] of [[0, 1], [1, 0]]) {
    for (const table of TABLES) {
      it(`are answered otherwise on their own: tenant ${mine} in ${table}`, async () => {
        const [me, them] = [tenants[mine], tenants[theirs]]
        const row = me.rows[table][0]
        const nobodys = absent[table](row)
        const onNobodys = attacks[table](nobodys, me, them)
        for (const [n, { method = 'GET', ...request }] of attacks[table](row, me, me).entries()) {
          const answer = await send(me.key, { method, ...request })
          if (!['GET', 'HEAD'].includes(method)) await reset(me)
          const control = await send(me.key, onNobodys[n])
          if (!['GET', 'HEAD'].includes(method)) await reset(me)
          const found =
            ['GET', 'HEAD'].includes(method) ||
            (request.prefer?.includes('count=exact') && answer.status < 400)
          // What is on its own row is a request that would have told, had it been on another's.
          if (found)
            assert.notEqual(stripped(answer, row), stripped(control, nobodys), `${method} ${request.path}`)
        }
      })

      it(`are apart: tenant ${mine} on every row of tenant ${theirs} in ${table}`, async () => {
        const [me, them] = [tenants[mine], tenants[theirs]]
        const before = await contents(them.id)
        for (const row of them.rows[table]) {
          const nobodys = absent[table](row)
          const onTheirs = attacks[table](row, me, them)
          const onNobodys = attacks[table](nobodys, me, them)
          for (const [n, attack] of onTheirs.entries()) {
            const what = `${attack.method ?? 'GET'} ${attack.path} ${JSON.stringify(attack.body) ?? ''} ${attack.prefer ?? ''}`
            const answer = await send(me.key, attack)
            if (attack.method && attack.method !== 'HEAD') await reset(me)
            const control = await send(me.key, onNobodys[n])
            if (attack.method && attack.method !== 'HEAD') await reset(me)
            assert.equal(stripped(answer, row), stripped(control, nobodys), what)
            assert.ok(answer.status < 500, `${what}: ${answer.status} ${answer.body}`)
            const own = JSON.stringify(attack.body ?? '') + attack.path
            for (const text of secretsOf(them)) {
              assert.ok(own.includes(text) || !answer.body.includes(text), `${what} tells ${text}`)
            }
          }
        }
        assert.deepEqual(await contents(them.id), before)
      })
    }
  }

  const secretsOf = ({ rows }) => [
    ...rows.authors.map((row) => row.name),
    ...rows.books.flatMap((row) => [row.isbn, row.title]),
    ...rows.reviews.flatMap((row) => [row.id, row.body]),
  ]

  it('each see all of their own', async () => {
    for (const me of tenants) {
      for (const table of TABLES) {
        const answer = await send(me.key, { path: `/${table}`, prefer: 'count=exact' })
        const rows = JSON.parse(answer.body)
        assert.equal(rows.length, me.rows[table].length)
        assert.ok(rows.every((row) => row.tenant_id === me.id))
        assert.match(answer.told, new RegExp(`content-range: 0-${rows.length - 1}/${rows.length}\n`))
      }
      assert.equal(JSON.parse((await send(me.key, { path: '/shelf' })).body).length, BOOKS)
    }
  })

  it('change only their own without a filter', async () => {
    const [me, them] = tenants
    const before = await contents(them.id)
    for (const attack of [
      { method: 'PATCH', path: '/authors?id=gt.0', body: { tenant_id: me.id }, prefer: representation },
      { method: 'PATCH', path: '/books', body: { title: 'all' }, prefer: representation },
      // Without reading a column, only the policy of the verb itself holds.
      { method: 'PATCH', path: '/books', body: { title: 'all' } },
      { method: 'DELETE', path: '/reviews', prefer: representation },
      { method: 'DELETE', path: '/reviews' },
      { method: 'DELETE', path: '/authors', prefer: representation },
    ]) {
      const answer = await send(me.key, attack)
      assert.equal(answer.status, attack.prefer ? 200 : 204, answer.body)
      assert.ok(JSON.parse(answer.body || '[]').every((row) => row.tenant_id === me.id))
      await reset(me)
    }
    assert.deepEqual(await contents(them.id), before)
  })

  it('write what is theirs, with the tenant filled in', async () => {
    const [me] = tenants
    const author = JSON.parse(
      (
        await send(me.key, {
          method: 'POST',
          path: '/authors',
          body: { name: 'new' },
          prefer: representation,
        })
      ).body
    )[0]
    assert.equal(author.tenant_id, me.id)
    const book = await send(me.key, {
      method: 'POST',
      path: '/books?select=*,authors(name)',
      body: { isbn: 'new', title: 'new', author_id: author.id },
      prefer: representation,
    })
    assert.equal(book.status, 201, book.body)
    assert.equal(JSON.parse(book.body)[0].authors.name, 'new')
    const [first, second] = [randomUUID(), randomUUID()]
    await owner.query('GRANT INSERT (id) ON app.reviews TO authenticated')
    const tree = await send(me.key, {
      method: 'POST',
      path: '/reviews',
      body: [
        { id: second, isbn: 'new', parent_id: first },
        { id: first, isbn: 'new', parent_id: null },
      ],
    })
    await owner.query('REVOKE INSERT (id) ON app.reviews FROM authenticated')
    assert.equal(tree.status, 201, tree.body)
    await reset(me)
  })

  it('show nothing to requests without a key', async () => {
    for (const table of [...TABLES, 'shelf']) {
      assert.equal(await fetch(`${url}/${table}`).then((answer) => answer.text()), '[]')
    }
  })

  describe('rows of another tenant', () => {
    const refused = ([me, them], author) => [
      { method: 'POST', path: '/authors', body: { tenant_id: them.id, name: 'new' } },
      { method: 'POST', path: '/authors', body: { tenant_id: them.id, name: 'new' }, prefer: 'return=minimal' },
      { method: 'POST', path: '/authors', body: [{ tenant_id: me.id, name: 'good' }, { tenant_id: them.id, name: 'new' }], prefer: representation },
      { method: 'POST', path: '/authors?columns=tenant_id,name', body: { tenant_id: null, name: 'new' } },
      { method: 'POST', path: '/authors?on_conflict=tenant_id,name', body: { tenant_id: them.id, name: 'new' }, prefer: upsert('merge-duplicates') },
      { method: 'POST', path: '/authors?on_conflict=tenant_id,name', body: { tenant_id: them.id, name: 'new' }, prefer: upsert('ignore-duplicates') },
      { method: 'PATCH', path: `/authors?id=eq.${author}`, body: { tenant_id: them.id } },
      { method: 'PATCH', path: '/books', body: { tenant_id: them.id }, prefer: representation },
      { method: 'PUT', path: `/books?tenant_id=eq.${them.id}&isbn=eq.new`, body: { tenant_id: them.id, isbn: 'new', title: 'new' } },
      { method: 'POST', path: '/rpc/add_author', body: { p_tenant: them.id } },
      { method: 'POST', path: '/rpc/add_author_as_owner', body: { p_tenant: them.id } },
    ]

    before(() => owner.query(`SET ROLE app_owner;
      CREATE FUNCTION app.add_author(p_tenant uuid) RETURNS void LANGUAGE sql AS
        $$INSERT INTO app.authors (tenant_id, name) VALUES (p_tenant, 'rpc')$$;
      CREATE FUNCTION app.add_author_as_owner(p_tenant uuid) RETURNS void LANGUAGE sql SECURITY DEFINER AS
        $$INSERT INTO app.authors (tenant_id, name) VALUES (p_tenant, 'rpc')$$;
      RESET ROLE; NOTIFY pgrst, 'reload schema'`))

    it('are refused with 403 and a body that says why, in every way of writing them', async () => {
      const [me] = tenants
      await until(
        'the new functions',
        async () =>
          (await send(me.key, { method: 'POST', path: '/rpc/add_author', body: { p_tenant: me.id } }))
            .status === 204
      )
      await reset(me)
      for (const request of refused(tenants, me.rows.authors[0].id)) {
        const { status, body } = await send(me.key, request)
        assert.equal(status, 403, `${request.method} ${request.path} ${status} ${body}`)
        const { code, message, details, hint } = JSON.parse(body)
        assert.deepEqual([code, message], ['ROW_NOT_ALLOWED', 'This API key may not write such a row.'])
        assert.ok(details && hint)
      }
    })

    it('are refused by PostgreSQL where no key acts, with 401 as ever', async () => {
      const answer = await fetch(`${url}/authors`, {
        method: 'POST',
        body: JSON.stringify({ tenant_id: tenants[0].id, name: 'new' }),
        headers: { 'Content-Type': 'application/json' },
      })
      assert.equal(answer.status, 401)
      assert.equal((await answer.json()).code, '42501')
    })
  })

  it('are told apart by warnings where PostgreSQL cannot keep them apart', () => {
    assert.deepEqual(results.books.unique_without_tenant, [])
    assert.deepEqual(results.reviews.unique_without_tenant.map(({ guessable }) => guessable), [false])
    assert.deepEqual(results.authors.views, [])
  })

  describe('documents of an owner', () => {
    let keys, documents

    before(async () => {
      const [amber, birch] = tenants
      await owner.query(
        `SELECT api_key.define_resource('document', 'app.documents', p_tenant_column => 'tenant_id', p_public_when => 'published')`
      )
      await owner.query(`SELECT api_key.protect_resource('document')`)
      const colleague = randomUUID()
      keys = {
        owner: amber.key,
        colleague: (await issue(owner, { p_user_id: colleague, p_tenant_id: amber.id })).api_key,
        admin: (await issue(owner, { p_tenant_id: amber.id, p_scopes: ['admin'] })).api_key,
        stranger: birch.key,
        foreignAdmin: (await issue(owner, { p_tenant_id: birch.id, p_scopes: ['admin'] })).api_key,
      }
      documents = {}
      for (const published of [false, true]) {
        documents[published ? 'open' : 'secret'] = await value(
          owner,
          `INSERT INTO app.documents (tenant_id, owner_id, published, body)
          VALUES ($1, $2, $3, 'body') RETURNING id`,
          [amber.id, amber.user, published]
        )
      }
      documents.none = randomUUID()
      keys.bound = (
        await issue(owner, {
          p_user_id: amber.user,
          p_tier: 'free',
          p_tenant_id: amber.id,
          p_resource_id: documents.open,
        })
      ).api_key
      keys.owner = (
        await call(owner, 'issue_api_key', { p_user_id: await own(amber), p_tenant_id: amber.id })
      ).api_key
    })

    // The tier that ships has one active key per user: the documents go to a user of their own.
    async function own(tenant) {
      const user = randomUUID()
      await owner.query('UPDATE app.documents SET owner_id = $1 WHERE tenant_id = $2', [user, tenant.id])
      return user
    }

    const edit = async (who, which) =>
      await send(keys[who], {
        method: 'POST',
        path: '/rpc/edit_document',
        body: { p_id: documents[which], p_body: 'edited' },
      })

    it('are 404 to whoever may not read them, and 403 to whoever may only read', async () => {
      const expected = {
        owner: { secret: 204, open: 204, none: 404 },
        admin: { secret: 204, open: 204, none: 404 },
        colleague: { secret: 404, open: 403, none: 404 },
        stranger: { secret: 404, open: 403, none: 404 },
        foreignAdmin: { secret: 404, open: 403, none: 404 },
        bound: { secret: 403, open: 403, none: 403 },
      }
      for (const [who, answers] of Object.entries(expected)) {
        const found = {}
        for (const which of Object.keys(answers)) found[which] = (await edit(who, which)).status
        assert.deepEqual(found, answers, who)
      }
    })

    it('are no different from those that are not there', async () => {
      for (const who of ['colleague', 'stranger', 'foreignAdmin']) {
        assert.deepEqual(await edit(who, 'secret'), await edit(who, 'none'))
        for (const attack of verbs('documents', 'id=eq.ID', { body: 'taken' })) {
          const on = (id) => ({ ...attack, path: attack.path.replace('ID', id) })
          assert.deepEqual(
            await send(keys[who], on(documents.secret)),
            await send(keys[who], on(documents.none)),
            attack.path
          )
        }
      }
      assert.equal(JSON.parse((await edit('colleague', 'secret')).body).code, 'NOT_FOUND')
      assert.equal(JSON.parse((await edit('colleague', 'open')).body).code, 'NOT_ALLOWED')
      assert.equal(JSON.parse((await edit('bound', 'secret')).body).code, 'RESOURCE_MISMATCH')
    })

    it('are not written for somebody else: 403', async () => {
      const post = async (who, body) => {
        const answer = await send(keys[who], {
          method: 'POST',
          path: '/documents',
          body,
          prefer: 'return=minimal',
        })
        return [answer.status, answer.body && JSON.parse(answer.body).code]
      }
      const [amber, birch] = tenants
      const other = { owner_id: randomUUID(), tenant_id: amber.id }
      assert.deepEqual(await post('colleague', other), [403, 'ROW_NOT_ALLOWED'])
      assert.deepEqual(await post('colleague', [other, other]), [403, 'ROW_NOT_ALLOWED'])
      assert.deepEqual(await post('admin', { ...other, tenant_id: birch.id }), [403, 'ROW_NOT_ALLOWED'])
      assert.deepEqual(await post('admin', other), [201, ''])
      const given = await send(keys.admin, {
        method: 'PATCH',
        path: `/documents?id=eq.${documents.secret}`,
        body: { tenant_id: birch.id },
      })
      assert.equal(given.status, 403, given.body)
      await owner.query('DELETE FROM app.documents WHERE owner_id = $1', [other.owner_id])
    })

    it('are read by anyone when they are public, and written by none but owner and admin', async () => {
      for (const who of Object.keys(keys).filter((who) => who !== 'bound')) {
        const rows = JSON.parse((await send(keys[who], { path: '/documents?select=id' })).body).map(
          ({ id }) => id
        )
        const all = ['owner', 'admin'].includes(who)
        assert.deepEqual(
          rows.sort(),
          (all ? [documents.open, documents.secret] : [documents.open]).sort(),
          who
        )
        const { body } = await send(keys[who], {
          method: 'PATCH',
          path: '/documents',
          body: { body: 'x' },
          prefer: representation,
        })
        assert.equal(JSON.parse(body).length, all ? 2 : 0, who)
      }
      assert.equal(JSON.parse(await fetch(`${url}/documents`).then((answer) => answer.text())).length, 1)
    })
  })
})
