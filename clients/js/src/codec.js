/** Frames, heads and records of proto/frame.md as bytes. Pure: no clock, no socket. */

import { CODES } from './errors.js';

export const HEADER_BYTES = 24;
export const HEAD_BYTES_MAX = 4096;
export const CHUNK_BYTES_MAX = 16384;
export const FRAME_BYTES_MAX = 131072;
export const MORE = 1;
export const CONT = 2;

const MAGIC = 0x5447;
const VERSION = 1;

/** Bytes that are not what the page says, with the code of section 20. */
export class FrameError extends Error {
  /** @param {number} number @param {string} message */
  constructor(number, message) {
    super(`${CODES[/** @type {keyof typeof CODES} */ (number)]}: ${message}`);
    this.name = 'FrameError';
    this.number = number;
  }
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let crc = n;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/**
 * CRC-32C of several pieces, one after another (section 4).
 * @param {...Uint8Array} pieces
 */
export function crc32c(...pieces) {
  let crc = 0xffffffff;
  for (const piece of pieces) {
    for (let i = 0; i < piece.length; i += 1) crc = CRC_TABLE[(crc ^ piece[i]) & 255] ^ (crc >>> 8);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Writes postcard (section 6). */
export class Writer {
  constructor() {
    this.buffer = new Uint8Array(256);
    this.length = 0;
  }

  /** @param {number} more */
  #room(more) {
    if (this.length + more <= this.buffer.length) return;
    const larger = new Uint8Array(Math.max(this.length + more, 2 * this.buffer.length));
    larger.set(this.buffer.subarray(0, this.length));
    this.buffer = larger;
  }

  /** @param {number} value */
  u8(value) {
    if (!Number.isInteger(value) || value < 0 || value > 255) throw new RangeError(`${value} is no u8`);
    this.#room(1);
    this.buffer[this.length] = value;
    this.length += 1;
  }

  /** @param {boolean} value */
  bool(value) {
    this.u8(value ? 1 : 0);
  }

  /** @param {number} value */
  u16(value) {
    this.#varint(value, 0xffff);
  }

  /** @param {number} value */
  u32(value) {
    this.#varint(value, 0xffffffff);
  }

  /** @param {number} value @param {number} max */
  #varint(value, max) {
    if (!Number.isInteger(value) || value < 0 || value > max) throw new RangeError(`${value} is not from 0 to ${max}`);
    this.#room(5);
    let rest = value;
    while (rest >= 128) {
      this.buffer[this.length] = (rest % 128) | 128;
      this.length += 1;
      rest = Math.floor(rest / 128);
    }
    this.buffer[this.length] = rest;
    this.length += 1;
  }

  /** @param {bigint | number} value */
  u64(value) {
    let rest = BigInt(value);
    if (rest < 0n || rest >= 1n << 64n) throw new RangeError(`${value} is no u64`);
    this.#room(10);
    while (rest >= 128n) {
      this.buffer[this.length] = Number(rest & 127n) | 128;
      this.length += 1;
      rest >>= 7n;
    }
    this.buffer[this.length] = Number(rest);
    this.length += 1;
  }

  /** @param {Uint8Array} bytes */
  raw(bytes) {
    this.#room(bytes.length);
    this.buffer.set(bytes, this.length);
    this.length += bytes.length;
  }

  /** @param {Uint8Array} bytes */
  bytes(bytes) {
    this.u32(bytes.length);
    this.raw(bytes);
  }

  /** @param {string} text */
  text(text) {
    this.bytes(encoder.encode(text));
  }

  /** What was written. */
  take() {
    return this.buffer.slice(0, this.length);
  }
}

/** Reads postcard. Throws `FrameError` with the code it was given. */
export class Reader {
  /** @param {Uint8Array} bytes @param {number} code */
  constructor(bytes, code) {
    this.input = bytes;
    this.at = 0;
    this.code = code;
  }

  /** @param {string} what @returns {never} */
  fail(what) {
    throw new FrameError(this.code, what);
  }

  get left() {
    return this.input.length - this.at;
  }

  u8() {
    if (this.left < 1) this.fail('it ends early');
    return this.input[this.at++];
  }

  bool() {
    const value = this.u8();
    if (value > 1) this.fail('a bool of neither 0 nor 1');
    return value === 1;
  }

