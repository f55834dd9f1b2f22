// Statements that call functions with arguments that nobody means, repeatable by their seed.

/** mulberry32 (Tommy Ettinger, 2017): small, and the same everywhere. */
function randomFrom(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** What the role $1 may call. */
export const CATALOG = `
  SELECT p.oid::regproc::text AS name, p.prokind AS kind, p.pronargdefaults AS defaults,
    p.provariadic <> 0 AS variadic, coalesce(p.proargnames, '{}') AS names,
    ARRAY(SELECT jsonb_build_object('name', format_type(t.oid, NULL), 'composite', t.typtype = 'c',
            'array', t.typlen = -1 AND t.typelem <> 0, 'base', format_type(b.oid, NULL))
          FROM unnest(p.proargtypes) WITH ORDINALITY AS a (type, n) JOIN pg_type AS t ON t.oid = a.type
          LEFT JOIN pg_type AS b ON b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
          ORDER BY a.n) AS types
  FROM pg_proc AS p
  WHERE p.pronamespace IN ('api_key'::regnamespace, 'api_key_internal'::regnamespace)
    AND p.prokind IN ('f', 'p') AND has_schema_privilege($1, p.pronamespace, 'USAGE')
    AND has_function_privilege($1, p.oid, 'EXECUTE')
  ORDER BY p.oid::regprocedure::text`

const q = (text) => `'${text.replaceAll("'", "''")}'`

const TEXTS = [
  '', ' ', '*', 'document', 'fuzz', 'free', 'many', 'read', 'update', 'articles:read', 'articles:*',
  'admin', 'fuzz.bare', 'tenant_id', 'id', 'authenticated', 'anon', 'postgres', 'no such thing',
  'md5', 'bcrypt', 'argon2', 'plaintext', 'secret', 'live', 'key', 'client', 'GET', '/rpc/*', 'sk_live_', 'legacy_',
  'any_name', 'jsonb_envelope', 'boolean', 'public', 'reject', 'deactivate_oldest',
  'legacy_no-key', 'd41d8cd98f00b204e9800998ecf8427e',
  '$2b$04$tuvwxyzabcdefghijklmnuabcdefghijklmnopqrstuvwxyz01234', '{bcrypt}$2b$04$', '{md5}', '{', '$', '$argon2id$',
  '$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
  '$argon2id$v=19$m=8,t=1,p=99999$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc',
  '00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '10.0.0.1', '1', '-1', 'true',
  "x'; DROP TABLE fuzz.bare; --", '%s%n%I%L', '\\', '"', '$1', '\u202e\ufffd\u{1f511}', '\u0001\u001b[31m\u007f',
  'SELECT 1', '1 = 1', 'public', 'tags @> \'{a}\'', 'pg_sleep(9) IS NULL', '(SELECT true)',
  'x'.repeat(63), 'x'.repeat(64), 'x'.repeat(512), 'x'.repeat(513),
]
const JSONS = [
  'null', 'true', '0', '-1e400', '""', '[]', '{}', '[[[[]]]]', '{"":""}', '{"name":null}', '{"name":1}',
  '{"scopes":"a"}', '{"scopes":[null,[]]}', '{"expires_at":"infinity"}', '{"allowed_ips":["::/0",null]}',
  '{"metadata":{"a":[1e300]}}', '{"tier":"many","enabled":false}', '{"hash":"hash","prefix":"prefix","user_id":"owner"}',
  '{"hash":"hash"}', '{"hash":"no such column"}', '[{"key_id":"x","count":-1}]', '[{"k":1},{"k":null}]',
  '{"kind":"issued"}', '{"key_id":"ffffffff-ffff-ffff-ffff-ffffffffffff"}',
  '{"usage":[{"key_id":"ffffffff-ffff-ffff-ffff-ffffffffffff","uses":9223372036854775807}]}', '{"sub":"","tenant_id":[]}',
]
const SCALARS = {
  smallint: ['0', '-32768', '32767'],
  integer: ['0', '1', '-1', '2', '2147483647', '-2147483648'],
  bigint: ['0', '1', '-1', '9223372036854775807', '-9223372036854775808', '1700000000000000'],
  numeric: ['0', 'NaN', 'Infinity', '-Infinity', '1e131071', '1e-16383'],
  'double precision': ['0', 'NaN', 'Infinity', '1e308', '-0'],
  boolean: ['true', 'false'],
  uuid: ['00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff',
    'bb9836f5-e2ce-756d-059b-9a4556283bc0'],
  'timestamp with time zone': ['infinity', '-infinity', '294276-12-31 23:59:59.999999+00', '4713-01-01 00:00:00+00 BC',
    'epoch', 'now', 'tomorrow', '2000-01-01 00:00:00+15:59:59'],
  interval: ['0', '1 second', '-1 second', '1 day', '1 microsecond', '178000000 years', '-178000000 years',
    '2147483647 months 2147483647 days', '9223372036854 seconds', '-9223372036854 seconds'],
  inet: ['0.0.0.0/0', '255.255.255.255', '::/0', '::1', '10.0.0.0/8', '::ffff:10.0.0.1', '10.0.0.1/8'],
  oid: ['0', '1', '1259', '2147483648', '4294967295'],
  regclass: ['fuzz.bare', 'fuzz.authors', 'fuzz.parted', 'fuzz.part', 'fuzz.titles', 'fuzz.documents', 'fuzz.old_keys',
    'pg_catalog.pg_class', 'pg_catalog.pg_authid', 'information_schema.tables', 'api_key_internal.keys',
    'api_key.stats', 'api_key_internal.resources_protected', 'pg_toast.pg_toast_1255', '0', '4294967295', '-'],
  name: ['', 'id', 'tenant_id', 'owner_id', 'tags', 'public', 'ctid', 'no such column', 'fuzz', 'pg_catalog', 'pg_temp',
    'authenticated', 'anon', 'service_role', 'postgres', 'pg_read_all_data', 'x'.repeat(200), '"', "a'b"],
  bytea: ['', '\\x00', '\\xff'],
  '"char"': ['', 'r'],
  'api_key.id': ['bb9836f5-e2ce-756d-059b-9a4556283bc0', 'ffffffff-ffff-ffff-ffff-ffffffffffff'],
  cstring: ['', 'bb9836f5-e2ce-756d-059b-9a4556283bc0', 'not a uuid'],
}

/** So many rows of fuzz.specimens have keys that live, the first ones. */
const KEYS = 5

/** Arguments in whose place clients pass a key by mistake. */
const ID = /^p_(key|user|tenant)_id$/

const METHODS = ['GET', 'POST', '', 'get', 'X'.repeat(9000)]
const PATHS = ['/articles', '', '//', '%', '%00', '%ff%fe', '/..%2f', '/a'.repeat(9000)]

export class Generator {
  #random
  #inside = false

  /** @param {{ seed: number, functions: object[], keys: string[], settings: string[] }} options
   *  `keys` are texts of keys that live, `settings` names that may be set. */
  constructor({ seed, functions, keys, settings }) {
    this.#random = randomFrom(seed)
    this.functions = functions
    this.keys = keys
    this.settings = settings
  }

  pick(from) { return from[Math.floor(this.#random() * from.length)] }
  chance(probability) { return this.#random() < probability }
  number(below) { return Math.floor(this.#random() * below) }

  /** A call of each function with NULLs, and one with the arguments of `argument`. */
  * everyFunction() {
    for (const of of this.functions) {
      yield this.#statement(of, of.types.map((type) => `NULL::${type.name}`))
      yield this.#statement(of, this.#arguments(of))
    }
  }

  /** What a session does next: mostly a call, in one of the ways in which one can be made. */
  next() {
    const of = this.pick(this.functions)
    const roll = this.#random()
    if (of.kind === 'p') return this.#statement(of, this.#arguments(of))
    if (roll < 0.40) return this.#statement(of, this.#arguments(of))
    if (roll < 0.50) return this.#perRow(of)
    if (roll < 0.58) return this.#caught(of)
    if (roll < 0.63) return this.#cursor(of)
    if (roll < 0.68) return `PREPARE p AS ${this.#statement(of, this.#arguments(of))}; EXECUTE p; EXECUTE p; DEALLOCATE p`
    if (roll < 0.71) return `EXPLAIN (ANALYZE, TIMING off) ${this.#statement(of, this.#arguments(of))}`
    if (roll < 0.79) return this.#request()
    if (roll < 0.85) return this.#rows()
    if (roll < 0.92) return this.#control()
    return this.#setting()
  }

  /** A call whose arguments are sent apart from it, as bytes of which some are of no encoding. */
  bound() {
    const of = this.pick(this.functions.filter(({ kind }) => kind === 'f'))
    this.#inside = of.name.startsWith('api_key_internal.')
    const bytes = (type, n) => this.pick([null, null, '',
      type.base === 'text' || ID.test(of.names[n]) ? this.#key() : 'no key', Buffer.from([0xff]), Buffer.from('a\0b'),
      Buffer.from([0xed, 0xa0, 0x80]), Buffer.alloc(16), Buffer.alloc(64, 0xff), '{}', '1', '{"":1}', '{NULL}', '{{a},{b}}',
      '[2:3]={a,b}', this.pick(TEXTS).replaceAll('\0', '')])
    return { text: `SELECT ${this.#call(of, of.types.map((type, n) => `$${n + 1}::${type.name}`))}`,
      values: of.types.map(bytes) }
  }

  /** A value for a type as an expression that has it. */
  value(type) {
    const roll = this.#random()
    if (roll < 0.12) return `NULL::${type.name}`
    if (type.composite) return this.#composite(type)
    if (type.array) return `${this.#array(type)}::${type.name}`
    if (/^(text|character varying|bpchar)$/.test(type.base)) return this.#text()
    if (/^jsonb?$/.test(type.base)) return `${this.#json()}::${type.name}`
    const values = SCALARS[type.base]
    if (values) return `${q(this.pick(values))}::${type.name}`
    return this.pick([`''::${type.name}`, `'0'::${type.name}`, `${q(this.pick(SCALARS.uuid))}::${type.name}`])
  }

  /** Only what clients may call gets a key that lives: nobody promises what the insides say of a text. */
  #key() {
    const key = this.#inside ? 'sk_live_0296tiiBb3U904RIpygpjj0123456789ABCDEFGHIJKLMNOPQRSTUV4Sxq7t' : this.pick(this.keys)
    const roll = this.#random()
    if (roll < 0.6) return key
    const at = this.number(key.length)
    return roll < 0.8 ? key.slice(0, at) : `${key.slice(0, at)}${this.pick(['0', 'é', '_', ' '])}${key.slice(at + 1)}`
  }

  #text() {
    const roll = this.#random()
    if (roll < 0.25) return `${q(this.#key())}::text`
    if (roll < 0.33) return `(SELECT kept FROM fuzz.big WHERE n = ${1 + this.number(4)})`
    if (roll < 0.36) return `repeat('sk_live_', ${this.pick([64, 65, 200000])})`
    return `${q(this.pick(TEXTS))}::text`
  }

  #json() {
    const roll = this.#random()
    if (roll < 0.05) return `(repeat('[', ${this.pick([5000, 500])}) || repeat(']', 5000))`
    if (roll < 0.10) return `('{"metadata":"' || repeat('x', ${this.pick([1048576, 10485760, 65536])}) || '"}')`
    return q(this.pick(JSONS))
  }

  #array(type) {
    const element = type.name.replace(/\[\]$/, '')
    const one = () => this.value({ name: element, base: element })
    const roll = this.#random()
    if (roll < 0.15) return `'{}'`
    if (roll < 0.25) return `ARRAY[NULL::${element}]`
    if (roll < 0.40) return `array_fill(${one()}, ARRAY[${this.pick(['2', '2,2', '1,1,1,1,1,1', '0', '70000', '3000,3'])}])`
    if (roll < 0.50) return `array_fill(${one()}, ARRAY[2], ARRAY[${this.pick(['-5', '0', '2147483640'])}])`
    return `ARRAY[${Array.from({ length: 1 + this.number(3) }, one).join(', ')}]`
  }

  #composite({ name }) {
    const roll = this.#random()
    const from = { 'api_key_internal.caller': 'api_key_internal.caller()' }[name] ?? name
    if (roll < 0.5) return `(SELECT c FROM ${from} AS c OFFSET ${this.number(4)} LIMIT 1)`
    const fields = JSON.stringify(Object.fromEntries(
      ['key_id', 'user_id', 'tenant_id', 'type', 'table', 'id_column', 'owner_column', 'scopes', 'secret_hash', 'role', 'name',
        'key_prefix', 'tier', 'metadata'].filter(() => this.chance(0.4))
        .map((field) => [field, this.pick([null, '', 'id', 'document', '{a}', SCALARS.uuid[1]])])))
    return this.chance(0.3) ? `jsonb_populate_record(NULL::${name}, '{}')`
      : `jsonb_populate_record(NULL::${name}, ${q(fields)})`
  }

  #arguments(of) {
    this.#inside = of.name.startsWith('api_key_internal.')
    const least = of.types.length - of.defaults
    const count = this.chance(0.5) ? of.types.length : least + this.number(of.defaults + 1)
    return of.types.slice(0, count).map((type, n) => {
      // As PostgREST passes what a client wrote: without a type.
      if (ID.test(of.names[n]) && this.chance(0.2)) return q(this.#key())
      return this.value(type)
    })
  }

  #call(of, args) {
    const variadic = of.variadic && args.length === of.types.length && this.chance(0.8)
    return `${of.name}(${args.map((argument, n) =>
      (variadic && n === args.length - 1 ? 'VARIADIC ' : '') + argument).join(', ')})`
  }

  #statement(of, args) {
    if (of.kind === 'p') return `CALL ${this.#call(of, args)}`
    return `SELECT ${this.chance(0.15) ? '* FROM ' : ''}${this.#call(of, args)}`
  }

  /** Arguments from a table, so that a plan is run with one row after another, or in parallel. */
  #perRow(of) {
    const columns = { text: 't', name: 'n', jsonb: 'j', uuid: 'u', 'api_key.id': 'u', integer: 'i', bigint: 'b', inet: 'ip', interval: 'iv',
      'timestamp with time zone': 'ts', 'text[]': 'ta', 'uuid[]': 'ua', 'inet[]': 'ia', 'bigint[]': 'ba',
      'name[]': 'na', regclass: 'rc', oid: 'o', boolean: 'f' }
    this.#inside = of.name.startsWith('api_key_internal.')
    const args = of.types.map((type) => columns[type.name] ? `s.${columns[type.name]}` : this.value(type))
    const from = this.#inside ? KEYS + this.number(4) : this.number(9)
    return `SELECT ${this.#call(of, args)} FROM (SELECT * FROM fuzz.specimens OFFSET ${from} LIMIT 2) AS s`
  }

  /** In a subtransaction, that is rolled back when the call fails. */
  #caught(of) {
    const perform = this.#statement(of, this.#arguments(of)).replace(/^SELECT/, 'PERFORM')
    return `DO $do$ BEGIN ${perform}; EXCEPTION WHEN internal_error THEN RAISE; WHEN OTHERS THEN NULL; END $do$`
  }

  #cursor(of) {
    const options = this.pick(['', 'SCROLL', 'BINARY', 'INSENSITIVE'])
    const hold = this.pick(['', 'WITH HOLD'])
    return `BEGIN; DECLARE c ${options} CURSOR ${hold} FOR ${this.#statement(of, this.#arguments(of))
    }; FETCH 1 c; FETCH 1 c; ${this.pick(['COMMIT', 'ROLLBACK', 'CLOSE c; COMMIT'])}`
  }

  /** A request as PostgREST begins it. */
  #request() {
    this.#inside = false
    const headers = this.pick([
      { 'x-api-key': this.#key() }, { 'X-API-Key': this.#key(), apikey: 'b' }, { 'x-forwarded-for': '10.0.0.1, ::1' }, {},
      { 'x-api-key': 'a\u0000b' }, { 'x-api-key': ['a'] }, [], null, { 'x-api-key': 'x'.repeat(70000) }])
    const claims = this.pick([{ sub: SCALARS.uuid[2], role: 'authenticated', tenant_id: SCALARS.uuid[0] }, { sub: 1 }, [], null,
      { sub: 'x', scopes: ['admin', null, 'a\u0000'], tier: {} }, { role: 'no such role', sub: SCALARS.uuid[1] }])
    const broken = (value) => this.chance(0.15) ? this.pick(['', '{', 'nul', '{"a":"\ud83d"}', '[1,', '{"a":1e999999}', '"\u0001"'])
      : JSON.stringify(value)
    const set = (name, value) => `set_config('${name}', ${q(value)}, true)`
    return `BEGIN${this.pick(['', ' READ ONLY', ' ISOLATION LEVEL SERIALIZABLE'])}; SELECT ${[
      set('request.headers', broken(headers)), set('request.jwt.claims', broken(claims)),
      set('request.method', this.pick(METHODS)), set('request.path', this.pick(PATHS))].join(', ')
    }; SELECT api_key.authenticate_request()`
  }

  /** What policies and references of ours look at. */
  #rows() {
    const table = this.pick(['authors', 'books', 'documents', 'parted', 'part', 'bare'])
    const id = table === 'documents' ? `${q(this.pick(SCALARS.uuid))}::uuid` : String(this.number(9) - 1)
    const tenant = this.value({ name: 'uuid', base: 'uuid' })
    return this.pick([
      `SELECT count(*) FROM fuzz.${table}`, `SELECT * FROM fuzz.${table} WHERE id = ${id} FOR UPDATE`,
      `UPDATE fuzz.${table} SET tenant_id = ${tenant} WHERE id = ${id}`, `DELETE FROM fuzz.${table} WHERE id = ${id} RETURNING *`,
      `INSERT INTO fuzz.${table} (id, tenant_id) VALUES (${id}, ${tenant}) ON CONFLICT DO NOTHING`,
      `INSERT INTO fuzz.books SELECT ${this.number(99)}, ${tenant}, NULL, ${this.pick(['NULL', '1', '2', '-1'])}`,
      `UPDATE fuzz.books SET author_id = ${this.pick(['NULL', '1', '2', '-1'])}`, `TRUNCATE fuzz.${table}`,
      `UPDATE fuzz.authors SET id = ${this.number(99)} WHERE id = ${this.number(9)}`,
    ])
  }

  #control() {
    return this.pick(['BEGIN', 'BEGIN READ ONLY', 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'COMMIT', 'ROLLBACK', 'COMMIT',
      'ROLLBACK', 'SAVEPOINT s', 'ROLLBACK TO s', 'RELEASE s', 'COMMIT AND CHAIN', 'DISCARD ALL', 'SET CONSTRAINTS ALL IMMEDIATE',
      ...['anon', 'authenticated', 'service_role', 'fuzz_owner', 'none'].map((role) => `SET ROLE ${role}`), 'RESET ROLE',
      'SET LOCAL ROLE anon', 'RESET ALL', "SELECT pg_cancel_backend(pg_backend_pid())"])
  }

  #setting() {
    if (this.chance(0.5)) return this.pick(['SET force_parallel_mode = on', 'SET debug_parallel_query = on',
      'RESET force_parallel_mode', 'RESET debug_parallel_query',
      'SET enable_indexscan = off', 'SET enable_seqscan = off', "SET search_path = ''", 'SET search_path = fuzz, pg_temp',
      'SET row_security = off', "SET DateStyle = 'German'", "SET IntervalStyle = 'iso_8601'", "SET TimeZone = 'Asia/Kathmandu'",
      "SET client_encoding = 'LATIN1'", "SET client_encoding = 'UTF8'", 'SET quote_all_identifiers = on', 'SET jit_above_cost = 0',
      'SET default_transaction_read_only = on', 'SET work_mem = 64', "SET plan_cache_mode = 'force_generic_plan'",
      'SET backslash_quote = off', 'SET extra_float_digits = -15', 'SET statement_timeout = 1', 'RESET statement_timeout'])
    return `SET ${this.pick(this.settings)} = ${q(this.pick(['', '0', '1', '-1', '64', 'on', 'off', 'X-API-Key', 'X-A,,x-a, ', '"',
      'authenticated', 'no such role', 'x'.repeat(5000)]))}`
  }
}

