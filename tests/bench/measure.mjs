// Rounds, medians, and the table that comes of them.

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** The median of what one is of the other, round by round: what slows a whole round cancels out. */
export const ratio = (ones, others) => median(ones.map((one, round) => one / others[round]))

/** A B C, A B C, …: the results of each contender, by round. */
export async function interleave(rounds, contenders) {
  const results = Object.fromEntries(Object.keys(contenders).map((name) => [name, []]))
  for (let round = 1; round <= rounds; round++) {
    for (const [name, measure] of Object.entries(contenders)) results[name].push(await measure(round))
    say(`round ${round} of ${rounds}: ` + Object.entries(results)
      .map(([name, all]) => `${name} ${number(all.at(-1))}`).join(', '))
  }
  return results
}

const started = Date.now()

/** Tells that the bench is alive. */
export function say(what) {
  console.error(`[${((Date.now() - started) / 1000).toFixed(0).padStart(4)} s] ${what}`)
}

export const number = (value) =>
  value >= 100 ? Math.round(value).toLocaleString('en') : value.toPrecision(3)

export const least = (goal) => ({ text: `>= ${goal}`, reached: (value) => value >= goal })
export const most = (goal) => ({ text: `<= ${goal}`, reached: (value) => value <= goal })

/** What was measured, as a table. */
export class Report {
  #rows = []
  #notes = []

  /** `value` is what `goal` is about; without a goal the row is for information. */
  row(what, figure, value, goal) {
    this.#rows.push([what, figure, value === undefined ? '' : number(value), goal?.text ?? '',
      goal ? (goal.reached(value) ? 'reached' : 'NOT REACHED') : ''])
  }

  note(text) {
    this.#notes.push(`- ${text}`)
  }

  toString() {
    const rows = [['what', 'median', 'compared', 'goal', ''], ...this.#rows]
    const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)))
    const lines = rows.map((row) => row.map((cell, column) =>
      column === 0 ? cell.padEnd(widths[0]) : cell.padStart(widths[column])).join('  ').trimEnd())
    lines.splice(1, 0, widths.map((width) => '-'.repeat(width)).join('  '))
    return [...lines, '', ...this.#notes].join('\n')
  }
}
