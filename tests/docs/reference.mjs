// The generated pages of docs/reference: what a server with the extension says of itself. COMMENTs are plain
// text, so that `\df+` and `\d+` read well; here their names become links and code.

import { readFileSync, readdirSync } from 'node:fs'

const SQL = new URL('../../sql/', import.meta.url)
const ROLES = ['anon', 'authenticated', 'service_role']

/** The sections of functions.md, and the files of sql/ (without number and `.sql`) that define their functions. */
const SECTIONS = {
  'Issue and manage keys': ['keys', 'issue', 'change', 'revoke'],
  'Verify keys': ['verify'],
  'Scopes and tiers': ['scopes', 'tiers'],
  'The gate': ['gate'],
  'The key of the request': ['identity'],
  'Rate limits': ['rate_limits'],
  'Tenants': ['tenants'],
  'Resources': ['resources', 'authorize'],
  'Protected tables': ['protection', 'row_security'],
  'Legacy keys': ['legacy', 'import', 'wrap', 'compat'],
  'Usage and statistics': ['flush', 'stats'],
  'Set-up': ['postgrest'],
}

const HEADERS = {
  None: '',
  Challenge: '`WWW-Authenticate`',
  InvalidToken: '`WWW-Authenticate` with `error="invalid_token"`',
  InsufficientScope: '`WWW-Authenticate` with `error="insufficient_scope"` and `scope`',
  RetryAfterASecond: '`Retry-After`',
  RateLimit: '`Retry-After`, `RateLimit`, `RateLimit-Policy`',
}

/** When a setting of each context of pg_settings may be changed. */
const CONTEXTS = {
  postmaster: 'at server start, in `postgresql.conf`',
  sighup: 'in `postgresql.conf` or by `ALTER SYSTEM`, with a reload',
  superuser: 'by superusers, at any time',
}

/** The pages, by file name. `client` is a superuser's, in a database where setup_postgrest has run. */
export async function pages(client) {
  const rows = async (text) => JSON.parse(JSON.stringify((await client.query(text)).rows).replaceAll('timestamp with time zone', 'timestamptz'))
  const functions = await rows(FUNCTIONS)
  const views = await rows(VIEWS)
  const settings = await rows(SETTINGS)
  const [{ refusals }] = await rows('SELECT api_key_internal.refusals() AS refusals')
  for (const { name, comment } of [...functions, ...views, ...views.flatMap((view) => view.columns)]) {
    if (!comment) throw new Error(`api_key: ${name} has no COMMENT`)
  }
  const all = { functions, views, settings, refusals, write: writer({ functions, views, settings, refusals }) }
  return {
    'functions.md': functionsPage(all),
    'views.md': viewsPage(all),
    'settings.md': settingsPage(all),
    'codes.md': codesPage(all),
    'privileges.md': privilegesPage(all),
  }
}

const FUNCTIONS = `
  SELECT p.proname AS name, p.prokind = 'p' AS is_procedure, obj_description(p.oid, 'pg_proc') AS comment,
         CASE p.provolatile WHEN 'v' THEN 'Volatile' WHEN 's' THEN 'Stable' ELSE 'Immutable' END AS volatility,
         CASE WHEN p.prokind = 'f' THEN pg_get_function_result(p.oid) END AS result, p.proretset AS is_table,
         ARRAY(SELECT concat_ws(' ', CASE WHEN p.proargmodes[n] = 'v' THEN 'VARIADIC' END, p.proargnames[n],
                   format_type(type, NULL),
                   '= ' || regexp_replace(pg_get_function_arg_default(p.oid, n::int), '::[a-z_. ]+(\\[\\])?$', ''))
               FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) WITH ORDINALITY AS a (type, n)
               WHERE p.proargmodes IS NULL OR p.proargmodes[n] IN ('i', 'v') ORDER BY n) AS arguments,
         ARRAY(SELECT role FROM unnest(ARRAY['${ROLES.join("', '")}']) AS role
               WHERE has_function_privilege(role, p.oid, 'EXECUTE')) AS callers
  FROM pg_proc AS p WHERE p.pronamespace = 'api_key'::regnamespace ORDER BY p.oid`

