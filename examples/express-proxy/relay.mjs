// The service's answer on its way to the client, as it comes.

import { finished } from 'node:stream'
import { endToEnd } from './headers.mjs'

// How long a client may take to read what it was sent last, before its connection is cut.
const FAREWELL_MS = 5_000

/** Sends an answer (http.IncomingMessage) as a response, until one of the two ends. */
export class Relay {
  #answer
  #response
  // Four bytes, as many as the longest end of an event has.
  #lastBytes = '\n\n'

  constructor(answer, response) {
    this.#answer = answer
    this.#response = response
    response.writeHead(answer.statusCode, answer.statusMessage, endToEnd(answer.headers))
    response.flushHeaders() // The first event may be a long time coming.
    answer.on('data', (chunk) => {
      this.#lastBytes = (this.#lastBytes + chunk.subarray(-4).toString('latin1')).slice(-4)
    })
    // An answer that broke off must not look complete to the client.
    finished(answer, (error) => { if (error && !response.writableEnded) response.destroy() })
    answer.pipe(response)
  }

  /** Ends the response before its time; a stream of events ends with the event `refused`. */
  breakOff(data) {
    if (!this.#takesAnEvent()) return this.#response.destroy()
    this.#answer.unpipe(this.#response)
    this.#response.setTimeout(FAREWELL_MS)
    this.#response.end(`event: refused\ndata: ${data.trim()}\n\n`)
  }

  /** Not in the middle of another event: clients take what they have of it for the whole. */
  #takesAnEvent() {
    const { 'content-type': type = '', 'content-encoding': encoding } = this.#answer.headers
    return /^text\/event-stream\b/i.test(type) && !encoding && !this.#response.writableEnded
      && /(\n\n|\r\r|\r\n\r\n)$/.test(this.#lastBytes)
  }
}
