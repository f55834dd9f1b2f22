// What the gate costs a request of PostgREST, what identity costs in a policy, and a rate limit.

import { interleave, least, median, number, ratio, say } from './measure.mjs'
import { httpRate, startPostgREST } from './postgrest.mjs'

const ROWS = 1_000_000
const TENANT = '00000000-0000-4000-8000-0000000000a1'

export async function gate({ server, report, options }) {
  const { rounds, seconds, clients } = options
  const database = 'gate'
  await server.createDatabase(database)
  const key = await server.sql(database, `
    SELECT api_key.setup_postgrest(p_create_roles => true);
    SELECT api_key.issue_api_key(gen_random_uuid(), p_tier => 'bench', p_scopes => '{articles:read}',
      p_tenant_id => '${TENANT}') ->> 'api_key';`)
  await throughPostgREST({ server, report, database, key: key.trim(), rounds, seconds })
  await inPolicies({ server, report, database, key: key.trim(), rounds })
  await rateLimit({ server, report, database, rounds, seconds, clients })
}

async function throughPostgREST({ server, report, database, key, rounds, seconds }) {
  await server.sql(database, `
    CREATE TABLE public.articles (id integer PRIMARY KEY, body text);
    INSERT INTO public.articles SELECT n, 'Article ' || n FROM generate_series(1, 1000) AS n;
    GRANT SELECT ON public.articles TO anon, authenticated;
    CREATE FUNCTION public.nothing() RETURNS void LANGUAGE plpgsql AS 'BEGIN END';`)
  const plain = await startPostgREST(server, 'plain', database)
  // What PostgREST takes to call any function first: one more exchange with the database.
  const empty = await startPostgREST(server, 'empty', database, { 'db-pre-request': 'public.nothing' })
  const gated = await startPostgREST(server, 'gated', database,
    { 'db-pre-request': 'api_key.authenticate_request' })
  const load = ({ url }) => () => httpRate(`${url}/articles?id=eq.500`,
    { seconds, connections: 8, headers: { 'X-API-Key': key } })
  const contenders = { plain, empty, gated }
  for (const contender of Object.values(contenders)) await load(contender)()
  const results = await interleave(rounds,
    Object.fromEntries(Object.entries(contenders).map(([name, contender]) => [name, load(contender)])))
  for (const contender of Object.values(contenders)) contender.stop()
  report.row('PostgREST, GET of one row, without the gate', `${number(median(results.plain))}/s`)
  report.row('PostgREST, GET of one row, with an empty db-pre-request', `${number(median(results.empty))}/s`,
    ratio(results.empty, results.plain))
  report.row('PostgREST, GET of one row, with the gate, against the empty db-pre-request', '',
    ratio(results.gated, results.empty))
  report.row('PostgREST, GET of one row, with the gate', `${number(median(results.gated))}/s`,
    ratio(results.gated, results.plain), least(0.9))
}

async function inPolicies({ server, report, database, key, rounds }) {
  say(`making a table of ${number(ROWS)} rows`)
  // Half of the rows, in no order, so that each of them is looked at.
  const policies = {
    'a constant tenant': `tenant_id = '${TENANT}'`,
    'current_tenant_id': 'tenant_id = (SELECT api_key.current_tenant_id())',
    'current_tenant_id for each row': 'tenant_id = api_key.current_tenant_id()',
    'a constant truth': `tenant_id = '${TENANT}' AND length(body) > 0`,
    'has_scope': `tenant_id = '${TENANT}' AND (SELECT api_key.has_scope('articles:read'))`,
    'has_scope for each row': `tenant_id = '${TENANT}' AND api_key.has_scope(scope)`,
  }
  await server.sql(database, `
    CREATE TABLE public.rows AS
    SELECT n, CASE WHEN hashint4(n) % 2 = 0 THEN uuid '${TENANT}'
                   ELSE uuid '00000000-0000-4000-8000-0000000000b1' END AS tenant_id,
           'articles:read' AS scope, 'Row ' || n AS body
    FROM generate_series(1, ${ROWS}) AS n;
    GRANT SELECT ON public.rows TO authenticated;
    ALTER TABLE public.rows ENABLE ROW LEVEL SECURITY;
    GRANT CREATE ON SCHEMA public TO authenticated;
    VACUUM ANALYZE public.rows;`)
  const scan = (policy) => async () => {
    await server.sql(database, `
      DROP POLICY IF EXISTS bench ON public.rows;
      CREATE POLICY bench ON public.rows USING (${policies[policy]});`)
    const [, milliseconds] = /Execution Time: ([\d.]+)/.exec(await server.sql(database, `
      BEGIN;
      SELECT set_config('request.headers', json_build_object('x-api-key', :'key')::text, true);
      SELECT api_key.authenticate_request();
      EXPLAIN (ANALYZE, TIMING off) SELECT count(*) FROM public.rows;
      COMMIT;`, { key }))
    return ROWS / (milliseconds / 1000)
  }
  const results = await interleave(rounds,
    Object.fromEntries(Object.keys(policies).map((policy) => [policy, scan(policy)])))
  const rows = (policy) => `${number(median(results[policy]))} rows/s`
  const against = (policy, constant) => [
    `a policy with ${policy}, against ${constant}`, rows(policy),
    ratio(results[policy], results[constant])]
  report.row(`a policy with a constant tenant, ${number(ROWS)} rows`, rows('a constant tenant'))
  report.row(...against('current_tenant_id', 'a constant tenant'), least(0.8))
  report.row(...against('current_tenant_id for each row', 'a constant tenant'))
  report.row(...against('has_scope', 'a constant tenant'), least(0.8))
  report.row(...against('has_scope for each row', 'a constant truth'))
}

async function rateLimit({ server, report, database, rounds, seconds, clients }) {
  await server.sql(database, `SELECT api_key.define_rate_limit('bench', 1000000, '1 second');`)
  const subjects = server.file('subjects', Array.from({ length: 10_000 }, (_, n) => `client ${n}`))
  const load = (query, expect) => (seed) => server.load(
    { database, clients, seconds, seed, params: subjects, query, expect }).then(({ rate }) => rate)
  const results = await interleave(rounds, {
    'SELECT 1': load('SELECT 1 WHERE $1::text IS NOT NULL', '1'),
    check_rate_limit: load(`SELECT api_key.check_rate_limit('bench', $1)`, '"allowed": true'),
  })
  report.row('SELECT 1, through the same client', `${number(median(results['SELECT 1']))}/s`)
  report.row('check_rate_limit, 10,000 subjects', `${number(median(results.check_rate_limit))}/s`,
    ratio(results.check_rate_limit, results['SELECT 1']), least(0.7))
}
