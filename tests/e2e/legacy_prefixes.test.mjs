// Which legacy keys are tried for a text, and in which order, is what the plain rule says, in every
// encoding: those whose prefix begins the text, the longest first, then by key id.

import assert from 'node:assert/strict'
import { createHash, randomInt, randomUUID } from 'node:crypto'
import { describe, it } from 'node:test'
import { call, codeOf, stats, useCluster, value } from './harness.mjs'

const PREFIXES = 100
const TEXTS = 60
const ORDERED = 15
const pick = (list) => list[randomInt(list.length)]
const letters = {
  UTF8: ['a', 'a', 'b', '\u0001', '~', '\x7f', 'é', 'ÿ', '世', '🔑'],
  LATIN1: ['a', 'a', 'b', '\u0001', '~', 'é', 'ÿ', '\u0080'],
  SQL_ASCII: ['a', 'a', 'b', '\u0001', '~', 'é', '世'],
}

describe('the search by prefix', () => {
  let cluster
  useCluster(
    { 'api_key.argon2_memory_kib': 8, 'api_key.argon2_iterations': 1, 'api_key.failure_limit': 1_000_000 },
    async (fresh) => {
      cluster = fresh
    }
  )

  for (const [encoding, alphabet] of Object.entries(letters)) {
    describe(`in ${encoding}`, () => {
      it(`tries the keys that the rule names, for ${TEXTS} texts and ${PREFIXES} prefixes`, async (test) => {
        const { db, prefixes } = await filled(encoding, alphabet)
        const hashes = async () => (await stats(db)).hashes_run
        let tried = 0
        for (let n = 0; n < TEXTS; n++) {
          const text = someText(alphabet, prefixes)
          const expected = (await rule(db, text)).length
          const before = await hashes()
          assert.equal(await codeOf(db, text), 'NOT_FOUND')
          assert.equal(await hashes() - before, expected, JSON.stringify(text))
          tried += expected
        }
        test.diagnostic(`${tried} keys were tried`)
        assert.ok(tried > TEXTS)
      })

      it('in the order that the rule gives', async () => {
        const db = await cluster.connect(encoding.toLowerCase())
        const prefixes = (
          await db.query(`SELECT DISTINCT legacy_prefix AS p FROM api_key_internal.keys`)
        ).rows.map(({ p }) => p)
        for (let n = 0; n < ORDERED; n++) {
          const text = `${someText(alphabet, prefixes)}${n}`
          const keys = await rule(db, text)
          const place = randomInt(keys.length)
          await db.query(
            `UPDATE api_key_internal.keys SET secret_hash = '{bcrypt}' || crypt($2, gen_salt('bf', 4))
            WHERE key_id = $1`,
            [keys[place], text]
          )
          const { hashes_run: before } = await stats(db)
          assert.equal((await call(db, 'verify_api_key', { p_api_key: text })).key_id, keys[place])
          assert.equal((await stats(db)).hashes_run - before, place + 1)
        }
      })
    })
  }

  it('finds a key of a scheme that was never imported before as soon as its import is committed', async () => {
    await cluster.database('schemes')
    const [importer, verifier] = await Promise.all([1, 2].map(() => cluster.connect('schemes')))
    const schemes = () => value(importer, 'SELECT schemes FROM api_key_internal.root_key')
    const adopt = (scheme, text) =>
      call(importer, 'import_api_key_hash', {
        p_hash: createHash(scheme).update(text).digest('hex'),
        p_scheme: scheme,
        p_user_id: randomUUID(),
      })
    const imported = []
    for (const scheme of ['sha256', 'md5', 'sha512', 'sha1']) {
      const text = `text of ${scheme}`
      const before = imported.length ? 'NOT_FOUND' : 'MALFORMED'
      assert.equal(await codeOf(verifier, text), before)
      for (const end of ['ROLLBACK', 'COMMIT']) {
        await importer.query('BEGIN')
        await adopt(scheme, text)
        assert.equal(await codeOf(verifier, text), before, 'not committed')
        assert.equal(await codeOf(importer, text), 'VALID', 'in its own transaction')
        await importer.query(end)
        assert.deepEqual((await schemes()) ?? [], end === 'COMMIT' ? [...imported, scheme] : imported)
      }
      imported.push(scheme)
      assert.equal(await codeOf(verifier, text), 'VALID')
    }
    // As a dump from before the column was there.
    await importer.query('UPDATE api_key_internal.root_key SET schemes = NULL')
    await adopt('md5', 'another')
    for (const scheme of imported) assert.equal(await codeOf(verifier, `text of ${scheme}`), 'VALID')
    assert.equal(await codeOf(verifier, 'another'), 'VALID')
  })

  /** Keys with prefixes of each other, of up to 64 bytes, several of some. */
  async function filled(encoding, alphabet) {
    await cluster.database(encoding.toLowerCase(), {
      options: `ENCODING ${encoding} LOCALE 'C' TEMPLATE template0`,
    })
    const db = await cluster.connect(encoding.toLowerCase())
    await db.query('CREATE EXTENSION pgcrypto')
    await db.query('SELECT api_key_internal.use_root_key()')
    const prefixes = ['', 'a'.repeat(64)]
    while (prefixes.length < PREFIXES) {
      const longer = pick(prefixes) + Array.from({ length: randomInt(6) }, () => pick(alphabet)).join('')
      if (Buffer.byteLength(longer) <= 64) prefixes.push(longer)
    }
    for (const [n, prefix] of prefixes.entries()) {
      await db.query(
        `SELECT api_key.import_api_key_hash(api_key_internal.legacy_credential($1, 'plaintext') ->> 'stored',
        'argon2', NULL, $2)`,
        [`key ${n}`, prefix]
      )
    }
    return { db, prefixes }
  }

  /** Mostly a prefix that there is, cut or with something behind it. */
  function someText(alphabet, prefixes) {
    const letters = Array.from(pick(prefixes))
    const cut = letters.slice(0, randomInt(letters.length + 1)).join('')
    return (
      `${pick([cut, letters.join('')])}${Array.from({ length: randomInt(40) }, () => pick(alphabet)).join('')}` ||
      'a'
    )
  }

  /** The ids of the keys whose prefix begins the text, in order. */
  const rule = async (db, text) =>
    (
      await db.query(
        `
    SELECT key_id FROM api_key_internal.keys
    WHERE lookup_handle IS NULL
      AND substr(convert_to($1, getdatabaseencoding()), 1, octet_length(legacy_prefix)) = convert_to(legacy_prefix, getdatabaseencoding())
    ORDER BY octet_length(legacy_prefix) DESC, key_id`,
        [text]
      )
    ).rows.map((row) => row.key_id)
})
