// Texts of keys as an attacker makes them: right in form, wrong in substance.

import { randomBytes, randomInt } from 'node:crypto'

const DIGITS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
const [ID_DIGITS, SECRET_DIGITS, CHECKSUM_DIGITS] = [22, 32, 6]

// Node has zlib.crc32 since version 22 only. IEEE 802.3, as in zip.
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = (byte & 1 ? 0xedb88320 : 0) ^ (byte >>> 1)
  return byte
})
function crc32(text) {
  let crc = 0xffffffff
  for (const byte of Buffer.from(text)) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8)
  return (crc ^ 0xffffffff) >>> 0
}

function base62(value, width) {
  let digits = ''
  for (let rest = BigInt(value); digits.length < width; rest /= 62n)
    digits = DIGITS[Number(rest % 62n)] + digits
  return digits
}

const randomSecret = () =>
  Array.from({ length: SECRET_DIGITS }, () => DIGITS[randomInt(62)]).join('')
const checked = (text) => text + base62(crc32(text), CHECKSUM_DIGITS)

/** The secret part of a key's text. */
export const secretOf = (text) =>
  text.slice(-SECRET_DIGITS - CHECKSUM_DIGITS, -CHECKSUM_DIGITS)

/** A key with an id that no row has. */
export const forged = () => {
  const id = BigInt(`0x${randomBytes(16).toString('hex')}`)
  return checked(`sk_live_${base62(id, ID_DIGITS)}${randomSecret()}`)
}

/** The same key id with another secret. */
export const withWrongSecret = (text) =>
  checked(text.slice(0, -SECRET_DIGITS - CHECKSUM_DIGITS) + randomSecret())

// The known answer of src/core/key.rs.
const KNOWN = 'sk_live_0296tiiBb3U904RIpygpjj0123456789ABCDEFGHIJKLMNOPQRSTUV4Sxq7t'
if (checked(KNOWN.slice(0, -CHECKSUM_DIGITS)) !== KNOWN) throw new Error('crc32 is wrong')
