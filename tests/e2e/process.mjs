// Programs, ports and waiting.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { createServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'

/** How long a busy machine may take for what is waited for. */
export const READY_WITHIN_MS = 60_000

/** Asks until the answer is truthy, and gives it back; fails if that takes too long. */
export async function until(what, probe, withinMs = READY_WITHIN_MS) {
  for (const deadline = Date.now() + withinMs; ; await delay(10)) {
    const answer = await probe()
    if (answer) return answer
    assert.ok(Date.now() < deadline, `waited in vain for ${what}`)
  }
}

/** A command for `run` or `spawn` as the user that the server runs as: see tests/cluster. */
export function asServer(program, args) {
  const drop = ['--reuid=postgres', '--regid=postgres', '--init-groups', '--']
  return process.getuid() === 0 ? ['setpriv', [...drop, program, ...args]] : [program, args]
}

export async function bindir() {
  const { stdout } = await run(process.env.PG_CONFIG ?? 'pg_config', ['--bindir'])
  return stdout.trim()
}

export async function run(file, args, { input = '', ...options } = {}) {
  const child = promisify(execFile)(file, args, { maxBuffer: 1 << 28, ...options })
  child.child.stdin.on('error', () => {}) // A program that ends early does not read to the end.
  child.child.stdin.end(input)
  return child
}

/** Ports that are free right now: all are held at once, so that they differ, then let go. */
export async function freePorts(count) {
  const servers = Array.from({ length: count }, () => createServer())
  await Promise.all(servers.map((server) =>
    new Promise((resolve, reject) => server.on('error', reject).listen(0, '127.0.0.1', resolve))))
  const ports = servers.map((server) => server.address().port)
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))))
  return ports
}
