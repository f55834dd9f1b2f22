// What clients of the extension say: claims, tokens, and calls of its functions.

import { createHmac, randomUUID } from 'node:crypto'

export const JWT_SECRET = 'a test secret of at least thirty-two characters'

/** The claims of a signed-in user. */
export function userClaims(tenant = randomUUID(), sub = randomUUID()) {
  return { role: 'authenticated', sub, tenant_id: tenant }
}

/** A JSON Web Token, HS256 (RFC 7515, appendix A.1), that PostgREST accepts for an hour. */
export function jwt(claims, secret = JWT_SECRET) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const exp = Math.floor(Date.now() / 1000) + 3600
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ exp, ...claims })}`
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`
}

/** Makes a `pg` client's session look like a PostgREST request with these claims. */
export async function actAs(client, claims) {
  await client.query(`SELECT set_config('request.jwt.claims', $1, false), set_config('role', $2, false)`,
    [claims ? JSON.stringify(claims) : '', claims?.role ?? 'anon'])
}

/** The first column of the first row. */
export async function value(client, text, values = []) {
  const { rows } = await client.query({ text, values, rowMode: 'array' })
  return rows[0]?.[0]
}

/** Calls a function of the extension by the names of its arguments, as PostgREST does. */
export function call(client, name, args = {}) {
  const named = Object.keys(args).map((argument, n) => `${argument} => $${n + 1}`)
  return value(client, `SELECT api_key.${name}(${named.join(', ')})`, Object.values(args))
}

/** Issues a key to a user of its own, so that no tier's limit disables another one. */
export function issue(client, args = {}) {
  return call(client, 'issue_api_key', { p_user_id: randomUUID(), ...args })
}

/** The code with which a key's text is answered. */
export async function codeOf(client, key, args = {}) {
  return (await call(client, 'verify_api_key', { p_api_key: key, ...args })).code
}

/** The view api_key.stats, bigints as numbers. */
export function stats(client) {
  return value(client, 'SELECT to_jsonb(s) FROM api_key.stats AS s')
}
