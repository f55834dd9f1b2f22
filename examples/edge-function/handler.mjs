// An edge function that tells the holder of an API key whom it acts for and what it may do.

import { clientAddress, json, readSettings, refusal, verify } from '../verify.mjs'

/** Answers a request. `env` has the variables of the README. */
export async function handler(request, env) {
  const settings = readSettings(env)
  const { headers } = request
  const clientIp = clientAddress(headers.get('X-Forwarded-For'), null, settings.trustedProxies)
  const verdict = await verify(headers.get('X-API-Key'), clientIp, settings)
  return verdict.valid ? whoAmI(verdict) : refusal(verdict)
}

function whoAmI({ user_id, tenant_id, scopes, expires_at, grace_expires_at }) {
  // Set when the key was rotated and this is its old secret: then that is the end of it.
  const rotated = grace_expires_at !== null
  return json(200, { user_id, tenant_id, scopes, expires_at: rotated ? grace_expires_at : expires_at, rotated })
}

/** What Cloudflare Workers expect of a module. */
export default { fetch: handler }
