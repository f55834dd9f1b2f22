// The generated pages of docs/reference say what the server says, and nothing public is without a COMMENT. DOCS_UPDATE=1 (make docs) writes them.

import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { describe, it } from 'node:test'
import { pages } from '../docs/reference.mjs'
import { useCluster } from './harness.mjs'

const FOLDER = new URL('../../docs/reference/', import.meta.url)

describe('the generated reference', () => {
  let generated
  useCluster({}, async (cluster) => {
    const client = await cluster.connect(await cluster.database('reference'))
    await client.query('SELECT api_key.setup_postgrest(p_create_roles => true)')
    generated = await pages(client)
  })

  for (const name of ['functions.md', 'views.md', 'settings.md', 'codes.md', 'privileges.md']) {
    it(`${name} is what the server says`, () => {
      const file = new URL(name, FOLDER)
      if (process.env.DOCS_UPDATE) {
        mkdirSync(FOLDER, { recursive: true })
        writeFileSync(file, generated[name])
      }
      const committed = existsSync(file) ? readFileSync(file, 'utf8') : ''
      const [old, now] = [committed, generated[name]].map((text) => text.split('\n'))
      const differences = [...old.filter((line) => !now.includes(line)).map((line) => `- ${line}`),
        ...now.filter((line) => !old.includes(line)).map((line) => `+ ${line}`)]
      assert.ok(committed === generated[name], `run \`make docs\`, and commit what it writes:\n${differences.join('\n')}`)
    })
  }
})