const VIEWS = `
  SELECT c.relname AS name, obj_description(c.oid, 'pg_class') AS comment,
         (SELECT json_agg(json_build_object('name', attname, 'type', format_type(atttypid, atttypmod),
                                            'comment', col_description(attrelid, attnum)) ORDER BY attnum)
          FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0) AS columns,
         ARRAY(SELECT role FROM unnest(ARRAY['${ROLES.join("', '")}']) AS role
               WHERE has_table_privilege(role, c.oid, 'SELECT')) AS callers
  FROM pg_class AS c WHERE c.relnamespace = 'api_key'::regnamespace AND c.relkind = 'v' ORDER BY c.relname`

const SETTINGS = `
  SELECT name, unit, vartype AS type, context, min_val AS least, max_val AS most, boot_val AS "default",
         short_desc AS short, extra_desc AS long
  FROM pg_settings WHERE name LIKE 'api\\_key.%' ORDER BY name`

function functionsPage({ functions, write }) {
  const sectionOf = sections()
  const texts = Object.keys(SECTIONS).map((title) => {
    const own = functions.filter(({ name }) => sectionOf(name) === title)
    return `## ${title}\n\n${own.map((f) => `### ${f.name}\n\n\`\`\`text\n${signature(f)}\n\`\`\`\n
${write.comment(f.comment)}\n\n${f.is_procedure ? 'Procedure' : f.volatility}. ${callers(f.callers)}\n`).join('\n')}`
  })
  return page('Functions', `All functions are in the schema \`api_key\`. Arguments have names, so PostgREST calls a function by them:
\`POST /rpc/issue_api_key\`. PostgREST also answers \`GET\` for functions that are stable. Call a procedure with \`CALL\`.
The roles that may call a function are those that \`setup_postgrest\` has granted it to; superusers and the owner of
the extension may call all of them.`, texts)
}

function viewsPage({ views, write }) {
  return page('Views', 'All views are in the schema `api_key`, and read-only.', views.map((view) => {
    const table = tableOf(['column', 'type', 'meaning'], view.columns.map((column) =>
      [`\`${column.name}\``, column.type, write.cell(column.comment)]))
    return `## ${view.name}\n\n${write.comment(view.comment)}\n\n${table}\n\n${readers(view.callers)}\n`
  }))
}

function settingsPage({ settings, write }) {
  const value = (text, { type, unit }) => (text === '' ? 'empty' : `\`${text}${type === 'integer' && unit ? ` ${unit}` : ''}\``)
  return page('Settings', `Sizes of memory can be set only before the server starts, and only with \`api_key\` in
\`shared_preload_libraries\`.`, [
    tableOf(['setting', 'default', 'range', 'may be set'], settings.map((setting) => [
      `[\`${setting.name}\`](#${anchor(setting.name)})`, value(setting.default, setting),
      setting.least === null ? '' : `${value(setting.least, setting)} to ${value(setting.most, setting)}`,
      CONTEXTS[setting.context] ?? missing('context', setting.context)])) + '\n',
    ...settings.map(({ name, short, long }) =>
      `## ${name}\n\n${[short, long].filter(Boolean).map((text) => write.line(text)).join('\n\n')}\n`)])
}

function codesPage({ refusals, write }) {
  const header = ({ header: name }) => HEADERS[name] ?? missing('header', name)
  const row = (refusal) => [refusal.status, refusal.sqlstate, header(refusal),
    [refusal.message, refusal.detail, refusal.hint].filter(Boolean).map((text) => write.cell(text)).join('<br>')]
  const verdicts = refusals.filter(({ verdict }) => verdict)
  const requests = refusals.filter(({ code }) => /^[A-Z]+_?[A-Z_]*$/.test(code))
  const commands = refusals.filter((refusal) => !requests.includes(refusal))
  return page('Codes and refusals', 'Test codes, statuses and SQLSTATEs. The texts may change.', [
    `## Codes of verify

The answer of \`verify_api_key\` has a \`code\`: the first of these that applies, or \`VALID\`. Only a refusal has a message.
[Keys](keys.md#codes-of-verify) says what each means.\n
${tableOf(['code', 'message'], verdicts.map(({ code, verdict }) => [`\`${code}\``, write.cell(verdict)]))}\n`,
    `## Refused requests