  /** @param {number} bytesMax @param {bigint} max */
  #varint(bytesMax, max) {
    let value = 0n;
    for (let i = 0; i < bytesMax; i += 1) {
      const byte = this.u8();
      value |= BigInt(byte & 127) << BigInt(7 * i);
      if (byte < 128) {
        if (value > max) this.fail('a number too large');
        return value;
      }
    }
    return this.fail('a number too long');
  }

  u16() {
    return Number(this.#varint(3, 0xffffn));
  }

  u32() {
    // Most numbers have one byte.
    if (this.left > 0 && this.input[this.at] < 128) return this.input[this.at++];
    return Number(this.#varint(5, 0xffffffffn));
  }

  u64() {
    return this.#varint(10, (1n << 64n) - 1n);
  }

  /** A u64 that a `number` holds exactly: counts, offsets and times. */
  num() {
    const value = this.u64();
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) this.fail('a number above 2^53');
    return Number(value);
  }

  /** @param {number} length */
  raw(length) {
    if (length > this.left) this.fail('it ends early');
    this.at += length;
    return this.input.subarray(this.at - length, this.at);
  }

  bytes() {
    return this.raw(this.u32());
  }

  text() {
    try {
      return decoder.decode(this.bytes());
    } catch (error) {
      if (error instanceof FrameError) throw error;
      return this.fail('text that is not UTF-8');
    }
  }

  /** @template T @param {readonly T[]} names @returns {T} */
  variant(names) {
    const number = this.u32();
    return number < names.length ? names[number] : this.fail('an unknown variant');
  }
}

const CONTRACTS = /** @type {const} */ (['queue', 'memory', 'disk', 'upstream']);
const OUTCOMES = /** @type {const} */ (['stored', 'duplicate', 'live-only', 'dropped', 'accepted']);

/**
 * @typedef {{kind: 'now'} | {kind: 'last', count: number} | {kind: 'offset', epoch: bigint, offset: number}
 *   | {kind: 'time', timeMs: number}} Since
 * @typedef {{kind: 'first'} | {kind: 'next'} | {kind: 'time', timeMs: number}} Start
 */

/** How each type of a field is written and read. @type {Record<string, [(w: Writer, v: any) => void, (r: Reader) => any]>} */
const FIELDS = {
  u8: [(w, v) => w.u8(v), (r) => r.u8()],
  bool: [(w, v) => w.bool(v), (r) => r.bool()],
  u16: [(w, v) => w.u16(v), (r) => r.u16()],
  u32: [(w, v) => w.u32(v), (r) => r.u32()],
  u64: [(w, v) => w.u64(v), (r) => r.u64()],
  num: [(w, v) => w.u64(v), (r) => r.num()],
  text: [(w, v) => w.text(v), (r) => r.text()],
  bytes: [(w, v) => w.bytes(v), (r) => r.bytes()],
  id: [(w, v) => w.raw(v), (r) => r.raw(16)],
  contract: [(w, v) => w.u32(CONTRACTS.indexOf(v)), (r) => r.variant(CONTRACTS)],
  outcome: [(w, v) => w.u32(OUTCOMES.indexOf(v)), (r) => r.variant(OUTCOMES)],
  since: [
    (w, /** @type {Since} */ v) => {
      w.u32(['now', 'last', 'offset', 'time'].indexOf(v.kind));
      if (v.kind === 'last') w.u32(v.count);
      if (v.kind === 'offset') {
        w.u64(v.epoch);
        w.u64(v.offset);
      }
      if (v.kind === 'time') w.u64(v.timeMs);
    },
    (r) => {
      const kind = r.variant(/** @type {const} */ (['now', 'last', 'offset', 'time']));
      if (kind === 'last') return { kind, count: r.u32() };
      if (kind === 'offset') return { kind, epoch: r.u64(), offset: r.num() };
      return kind === 'time' ? { kind, timeMs: r.num() } : { kind };
    },
  ],
  start: [
    (w, /** @type {Start} */ v) => {
      w.u32(['first', 'next', 'time'].indexOf(v.kind));
      if (v.kind === 'time') w.u64(v.timeMs);
    },
    (r) => {
      const kind = r.variant(/** @type {const} */ (['first', 'next', 'time']));
      return kind === 'time' ? { kind, timeMs: r.num() } : { kind };
    },
  ],
};

const fields = (/** @type {string} */ text) => text.split(' ').filter(Boolean).map((pair) => pair.split(':'));

/** The frame types of section 10: number and fields of the head. */
const TYPES = Object.freeze({
  hello: [0x01, fields('versionMin:u8 versionMax:u8 client:text heartbeatMs:u32 frameBytesMax:u32 messageBytesMax:u32')],
  welcome: [0x02, fields('version:u8 server:text session:num heartbeatMs:u32 frameBytesMax:u32 messageBytesMax:u32 '
    + 'windowMessages:u32 windowBytes:u32 timeMs:num')],
  auth: [0x03, fields('method:u8 data:bytes')],
  reauth: [0x04, fields('method:u8 data:bytes')],
  ok: [0x05, fields('epoch:u64 value:num complete:bool')],
  error: [0x06, fields('code:u16 retryAfterMs:u32 detail:text')],
  close: [0x07, fields('code:u16 detail:text')],
  goaway: [0x08, fields('code:u16 deadlineMs:u32 detail:text')],
  publish: [0x10, fields('contract:contract number:num total:u32')],
  batch: [0x11, fields('contract:contract first:num count:u32')],
  'publish-ack': [0x12, fields('first:num count:u32 outcome:outcome')],
  'publish-nack': [0x13, fields('first:num count:u32 code:u16 retryAfterMs:u32 detail:text')],
  subscribe: [0x20, fields('filter:text retained:bool since:since respond:bool disconnectWhenSlow:bool')],
  unsubscribe: [0x21, fields('')],
  deliver: [0x22, fields('epoch:u64 firstTag:num count:u32 total:u32')],
  dropped: [0x23, fields('count:num bytes:num code:u16')],
  consume: [0x30, fields('queue:text name:text start:start window:u32 attemptsMax:u32 ackTimeoutMs:u32 backoffMs:u32 '
    + 'filters:u32 creditMessages:u32 creditBytes:u32')],
  ack: [0x31, fields('first:num count:u32')],
  nack: [0x32, fields('first:num count:u32 delayMs:u32 giveUp:bool reason:text')],
  credit: [0x33, fields('messages:u32 bytes:u32')],
  pause: [0x34, fields('code:u16')],
  resume: [0x35, fields('')],
  history: [0x40, fields('channel:text since:since limit:u32')],
  request: [0x50, fields('channel:text deadlineMs:u32 total:u32 properties:bytes')],
  response: [0x51, fields('status:u16 last:bool total:u32 trailers:bytes')],
  cancel: [0x52, fields('code:u16')],
  report: [0x60, fields('id:id state:u8 attempt:u32 timeMs:num detail:text')],
  ping: [0x70, fields('nonce:u64')],
  pong: [0x71, fields('nonce:u64')],
});

/** @typedef {keyof typeof TYPES} FrameType */

/** @type {Map<number, FrameType>} */
const BY_NUMBER = new Map(Object.entries(TYPES).map(([name, [number]]) => [Number(number), /** @type {FrameType} */ (name)]));
const CHUNKED = new Set(['publish', 'deliver', 'request', 'response']);
const NO_BYTES = new Uint8Array(0);

/**
 * The bytes of a head, with extensions behind it.
 * @param {FrameType} type @param {Record<string, any>} head @param {[number, Uint8Array][]} [extensions]
 */
export function encodeHead(type, head, extensions = []) {
  const writer = new Writer();
  for (const [name, kind] of /** @type {string[][]} */ (TYPES[type][1])) FIELDS[kind][0](writer, head[name]);
  for (const [tag, value] of extensions) {
    writer.u32(tag);
    writer.bytes(value);
  }
  if (writer.length > HEAD_BYTES_MAX) throw new RangeError(`the head of ${type} has ${writer.length} bytes`);
  return writer.take();
}

/**
 * A whole frame.
 * @param {FrameType} type @param {number} stream @param {number} sequence @param {Uint8Array} [head]
 * @param {Uint8Array} [payload] @param {number} [flags]
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function encodeFrame(type, stream, sequence, head = NO_BYTES, payload = NO_BYTES, flags = 0) {
  const frame = new Uint8Array(HEADER_BYTES + head.length + payload.length);
  const view = new DataView(frame.buffer);
  view.setUint16(0, MAGIC);
  view.setUint8(2, VERSION);
  view.setUint8(3, Number(TYPES[type][0]));
  view.setUint16(4, flags);
  view.setUint16(6, head.length);
  view.setUint32(8, payload.length);
  view.setUint32(12, stream);
  view.setUint32(16, sequence);
  frame.set(head, HEADER_BYTES);
  frame.set(payload, HEADER_BYTES + head.length);
  view.setUint32(20, crc32c(frame.subarray(0, 20), frame.subarray(HEADER_BYTES)));
  return frame;
}

/**
 * @typedef {object} Frame
 * @property {FrameType} type
 * @property {number} flags
 * @property {number} stream
 * @property {number} sequence
 * @property {Record<string, any>} head empty for a continuation
 * @property {Uint8Array} payload part of the bytes that were given
 */

/**
 * Reads the frame that a message is. What is missing or too much is for the caller: `null` is less than a frame.
 * @param {Uint8Array} bytes @param {number} [payloadBytesMax]
 * @returns {{frame: Frame, length: number} | null}
 */
export function decodeFrame(bytes, payloadBytesMax = FRAME_BYTES_MAX) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length >= 2 && view.getUint16(0) !== MAGIC) throw new FrameError(1, 'this is no frame');
  if (bytes.length < HEADER_BYTES) return null;
  if (bytes[2] !== VERSION) throw new FrameError(2, `version ${bytes[2]}`);
  const type = BY_NUMBER.get(bytes[3]);
  if (type === undefined) throw new FrameError(4, `type ${bytes[3]}`);
  const flags = view.getUint16(4);
  if (flags & 0x00fc) throw new FrameError(5, `flags ${flags}`);
  const headLength = view.getUint16(6);
  if ((flags & (MORE | CONT) && !CHUNKED.has(type)) || (flags & CONT && headLength > 0)) {
    throw new FrameError(6, `flags ${flags} on ${type}`);
  }
  if (headLength > HEAD_BYTES_MAX) throw new FrameError(7, `a head of ${headLength} bytes`);
  const payloadLength = view.getUint32(8);
  if (payloadLength > payloadBytesMax) throw new FrameError(8, `a payload of ${payloadLength} bytes`);
  const length = HEADER_BYTES + headLength + payloadLength;
  if (bytes.length < length) return null;
  if (crc32c(bytes.subarray(0, 20), bytes.subarray(HEADER_BYTES, length)) !== view.getUint32(20)) {
    throw new FrameError(3, 'bytes were damaged');
  }
  const payload = bytes.subarray(HEADER_BYTES + headLength, length);
  const head = flags & CONT ? {} : decodeHead(type, bytes.subarray(HEADER_BYTES, HEADER_BYTES + headLength));
  return { frame: { type, flags, stream: view.getUint32(12), sequence: view.getUint32(16), head, payload }, length };
}

