// What both examples stand on: the one call that authenticates a request, and the answer to a
// refused one. Only what the web standards have, so it runs on Deno, Cloudflare and Node.js alike.

// Longer than api_key.hash_queue_timeout, so that an overloaded database can say so itself.
const TIMEOUT_SECONDS = 5
// The failure budget of a key comes back within a minute; room to hash within seconds.
const RETRY_SECONDS = { THROTTLED: 60, OVERLOADED: 1, UNAVAILABLE: 5 }
const CHALLENGE = 'Bearer realm="api_key"'

/** Reads the variables that both examples share; the README says what each is. */
export function readSettings(env) {
  if (!env.POSTGREST_URL) throw new Error('POSTGREST_URL is not set')
  return {
    verifyUrl: `${env.POSTGREST_URL.replace(/\/+$/, '')}/rpc/verify_api_key`,
    requiredScopes: (env.REQUIRED_SCOPES ?? '').split(/[\s,]+/).filter(Boolean),
    resourceId: env.RESOURCE_ID || null,
    trustedProxies: readCount(env, 'TRUSTED_PROXIES'),
    timeoutMs: readSeconds(env, 'VERIFY_TIMEOUT_SECONDS', TIMEOUT_SECONDS),
  }
}

function readCount(env, name) {
  const text = env[name] || '0'
  if (!/^\d+$/.test(text)) throw new Error(`${name} is not a number: ${text}`)
  return Number(text)
}

/** A variable in seconds, as milliseconds. What no timer can wait for is an error. */
export function readSeconds(env, name, otherwise) {
  const milliseconds = Number(env[name] || otherwise) * 1000
  if (milliseconds >= 1 && milliseconds < 2 ** 31) return milliseconds
  throw new Error(`${name} is not a number of seconds: ${env[name]}`)
}

/**
 * Asks PostgREST whether this key may be used for this request. The answer of verify_api_key, or
 * one like it with the code NO_KEY or UNAVAILABLE: without a verdict nobody is let in.
 */
export async function verify(key, clientIp, settings) {
  if (!key) return { valid: false, code: 'NO_KEY' }
  try {
    const answer = await fetch(settings.verifyUrl, {
      method: 'POST',
      // Needed where api_key is not the first of PostgREST's schemas, and harmless where it is.
      headers: { 'Content-Type': 'application/json', 'Content-Profile': 'api_key' },
      body: JSON.stringify({
        p_api_key: key,
        p_required_scopes: settings.requiredScopes,
        p_client_ip: clientIp,
        p_resource_id: settings.resourceId,
      }),
      // The key goes where it was sent and nowhere else. (Cloudflare does not know 'error'.)
      redirect: 'manual',
      signal: AbortSignal.timeout(settings.timeoutMs),
    })
    if (!answer.ok) {
      await answer.body?.cancel()
      throw new Error(`HTTP status ${answer.status}`)
    }
    const verdict = await answer.json()
    if (verdict?.valid !== (verdict?.code === 'VALID')) throw new Error('not a verdict')
    return verdict
  } catch (error) {
    // For the operator only. None of these messages has the key or a part of the answer.
    console.error('verify_api_key gave no verdict:', error.cause?.code ?? reason(error))
    return { valid: false, code: 'UNAVAILABLE' }
  }
}

/** A parser's message quotes what it could not parse, so only its kind is told. */
function reason(error) {
  return error instanceof SyntaxError ? 'not JSON' : error.message
}

/** What a request with this verdict is answered. This is the only place that knows. */
export function refusal({ code, required_scopes, granted_scopes }) {
  switch (code) {
    case 'NO_KEY':
      return refused(401, 'no_key', 'Send an API key in the header X-API-Key.', {
        'WWW-Authenticate': CHALLENGE,
      })
    case 'IP_NOT_ALLOWED':
      return refused(403, 'ip_not_allowed', 'This API key may not be used from this address.')
    case 'RESOURCE_MISMATCH':
      return refused(403, 'resource_mismatch', 'This API key belongs to another resource.')
    case 'INSUFFICIENT_SCOPE':
      return refused(403, 'insufficient_scope', 'This API key lacks a required scope.', {
        'WWW-Authenticate': `${CHALLENGE}, error="insufficient_scope", scope="${required_scopes.join(' ')}"`,
      }, { required_scopes, granted_scopes })
    case 'THROTTLED':
      return refused(429, 'throttled', 'Too many wrong secrets for this API key.', retryAfter(code))
    case 'OVERLOADED':
    case 'UNAVAILABLE':
      return refused(503, 'unavailable', 'API keys cannot be checked now.', retryAfter(code))
    default:
      // Whether there is such a key, and what became of it, is its owner's business.
      return refused(401, 'invalid_token', 'This API key is not accepted.', {
        'WWW-Authenticate': `${CHALLENGE}, error="invalid_token"`,
      })
  }
}

function refused(status, error, message, headers = {}, details = {}) {
  return json(status, { error, message, ...details }, headers)
}

function retryAfter(code) {
  return { 'Retry-After': String(RETRY_SECONDS[code]) }
}

/** An answer that no cache keeps: caches do not know that X-API-Key decides about it. */
export function json(status, body, headers = {}) {
  return new Response(`${JSON.stringify(body)}\n`, {
    status,
    headers: { 'Content-Type': 'application/json', 'Cache-Control': 'no-store', ...headers },
  })
}

/**
 * The client's address, as the outermost of `trustedProxies` saw it. Each proxy adds the address of
 * its peer on the right of X-Forwarded-For; what is left of those the client may have made up.
 * `peer` is the address of the connection itself, where the runtime tells it. Null if not known.
 */
export function clientAddress(forwardedFor, peer, trustedProxies) {
  const seen = [...(forwardedFor ?? '').split(','), peer ?? ''].at(-1 - trustedProxies) ?? ''
  // Some proxies add the port, and write IPv6 addresses in brackets.
  const form = /^(?:\[([\da-f:.]+)\](?::\d+)?|([\d.]+)(?::\d+)?|([\da-f:.]+))$/i
  const [, bracketed, ipv4, ipv6] = form.exec(seen.trim()) ?? []
  return bracketed ?? ipv4 ?? ipv6 ?? null
}
