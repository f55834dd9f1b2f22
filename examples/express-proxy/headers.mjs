// Which headers pass through.

// What the service believes about the client; never taken from a client.
const IDENTITY = ['x-user-id', 'x-tenant-id', 'x-scopes', 'x-key-id']
// What only concerns two neighbours (RFC 9110, section 7.6.1), and Expect, which Node.js has met.
const HOP_BY_HOP = [
  'connection', 'expect', 'keep-alive', 'proxy-authenticate', 'proxy-authorization',
  'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade']

/** What the service gets: the client's headers, without its key, and with whom it acts for. */
export function forwardedHeaders({ headers, socket }, { user_id, tenant_id, scopes, key_id }) {
  const forwarded = endToEnd(headers, ['host', 'x-api-key', ...IDENTITY])
  // Said anew, so that a client cannot have a body sent that looks like another request.
  if (headers['transfer-encoding']) forwarded['transfer-encoding'] = 'chunked'
  else if (headers['content-length']) forwarded['content-length'] = headers['content-length']
  forwarded['x-forwarded-for'] =
    [headers['x-forwarded-for'], socket.remoteAddress].filter(Boolean).join(', ')
  forwarded['x-user-id'] = user_id
  if (tenant_id) forwarded['x-tenant-id'] = tenant_id
  forwarded['x-scopes'] = scopes.join(' ')
  forwarded['x-key-id'] = key_id
  return forwarded
}

/** All headers but the others, and those that concern this hop. Services may read X_A as X-A. */
export function endToEnd(headers, others = []) {
  const listed = (headers.connection ?? '').toLowerCase().split(',').map((name) => name.trim())
  const dropped = new Set([...HOP_BY_HOP, ...listed, ...others])
  return Object.fromEntries(
    Object.entries(headers).filter(([name]) => !dropped.has(name.replaceAll('_', '-'))))
}
