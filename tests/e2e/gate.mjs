// What the tests of the gate share: an application behind it, and requests as they are on the wire.

import assert from 'node:assert/strict'
import { Agent, request as send } from 'node:http'
import { randomUUID } from 'node:crypto'
import { call } from './harness.mjs'

/** Hashes that cost nothing, and a worker that writes only when it is told to. */
export const CHEAP = {
  'api_key.argon2_memory_kib': 64, 'api_key.argon2_iterations': 1, 'api_key.flush_interval': 3600 }

/** PostgREST as the gate wants it. */
export const CONFIG = { 'db-schemas': 'app, api_key', 'db-pre-request': 'api_key.authenticate_request' }

// Policies and functions as an application has them that knew only tokens; `articles` and
// `publish` are those of one that knows keys.
const APPLICATION = `
  CREATE SCHEMA app;
  CREATE FUNCTION app.uid() RETURNS uuid LANGUAGE sql STABLE AS
    $$ SELECT (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
  CREATE FUNCTION app.tenant() RETURNS uuid LANGUAGE sql STABLE AS
    $$ SELECT (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'tenant_id')::uuid $$;
  CREATE TABLE app.documents (title text, owner uuid DEFAULT app.uid());
  CREATE POLICY owners ON app.documents USING (owner = app.uid());
  CREATE TABLE app.invoices (title text, tenant uuid DEFAULT app.tenant());
  CREATE POLICY tenants ON app.invoices USING (tenant = app.tenant());
  CREATE TABLE app.articles (title text, key_id uuid DEFAULT api_key.current_key_id());
  CREATE POLICY readers ON app.articles FOR SELECT
    USING (key_id = api_key.current_key_id() AND api_key.has_scope('articles:read'));
  CREATE POLICY writers ON app.articles FOR INSERT WITH CHECK (api_key.has_scope('articles:write'));
  ALTER TABLE app.documents ENABLE ROW LEVEL SECURITY;
  ALTER TABLE app.invoices ENABLE ROW LEVEL SECURITY;
  ALTER TABLE app.articles ENABLE ROW LEVEL SECURITY;
  CREATE FUNCTION app.identity() RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('role', current_user, 'key_id', api_key.current_key_id(),
      'user_id', api_key.current_user_id(), 'tenant_id', api_key.current_tenant_id(),
      'scopes', api_key.current_scopes(), 'key', api_key.current_api_key(),
      'claims', nullif(current_setting('request.jwt.claims', true), '')::jsonb) $$;
  CREATE FUNCTION app.settings() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT string_agg(name || '=' || setting, E'\\n') || current_setting('request.headers')
      || current_setting('request.jwt.claims', true) || current_query() FROM pg_settings $$;
  CREATE FUNCTION app.publish() RETURNS text LANGUAGE plpgsql STABLE AS $$
    BEGIN PERFORM api_key.require_scope('articles:write', 'articles:publish'); RETURN 'published'; END $$;
  CREATE FUNCTION app.fail() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;`

/** An application in a new database, with its roles. */
export async function application(cluster, name) {
  await cluster.database(name)
  const db = await cluster.connect(name)
  await db.query(`SELECT api_key.setup_postgrest(p_create_roles => true)`)
  await db.query(`DO $$ BEGIN
    IF to_regrole('robots') IS NULL THEN CREATE ROLE robots; GRANT robots TO authenticator; END IF; END $$`)
  await db.query(APPLICATION)
  await db.query(`GRANT USAGE ON SCHEMA app TO anon, authenticated, service_role, robots;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO anon, authenticated, service_role, robots;
    GRANT USAGE ON SCHEMA api_key TO robots;
    GRANT EXECUTE ON FUNCTION api_key.current_key_id(), api_key.current_user_id(), api_key.current_tenant_id(),
      api_key.current_scopes(), api_key.current_api_key(), api_key.has_scope(text) TO robots;
    SELECT api_key.define_tier('pro')`)
  return db
}

/** An application with settings of its own, and the gate in front of it; `another` starts another PostgREST, maybe on a standby. */
export async function gate(cluster, name, settings = {}, config = {}) {
  let db = await application(cluster, name)
  for (const [setting, value] of Object.entries(settings)) {
    await db.query(`ALTER DATABASE ${name} SET ${setting} = '${value}'`)
  }
  db = await cluster.connect(name) // With the settings.
  const agent = new Agent({ keepAlive: true, maxSockets: 64 })
  const start = async (server = cluster, more = {}) =>
    behind(db, await server.postgrest(name, { ...CONFIG, ...config, ...more }), agent)
  return { ...await start(), another: start }
}

function behind(db, server, agent) {
  return {
    db,
    server,
    /** Issues a key of a tier without limits. */
    issue: (args = {}) => call(db, 'issue_api_key', { p_user_id: randomUUID(), p_tier: 'pro', ...args }),
    /** A request; `headers` as node:http takes them, a list for a header that is repeated. */
    ask: (method, path, { key, headers = {}, body } = {}) =>
      ask(
        agent,
        method,
        new URL(server.url).port,
        path,
        { ...(key === undefined ? {} : { 'X-API-Key': key }), ...headers },
        body
      ),
  }
}

function ask(agent, method, port, path, headers, body) {
  const content = body === undefined ? {} : { 'Content-Type': 'application/json' }
  return new Promise((resolve, reject) => {
    const request = send(
      { agent, method, host: '127.0.0.1', port, path, headers: { ...content, ...headers } },
      (response) => {
        let text = ''
        response
          .setEncoding('utf8')
          .on('data', (part) => {
            text += part
          })
          .on('end', () => {
            const isJson = text !== '' && /json/.test(response.headers['content-type'])
            resolve({
              raw: response.rawHeaders,
              status: response.statusCode,
              headers: response.headers,
              text,
              body: isJson ? JSON.parse(text) : text,
            })
          })
      }
    )
    request.on('error', reject).end(body === undefined ? undefined : JSON.stringify(body))
  })
}

/** Every kind of request that reads or writes: what is refused is refused in each. */
export const REQUESTS = [
  ['GET', '/documents'],
  ['HEAD', '/documents'],
  ['POST', '/documents', { title: 'x' }],
  ['PATCH', '/documents?title=eq.x', { title: 'y' }],
  ['DELETE', '/documents?title=eq.x'],
  ['GET', '/rpc/identity'],
  ['HEAD', '/rpc/identity'],
  ['POST', '/rpc/identity', {}],
  ['GET', '/'],
  ['GET', '/no_such_table'],
]

/** Asserts that a request was let in. */
export function admitted(answer) {
  assert.ok(answer.status < 300, `${answer.status} ${answer.text}`)
  return answer
}
