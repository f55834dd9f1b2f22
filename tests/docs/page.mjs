// A page of the docs as a program: its code blocks run in order, as a reader would run them, and print
// what the page says they print.
//
// sh blocks go to one bash, in the checkout; one that ends with `psql` or `psql DATABASE` connects
// the sql blocks that follow. A text block beneath is the output: all of it, except for a line `...`, which stands for any
// lines. Keys, ids, times and other figures that differ at each run are compared by their form.
//
// Comments steer what a reader does by hand:
//   <!-- run: replace 54329 /tmp/try -->   ports and folders that the test takes elsewhere
//   <!-- run: file NAME -->                the block is the content of this file
//   <!-- run: background URL -->           the block goes on; it is ready when URL answers
//   <!-- run: skip REASON -->              the block cannot be run here
//   <!-- run: before                       shell commands that make what the page takes for granted,
//   COMMANDS -->                           on lines of their own up to the end of the comment

import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { freePorts, until } from '../e2e/harness.mjs'

const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url))
const CLUSTER = join(CHECKOUT, 'tests/cluster')
const BLOCK_WITHIN_MS = 120_000

/** The blocks of a page: `{ line, language, text, run: [verb, argument], output }`. */
export function blocksOf(markdown) {
  const lines = markdown.split('\n')
  const blocks = []
  for (let at = 0; at < lines.length; at++) {
    if (lines[at] === '<!-- run: before') {
      const end = lines.indexOf('-->', at)
      blocks.push({ line: at + 1, end, language: 'sh', text: lines.slice(at + 1, end).join('\n') })
      at = end
      continue
    }
    const [, indent, language] = /^( *)```(\w*)$/.exec(lines[at]) ?? []
    if (language === undefined) continue
    const end = lines.findIndex((line, n) => n > at && line === `${indent}\`\`\``)
    assert.ok(end > at, `line ${at + 1}: the block does not end`)
    const text = lines.slice(at + 1, end).map((line) => line.slice(indent.length)).join('\n')
    const before = lines.slice(0, at).findLast((line) => line.trim() !== '') ?? ''
    const run = /^ *<!-- run: (\w+) ?(.*) -->$/.exec(before)?.slice(1)
    const last = blocks.at(-1)
    const block = { line: at + 1, end, language, text, run }
    // Beneath, not somewhere below.
    const isOutput = language === 'text' && !run && last && last.language !== 'text' &&
      lines.slice(last.end + 1, at).every((line) => line.trim() === '')
    if (isOutput) last.output = block
    else blocks.push(block)
    at = end
  }
  return blocks
}

/** Runs a page's blocks; `report(block, check)` is called with each. */
export class Page {
  #shell = new Session('bash', ['--norc'], (mark) => `printf '\\n%s %s\\n' ${mark} "$?"`)
  #psql
  #replacements = []
  #updates = []
  #folder = mkdtempSync(join(tmpdir(), 'api_key-docs-'))

  static async open(path) {
    const page = new Page()
    page.path = path
    page.markdown = readFileSync(path, 'utf8')
    const [, replaced] = /^<!-- run: replace (.*) -->$/m.exec(page.markdown) ?? []
    for (const what of replaced?.split(' ') ?? []) {
      const instead = what.startsWith('/') ? join(page.#folder, basename(what)) : (await freePorts(1))[0]
      page.#replacements.push([what, String(instead)])
    }
    // The server's user must reach the folders.
    spawnSync('chmod', ['755', page.#folder])
    return page
  }

  /** Runs one block and compares what it prints. */
  async run(block) {
    const text = this.#here(block.text)
    const printed = await this.#printed(block, text)
    if (process.env.DOCS_UPDATE && block.output) this.#update(block, printed)
    else if (block.output) same(printed, this.#here(block.output.text))
  }

  async #printed({ language, run: [verb, argument] = [], output }, text) {
    if (verb === 'file') return this.#shell.run(`cat > '${argument}' <<'END OF FILE'\n${text}\nEND OF FILE`)
    if (verb === 'background') {
      await this.#shell.run(`{ ${text}\n} > '${this.#folder}/background' 2>&1 &`)
      const url = this.#here(argument)
      await until(`an answer of ${url}`, () => fetch(url).then((answer) => answer.status < 500, () => false))
      return ''
    }
    switch (language) {
      case 'sh': return this.#shellBlock(text)
      case 'sql': {
        assert.ok(this.#psql, 'no block has connected with psql')
        const printed = await this.#psql.run(text)
        const isError = /^(ERROR|FATAL):/m.test(printed)
        assert.ok(!isError || /^(ERROR|FATAL):/m.test(output?.text ?? ''), printed)
        return printed
      }
      case 'python': return this.#shell.run(`python3 <<'END OF FILE'\n${text}\nEND OF FILE`)
      default: return assert.fail(`a block of ${language || 'no language'} is neither run nor skipped`)
    }
  }

  async #shellBlock(text) {
    const lines = text.split('\n')
    const connects = /^psql( \w+)?$/.test(lines.at(-1))
    const printed = await this.#shell.run((connects ? lines.slice(0, -1) : lines).join('\n'))
    if (connects) {
      const environment = await this.#shell.run('env')
      const env = Object.fromEntries(environment.split('\n').filter((line) => line.includes('='))
        .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]))
      const [, ...args] = lines.at(-1).split(' ')
      const { stdout: bindir } = spawnSync(process.env.PG_CONFIG ?? 'pg_config', ['--bindir'], { encoding: 'utf8' })
      await this.#psql?.end()
      this.#psql = new Session('bash', ['-c', 'exec "$@" 2>&1', 'bash', join(bindir.trim(), 'psql'), '-X', ...args],
        (mark) => `\\echo\n\\echo ${mark} 0`, env)
    }
    return printed
  }

