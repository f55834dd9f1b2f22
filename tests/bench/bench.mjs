// Compares verifying with its alternatives on a throwaway server, and prints a table. It does not
// judge: it fails only if something did not work, such as a wrong answer.
//
//   node tests/bench/bench.mjs [--rounds 5] [--seconds 5] [--clients 4] [--keys 100000]
//     [--wal-seconds 60] [--only hot-path,first,attack,legacy,gate,wal,disk,scale] [--full]
//     [--set name=value ...]
//   make bench BENCH_OPTIONS='--full'
//
// --full adds `scale`: ten million keys, which takes minutes and some 10 GB in the folder for
// temporary files (TMPDIR). --scale-keys is for trying it out with fewer. --set changes a setting
// of the server, such as fsync=off.

import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { disk } from './disk.mjs'
import { firstVerify } from './first_verify.mjs'
import { gate } from './gate.mjs'
import { hotPath } from './hot_path.mjs'
import { legacy } from './legacy.mjs'
import { Report, say } from './measure.mjs'
import { scale } from './scale.mjs'
import { Server } from './server.mjs'
import { underAttack } from './under_attack.mjs'
import { wal } from './wal.mjs'

const BENCHES = {
  'hot-path': hotPath, first: firstVerify, attack: underAttack, legacy, gate, wal, disk, scale,
}

const SETTINGS = {
  // As in production: to those who write in order to verify it makes the difference.
  fsync: 'on',
  shared_buffers: '1GB',
  max_wal_size: '16GB',
  checkpoint_timeout: '30min',
}

function readOptions() {
  const string = (value) => ({ type: 'string', default: value })
  const fromEnvironment = process.env.BENCH_OPTIONS?.split(' ').filter(Boolean) ?? []
  const { values } = parseArgs({ args: [...fromEnvironment, ...process.argv.slice(2)], options: {
    rounds: string('5'), seconds: string('5'), clients: string('4'), keys: string('100000'),
    'wal-seconds': string('60'), 'scale-keys': string('10000000'),
    only: { type: 'string' }, set: { type: 'string', multiple: true, default: [] }, full: { type: 'boolean', default: false },
  } })
  const positive = (name) => {
    const value = Number(values[name])
    if (!(value > 0)) throw new Error(`--${name} is not a positive number: ${values[name]}`)
    return value
  }
  const only = values.only?.split(',') ??
    Object.keys(BENCHES).filter((name) => name !== 'scale' || values.full)
  for (const name of only)
    if (!BENCHES[name]) throw new Error(`--only knows ${Object.keys(BENCHES).join(', ')}`)
  return {
    only,
    rounds: positive('rounds'),
    seconds: positive('seconds'),
    clients: positive('clients'),
    keys: positive('keys'),
    walSeconds: positive('wal-seconds'),
    scaleKeys: positive('scale-keys'),
    settings: { ...SETTINGS, ...Object.fromEntries(values.set.map((setting) => {
      const [name, ...value] = setting.split('=')
      return [name, value.join('=')]
    })) },
  }
}

async function main() {
  const options = readOptions()
  say('starting a server')
  const server = await Server.start(options.settings)
  const report = new Report()
  let failed = 0
  for (const name of options.only) {
    say(`== ${name}`)
    try {
      await BENCHES[name]({ server, report, options })
      await server.dropDatabases()
    } catch (error) {
      failed++
      say(`${name} failed: ${error.message}`)
      report.note(`FAILED: ${name}: ${error.message}`)
    }
  }
  const version = await server.sql('postgres', 'SHOW server_version')
  console.log(`
PostgreSQL ${version} on ${cpus().length} × ${cpus()[0].model}
${options.rounds} interleaved rounds of ${options.seconds} s; ${options.clients} clients, unix socket, prepared statement, bind parameter
${Object.entries(options.settings).map((setting) => setting.join('=')).join(' ')}

${report}`)
  return failed
}

main().then(
  (failed) => process.exit(failed ? 1 : 0),
  (error) => {
    console.error(`bench: ${error.message}`)
    process.exit(1)
  })
