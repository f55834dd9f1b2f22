// A proxy that lets in who holds an API key, and tells the service behind it who that is.

import http from 'node:http'
import https from 'node:https'
import express from 'express'
import { clientAddress, readSeconds, readSettings, refusal, verify } from '../verify.mjs'
import { forwardedHeaders } from './headers.mjs'
import { Relay } from './relay.mjs'

/** The proxy, as an HTTP server that does not listen yet. `env` has the variables of the README. */
export function createProxy(env) {
  const settings = readSettings(env)
  const upstream = readUpstream(env)
  const recheckMs = readSeconds(env, 'RECHECK_SECONDS', 30)
  const timeout = readSeconds(env, 'UPSTREAM_TIMEOUT_SECONDS', 30)

  async function authenticate(request, response, next) {
    const { headers, socket } = request
    const clientIp = clientAddress(headers['x-forwarded-for'], socket.remoteAddress, settings.trustedProxies)
    const ask = () => verify(headers['x-api-key'], clientIp, settings)
    const verdict = await ask()
    if (response.destroyed) return // The client has left meanwhile.
    if (verdict.valid) {
      Object.assign(response.locals, { verdict, ask })
      next()
    } else {
      const refused = refusal(verdict)
      send(response, refused, await refused.text())
    }
  }

  function forward(request, response) {
    const { verdict, ask } = response.locals
    // A whole URL would have the service take this request for another host's.
    if (!request.originalUrl.startsWith('/')) return fail(response, 400, 'This is not a path.')

    let relay
    const outgoing = (upstream.protocol === 'https:' ? https : http).request(upstream, {
      method: request.method,
      path: request.originalUrl,
      headers: forwardedHeaders(request, verdict),
      timeout,
    })
    outgoing.on('response', (answer) => { relay = new Relay(answer, response) })
    outgoing.on('timeout', () => {
      if (relay) return // Between two events it may be silent for as long as it likes.
      fail(response, 504, 'The service did not answer in time.')
      outgoing.destroy()
    })
    outgoing.on('error', () => {}) // Followed by 'close'.
    outgoing.on('close', () => { if (!relay) fail(response, 502, 'The service cannot be reached.') })
    response.on('close', () => {
      request.unpipe().resume() // What is left of it stands before this connection's next request.
      outgoing.destroy()
    })
    if (!request.complete) outgoing.flushHeaders() // The body may be a long time coming.
    request.pipe(outgoing)

    untilRefused(response, ask, (refused, body) => {
      if (relay) relay.breakOff(body)
      else send(response, refused, body)
      outgoing.destroy()
    })
  }

  /** Asks again for as long as the answer is under way, and calls `end` once the key is refused. */
  function untilRefused(response, ask, end) {
    let timer
    const schedule = () => { timer = setTimeout(again, recheckMs) }
    const again = async () => {
      const verdict = await ask()
      const refused = verdict.valid ? null : refusal(verdict)
      const body = await refused?.text()
      if (response.destroyed) return
      if (refused) end(refused, body)
      else schedule()
    }
    schedule()
    response.on('close', () => clearTimeout(timer))
  }

  // In any other environment, Express shows its errors to clients.
  const app = express().set('env', 'production').disable('x-powered-by')
  app.use(authenticate, forward)
  return http.createServer({ maxHeaderSize: 16_384, headersTimeout: 10_000, requestTimeout: 300_000 }, app)
}

function readUpstream({ UPSTREAM_URL }) {
  if (!UPSTREAM_URL) throw new Error('UPSTREAM_URL is not set')
  const url = new URL(UPSTREAM_URL)
  // A client could leave it with "..".
  if (url.pathname !== '/') throw new Error(`UPSTREAM_URL has a path: ${url.pathname}`)
  return url
}

/** Answers in place of the service, unless there is an answer already. */
function fail(response, status, message) {
  if (response.headersSent || response.destroyed) return
  response.status(status).set('Cache-Control', 'no-store').json({ error: 'upstream', message })
}

/** Sends a web-standard Response, whose body was read, unless there is an answer already. */
function send(response, { status, headers }, body) {
  if (response.headersSent || response.destroyed) return
  response.writeHead(status, Object.fromEntries(headers)).end(body)
}
