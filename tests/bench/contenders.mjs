// What is sent, always by load.c with one bind parameter. Each contender checks its answers.

import { say } from './measure.mjs'

/** The columns that verify_api_key answers with, by the id: the speed that verify is held against. */
export const bareSelect = {
  query: `SELECT key_id, user_id, tenant_id, name, tier, environment, kind, scopes, resource_id,
            metadata, expires_at, secret_version, grace_expires_at
          FROM api_key_internal.keys WHERE key_id = $1`,
  expect: '-',
}

const VERIFY = 'SELECT api_key.verify_api_key($1)'
export const verify = { query: VERIFY, expect: '"code": "VALID"' }
export const refuseForged = { query: VERIFY, expect: '"code": "NOT_FOUND"' }
/** Wrong secrets may also be throttled or find no room to hash, but never be right. */
export const refuseAny = { query: VERIFY, expect: '"valid": false' }

// incumbents.sql
export const verifyBcrypt = { query: 'SELECT bench.verify_bcrypt($1)', expect: '"valid": true' }
export const verifySha512 = { query: 'SELECT bench.verify_sha512($1)', expect: '"valid": true' }

/** Issues `count` keys, for as many users; their lines in bench.texts continue. */
export async function issue(server, database, count, { chunk = 250 } = {}) {
  for (let done = 0; done < count; done += chunk) {
    if (count > chunk) say(`issued ${done} of ${count} keys`)
    await server.sql(database, ISSUE, { count: Math.min(chunk, count - done) })
  }
}
const ISSUE = `
  WITH issued AS MATERIALIZED (
    SELECT n, api_key.issue_api_key(
      p_user_id => gen_random_uuid(), p_name => 'Key ' || n, p_tier => 'bench',
      p_scopes => '{articles:read,articles:write}') AS key
    FROM (SELECT coalesce(max(n), 0) AS last FROM bench.texts) AS t,
      generate_series(last + 1, last + :count) AS n)
  INSERT INTO bench.texts SELECT n, (key ->> 'key_id')::uuid, key ->> 'api_key' FROM issued;`

/** Files of the texts and of the ids of the newest `count` keys, in one order. */
export async function keyFiles(server, database, count) {
  const rows = (await server.sql(database,
    'SELECT api_key, key_id FROM bench.texts ORDER BY n DESC LIMIT :count', { count }))
    .split('\n').map((row) => row.split('|'))
  const texts = rows.map(([text]) => text)
  return {
    lines: texts,
    texts: server.file(`${database}.texts`, texts),
    ids: server.file(`${database}.ids`, rows.map(([, id]) => id)),
  }
}
