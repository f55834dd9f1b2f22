// Compares this build with another one: both servers run beside each other, and are loaded in turn.
//
//   node tests/bench/two_builds.mjs --base PG_CONFIG [--rounds 20] [--seconds 1] [--clients 4] [--keys 100000]
//   make bench BASE=commit [BENCH_OPTIONS='--rounds 40']
//
// PG_CONFIG is of an installation with the other build (tests/bench/base makes one). It fails if a
// lower bound is below the goal.

import { parseArgs } from 'node:util'
import { issue, keyFiles, verify } from './contenders.mjs'
import { least, median, number, Report, say } from './measure.mjs'
import { httpRate, startPostgREST } from './postgrest.mjs'
import { Server } from './server.mjs'

const GOAL = least(0.95)
const SETTINGS = { shared_buffers: '512MB', max_wal_size: '4GB', checkpoint_timeout: '30min', autovacuum: 'off' }

// What PostgREST sends before the statement of a request, in one exchange with the database.
const REQUEST = `
  CREATE FUNCTION bench.request(p_key text) RETURNS boolean LANGUAGE plpgsql AS $$
  BEGIN
    PERFORM set_config('search_path', 'public', true), set_config('role', 'anon', true),
      set_config('request.jwt.claims', '{"role":"anon"}', true), set_config('request.method', 'GET', true),
      set_config('request.path', '/articles', true), set_config('request.cookies', '{}', true),
      set_config('request.headers', json_build_object('host', 'a.example', 'accept', '*/*',
        'user-agent', 'bench', 'x-api-key', p_key)::text, true);
    PERFORM api_key.authenticate_request();
    RETURN api_key.current_key_id() IS NOT NULL;
  END $$;
  GRANT USAGE ON SCHEMA bench TO anon;
  CREATE TABLE public.articles (id integer PRIMARY KEY, body text);
  INSERT INTO public.articles SELECT n, 'Article ' || n FROM generate_series(1, 1000) AS n;
  GRANT SELECT ON public.articles TO anon, authenticated;`

async function prepare(name, pgConfig, { keys, clients }) {
  say(`starting the server of the ${name} build`)
  const server = await Server.start(SETTINGS, pgConfig)
  const database = 'bench_two'
  await server.createDatabase(database, { memoryKib: 8, iterations: 1 })
  await server.sql(database, `SELECT api_key.setup_postgrest(p_create_roles => true); ${REQUEST}`)
  await issue(server, database, keys, { chunk: 20_000 })
  await server.sql(database, 'VACUUM ANALYZE; CHECKPOINT;')
  const { texts, lines } = await keyFiles(server, database, keys)
  const postgrest = await startPostgREST(server, 'gated', database, { 'db-pre-request': 'api_key.authenticate_request' })
  const common = { database, clients, params: texts }
  const loads = {
    'verify_api_key, known keys': { ...common, ...verify },
    'the gate, in SQL': { ...common, query: 'SELECT bench.request($1)', expect: 't' },
  }
  say('sending each parameter once: every answer must be right, and the memo warms')
  for (const load of Object.values(loads)) await server.load({ ...load, once: true })
  return {
    ...Object.fromEntries(Object.entries(loads).map(([what, load]) => [what,
      (seconds, seed) => server.load({ ...load, seconds, seed }).then(({ rate }) => rate)])),
    'the gate, through PostgREST': (seconds) => httpRate(`${postgrest.url}/articles?id=eq.500`,
      { seconds, connections: 8, headers: { 'X-API-Key': lines[0] } }),
  }
}

/** Rates of both, round by round: A B B A, so that what drifts favours neither. */
async function sideBySide(rounds, ours, base) {
  const results = { ours: [], base: [] }
  for (let round = 1; round <= rounds; round++) {
    const first = [await ours(round), await base(round)]
    const second = [await base(round), await ours(round)]
    results.ours.push((first[0] + second[1]) / 2)
    results.base.push((first[1] + second[0]) / 2)
  }
  return results
}

/** The 2.5th percentile of the median of the ratios, by bootstrap (Efron, 1979). */
function lowerBound(ratios, resamples = 10_000) {
  const medians = Array.from({ length: resamples }, () =>
    median(ratios.map(() => ratios[Math.floor(Math.random() * ratios.length)])))
  return medians.sort((a, b) => a - b)[Math.floor(resamples * 0.025)]
}

async function main() {
  const fromEnvironment = process.env.BENCH_OPTIONS?.split(' ').filter(Boolean) ?? []
  const { values } = parseArgs({ args: [...fromEnvironment, ...process.argv.slice(2)], options: {
    base: { type: 'string' }, rounds: { type: 'string', default: '20' }, seconds: { type: 'string', default: '1' },
    clients: { type: 'string', default: '4' }, keys: { type: 'string', default: '100000' } } })
  const [rounds, seconds, clients, keys] =
    ['rounds', 'seconds', 'clients', 'keys'].map((name) => Number(values[name]))
  const [base, ours] = await Promise.all(
    [prepare('other', values.base, { clients, keys }), prepare('new', undefined, { clients, keys })])

  const report = new Report()
  let failed = false
  for (const what of Object.keys(ours)) {
    const measured = (build) => (round) => build[what](seconds, round)
    const { ours: ones, base: others } = await sideBySide(rounds, measured(ours), measured(base))
    const ratios = ones.map((one, round) => one / others[round])
    const bound = lowerBound(ratios)
    failed ||= !GOAL.reached(bound)
    report.row(`${what}: the other build`, `${number(median(others))}/s`)
    report.row(`${what}: this build`, `${number(median(ones))}/s`, median(ratios))
    report.row(`${what}: lower 95 % bound of the ratio`, '', bound, GOAL)
    say(`${what}: ${ratios.map((ratio) => ratio.toFixed(2)).join(' ')}`)
  }
  console.log(`\n${rounds} rounds of ${4 * seconds} s, ${clients} clients, ${number(keys)} keys\n\n${report}`)
  return failed
}

main().then((failed) => process.exit(failed ? 1 : 0), (error) => {
  console.error(`bench: ${error.message}`)
  process.exit(1)
})
