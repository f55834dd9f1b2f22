// What the tests stand on; they import from here.

export { useCluster } from './cluster.mjs'
export { actAs, call, codeOf, issue, jwt, stats, userClaims, value } from './client.mjs'
export { forged, partsOf, withWrongSecret } from './key_text.mjs'
export { asServer, bindir, freePorts, run, until } from './process.mjs'
