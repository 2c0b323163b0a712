/** The publishes of one client: in order, within the broker's window, again after a refusal or a lost connection. */

import { CHUNK_BYTES_MAX, Writer } from './codec.js';
import { TidegateError, refusal } from './errors.js';

/** The stream of all publishes. */
export const PUBLISH_STREAM = 1;
/** Bytes that may wait in the socket before no more is given to it. */
const SOCKET_BYTES_MAX = 1024 * 1024;
const BATCH_RECORDS_MAX = 1024;
const FENCED = 207;
const BAD_PUBLISH_NUMBER = 208;

/**
 * @typedef {object} Entry
 * @property {string} id @property {Uint8Array} record @property {string} contract @property {boolean} retry
 * @property {(result: {id: string, outcome: string}) => void} resolve @property {(error: TidegateError) => void} reject
 */

export class Publisher {
  /** What is not settled, in order; those before `#head` are. @type {Entry[]} */
  #entries = [];
  #head = 0;
  #bytes = 0;
  /** Number of the first that is not settled. */
  #base = 1;
  /** How many from the first on were sent in this session, and how many of them were refused for now. */
  #sent = 0;
  #refused = 0;
  #sentBytes = 0;
  /** @type {{error: TidegateError} | null} */
  #fence = null;
  #fences = 0;
  #paused = false;
  #open = false;
  #scheduled = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {(() => void)[]} */
  #drained = [];

  /** @param {import('./client.js').Client} client @param {{messagesMax: number, bytesMax: number}} bounds */
  constructor(client, bounds) {
    this.client = client;
    this.bounds = bounds;
  }

  get length() {
    return this.#entries.length - this.#head;
  }

  /** Whether another fits. */
  get hasRoom() {
    return this.length < this.bounds.messagesMax && this.#bytes < this.bounds.bytesMax;
  }

  /** Resolves when nothing waits any more. @returns {Promise<void>} */
  drained() {
    return this.length === 0 ? Promise.resolve() : new Promise((resolve) => this.#drained.push(resolve));
  }

  /** @param {Entry} entry */
  push(entry) {
    this.#entries.push(entry);
    this.#bytes += entry.record.length;
    // What is published in one go leaves in one frame.
    if (!this.#scheduled) {
      this.#scheduled = true;
      queueMicrotask(() => this.#pump());
    }
  }

  /** A session is open: everything is sent again, in order, under the same ids. */
  opened() {
    this.#open = true;
    [this.#base, this.#sent, this.#refused, this.#sentBytes] = [1, 0, 0, 0];
    [this.#fence, this.#paused] = [null, false];
    this.#pump();
  }

  lost() {
    this.#open = false;
    clearTimeout(this.#timer);
  }

  /** @param {TidegateError} error */
  end(error) {
    this.lost();
    while (this.length > 0) this.#settle().reject(error);
  }

  /** Takes the first out. */
  #settle() {
    const entry = this.#entries[this.#head];
    this.#head += 1;
    this.#base += 1;
    this.#bytes -= entry.record.length;
    if (this.#head > 256 && this.#head * 2 > this.#entries.length) {
      this.#entries.splice(0, this.#head);
      this.#head = 0;
    }
    if (this.length === 0) {
      for (const resolve of this.#drained.splice(0)) resolve();
    }
    return entry;
  }

  #settleSent() {
    this.#sent -= 1;
    this.#sentBytes -= this.#entries[this.#head].record.length;
    return this.#settle();
  }

  /** @param {number} ms */
  #later(ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#pump(), ms);
  }

  #pump() {
    this.#scheduled = false;
    const { terms } = this.client;
    while (this.#open && terms && !this.#fence && !this.#paused && this.#sent < this.length) {
      if (this.client.bufferedAmount > SOCKET_BYTES_MAX) return this.#later(10);
      const first = this.#entries[this.#head + this.#sent];
      if (first.record.length > terms.messageBytesMax) {
        // Settled only when all before it are, so that numbers stay in order.
        if (this.#sent > 0) return undefined;
        this.#settle().reject(refusal(202, `${first.record.length} bytes; the broker takes ${terms.messageBytesMax}`));
        this.#base -= 1;
        continue;
      }
      const fits = (/** @type {number} */ bytes, /** @type {number} */ more) => this.#sent + more <= terms.windowMessages
        && (this.#sentBytes + bytes <= terms.windowBytes || this.#sent + more === 1);
      if (!fits(first.record.length, 1)) return undefined;
      const records = [first.record];
      let bytes = first.record.length;
      for (let i = this.#sent + 1; i < this.length && records.length < BATCH_RECORDS_MAX; i += 1) {
        const { record, contract } = this.#entries[this.#head + i];
        const all = bytes + record.length;
        if (contract !== first.contract || all + 3 * (records.length + 1) > CHUNK_BYTES_MAX) break;
        if (!fits(all, records.length + 1)) break;
        records.push(record);
        bytes = all;
      }
      this.#send(first.contract, this.#base + this.#sent, records);
      this.#sent += records.length;
      this.#sentBytes += bytes;
    }
    return undefined;
  }

  /** @param {string} contract @param {number} number @param {Uint8Array[]} records */
  #send(contract, number, records) {
    if (records.length === 1) {
      const head = { contract, number, total: records[0].length };
      this.client.sendWhole('publish', PUBLISH_STREAM, head, records[0]);
      return;
    }
    const writer = new Writer();
    for (const record of records) writer.bytes(record);
    const head = { contract, first: number, count: records.length };
    this.client.send('batch', PUBLISH_STREAM, head, writer.take());
  }

  /** @param {import('./codec.js').Frame} frame */
  frame({ type, head }) {
    if (type === 'publish-ack') this.#acked(head);
    else if (type === 'publish-nack') this.#nacked(head);
    else if (type === 'pause') this.#paused = true;
    else if (type === 'resume') this.#paused = false;
    this.#pump();
  }

  /** @param {Record<string, any>} head */
  #acked({ first, count, outcome }) {
    // The final answer follows.
    if (outcome === 'accepted') return;
    if (first !== this.#base || count > this.#sent) throw refusal(108, 'an answer to what was not asked');
    this.#fences = 0;
    for (let i = 0; i < count; i += 1) {
      const entry = this.#settleSent();
      entry.resolve({ id: entry.id, outcome });
    }
  }

  /** @param {Record<string, any>} head */
  #nacked({ first, count, code, retryAfterMs, detail }) {
    const error = refusal(code, detail, retryAfterMs);
    if (code === BAD_PUBLISH_NUMBER || first !== this.#base + this.#refused || count > this.#sent - this.#refused) {
      throw error;
    }
    if (!error.retryable) {
      if (this.#refused > 0) throw error;
      for (let i = 0; i < count; i += 1) this.#settleSent().reject(error);
      return;
    }
    this.#refused += count;
    if (code !== FENCED) this.#fence = { error };
    if (this.#refused === this.#sent) this.#lift();
  }

  /** All is answered: the refused one and what followed it are sent again, after a while. */
  #lift() {
    const error = this.#fence?.error;
    this.#fences += 1;
    const backoff = Math.min(10_000, 20 * 2 ** Math.min(this.#fences, 10)) * (0.5 + Math.random() / 2);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      [this.#sent, this.#refused, this.#sentBytes, this.#fence] = [0, 0, 0, null];
      const first = this.#entries[this.#head];
      if (error && first && !first.retry) {
        // Its number stays expected: the next message takes it.
        this.#settle().reject(error);
        this.#base -= 1;
      }
      this.#pump();
    }, this.#entries[this.#head].retry ? error?.retryAfterMs || backoff : 0);
  }
}
