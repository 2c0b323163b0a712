/** Message ids: 48 bits of time in milliseconds, then 80 random bits (a ULID by its bytes). */

const ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';

/**
 * A new id.
 * @param {number} [now] milliseconds since 1970
 * @returns {Uint8Array} 16 bytes
 */
export function ulid(now = Date.now()) {
  const id = crypto.getRandomValues(new Uint8Array(16));
  for (let i = 5, rest = now; i >= 0; i -= 1) {
    id[i] = rest % 256;
    rest = Math.floor(rest / 256);
  }
  return id;
}

/**
 * The 26 characters of an id.
 * @param {Uint8Array} id
 */
export function idText(id) {
  let bits = 0n;
  for (const byte of id) bits = (bits << 8n) | BigInt(byte);
  let text = '';
  for (let i = 0; i < 26; i += 1) {
    text = ALPHABET[Number(bits & 31n)] + text;
    bits >>= 5n;
  }
  return text;
}

/**
 * The id of 26 characters, or a copy of 16 bytes.
 * @param {string | Uint8Array} id
 * @returns {Uint8Array}
 */
export function idBytes(id) {
  if (typeof id !== 'string') {
    if (id.length !== 16) throw new RangeError('an id has 16 bytes');
    return id.slice();
  }
  if (!/^[0-7][0-9A-HJKMNP-TV-Z]{25}$/i.test(id)) throw new RangeError('an id has 26 characters of a ULID');
  let bits = 0n;
  for (const c of id.toUpperCase()) bits = (bits << 5n) | BigInt(ALPHABET.indexOf(c));
  const bytes = new Uint8Array(16);
  for (let i = 15; i >= 0; i -= 1) {
    bytes[i] = Number(bits & 255n);
    bits >>= 8n;
  }
  return bytes;
}
