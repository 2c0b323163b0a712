/** What is open on a stream: subscriptions, consumers, history, requests, responders. */

import { Writer, decodeItems, utf8 } from './codec.js';
import { TidegateError, refusal } from './errors.js';
import { Inbox } from './inbox.js';
import { Message, encodePayload, trailersOf } from './message.js';

/**
 * @typedef {import('./client.js').Client} Client
 * @typedef {import('./codec.js').Frame} Frame
 * @typedef {import('./codec.js').Since} Since
 */

const MIB = 1024 * 1024;
const NO_BYTES = new Uint8Array(0);

/** A promise that others settle. @template T */
class Deferred {
  constructor() {
    /** @type {Promise<T>} */
    this.promise = new Promise((resolve, reject) => {
      /** @type {(value: T) => void} */
      this.resolve = resolve;
      /** @type {(error: unknown) => void} */
      this.reject = reject;
    });
    this.promise.catch(() => {});
  }
}

/** What all streams have in common. Those that last are opened again after a reconnect. */
class Stream {
  /** @param {Client} client */
  constructor(client) {
    this.client = client;
    this.id = 0;
    /** Whether it is opened again in the next session. */
    this.lasts = false;
    this.ended = false;
    /** @type {Deferred<any>} */
    this.ready = new Deferred();
  }

  /** Sends what opens it, on the stream it was given. */
  open() {}

  /** @param {Frame} _frame */
  frame(_frame) {}

  /** The session is over. */
  lost() {}

  /** Over for good. @param {TidegateError | null} error */
  end(error) {
    if (this.ended) return;
    this.ended = true;
    this.ready.reject(error ?? new TidegateError('closed', 'it was closed'));
    this.finish(error);
  }

  /** @param {TidegateError | null} _error */
  finish(_error) {}
}

/** A subscription: iterate over it, or give `onMessage`. */
export class Subscription extends Stream {
  /** @type {Inbox<Message>} */
  #inbox;
  /** The last place seen of a channel with history. @type {{epoch: bigint, offset: number} | null} */
  #place = null;
  #opened = false;
  /** Messages that were lost because this side, or the connection, was too slow. */
  dropped = 0;

  /**
   * @param {Client} client @param {string} filter
   * @param {{retained?: boolean, since?: Since, disconnectWhenSlow?: boolean, inboxMessages?: number, inboxBytes?: number,
   *   onMessage?: (message: Message) => void, onNotice?: (notice: Notice) => void}} options
   */
  constructor(client, filter, options) {
    super(client);
    this.filter = filter;
    this.options = options;
    this.lasts = true;
    this.#inbox = new Inbox(options.inboxMessages ?? 10_000, options.inboxBytes ?? 8 * MIB);
  }