The gate, \`require_scope\`, \`require_authorization\` and the policies of \`isolate_tenants\` and \`protect_resource\`
refuse a request with an HTTP status and a body \`{code, message, details, hint}\`. Outside of PostgREST the refusal is
an error with the SQLSTATE. The text has the message, then details and hint where they are always the same.\n
${tableOf(['code', 'HTTP status', 'SQLSTATE', 'headers', 'text'],
    requests.map((refusal) => [`\`${refusal.code}\``, ...row(refusal)]))}\n`,
    `## Refused commands

A command raises an error; in PostgREST its \`code\` is the SQLSTATE. These have the HTTP status given here, and all
other errors the one that PostgREST maps their SQLSTATE to. [Keys](keys.md#errors-of-commands) lists the SQLSTATEs.\n
${tableOf(['HTTP status', 'SQLSTATE', 'headers', 'text'], commands.map(row))}\n`])
}

function privilegesPage({ functions, views }) {
  const sectionOf = sections()
  const link = (file, { name }) => `[\`${name}\`](${file}#${anchor(name)})`
  const marks = ({ callers: roles }) => ROLES.map((role) => (roles.includes(role) ? 'yes' : ''))
  const order = Object.keys(SECTIONS)
  const sorted = functions.map((f) => ({ ...f, at: order.indexOf(sectionOf(f.name)) })).sort((a, b) => a.at - b.at)
  return page('Privileges', `Before \`setup_postgrest\`, only superusers and the owner of the extension may use it: PUBLIC has no
privilege. \`setup_postgrest\` grants what this page shows; with other names for the roles, read those names instead.
No role has a privilege in the schema \`api_key_internal\`, and the authenticator has none of its own.

A role that may execute \`define_tier\` is an administrator, and may act for every user. So do not
\`GRANT EXECUTE ON ALL FUNCTIONS\` to others than the service role.`, [
    `## Functions\n\n${tableOf(['function', ...ROLES], sorted.map((f) => [link('functions.md', f), ...marks(f)]))}
\nA function with no \`yes\` is for superusers and the owner of the extension.\n`,
    `## Views\n\n${tableOf(['view', ...ROLES], views.map((v) => [link('views.md', v), ...marks(v)]))}\n`])
}

function page(title, introduction, parts) {
  return `<!-- Generated by \`make docs\` from a running server. Edit the COMMENTs in sql/ and the texts in src/ instead. -->
# ${title}\n\n${introduction}\n\n${parts.join('\n')}`
}

function tableOf(head, rows) {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`.replace(/ {2,}\|/g, ' |')).join('\n')
}

function signature({ name, is_procedure, arguments: list, result, is_table }) {
  const returned = is_procedure ? '' : ` returns ${is_table ? result.replace(/^TABLE/, 'table ') : result}`
  const line = `${is_procedure ? 'CALL ' : ''}${name}(${list.join(', ')})${returned}`
  if (line.length <= 100) return line
  const broken = (items) => `(\n${items.map((item) => `    ${item}`).join(',\n')})`
  const table = /^ returns table ?\((.*)\)$/.exec(returned)
  const head = name + (list.length > 2 ? broken(list) : `(${list.join(', ')})`)
  return `${head}\n${table ? `returns table ${broken(table[1].split(', '))}` : returned.trim()}`
}

function callers(roles) {
  return roles.length === 0 ? 'May be called by superusers and the owner of the extension.' : `May be called by ${words(roles)}.`
}

function readers(roles) {
  return roles.length === 0 ? 'May be read by superusers and the owner of the extension.' : `May be read by ${words(roles)}.`
}

function words(list) {
  return list.map((word) => `\`${word}\``).join(', ').replace(/, ([^,]*)$/, ' and $1')
}

