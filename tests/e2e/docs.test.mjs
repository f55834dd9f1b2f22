// Every code block of the documentation runs, and prints what the page says. DOCS_UPDATE=1 writes what
// is printed into the pages; DOCS_PAGES=gate.md runs the pages whose path ends so.

import assert from 'node:assert/strict'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Page, blocksOf } from '../docs/page.mjs'

const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url))
// Of these only the links: CONTRIBUTING.md builds and runs the tests, and examples.test.mjs runs the examples.
const NOT_RUN = ['CONTRIBUTING.md', 'SECURITY.md', 'CHANGELOG.md', 'examples/README.md']
const PAGES = ['README.md', ...NOT_RUN,
  ...readdirSync(join(CHECKOUT, 'docs'), { recursive: true }).filter((path) => path.endsWith('.md'))
    .map((path) => `docs/${path}`).sort()].filter((path) => existsSync(join(CHECKOUT, path)))
const wanted = (path) => path.endsWith(process.env.DOCS_PAGES ?? '')
const read = (path) => readFileSync(join(CHECKOUT, path), 'utf8')
// A diagram, and the regular expressions of secret scanners, are no programs.
const isProgram = ({ language, run }) => run?.[0] !== 'skip' && !['mermaid', 'text'].includes(language)

describe('the docs', () => {
  for (const path of PAGES.filter(wanted)) {
    if (NOT_RUN.includes(path) || !blocksOf(read(path)).some(isProgram)) continue
    describe(path, () => {
      let page
      let failed = false
      before(async () => { page = await Page.open(join(CHECKOUT, path)) })
      after(() => page.close())
      for (const block of blocksOf(read(path))) {
        const name = `line ${block.line}: ${block.text.split('\n')[0].slice(0, 60)}`
        if (!isProgram(block)) {
          it(name, { skip: block.run?.[1] ?? block.language }, () => {})
          continue
        }
        it(name, async () => {
          assert.ok(!failed, 'a block before it failed')
          failed = true
          await page.run(block)
          failed = false
        })
      }
    })
  }

  it('have no broken link', () => {
    const anchors = (path) => new Set(prose(path).filter((line) => /^#+ /.test(line))
      .map((line) => line.replace(/^#+ /, '').toLowerCase().replace(/[^\w\- ]/g, '').replaceAll(' ', '-')))
    const broken = PAGES.flatMap((path) => prose(path).flatMap((line) => [...line.matchAll(/\]\(([^)\s]+)\)/g)])
      .map(([, target]) => target).filter((target) => !/^[a-z]+:/.test(target))
      .filter((target) => {
        const [file, anchor] = target.split('#')
        const there = file === '' ? path : relative(CHECKOUT, join(CHECKOUT, dirname(path), file))
        return !existsSync(join(CHECKOUT, there)) || (anchor !== undefined && !anchors(there).has(anchor))
      })
      .map((target) => `${path}: ${target}`))
    assert.deepEqual(broken, [])
  })

  it('are all in the table of contents', () => {
    const listed = [...read('docs/SUMMARY.md').matchAll(/\]\(([^)]+)\)/g)].map(([, target]) => `docs/${target}`)
    const pages = PAGES.filter((path) => path.startsWith('docs/') && path !== 'docs/SUMMARY.md')
    assert.deepEqual(listed.sort(), pages.sort())
  })
})

/** The lines of a page outside of its code blocks. */
function prose(path) {
  let inBlock = false
  return read(path).split('\n').filter((line) => {
    if (/^ *```/.test(line)) inBlock = !inBlock
    return !inBlock
  })
}
