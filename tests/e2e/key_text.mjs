// The text of keys, as the tests take it apart and forge it.

import { randomInt } from 'node:crypto'

/** The key's two random parts: its prefix and id, which are public, then its secret. */
export function partsOf(apiKey) {
  const [, prefix, id, secret, checksum] =
    /^([a-z][a-z0-9_]{0,30}_)([0-9A-Za-z]{22})([0-9A-Za-z]{32})([0-9A-Za-z]{6})$/.exec(apiKey)
  return { prefix, id, secret, checksum }
}

/** The same key with another secret, and the checksum that makes it well-formed. */
export function withWrongSecret(apiKey) {
  const { prefix, id, secret } = partsOf(apiKey)
  return withChecksum(`${prefix}${id}${[...secret].reverse().join('')}`)
}

/** A well-formed key that nobody issued; or one of the key whose id it gets, with a wrong secret. */
export function forged({ prefix = 'sk_live_', id = `0${digits(21)}` } = {}) {
  return withChecksum(`${prefix}${id}${digits(32)}`)
}

function withChecksum(text) {
  return text + base62(crc32(text), 6)
}

function digits(count) {
  return Array.from({ length: count }, () => base62(randomInt(62), 1)).join('')
}

/** CRC-32 of IEEE 802.3, as in zip and PNG (RFC 1952, section 8). */
function crc32(text) {
  let crc = 0xffffffff
  for (const byte of Buffer.from(text)) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0)
  }
  return ~crc >>> 0
}

function base62(number, width) {
  const digits = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
  let text = ''
  for (; text.length < width; number = Math.floor(number / 62)) text = digits[number % 62] + text
  return text
}