/** Tells the section of a function, by the file that creates it. */
function sections() {
  const files = readdirSync(SQL).filter((file) => file.endsWith('.sql'))
  const fileOf = new Map(files.flatMap((file) =>
    [...readFileSync(new URL(file, SQL), 'utf8').matchAll(/^CREATE (?:FUNCTION|PROCEDURE) api_key\.(\w+)/gm)]
      .map(([, name]) => [name, file.replace(/^\d+_|\.sql$/g, '')])))
  return (name) => Object.keys(SECTIONS).find((title) => SECTIONS[title].includes(fileOf.get(name))) ??
    missing('section for functions of the file', fileOf.get(name))
}

function missing(what, name) {
  throw new Error(`tests/docs/reference.mjs has no ${what} ${name}`)
}

/** The anchor that mdbook and GitHub give a heading. */
function anchor(heading) {
  return heading.toLowerCase().replace(/[^\w\- ]/g, '').replaceAll(' ', '-')
}

/** Turns plain texts into Markdown: names of the extension become links, other code becomes code. */
function writer({ functions, views, settings, refusals }) {
  const targets = new Map([
    ...functions.map(({ name }) => [name, `functions.md#${anchor(name)}`]),
    ...views.flatMap(({ name }) => [`api_key.${name}`, ...name.includes('_') ? [name] : []]
      .map((text) => [text, `views.md#${anchor(name)}`])),
    ...settings.map(({ name }) => [name, `settings.md#${anchor(name)}`]),
  ])
  const codes = new Set(refusals.map(({ code }) => code).filter((code) => /^[A-Z]/.test(code)).concat('VALID'))
  // A statement or condition, a JSON object, a regular expression, a scope, a name with an underscore or a
  // schema, a code.
  const pattern = new RegExp([/(?:SELECT|PERFORM)(?: \* FROM)? api_key\.[^;]*;|USING \(.*?\)\)/,
    /\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}/, /\^\S+\$/, /\b[a-z_]+:(?:[a-z]+\b|\*)/, /…?\b[\w.]*_[\w.]*|\brequest\.[a-z.]+/, /\b[A-Z]{5,}\b/]
    .map(({ source }) => source).join('|'), 'g')
  const line = (text) => {
    let at = 0
    let written = ''
    for (const { 0: found, index } of text.matchAll(pattern)) {
      const token = found.replace(/\.$/, '')
      const calls = text.startsWith('()', index + token.length) ? '()' : ''
      written += escape(text.slice(at, index))
      at = index + token.length + calls.length
      const target = targets.get(token)
      const isWord = /^[A-Z_]+$/.test(token)
      written += target ? `[\`${token}${calls}\`](${target})` : isWord && !codes.has(token) ? escape(token) : `\`${token}${calls}\``
    }
    return written + escape(text.slice(at))
  }
  // `name: …`, or `name, name: …`, describes a member.
  const member = /^([a-z_*]+(?:, [a-z_*]+)*): (.*)$/
  return {
    line,
    cell: (text) => line(text).replaceAll('|', '\\|'),
    comment: (text) => paragraphs(text).reduce((written, paragraph) => {
      const [, names, meaning] = member.exec(paragraph) ?? []
      const label = /^(Result|Errors): (.*)$/.exec(paragraph)
      const own = names ? `- ${names.split(', ').map((name) => `\`${name}\``).join(', ')}: ${line(meaning)}`
        : label ? `**${label[1]}:** ${line(label[2])}` : line(paragraph)
      return written === '' ? own : `${written}${names && /(^|\n)- [^\n]*$/.test(written) ? '\n' : '\n\n'}${own}`
    }, ''),
  }
}

/** The paragraphs of a comment: a blank line begins one, and so does what describes a member, a result or errors. */
function paragraphs(text) {
  return text.split(/\n{2,}|\n(?=(?:[a-z_*]+(?:, [a-z_*]+)*|Result|Errors): )/).map((part) => part.replace(/\s+/g, ' ').trim())
}

function escape(text) {
  return text.replace(/[\\*<[\]`]/g, '\\$&')
}