/** What a superuser may do to our tables without taking from them: all has to work on. */
export const ADDITIONS = (tables) => tables.flatMap((table) => [
  `ALTER TABLE ${table} ADD COLUMN fuzz_one text`,
  `ALTER TABLE ${table} ADD COLUMN fuzz_two integer DEFAULT 7`,
  `ALTER TABLE ${table} ADD COLUMN fuzz_gone text, ADD COLUMN fuzz_three jsonb DEFAULT '{}'`,
  `ALTER TABLE ${table} DROP COLUMN fuzz_gone`,
  `VACUUM FULL ${table}`,
  `ALTER TABLE ${table} SET (fillfactor = 10)`,
  `CREATE INDEX ON ${table} (fuzz_two)`,
])

/** Takes away what keeps a superuser from breaking our tables: views, and checks of types. */
export const UNGUARD = `DO $do$
  DECLARE
    v_statement text;
  BEGIN
    FOR v_statement IN
      SELECT format('ALTER EXTENSION api_key DROP VIEW %s', oid::regclass) FROM pg_class
      WHERE relkind = 'v' AND relnamespace IN ('api_key'::regnamespace, 'api_key_internal'::regnamespace)
      UNION ALL
      SELECT format('DROP VIEW IF EXISTS %s CASCADE', oid::regclass) FROM pg_class
      WHERE relkind = 'v' AND relnamespace IN ('api_key'::regnamespace, 'api_key_internal'::regnamespace)
      UNION ALL
      SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) FROM pg_constraint
      WHERE contype = 'c' AND connamespace = 'api_key_internal'::regnamespace
    LOOP
      BEGIN
        EXECUTE v_statement;
      EXCEPTION WHEN dependent_objects_still_exist THEN NULL;
      END;
    END LOOP;
  END $do$`

/** What breaks them, as a later version may with this library loaded: the server has to stay up. */
export const DAMAGE = (columns) => columns.flatMap(({ table, column }) => [
  `ALTER TABLE ${table} DROP COLUMN "${column}" CASCADE`,
  `ALTER TABLE ${table} RENAME COLUMN "${column}" TO fuzz_renamed`,
  ...["bigint USING 7", "text USING 'zzzzzzzzzzzzzzzzzzzzzz'", "bytea USING 'x'"].map((type) =>
    `ALTER TABLE ${table} ALTER COLUMN "${column}" DROP DEFAULT, ALTER COLUMN "${column}" TYPE ${type}`),
])