  /** Ends all that the page has started. */
  async close() {
    await this.#psql?.end()
    await this.#shell.end()
    for (const [what, instead] of this.#replacements) {
      if (what.startsWith('/')) spawnSync(CLUSTER, ['stop', instead, 'immediate'])
    }
    rmSync(this.#folder, { recursive: true, force: true })
    if (this.#updates.length > 0) writeFileSync(this.path, this.#updated())
  }

  #here(text) {
    return this.#replacements.reduce((said, [what, instead]) => said.replaceAll(what, instead), text)
  }

  #update({ output }, printed) {
    if (isSame(printed, this.#here(output.text))) return
    const text = this.#replacements.reduce((said, [what, instead]) => said.replaceAll(instead, what), printed)
    this.#updates.push({ output, text: text.split('\n').map((line) => line.trimEnd()).filter((line) => line !== '') })
  }

  /** From the last to the first, so that the numbers of the lines before stay. */
  #updated() {
    const lines = this.markdown.split('\n')
    for (const { output, text } of [...this.#updates].reverse()) lines.splice(output.line, output.end - output.line, ...text)
    return lines.join('\n')
  }
}

/** A program that reads commands: what one command prints ends with a mark. */
class Session {
  #child
  #printed = ''
  #number = 0

  constructor(program, args, mark, env = process.env) {
    this.mark = mark
    const { RUST_BACKTRACE: _, ...clean } = env
    // A group of its own, so that what it leaves running ends with it.
    this.#child = spawn(program, args, { cwd: CHECKOUT, env: clean, detached: true, stdio: ['pipe', 'pipe', 'pipe'] })
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => { this.#printed += text })
    }
    this.#child.stdin.on('error', () => {})
  }

  async run(text) {
    const mark = `END-OF-BLOCK-${++this.#number}`
    this.#printed = ''
    this.#child.stdin.write(`${text}\n${this.mark(mark)}\n`)
    const end = new RegExp(`\\n${mark} (\\d+)\\n`)
    await until(`the end of:\n${text}\nwhich has printed:\n${this.#printed}`,
      () => end.test(this.#printed) || this.#child.exitCode !== null, BLOCK_WITHIN_MS)
    const [, status] = end.exec(this.#printed) ?? []
    const printed = this.#printed.replace(end, '\n')
    assert.equal(status, '0', `status ${status ?? 'unknown'}: ${printed}`)
    return printed
  }

  async end() {
    this.#child.stdin.end()
    try { process.kill(-this.#child.pid, 'SIGTERM') } catch { /* It has ended. */ }
  }
}

/** Lines whose form counts, not their figures. */
function form(text) {
  return text.split('\n')
    .map((line) => line
      .replace(/eyJ[\w-]+\.[\w-]+\.[\w-]+/g, '(token)')
      .replace(/\b[a-z][a-z0-9_]{0,30}_[0-9A-Za-z]{60}\b/g, '(key)')
      .replace(/\b[a-z][a-z0-9_]{0,30}_[0-9A-Za-z]{6}\.\.\./g, '(masked key)')
      .replace(/\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b/g, '(uuid)')
      .replace(/\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d+)?([+-]\d{2}(:\d{2})?|Z)?/g, '(time)')
      .replace(/\b\d+\.\d+\b/g, '(number)')
      .replace(/((?:Retry-After|"?reset"?|[;,]t)[:=] ?)\d+/gi, '$1(number)')
      .replace(/-{3,}(\+-{2,})*/g, '---')
      .replace(/\s+/g, ' ').trim())
    .filter((line) => line !== '')
}

function isSame(printed, expected) {
  const found = form(printed)
  let at = 0
  let elided = false
  for (const line of form(expected)) {
    if (line === '...') { elided = true; continue }
    const prefix = line.endsWith('...') ? line.slice(0, -3).trim() : undefined
    const matches = (other) => other === line || (prefix !== undefined && other?.startsWith(prefix))
    if (elided) while (at < found.length && !matches(found[at])) at++
    if (!matches(found[at])) return false
    at++
    elided = false
  }
  return elided || at === found.length
}

function same(printed, expected) {
  if (!isSame(printed, expected)) assert.deepEqual(form(printed), form(expected))
}
