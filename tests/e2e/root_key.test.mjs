// The root key: made on first need, outside of the database, and missed in time.

import assert from 'node:assert/strict'
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { chmodSync, chownSync, copyFileSync, existsSync, readFileSync, readdirSync, renameSync, statSync,
  writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { afterEach, describe, it } from 'node:test'
import { call, codeOf, issue, until, useCluster, value } from './harness.mjs'

const FILE = 'api_key_root_key'
const TEXT = 'legacy key of the root key test'
const settings = { 'api_key.argon2_memory_kib': 64, 'api_key.argon2_iterations': 1 }

const md5 = (text) => createHash('md5').update(text).digest('hex')
const adopt = (client, text) => call(client, 'import_api_key_hash',
  { p_hash: md5(text), p_scheme: 'md5', p_user_id: randomUUID() })

/** A root key file as the server would have made it. */
function putKey(path, text, like) {
  writeFileSync(path, text)
  chmodSync(path, 0o600)
  const { uid, gid } = statSync(like)
  chownSync(path, uid, gid)
}

function refusal(detail) {
  return (error) => {
    assert.equal(error.code, '55000')
    assert.equal(error.message, 'the root key cannot be used')
    assert.match(error.detail, detail)
    assert.match(error.hint, /api_key\.root_key_file/)
    assert.match(error.hint, /api_key\.root_key_command/)
    return true
  }
}

describe('the root key', () => {
  let cluster, native, path, data

  useCluster(settings, async (fresh) => {
    cluster = fresh
    data = join(cluster.dir, 'data')
    path = join(data, FILE)
    await cluster.database('app')
  })

  /** What a session that is new, and so has not read the root key, makes of it. */
  async function anew(action) {
    const client = await cluster.connect('app')
    try {
      return await action(client)
    } finally {
      await client.end()
    }
  }

  /** A setting of the whole server, in effect when this returns. */
  async function setting(name, text) {
    await anew((client) => client.query(text === undefined ? `ALTER SYSTEM RESET ${name}`
      : `ALTER SYSTEM SET ${name} = '${text.replaceAll("'", "''")}'`))
    await anew((client) => client.query('SELECT pg_reload_conf()'))
    const shown = text ?? (name === 'api_key.root_key_file' ? FILE : '')
    await until(name, () => anew(async (client) => await value(client, `SHOW ${name}`) === shown))
  }

  const rows = (client) => value(client, `
    SELECT jsonb_build_object('keys', (SELECT count(*) FROM api_key_internal.keys),
      'audit', (SELECT count(*) FROM api_key_internal.audit_log WHERE event <> 'refused'),
      'fingerprints', (SELECT jsonb_agg(fingerprint) FROM api_key_internal.root_key))`)

  it('is not made before it is needed', async () => {
    await anew(async (client) => {
      native = (await issue(client)).api_key
      assert.equal(await codeOf(client, native), 'VALID')
      assert.equal(await codeOf(client, TEXT), 'MALFORMED')
    })
    assert.ok(!existsSync(path))
  })

  it('is not made, and nothing stored, by an import that is refused', async () => {
    await anew(async (client) => {
      const before = await rows(client)
      await assert.rejects(call(client, 'import_api_key_hash',
        { p_hash: 'no digest', p_scheme: 'md5', p_user_id: randomUUID() }), { code: '22023' })
      assert.deepEqual(await rows(client), before)
    })
  })

  it('is made on first need: 64 hexadecimal digits that only the server can read', async () => {
    await anew((client) => adopt(client, TEXT))
    assert.match(readFileSync(path, 'latin1'), /^[0-9a-f]{64}\n?$/)
    const { mode, uid } = statSync(path)
    assert.equal(mode & 0o7777, 0o600)
    assert.equal(uid, statSync(data).uid)
    assert.equal(await anew((client) => codeOf(client, TEXT)), 'VALID')
  })

  it('is made once when many sessions need it first at the same time', async () => {
    await cluster.database('fresh') // A database that has had one is never given another.
    const sessions = await Promise.all(Array.from({ length: 12 }, () => cluster.connect('fresh')))
    try {
      for (let round = 0; round < 10; round++) {
        const name = `${FILE}.first_${round}`
        await setting('api_key.root_key_file', name)
        for (const session of sessions) {
          await until('the setting', async () => await value(session, 'SHOW api_key.root_key_file') === name)
        }
        const made = await Promise.all(sessions.map((session) =>
          value(session, 'SELECT api_key_internal.root_key_fingerprint()').catch((error) => error.detail)))
        assert.match(made[0], /^[0-9a-f]{32}$/)
        assert.equal(new Set(made).size, 1, made.join('\n'))
      }
    } finally {
      await Promise.all(sessions.map((session) => session.end()))
      await setting('api_key.root_key_file')
    }
  })

  describe('when it is not as it should be', () => {
    const aside = () => `${path}.aside`
    const breakages = {
      'readable by the group': [() => chmodSync(path, 0o640), /others/],
      'readable by others': [() => chmodSync(path, 0o604), /others/],
      'unreadable to the server': process.getuid() === 0 && [() => (chownSync(path, 0, 0)), /cannot be read/],
      'garbage': [() => writeFileSync(path, 'no root key\n'), /64 hexadecimal/],
      'empty': [() => writeFileSync(path, ''), /64 hexadecimal/],
      'too long': [() => writeFileSync(path, 'a'.repeat(66)), /64 hexadecimal/],
      'too short': [() => writeFileSync(path, 'a'.repeat(62)), /64 hexadecimal/],
      'that of another database': [() => writeFileSync(path, randomBytes(32).toString('hex')), /not the one/],
      'missing': [() => renameSync(path, `${path}.gone`), /does not exist/],
    }

    afterEach(() => {
      if (!existsSync(aside())) return
      const text = readFileSync(aside(), 'latin1')
      putKey(path, text, aside())
    })

    for (const [what, entry] of Object.entries(breakages)) {
      it(
        `${what}: an error that names the setting, nothing half done, and all is well when it is put right`,
        { skip: !entry && 'the server is not another user' },
        async () => {
          const [damage, detail] = entry
          if (!existsSync(aside())) putKey(aside(), readFileSync(path, 'latin1'), path)
          damage()
          const contents = existsSync(path) && readFileSync(path, 'latin1')
          const before = await anew(rows)
          await anew((client) => assert.rejects(codeOf(client, TEXT), refusal(detail)))
          await anew((client) => assert.rejects(codeOf(client, 'a text of nobody'), refusal(detail)))
          await anew((client) => assert.rejects(adopt(client, `${TEXT} ${what}`), refusal(detail)))
          await anew(async (client) => {
            await client.query(
              `CREATE TEMP TABLE old AS SELECT md5(n::text || $$${what}$$) AS hash FROM generate_series(1, 3) AS n`
            )
            await assert.rejects(
              client.query(`SELECT api_key.import_api_keys('old', '{"hash": "hash"}', 'md5')`),
              refusal(detail)
            )
          })
          assert.deepEqual(await anew(rows), before)
          assert.equal(
            existsSync(path) && readFileSync(path, 'latin1'),
            contents,
            'the file is left as it is'
          )
          await anew(async (client) => {
            // Keys of ours do not need it.
            assert.equal(await codeOf(client, native), 'VALID')
            assert.equal(await codeOf(client, (await issue(client)).api_key), 'VALID')
            await client.query('CALL api_key.migrate_legacy_hashes()')
          })

          putKey(path, readFileSync(aside(), 'latin1'), aside())
          assert.equal(await anew((client) => codeOf(client, TEXT)), 'VALID')
          const text = `${TEXT} ${what} put right`
          await anew((client) => adopt(client, text))
          assert.equal(await anew((client) => codeOf(client, text)), 'VALID')
        }
      )
    }
  })

  describe('that a command gives', () => {
    it('is used, and no file is', async () => {
      putKey(`${path}.elsewhere`, `${readFileSync(path, 'latin1').toUpperCase()}\n`, path)
      await setting('api_key.root_key_command', `cat ${FILE}.elsewhere`)
      await setting('api_key.root_key_file', 'not there')
      assert.equal(await anew((client) => codeOf(client, TEXT)), 'VALID')
      await anew((client) => adopt(client, 'imported with a command'))
      assert.equal(await anew((client) => codeOf(client, 'imported with a command')), 'VALID')
      assert.ok(!existsSync(join(data, 'not there')))
      await setting('api_key.root_key_file')
    })

    const failures = {
      'fails': [`cat ${FILE}.elsewhere; exit 3`, /failed/],
      'does not exist': ['no_such_program_here', /failed/],
      'prints garbage': ['echo garbage', /64 hexadecimal/],
      'prints nothing': ['true', /64 hexadecimal/],
      'prints another key': [`printf %064d 7`, /not the one/],
    }
    for (const [what, [command, detail]] of Object.entries(failures)) {
      it(`${what}: an error that names the setting, and nothing half done`, async () => {
        await setting('api_key.root_key_command', command)
        const before = await anew(rows)
        await anew((client) => assert.rejects(codeOf(client, TEXT), refusal(detail)))
        await anew((client) => assert.rejects(adopt(client, 'by a bad command'), refusal(detail)))
        assert.deepEqual(await anew(rows), before)
        assert.equal(await anew((client) => codeOf(client, native)), 'VALID')
      })
    }

    it('is not needed any more when the setting is gone', async () => {
      await setting('api_key.root_key_command')
      assert.equal(await anew((client) => codeOf(client, TEXT)), 'VALID')
    })

    it('is shown to superusers only', async () => {
      await anew(async (client) => {
        await client.query('CREATE ROLE nosy; SET ROLE nosy')
        for (const name of ['file', 'command']) {
          await assert.rejects(client.query(`SHOW api_key.root_key_${name}`), { code: '42501' })
          await assert.rejects(client.query(`SET api_key.root_key_${name} = 'x'`), { code: /42501|55P02/ })
        }
      })
    })
  })

  it('is in no dump, no table, no WAL and no log', async () => {
    const hex = readFileSync(path, 'latin1').trim().toLowerCase()
    const canary = randomBytes(32).toString('hex')
    await anew((client) => client.query(`CREATE TABLE canary AS SELECT '${canary}' AS text; CHECKPOINT`))
    // Halves, so that the boundary of a page does not hide it.
    const forms = (hex) => [hex.slice(0, 32), hex.slice(32)]
      .flatMap((half) => [half, half.toUpperCase(), Buffer.from(half, 'hex').toString('latin1')])
    const where = { key: new Set(), canary: new Set() }
    const look = (text, name) => {
      if (forms(hex).some((form) => text.includes(form))) where.key.add(name)
      if (forms(canary).some((form) => text.includes(form))) where.canary.add(name)
    }
    const { stdout: dump } = await cluster.run('pg_dump', ['app'])
    look(dump, 'the dump')
    for (const file of filesUnder(cluster.dir)) {
      if (!basename(file).startsWith(FILE)) look(readFileSync(file, 'latin1'), file)
    }
    assert.ok(
      where.canary.has('the dump') && where.canary.size >= 3,
      'the search finds a canary in dump, table, WAL'
    )
    assert.deepEqual([...where.key], [])
  })

  describe('after a restore into another cluster', () => {
    let other, db
    useCluster(settings, async (fresh) => {
      other = fresh
      await other.database('app', { extension: false })
      const { stdout: script } = await cluster.run('pg_dump', ['--no-owner', 'app'])
      await other.run('psql', ['--no-psqlrc', '--quiet', '--set', 'ON_ERROR_STOP=1', '--dbname', 'app'], {
        input: script,
      })
    })

    it('is missed: an error for legacy keys, none for others', async () => {
      db = await other.connect('app')
      const before = await rows(db)
      await assert.rejects(codeOf(db, TEXT), refusal(/does not exist/))
      assert.equal(await codeOf(db, native), 'VALID')
      await assert.rejects(adopt(db, 'without a root key'), refusal(/does not exist/))
      assert.deepEqual(await rows(db), before)
      assert.ok(!existsSync(join(other.dir, 'data', FILE)), 'no other one is made')
      await db.end()
    })

    it('makes legacy keys verify when it is copied', async () => {
      const target = join(other.dir, 'data', FILE)
      copyFileSync(path, target)
      putKey(target, readFileSync(path, 'latin1'), join(other.dir, 'data'))
      db = await other.connect('app')
      assert.equal(await codeOf(db, TEXT), 'VALID')
      assert.equal(await codeOf(db, 'imported with a command'), 'VALID')
      await adopt(db, 'with the root key')
      assert.equal(await codeOf(db, 'with the root key'), 'VALID')
    })
  })
})

function* filesUnder(dir) {
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name)
    if (entry.isDirectory()) yield* filesUnder(path)
    else if (entry.isFile()) yield path
  }
}