/**
 * @param {FrameType} type @param {Uint8Array} bytes
 * @returns {Record<string, any>}
 */
function decodeHead(type, bytes) {
  const reader = new Reader(bytes, 7);
  /** @type {Record<string, any>} */
  const head = {};
  for (const [name, kind] of /** @type {string[][]} */ (TYPES[type][1])) head[name] = FIELDS[kind][1](reader);
  while (reader.left > 0) {
    reader.u32();
    reader.bytes();
  }
  return head;
}

const ENCODINGS = /** @type {const} */ (['bytes', 'text', 'json', 'protobuf', 'postcard']);

/**
 * @typedef {object} Record_
 * @property {Uint8Array} id 16 bytes; all zero for none
 * @property {string} channel
 * @property {boolean} retain
 * @property {boolean} compressed
 * @property {number} priority 0 to 9
 * @property {number} timeMs
 * @property {number} ttlMs
 * @property {number} delayMs
 * @property {typeof ENCODINGS[number]} encoding
 * @property {[number, Uint8Array][]} properties
 * @property {Uint8Array} payload
 */

/**
 * Throws a `FrameError` where a channel breaks a rule of section 11.
 * @param {string} channel
 */
export function checkChannel(channel) {
  const bytes = encoder.encode(channel).length;
  if (bytes < 1 || bytes > 1024) throw new FrameError(200, `a channel of ${bytes} bytes`);
  if (channel.split('/').length > 128) throw new FrameError(200, 'a channel of more than 128 levels');
  if (/[\0+#]/.test(channel)) throw new FrameError(200, 'U+0000, + and # are not allowed in a channel');
}

/**
 * The bytes of properties.
 * @param {[number, Uint8Array][]} properties
 */
export function encodeProperties(properties) {
  const writer = new Writer();
  for (const [tag, value] of properties) {
    writer.u32(tag);
    writer.bytes(value);
  }
  return writer.take();
}

/**
 * @param {Uint8Array} bytes @param {number} [code]
 * @returns {[number, Uint8Array][]}
 */
export function decodeProperties(bytes, code = 201) {
  const reader = new Reader(bytes, code);
  /** @type {[number, Uint8Array][]} */
  const properties = [];
  while (reader.left > 0) properties.push([reader.u32(), reader.bytes()]);
  if (properties.length > 64 || bytes.length > 8192) reader.fail('too many properties');
  return properties;
}

/** @param {Record_} record */
export function encodeRecord(record) {
  checkChannel(record.channel);
  const writer = new Writer();
  writer.raw(record.id);
  writer.text(record.channel);
  writer.u8((record.retain ? 1 : 0) | (record.compressed ? 2 : 0));
  if (record.priority > 9) throw new FrameError(201, `priority ${record.priority}`);
  writer.u8(record.priority);
  writer.u64(record.timeMs);
  writer.u32(record.ttlMs);
  writer.u32(record.delayMs);
  writer.u8(ENCODINGS.indexOf(record.encoding));
  writer.bytes(encodeProperties(record.properties));
  writer.bytes(record.payload);
  return writer.take();
}

/**
 * @param {Uint8Array} bytes
 * @returns {Record_}
 */
export function decodeRecord(bytes) {
  const reader = new Reader(bytes, 201);
  const id = reader.raw(16);
  const channel = reader.text();
  const flags = reader.u8();
  if (flags & ~3) reader.fail(`flags ${flags}`);
  const priority = reader.u8();
  if (priority > 9) reader.fail(`priority ${priority}`);
  const timeMs = reader.num();
  const ttlMs = reader.u32();
  const delayMs = reader.u32();
  const encoding = ENCODINGS[reader.u8()] ?? reader.fail('an unknown encoding');
  const properties = decodeProperties(reader.bytes());
  const payload = reader.bytes();
  if (reader.left > 0) reader.fail('something follows the payload');
  checkChannel(channel);
  const [retain, compressed] = [(flags & 1) !== 0, (flags & 2) !== 0];
  return { id, channel, retain, compressed, priority, timeMs, ttlMs, delayMs, encoding, properties, payload };
}

/**
 * The records of a batch (section 12).
 * @param {Uint8Array} payload @param {number} count
 */
export function decodeBatch(payload, count) {
  const reader = new Reader(payload, 11);
  const records = Array.from({ length: Math.min(count, payload.length + 1) }, () => reader.bytes());
  if (reader.left > 0 || count < 1) reader.fail('another number of records than announced');
  return records;
}

/**
 * The filters of a consume.
 * @param {Uint8Array} payload @param {number} count
 */
export function decodeFilters(payload, count) {
  const reader = new Reader(payload, 11);
  const filters = Array.from({ length: Math.min(count, payload.length + 1) }, () => reader.text());
  if (reader.left > 0) reader.fail('another number of filters than announced');
  return filters;
}

/**
 * @typedef {object} Item
 * @property {number} flags 1 redelivered, 2 retained, 4 history, 8 has offset
 * @property {number} lane @property {number} seq @property {number} offset @property {number} attempt
 * @property {number} storedMs @property {Record_} record @property {number} bytes of the record
 */

/**
 * The items of a deliver.
 * @param {Uint8Array} payload @param {number} count
 * @returns {Item[]}
 */
export function decodeItems(payload, count) {
  const reader = new Reader(payload, 11);
  /** @type {Item[]} */
  const items = [];
  for (let i = 0; i < count; i += 1) {
    const [flags, lane, seq, offset] = [reader.u8(), reader.u8(), reader.num(), reader.num()];
    const [attempt, storedMs, record] = [reader.u32(), reader.num(), reader.bytes()];
    items.push({ flags, lane, seq, offset, attempt, storedMs, record: decodeRecord(record), bytes: record.length });
  }
  if (reader.left > 0 || count < 1) reader.fail('another number of items than announced');
  return items;
}

/** @param {string} text */
export const utf8 = (text) => encoder.encode(text);

/** @param {Uint8Array} bytes */
export const fromUtf8 = (bytes) => decoder.decode(bytes);
