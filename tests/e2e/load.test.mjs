// Many clients for a while: each knows what every answer has to be, and in the end the books balance.

import assert from 'node:assert/strict'
import { randomInt } from 'node:crypto'
import { describe, it } from 'node:test'
import { call, codeOf, forged, issue, partsOf, stats, useCluster, value } from './harness.mjs'

const SECONDS = Number(process.env.LOAD_SECONDS ?? 30)
const CLIENTS = 64
const SHARED_KEYS = 8
const MOST_KEYS = 20

describe(`${CLIENTS} clients for ${SECONDS} seconds`, () => {
  let cluster, admin
  const settings = {
    'api_key.argon2_memory_kib': 64, 'api_key.argon2_iterations': 1, 'api_key.flush_interval': 1,
    // Wrong secrets are to be answered as such, and nobody is to give up waiting.
    'api_key.failure_limit': 1_000_000, 'api_key.hash_queue_timeout': 60_000,
    max_connections: CLIENTS + 20,
  }
  useCluster(settings, async (fresh) => {
    cluster = fresh
    await cluster.database('app')
    admin = await cluster.connect('app')
  })

  it('get no wrong answer, and every use is counted', async (test) => {
    const shared = []
    for (let n = 0; n < SHARED_KEYS; n++) shared.push(await issue(admin))
    const tellers = await Promise.all(Array.from({ length: CLIENTS },
      async () => new Teller(await cluster.connect('app'), shared)))
    const end = Date.now() + SECONDS * 1000
    await Promise.all(tellers.map((teller) => teller.run(end)))

    const done = {}
    const codes = {}
    for (const teller of tellers) {
      for (const [name, count] of Object.entries(teller.done)) done[name] = (done[name] ?? 0) + count
      for (const [code, count] of Object.entries(teller.codes)) codes[code] = (codes[code] ?? 0) + count
    }
    test.diagnostic(JSON.stringify(done))
    test.diagnostic(`${JSON.stringify(codes)}, none of them wrong`)
    for (const what of ['verify', 'issue', 'revoke', 'rotate', 'disable', 'enable'])
      assert.ok(done[what] > 0, what)
    for (const code of ['VALID', 'NOT_FOUND', 'REVOKED', 'DISABLED']) assert.ok(codes[code] > 0, code)

    await call(admin, 'flush_usage')
    const counted = await value(admin, 'SELECT sum(usage_count)::integer FROM api_key_internal.key_usage')
    const { rows } =
      await admin.query(`SELECT details ->> 'code' AS code, sum((details ->> 'count')::integer)::integer AS count
      FROM api_key.audit_log WHERE event = 'refused' GROUP BY 1`)
    const refused = Object.fromEntries(rows.map(({ code, count }) => [code, count]))
    assert.deepEqual({ VALID: counted, ...refused }, codes)
    const after = await stats(admin)
    const { usage_entries: left, usage_dropped: dropped, hashes_running: running, last_error: error } = after
    assert.deepEqual({ left, dropped, running, error }, { left: 0, dropped: 0, running: 0, error: null })
    assert.ok(after.flushes >= SECONDS / 4, `${after.flushes} flushes beside the load`)
    test.diagnostic(
      `${codes.VALID} VALID answers, usage_count adds up to ${counted}, ${after.flushes} flushes`
    )
  })
})

/** A client that owns its keys, and so knows what is to be answered. */
class Teller {
  done = {}
  codes = {}
  #keys = []
  #client
  #shared

  constructor(client, shared) {
    this.#client = client
    this.#shared = shared
  }

  async run(end) {
    await this.#issue()
    while (Date.now() < end) {
      const chance = randomInt(100)
      const [name, action] =
        chance < 40 ? ['verify', this.#verifyOwn] :
        chance < 70 ? ['verify', this.#verifyShared] :
        chance < 78 ? ['verify', this.#verifyWrong] :
        chance < 82 ? ['verify', this.#verifyAndRollBack] :
        chance < 87 ? ['issue', this.#issue] :
        chance < 92 ? ['rotate', this.#rotate] :
        chance < 94 ? ['disable', this.#disable] :
        chance < 97 ? ['enable', this.#enable] : ['revoke', this.#revoke]
      const done = await action.call(this)
      if (done !== false) this.done[name] = (this.done[name] ?? 0) + 1
    }
    for (const key of this.#keys) await this.#expect(key.text, key.code)
    for (const { api_key: key } of this.#shared) await this.#expect(key, 'VALID')
  }

  async #expect(key, expected) {
    const code = await codeOf(this.#client, key)
    assert.equal(code, expected)
    this.codes[code] = (this.codes[code] ?? 0) + 1
  }

  /** One of the client's keys, in one of these states if that matters. */
  #one(...codes) {
    const keys = this.#keys.filter(({ code }) => codes.length === 0 || codes.includes(code))
    return keys[randomInt(Math.max(keys.length, 1))]
  }

  async #issue() {
    const { api_key: text, key_id: id } = await issue(this.#client)
    this.#keys.push({ text, id, code: 'VALID' })
    // Old keys are left alone, not deleted: their use counts go into the sum.
    if (this.#keys.length > MOST_KEYS) this.#keys.shift()
  }

  async #verifyOwn() {
    const { text, code, previous, beforePrevious } = this.#one()
    await this.#expect(text, code)
    if (previous) await this.#expect(previous, code)
    if (beforePrevious) await this.#expect(beforePrevious, 'NOT_FOUND')
  }

  async #verifyShared() {
    await this.#expect(this.#shared[randomInt(SHARED_KEYS)].api_key, 'VALID')
  }

  async #verifyWrong() {
    await this.#expect(forged(randomInt(2) ? {} : partsOf(this.#shared[0].api_key)), 'NOT_FOUND')
  }

  async #verifyAndRollBack() {
    const { text, code, id } = this.#one()
    await this.#client.query('BEGIN')
    await this.#expect(text, code)
    await call(this.#client, 'revoke_api_key', { p_key_id: id })
    await this.#expect(text, 'REVOKED')
    await this.#client.query('ROLLBACK')
    await this.#expect(text, code)
  }

  async #rotate() {
    const key = this.#one('VALID')
    if (!key) return false
    const { api_key: text } = await call(this.#client, 'rotate_api_key', { p_key_id: key.id })
    Object.assign(key, { text, previous: key.text, beforePrevious: key.previous ?? key.beforePrevious })
  }

  async #disable() {
    return this.#change('VALID', 'DISABLED', (id) => this.#update(id, { enabled: false }))
  }

  async #enable() {
    return this.#change('DISABLED', 'VALID', (id) => this.#update(id, { enabled: true }))
  }

  async #revoke() {
    const revoked = await this.#change('VALID', 'REVOKED', (id) =>
      call(this.#client, 'revoke_api_key', { p_key_id: id })
    )
    // The old secret goes with the key.
    if (revoked?.previous) Object.assign(revoked, { previous: undefined, beforePrevious: revoked.previous })
    return revoked
  }

  async #change(from, to, change) {
    const key = this.#one(from)
    if (!key) return false
    await change(key.id)
    return Object.assign(key, { code: to })
  }

  #update(id, changes) {
    return call(this.#client, 'update_api_key', { p_key_id: id, p_changes: changes })
  }
}
