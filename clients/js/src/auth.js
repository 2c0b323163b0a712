/** Credentials: tokens, passwords and Ed25519 keys (proto/frame.md, sections 9 and 10). */

import { Writer, utf8 } from './codec.js';
import { TidegateError } from './errors.js';

const TOKEN = 1;
const PASSWORD = 2;
const KEY = 3;
const CONTEXT = utf8('tidegate auth v1\0');
const CONTEXT_AGAIN = utf8('tidegate reauth v1\0');
const PRIVATE = 'ed25519-private:';
/** PKCS#8 of an Ed25519 key before its 32 bytes (RFC 8410). */
const PKCS8 = Uint8Array.from([0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20]);

/**
 * @typedef {{privateKey: CryptoKey, publicKey: Uint8Array}} KeyPair
 * @typedef {{token: string | (() => string | Promise<string>)} | {username: string, password: string} | {key: KeyPair}} Credentials
 */

/**
 * A key of its 32 secret bytes.
 * @param {Uint8Array} seed
 * @returns {Promise<KeyPair>}
 */
export async function keyFromSeed(seed) {
  if (seed.length !== 32) throw new TidegateError('bad-argument', 'an Ed25519 seed has 32 bytes');
  const pkcs8 = new Uint8Array([...PKCS8, ...seed]);
  // Exported once for its public half; what signs is not extractable.
  const readable = await crypto.subtle.importKey('pkcs8', pkcs8, 'Ed25519', true, ['sign']);
  const { x } = await crypto.subtle.exportKey('jwk', readable);
  const privateKey = await crypto.subtle.importKey('pkcs8', pkcs8, 'Ed25519', false, ['sign']);
  pkcs8.fill(0);
  return { privateKey, publicKey: fromBase64(/** @type {string} */ (x)) };
}

/**
 * A key of a file that `tidegate keys new` wrote: the line `ed25519-private:BASE64`.
 * @param {string} text
 */
export function keyFromText(text) {
  const line = text.split('\n').map((part) => part.trim()).find((part) => part.startsWith(PRIVATE));
  if (!line) throw new TidegateError('bad-argument', `no line begins with ${PRIVATE}`);
  return keyFromSeed(fromBase64(line.slice(PRIVATE.length)));
}

/** @param {string} text base64 or base64url */
function fromBase64(text) {
  return Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), (c) => c.charCodeAt(0));
}

/** @param {Credentials} credentials */
export function methodOf(credentials) {
  if ('token' in credentials) return TOKEN;
  if ('username' in credentials) return PASSWORD;
  if ('key' in credentials) return KEY;
  throw new TidegateError('bad-argument', 'credentials are {token}, {username, password} or {key}');
}

/**
 * The data of an auth, or of a reauth.
 * @param {Credentials} credentials @param {Uint8Array} nonce of the challenge @param {boolean} again
 * @returns {Promise<Uint8Array>}
 */
export async function answer(credentials, nonce, again) {
  if ('token' in credentials) {
    return utf8(typeof credentials.token === 'function' ? await credentials.token() : credentials.token);
  }
  const writer = new Writer();
  if ('username' in credentials) {
    writer.text(credentials.username);
    writer.text(credentials.password);
    return writer.take();
  }
  // Nothing else is signed with it, whoever asks.
  if (nonce.length !== 32) throw new TidegateError('auth-failed', 'a challenge has 32 bytes', { number: 102 });
  const { privateKey, publicKey } = credentials.key;
  const signed = new Uint8Array([...(again ? CONTEXT_AGAIN : CONTEXT), ...nonce]);
  writer.raw(publicKey);
  writer.raw(new Uint8Array(await crypto.subtle.sign('Ed25519', privateKey, signed)));
  return writer.take();
}