  open() {
    const { retained = false, disconnectWhenSlow = false } = this.options;
    /** @type {Since} */
    let since = this.options.since ?? { kind: 'now' };
    if (this.#place) since = { kind: 'offset', ...this.#place };
    else if (this.#opened) since = { kind: 'now' };
    const missed = retained && (!this.#opened || !this.#place);
    const head = { filter: this.filter, retained: missed, since, respond: false, disconnectWhenSlow };
    this.client.send('subscribe', this.id, head);
  }

  /** @param {Frame} frame */
  frame({ type, head, payload }) {
    if (type === 'ok') {
      const again = this.#opened;
      this.#opened = true;
      if (head.epoch !== 0n && (!this.#place || this.#place.epoch !== head.epoch || !head.complete)) {
        // What is older and was not asked for is not missed. History that was asked for comes first and moves it on.
        const asked = this.options.since !== undefined && this.options.since.kind !== 'now' && !again;
        this.#place = asked ? null : { epoch: head.epoch, offset: head.value };
      }
      this.ready.resolve(head);
      const complete = head.epoch !== 0n && head.complete;
      if (again) this.client.guard(() => this.options.onNotice?.({ kind: 'reconnected', complete }));
    } else if (type === 'deliver') {
      for (const item of decodeItems(payload, head.count)) this.#take(new Message(item, head.epoch), item.bytes);
    } else if (type === 'dropped') {
      this.#lostSome(head.count);
    } else if (type === 'error') {
      this.client.forget(this);
      this.end(refusal(head.code, head.detail, head.retryAfterMs));
    }
  }

  /** @param {Message} message @param {number} bytes */
  #take(message, bytes) {
    if (message.offset !== null && !message.retained) this.#place = { epoch: message.epoch, offset: message.offset };
    if (this.options.onMessage) this.client.guard(() => this.options.onMessage?.(message));
    else if (!this.#inbox.push(message, bytes)) this.#lostSome(1);
  }

  /** @param {number} count */
  #lostSome(count) {
    this.dropped += count;
    this.client.guard(() => this.options.onNotice?.({ kind: 'dropped', count }));
  }

  /** @param {TidegateError | null} error */
  finish(error) {
    this.#inbox.end(error);
  }

  /** Ends it. */
  async close() {
    if (this.ended) return;
    this.end(null);
    await this.client.closeStream(this);
  }

  [Symbol.asyncIterator]() {
    return {
      next: () => this.#inbox.next(),
      return: async () => {
        await this.close();
        return { value: undefined, done: /** @type {const} */ (true) };
      },
    };
  }
}

/** @typedef {{kind: 'dropped', count: number} | {kind: 'reconnected', complete: boolean}} Notice */

/** A message of a consumer, to be acknowledged. */
export class Delivery extends Message {
  #consumer;
  #session;
  #tag;

  /**
   * @param {import('./codec.js').Item} item @param {bigint} epoch @param {Consumer} consumer @param {number} session
   * @param {number} tag
   */
  constructor(item, epoch, consumer, session, tag) {
    super(item, epoch);
    this.#consumer = consumer;
    this.#session = session;
    this.#tag = tag;
  }

  /** It is done. After a lost connection this does nothing, and the message comes again. */
  ack() {
    this.#consumer.settle(this.#session, 'ack', { first: this.#tag, count: 1 });
  }

  /**
   * It failed and comes again, after `delayMs` or the consumer's backoff; with `giveUp` it becomes a dead letter.
   * @param {{delayMs?: number, giveUp?: boolean, reason?: string}} [options]
   */
  nack({ delayMs = 0, giveUp = false, reason = '' } = {}) {
    this.#consumer.settle(this.#session, 'nack', { first: this.#tag, count: 1, delayMs, giveUp, reason });
  }
}

/** A durable consumer's session: iterate over it, or give `onDelivery`. */
export class Consumer extends Stream {
  /** @type {Inbox<Delivery>} */
  #inbox;
  #taken = { messages: 0, bytes: 0 };

  /**
   * @param {Client} client @param {string} queue @param {string} name
   * @param {{filters?: string[], start?: import('./codec.js').Start, window?: number, attemptsMax?: number,
   *   ackTimeoutMs?: number, backoffMs?: number, creditMessages?: number, creditBytes?: number,
   *   onDelivery?: (delivery: Delivery) => void}} options
   */
  constructor(client, queue, name, options) {
    super(client);
    Object.assign(this, { queue, name });
    this.queue = queue;
    this.name = name;
    this.options = options;
    this.lasts = true;
    this.creditMessages = options.creditMessages ?? 256;
    this.creditBytes = options.creditBytes ?? 4 * MIB;
    this.#inbox = new Inbox(Infinity, Infinity, (bytes) => this.#renew(bytes));
  }

  open() {
    const { filters = [], start = { kind: 'first' }, window = 0, attemptsMax = 0, ackTimeoutMs = 0, backoffMs = 0 } = this.options;
    const writer = new Writer();
    for (const filter of filters) writer.text(filter);
    this.client.send('consume', this.id, {
      queue: this.queue, name: this.name, start, window, attemptsMax, ackTimeoutMs, backoffMs, filters: filters.length,
      creditMessages: this.creditMessages, creditBytes: this.creditBytes,
    }, writer.take());
  }

  /** @param {Frame} frame */
  frame({ type, head, payload }) {
    if (type === 'ok') {
      this.ready.resolve(head);
    } else if (type === 'deliver') {
      decodeItems(payload, head.count).forEach((item, i) => {
        const delivery = new Delivery(item, head.epoch, this, this.client.generation, head.firstTag + i);
        if (this.options.onDelivery) {
          this.#renew(item.bytes);
          this.client.guard(() => this.options.onDelivery?.(delivery));
        } else {
          this.#inbox.push(delivery, item.bytes);
        }
      });
    } else if (type === 'error') {
      this.client.forget(this);
      this.end(refusal(head.code, head.detail, head.retryAfterMs));
    }
  }

  /** What the program took may be replaced. @param {number} bytes */
  #renew(bytes) {
    this.#taken.messages += 1;
    this.#taken.bytes += bytes;
    const { messages } = this.#taken;
    if (this.id === 0 || (messages < this.creditMessages / 2 && this.#taken.bytes < this.creditBytes / 2)) return;
    this.client.send('credit', this.id, this.#taken);
    this.#taken = { messages: 0, bytes: 0 };
  }

  /** @param {number} session @param {'ack' | 'nack'} type @param {Record<string, any>} head */
  settle(session, type, head) {
    if (session === this.client.generation && this.id !== 0 && !this.ended) this.client.send(type, this.id, head);
  }

  lost() {
    this.id = 0;
    // What waits here comes again, in order.
    this.#inbox.clear();
    this.#taken = { messages: 0, bytes: 0 };
  }

  /** @param {TidegateError | null} error */
  finish(error) {
    this.#inbox.end(error);
  }

  /** Ends it; what is not acknowledged is delivered again to whoever consumes under the name next. */
  async close() {
    if (this.ended) return;
    this.end(null);
    await this.client.closeStream(this);
  }

  [Symbol.asyncIterator]() {
    return {
      next: () => this.#inbox.next(),
      return: async () => {
        await this.close();
        return { value: undefined, done: /** @type {const} */ (true) };
      },
    };
  }
}

/** Past messages of a channel, all at once. */
export class History extends Stream {
  /** @type {Message[]} */
  #messages = [];

  /** @param {Client} client @param {string} channel @param {Since} since @param {number} limit */
  constructor(client, channel, since, limit) {
    super(client);
    Object.assign(this, { channel, since, limit });
    this.head = { channel, since, limit };
  }

  open() {
    this.client.send('history', this.id, this.head);
  }

  /** @param {Frame} frame */
  frame({ type, head, payload }) {
    if (type === 'deliver') {
      for (const item of decodeItems(payload, head.count)) this.#messages.push(new Message(item, head.epoch));
      return;
    }
    this.client.forget(this);
    if (type === 'ok') this.ready.resolve({ messages: this.#messages, complete: head.complete });
    else this.end(refusal(head.code, head.detail, head.retryAfterMs));
  }
}

/** A request that waits for its answer. */
export class Request extends Stream {
  /** @type {Uint8Array[]} */
  #parts = [];
  #bytes = 0;

  /** @param {Client} client @param {string} channel @param {Uint8Array} body @param {number} deadlineMs @param {number} bytesMax */
  constructor(client, channel, body, deadlineMs, bytesMax) {
    super(client);
    this.body = body;
    this.bytesMax = bytesMax;
    this.head = { channel, deadlineMs, total: body.length, properties: NO_BYTES };
  }

  open() {
    this.client.sendWhole('request', this.id, this.head, this.body);
  }

  /** @param {Frame} frame */
  frame({ type, head, payload }) {
    if (type === 'response') {
      this.#parts.push(payload);
      this.#bytes += payload.length;
      if (this.#bytes > this.bytesMax) {
        this.client.send('cancel', this.id, { code: 402 });
        this.client.forget(this);
        this.end(new TidegateError('too-large', `the answer has more than ${this.bytesMax} bytes`));
      } else if (head.last) {
        this.client.forget(this);
        const body = new Uint8Array(this.#bytes);
        this.#parts.reduce((at, part) => {
          body.set(part, at);
          return at + part.length;
        }, 0);
        this.ready.resolve(new Response_(head.status, body, trailersOf(head.trailers)));
      }
    } else if (type === 'error' || type === 'cancel') {
      this.client.forget(this);
      this.end(refusal(head.code, head.detail ?? 'the other side gave it up', head.retryAfterMs));
    }
  }
}

/** An answer. */
class Response_ {
  /** @param {number} status 0 is success @param {Uint8Array} body @param {[number, Uint8Array][]} trailers */
  constructor(status, body, trailers) {
    this.status = status;
    this.body = body;
    this.trailers = trailers;
  }

  text() {
    return new TextDecoder().decode(this.body);
  }

  /** @returns {any} */
  json() {
    return JSON.parse(this.text());
  }
}

/** Answers the requests of a filter. */
export class Responder extends Stream {
  /**
   * @param {Client} client @param {string} filter
   * @param {(request: {channel: string, body: Uint8Array, deadlineMs: number, text: () => string, json: () => any}) => any} handler
   *   gives the answer: a payload, or `{status, body}`
   */
  constructor(client, filter, handler) {
    super(client);
    this.filter = filter;
    this.handler = handler;
    this.lasts = true;
  }

  open() {
    const head = { filter: this.filter, retained: false, since: { kind: 'now' }, respond: true, disconnectWhenSlow: false };
    this.client.send('subscribe', this.id, head);
  }

  /** @param {Frame} frame */
  frame({ type, head }) {
    if (type === 'ok') this.ready.resolve(head);
    if (type === 'error') {
      this.client.forget(this);
      this.end(refusal(head.code, head.detail, head.retryAfterMs));
    }
  }

  /** A request on a stream of the broker's. @param {Frame} frame */
  async answer({ stream, head, payload }) {
    const session = this.client.generation;
    const text = () => new TextDecoder().decode(payload);
    const asked = { channel: head.channel, body: payload, deadlineMs: head.deadlineMs, text, json: () => JSON.parse(text()) };
    try {
      const given = await this.handler(asked);
      const { status, body } = given !== null && typeof given === 'object' && 'status' in given ? given : { status: 0, body: given };
      const [, bytes] = body === undefined ? [0, NO_BYTES] : encodePayload(body);
      if (session !== this.client.generation) return;
      this.client.sendWhole('response', stream, { status, last: true, total: bytes.length, trailers: NO_BYTES }, bytes);
    } catch (error) {
      if (session !== this.client.generation) return;
      const words = utf8(String(error instanceof Error ? error.message : error).slice(0, 512));
      this.client.sendWhole('response', stream, { status: 500, last: true, total: words.length, trailers: NO_BYTES }, words);
    }
  }

  async close() {
    if (this.ended) return;
    this.end(null);
    await this.client.closeStream(this);
  }
}

/**
 * Whether a channel matches a filter (section 11).
 * @param {string} filter @param {string} channel
 */
export function matches(filter, channel) {
  const [wanted, levels] = [filter.split('/'), channel.split('/')];
  if (channel.startsWith('$') && (wanted[0] === '+' || wanted[0] === '#')) return false;
  for (let i = 0; i < wanted.length; i += 1) {
    if (wanted[i] === '#') return true;
    if (i >= levels.length || (wanted[i] !== '+' && wanted[i] !== levels[i])) return false;
  }
  return wanted.length === levels.length;
}

/** A deferred answer without a stream of its own, such as that of a reauth. @returns {Deferred<any>} */
export const deferred = () => new Deferred();
