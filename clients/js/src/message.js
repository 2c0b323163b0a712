/** Messages as programs see them, and what they give to publish. */

import { decodeProperties, encodeRecord, fromUtf8, utf8, Writer } from './codec.js';
import { idBytes, idText, ulid } from './ulid.js';

/**
 * @typedef {Uint8Array | string | object | number | boolean | null} Payload bytes as they are, a string as UTF-8, anything else as JSON
 * @typedef {object} PublishOptions
 * @property {'queue' | 'memory' | 'disk' | 'upstream'} [contract] what an acknowledgement means
 * @property {string | Uint8Array} [id] publishing it again stores it once; a new one unless given
 * @property {boolean} [retain]
 * @property {number} [priority] 0 to 9
 * @property {number} [ttlMs]
 * @property {number} [delayMs]
 * @property {Record<string, string | Uint8Array>} [user] properties of your own
 * @property {string} [contentType]
 * @property {string} [replyTo]
 * @property {Uint8Array | string} [correlation]
 * @property {Uint8Array | string} [orderingKey]
 * @property {boolean} [retry] false: a refusal for now is an error instead of being tried again
 */

/** @param {Uint8Array | string} value */
const bytesOf = (value) => (typeof value === 'string' ? utf8(value) : value);

/**
 * @param {Payload} payload
 * @returns {['bytes' | 'text' | 'json', Uint8Array]}
 */
export function encodePayload(payload) {
  if (payload instanceof Uint8Array) return ['bytes', payload];
  if (payload instanceof ArrayBuffer) return ['bytes', new Uint8Array(payload)];
  if (typeof payload === 'string') return ['text', utf8(payload)];
  return ['json', utf8(JSON.stringify(payload))];
}

/**
 * The bytes of a record to publish.
 * @param {string} channel @param {Payload} payload @param {PublishOptions} options
 */
export function makeRecord(channel, payload, options) {
  const id = options.id === undefined ? ulid() : idBytes(options.id);
  const [encoding, bytes] = encodePayload(payload);
  /** @type {[number, Uint8Array][]} */
  const properties = [];
  for (const [key, value] of Object.entries(options.user ?? {})) {
    const pair = new Writer();
    pair.text(key);
    pair.raw(bytesOf(value));
    properties.push([0, pair.take()]);
  }
  if (options.contentType !== undefined) properties.push([1, utf8(options.contentType)]);
  if (options.correlation !== undefined) properties.push([2, bytesOf(options.correlation)]);
  if (options.replyTo !== undefined) properties.push([3, utf8(options.replyTo)]);
  if (options.orderingKey !== undefined) properties.push([4, bytesOf(options.orderingKey)]);
  const record = encodeRecord({
    id, channel, retain: options.retain ?? false, compressed: false, priority: options.priority ?? 4, timeMs: Date.now(),
    ttlMs: options.ttlMs ?? 0, delayMs: options.delayMs ?? 0, encoding, properties, payload: bytes,
  });
  return { id: idText(id), record };
}

/** A message that was received. */
export class Message {
  /** @param {import('./codec.js').Item} item @param {bigint} epoch */
  constructor(item, epoch) {
    const { record, flags } = item;
    this.id = idText(record.id);
    this.channel = record.channel;
    this.payload = record.payload;
    this.encoding = record.encoding;
    this.priority = record.priority;
    this.retain = record.retain;
    /** The publisher's time of day, in milliseconds since 1970; 0 when it has no clock. */
    this.timeMs = record.timeMs;
    /** When the broker took it. */
    this.storedMs = item.storedMs;
    this.properties = record.properties;
    /** Sent before, perhaps without being processed. */
    this.redelivered = (flags & 1) !== 0;
    /** A stored value, not a new message. */
    this.retained = (flags & 2) !== 0;
    /** Not live. */
    this.history = (flags & 4) !== 0;
    /** Its place in its channel where history is kept, else `null`. */
    this.offset = (flags & 8) !== 0 ? item.offset : null;
    /** Its place in queue and lane; `(epoch, lane, seq)` is the same at each delivery. */
    this.seq = item.seq;
    this.lane = item.lane;
    this.epoch = epoch;
    this.attempt = item.attempt;
  }

  text() {
    return fromUtf8(this.payload);
  }

  /** @returns {any} */
  json() {
    return JSON.parse(this.text());
  }

  /** The properties of the user's own, by key. */
  get user() {
    /** @type {Record<string, Uint8Array>} */
    const user = {};
    for (const [tag, value] of this.properties) {
      if (tag !== 0) continue;
      // The pair is a text, then bytes: the same layout as a property but for its tag.
      const [[length, at]] = [lengthOf(value)];
      user[fromUtf8(value.subarray(at, at + length))] = value.subarray(at + length);
    }
    return user;
  }
}

/**
 * @param {Uint8Array} bytes
 * @returns {[number, number]} a varint and where it ends
 */
function lengthOf(bytes) {
  let [value, at] = [0, 0];
  for (let shift = 0; at < bytes.length; shift += 7) {
    value += (bytes[at] & 127) * 2 ** shift;
    at += 1;
    if (bytes[at - 1] < 128) break;
  }
  return [value, at];
}

/** @param {Uint8Array} bytes */
export const trailersOf = (bytes) => decodeProperties(bytes, 11);
