/** A connection to a broker that comes back by itself. */

import { answer, methodOf } from './auth.js';
import { CHUNK_BYTES_MAX, CONT, FRAME_BYTES_MAX, FrameError, MORE, decodeFrame, encodeFrame, encodeHead } from './codec.js';
import { TidegateError, ofClose, refusal } from './errors.js';
import { encodePayload, makeRecord } from './message.js';
import { PUBLISH_STREAM, Publisher } from './publisher.js';
import { Consumer, History, Request, Responder, Subscription, deferred, matches } from './streams.js';

const SUBPROTOCOL = 'tidegate.v1';
const MESSAGE_BYTES_MAX = 16 * 1024 * 1024;
/** Chunked messages under way, all together: how many, and their bytes. */
const CHUNKED_MAX = 64;
const CHUNKED_BYTES_MAX = 4 * MESSAGE_BYTES_MAX;
/** Longest delay before a reconnect that a broker may ask for. */
const RETRY_MS_MAX = 300_000;
const AUTH_METHODS = 1;
/** Items of a delivery have this much before their record. */
const ITEM_BYTES = 42;
/** Streams of the broker's begin here. */
const THEIRS = 2 ** 31;
const EXPIRED = 115;

/**
 * @typedef {import('./auth.js').Credentials} Credentials
 * @typedef {import('./message.js').Payload} Payload
 * @typedef {import('./codec.js').FrameType} FrameType
 *
 * @typedef {object} Options
 * @property {string} [name] in the broker's logs and status
 * @property {Credentials | Credentials[]} [credentials] the preferred first
 * @property {any} [WebSocket] where there is none in the environment, such as that of `ws`
 * @property {number} [heartbeatMs] wish; 0 leaves it to the broker
 * @property {number} [connectTimeoutMs] of one attempt, login included; 10,000 unless given
 * @property {number} [patienceMs] how long the first connect is tried again; 0, the default, fails at the first attempt
 * @property {boolean} [reconnect] true unless given
 * @property {number} [backoffMs] first delay before a reconnect, doubling; 100 unless given
 * @property {number} [backoffMsMax] 30,000 unless given
 * @property {number} [queueMessages] publishes that may wait; 8,192 unless given
 * @property {number} [queueBytes] bytes of them; 8 MiB unless given
 * @property {(state: 'open' | 'waiting' | 'closed', error: TidegateError | null) => void} [onState]
 * @property {(error: unknown) => void} [onError] what a callback of yours threw; reported as uncaught unless given
 *
 * @typedef {object} Terms what the broker offered in its welcome
 * @property {number} session @property {string} server @property {number} heartbeatMs @property {number} frameBytesMax
 * @property {number} messageBytesMax @property {number} windowMessages @property {number} windowBytes @property {number} timeMs
 */

/**
 * Connects and waits for the broker's welcome.
 * @param {string} url such as `wss://broker.example/ws`
 * @param {Options} [options]
 */
export async function connect(url, options = {}) {
  const client = new Client(url, options);
  await client.opened();
  return client;
}

export class Client {
  #url;
  #options;
  /** @type {'connecting' | 'open' | 'waiting' | 'closed'} */
  #state = 'connecting';
  /** @type {any} */
  #socket = null;
  /** @type {Terms | null} */
  terms = null;
  /** Counts sessions: what belongs to an older one is void. */
  generation = 0;
  #sent = { sequence: 0, at: 0 };
  #heard = { sequence: 0, at: 0 };
  /** @type {Map<number, any>} */
  #streams = new Map();
  /** Those that are opened again. @type {Set<any>} */
  #lasting = new Set();
  #nextStream = PUBLISH_STREAM + 1;
  /** Chunked messages under way, by stream and type. @type {Map<string, {frame: any, parts: Uint8Array[], got: number}>} */
  #chunks = new Map();
  /** What they will have when they are whole. */
  #chunkedBytes = 0;
  /** Challenges of the session under way. */
  #challenges = 0;
  #publisher;
  #failures = 0;
  #started = performance.now();
  /** Why the session under way ends, as far as it is known before the close. @type {TidegateError | null} */
  #reason = null;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #heartbeat;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {ReturnType<typeof deferred>} */
  #opened = deferred();
  /** @type {ReturnType<typeof deferred> | null} */
  #reauth = null;
  /** @type {Uint8Array} */
  #nonce = new Uint8Array(0);

  /** @param {string} url @param {Options} [options] */
  constructor(url, options = {}) {
    this.#url = url;
    this.#options = options;
    if (!(options.WebSocket ?? globalThis.WebSocket)) {
      throw new TidegateError('bad-argument', 'this environment has no WebSocket: give one in options.WebSocket');
    }
    const { queueMessages = 8192, queueBytes = 8 * 1024 * 1024 } = options;
    this.#publisher = new Publisher(this, { messagesMax: queueMessages, bytesMax: queueBytes });
    this.#connect();
  }

  /** `connecting`, `open`, `waiting` for the next attempt, or `closed`. */
  get state() {
    return this.#state;
  }

  get bufferedAmount() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  /** Resolves once a session is open. @returns {Promise<Terms>} */
  opened() {
    return this.#opened.promise;
  }

  /**
   * Publishes. Resolves when the broker took it: `outcome` is `stored`, `duplicate`, `live-only` or `dropped`. A refusal for now
   * (a full queue, a full disk) and a lost connection are tried again, unless `retry` is false for the former.
   * @param {string} channel @param {Payload} payload @param {import('./message.js').PublishOptions} [options]
   * @returns {Promise<{id: string, outcome: string}>}
   */
  publish(channel, payload, options = {}) {
    return new Promise((resolve, reject) => {
      if (this.#state === 'closed') throw this.#reason ?? new TidegateError('closed', 'the client is closed');
      if (!this.#publisher.hasRoom) {
        throw new TidegateError('backlog-full', 'too much waits to be published: wait for others first', { retryable: true });
      }
      /** @type {{id: string, record: Uint8Array}} */
      let made;
      try {
        made = makeRecord(channel, payload, options);
      } catch (error) {
        if (error instanceof FrameError) throw refusal(error.number, error.message);
        throw new TidegateError('bad-argument', String(error), { cause: error });
      }
      this.#publisher.push({ ...made, contract: options.contract ?? 'queue', retry: options.retry ?? true, resolve, reject });
    });
  }

  /** Publishes that are not settled. */
  get pending() {
    return this.#publisher.length;
  }

  /** Resolves when every publish is settled. */
  flush() {
    return this.#publisher.drained();
  }

  /**
   * Hears a filter. With `history` a plain channel's past comes first: `{last: 10}`, `{sinceMs: time}` or `{epoch, offset}`.
   * @param {string} filter
   * @param {{retained?: boolean, history?: Past, disconnectWhenSlow?: boolean, inboxMessages?: number, inboxBytes?: number,
   *   onMessage?: (message: import('./message.js').Message) => void,
   *   onNotice?: (notice: import('./streams.js').Notice) => void}} [options]
   */
  async subscribe(filter, { history, ...options } = {}) {
    const subscription = new Subscription(this, filter, { ...options, since: history && sinceOf(history) });
    this.#begin(subscription);
    await subscription.ready.promise;
    return subscription;
  }

  /**
   * Takes messages of a queue under a durable name; sessions with the same name share them.
   * @param {string} queue @param {string} name
   * @param {ConstructorParameters<typeof Consumer>[3]} [options]
   */
  async consume(queue, name, options = {}) {
    const consumer = new Consumer(this, queue, name, options);
    this.#begin(consumer);
    await consumer.ready.promise;
    return consumer;
  }

  /**
   * The past of a channel.
   * @param {string} channel @param {Past & {limit?: number}} past
   * @returns {Promise<{messages: import('./message.js').Message[], complete: boolean}>}
   */
  history(channel, { limit = 0, ...past }) {
    return this.#ask(new History(this, channel, sinceOf(past), limit));
  }

  /**
   * Asks whoever answers on a channel.
   * @param {string} channel @param {Payload} [body] @param {{deadlineMs?: number, bytesMax?: number}} [options]
   */
  request(channel, body, { deadlineMs = 10_000, bytesMax = MESSAGE_BYTES_MAX } = {}) {
    const bytes = body === undefined ? new Uint8Array(0) : encodePayload(body)[1];
    return this.#ask(new Request(this, channel, bytes, deadlineMs, bytesMax));
  }

  /**
   * Answers requests on the channels of a filter.
   * @param {string} filter @param {ConstructorParameters<typeof Responder>[2]} handler
   */
  async respond(filter, handler) {
    const responder = new Responder(this, filter, handler);
    this.#begin(responder);
    await responder.ready.promise;
    return responder;
  }

  /**
   * Renews the credentials in place; those of the options are used for the next session unless others are given.
   * @param {Credentials} [credentials]
   */
  async reauthenticate(credentials = this.#credentials[0]) {
    if (!credentials) throw new TidegateError('bad-argument', 'there are no credentials');
    if (this.#reauth) return this.#reauth.promise;
    const session = this.generation;
    const reauth = deferred();
    this.#reauth = reauth;
    const data = await answer(credentials, this.#nonce, true);
    if (session !== this.generation || this.#state !== 'open') {
      throw new TidegateError('disconnected', 'the session ended', { retryable: true });
    }
    this.#options = { ...this.#options, credentials };
    this.send('reauth', 0, { method: methodOf(credentials), data });
    return reauth.promise;
  }

  /**
   * Ends it, after what waits to be published is settled or `flushMs` are over.
   * @param {{flushMs?: number}} [options]
   */
  async close({ flushMs = 5000 } = {}) {
    if (this.#state === 'open' && flushMs > 0) {
      let timer;
      await Promise.race([this.flush(), new Promise((resolve) => { timer = setTimeout(resolve, flushMs); })]);
      clearTimeout(timer);
    }
    if (this.#state === 'closed') return;
    const socket = this.#socket;
    if (this.#state === 'open') this.send('close', 0, { code: 0, detail: '' });
    this.#end(new TidegateError('closed', 'the client was closed'));
    socket?.close(1000);
  }

  // What follows is for the other modules of this package.

  /**
   * Sends a frame, where there is a session.
   * @param {FrameType} type @param {number} stream @param {Record<string, any>} [head] @param {Uint8Array} [payload]
   * @param {number} [flags] @param {[number, Uint8Array][]} [extensions]
   */
  send(type, stream, head, payload, flags = 0, extensions = []) {
    const socket = this.#socket;
    if (!socket || socket.readyState !== 1) return;
    const bytes = flags & CONT ? undefined : encodeHead(type, head ?? {}, extensions);
    socket.send(encodeFrame(type, stream, this.#sent.sequence, bytes, payload, flags));
    this.#sent = { sequence: (this.#sent.sequence + 1) >>> 0, at: performance.now() };
  }

  /**
   * Sends a payload in as many frames as it takes.
   * @param {FrameType} type @param {number} stream @param {Record<string, any>} head @param {Uint8Array} payload
   */
  sendWhole(type, stream, head, payload) {
    if (payload.length <= CHUNK_BYTES_MAX) return this.send(type, stream, head, payload);
    for (let at = 0; at < payload.length; at += CHUNK_BYTES_MAX) {
      const more = at + CHUNK_BYTES_MAX < payload.length;
      this.send(type, stream, head, payload.subarray(at, at + CHUNK_BYTES_MAX), (at > 0 ? CONT : 0) | (more ? MORE : 0));
    }
    return undefined;
  }

  /** @param {any} stream what ended by itself */
  forget(stream) {
    this.#streams.delete(stream.id);
    this.#lasting.delete(stream);
  }

  /** @param {any} stream */
  async closeStream(stream) {
    this.#lasting.delete(stream);
    if (this.#streams.get(stream.id) !== stream || this.#state !== 'open') return;
    const done = deferred();
    // What the broker sent before it saw the unsubscribe is ignored.
    const closing = {
      frame: (/** @type {import('./codec.js').Frame} */ { type }) => {
        if (type !== 'ok' && type !== 'error') return;
        this.#streams.delete(stream.id);
        done.resolve(undefined);
      },
      lost: () => done.resolve(undefined),
      end: () => done.resolve(undefined),
    };
    this.#streams.set(stream.id, closing);
    this.send('unsubscribe', stream.id);
    await done.promise;
  }

  /** Calls what the program gave. @param {() => void} callback */
  guard(callback) {
    try {
      callback();
    } catch (error) {
      if (this.#options.onError) this.#options.onError(error);
      else queueMicrotask(() => { throw error; });
    }
  }

  get #credentials() {
    const { credentials = [] } = this.#options;
    return Array.isArray(credentials) ? credentials : [credentials];
  }

  /** @param {any} stream */
  #begin(stream) {
    if (this.#state === 'closed') return stream.end(this.#reason);
    this.#lasting.add(stream);
    if (this.#state === 'open') this.#open(stream);
    return undefined;
  }

  /** @param {any} stream */
  #ask(stream) {
    if (this.#state === 'open') this.#open(stream);
    else stream.end(new TidegateError('disconnected', 'there is no connection', { retryable: this.#state !== 'closed' }));
    return stream.ready.promise;
  }

  /** @param {any} stream */
  #open(stream) {
    do {
      stream.id = this.#nextStream;
      this.#nextStream = this.#nextStream + 1 < THEIRS ? this.#nextStream + 1 : PUBLISH_STREAM + 1;
    } while (this.#streams.has(stream.id));
    this.#streams.set(stream.id, stream);
    stream.open();
  }

  #connect() {
    this.#state = 'connecting';
    this.#reason = null;
    const generation = this.generation + 1;
    this.generation = generation;
    const WebSocket = this.#options.WebSocket ?? globalThis.WebSocket;
    /** @type {any} */
    let socket;
    try {
      socket = new WebSocket(this.#url, [SUBPROTOCOL]);
    } catch (error) {
      return this.#end(new TidegateError('bad-argument', String(error), { cause: error }));
    }
    this.#socket = socket;
    socket.binaryType = 'arraybuffer';
    const now = performance.now();
    [this.#sent, this.#heard] = [{ sequence: 0, at: now }, { sequence: 0, at: now }];
    this.#chunks.clear();
    [this.#chunkedBytes, this.#challenges] = [0, 0];
    const mine = () => generation === this.generation && socket === this.#socket;
    this.#timer = setTimeout(() => {
      if (mine()) this.#lose(new TidegateError('connect-failed', 'no welcome in time', { retryable: true }));
    }, this.#options.connectTimeoutMs ?? 10_000);
    socket.addEventListener('open', () => {
      if (mine()) this.#hello();
    });
    socket.addEventListener('message', (/** @type {any} */ event) => {
      if (mine()) this.#message(event.data);
    });
    socket.addEventListener('error', (/** @type {any} */ event) => {
      if (!mine()) return;
      this.#reason ??= new TidegateError('connect-failed', event.message || 'no connection', { retryable: true });
      // Not every environment tells the close of what was never open.
      if (this.terms === null || this.#state !== 'open') this.#lose(this.#reason);
    });
    socket.addEventListener('close', (/** @type {any} */ event) => {
      if (mine()) this.#lose(this.#reason ?? ofClose(event.code, event.reason));
    });
    return undefined;
  }

  #hello() {
    const methods = this.#credentials.map(methodOf);
    /** @type {[number, Uint8Array][]} */
    const extensions = methods.length > 0 ? [[AUTH_METHODS, Uint8Array.from(methods)]] : [];
    const { name = '', heartbeatMs = 0 } = this.#options;
    const sizes = { frameBytesMax: FRAME_BYTES_MAX, messageBytesMax: MESSAGE_BYTES_MAX };
    this.send('hello', 0, { versionMin: 1, versionMax: 1, client: name, heartbeatMs, ...sizes }, undefined, 0, extensions);
  }

  /** @param {ArrayBuffer | Uint8Array} data */
  #message(data) {
    this.#heard.at = performance.now();
    try {
      const bytes = new Uint8Array(data);
      const decoded = decodeFrame(bytes, FRAME_BYTES_MAX);
      if (!decoded || decoded.length !== bytes.length) throw new FrameError(11, 'a message that is not one frame');
      if (decoded.frame.sequence !== this.#heard.sequence) throw new FrameError(9, 'a frame is missing');
      this.#heard.sequence = (this.#heard.sequence + 1) >>> 0;
      const whole = this.#assemble(decoded.frame);
      if (whole) this.#frame(whole);
    } catch (error) {
      if (!(error instanceof FrameError) && !(error instanceof TidegateError)) throw error;
      this.send('error', 0, { code: error.number < 0 ? 0 : error.number, retryAfterMs: 0, detail: error.message.slice(0, 128) });
      this.#lose(error instanceof TidegateError ? error : refusal(error.number, error.message));
    }
  }

  /**
   * A whole message, once its last chunk is there.
   * @param {import('./codec.js').Frame} frame
   * @returns {import('./codec.js').Frame | null}
   */
  #assemble(frame) {
    const key = `${frame.stream}/${frame.type}`;
    const known = this.#chunks.get(key);
    if (!(frame.flags & CONT)) {
      if (known) throw new FrameError(6, 'a message began before the last was complete');
      if ('total' in frame.head && !(frame.flags & MORE) && frame.head.total !== frame.payload.length) {
        throw new FrameError(11, 'a payload of another length than announced');
      }
      if (!(frame.flags & MORE)) return frame;
      if (frame.head.total > MESSAGE_BYTES_MAX + ITEM_BYTES) throw new FrameError(111, `${frame.head.total} bytes in chunks`);
      if (this.#chunks.size >= CHUNKED_MAX || this.#chunkedBytes + frame.head.total > CHUNKED_BYTES_MAX) {
        throw new FrameError(111, 'too many chunked messages at once');
      }
      this.#chunkedBytes += frame.head.total;
      this.#chunks.set(key, { frame, parts: [frame.payload], got: frame.payload.length });
      return null;
    }
    if (!known) throw new FrameError(6, 'a chunk of nothing');
    if (frame.payload.length === 0) throw new FrameError(11, 'an empty chunk');
    known.parts.push(frame.payload);
    known.got += frame.payload.length;
    const { total } = known.frame.head;
    if (known.got > total) throw new FrameError(11, 'more chunks than announced');
    if (frame.flags & MORE) return null;
    if (known.got !== total) throw new FrameError(11, 'fewer chunks than announced');
    this.#chunks.delete(key);
    this.#chunkedBytes -= total;
    const payload = new Uint8Array(total);
    known.parts.reduce((at, part) => {
      payload.set(part, at);
      return at + part.length;
    }, 0);
    return { ...known.frame, payload };
  }

  /** @param {import('./codec.js').Frame} frame */
  #frame(frame) {
    const { type, stream, head } = frame;
    if (this.#state !== 'open') {
      if (type === 'welcome') this.#welcome(/** @type {any} */ (head));
      else if (type === 'auth') this.#challenge(head.method, head.data.slice());
      else if (type === 'error' || type === 'close') this.#reason = refusal(head.code, head.detail, head.retryAfterMs);
      else throw new FrameError(108, `${type} before the welcome`);
      return;
    }
    if (stream === PUBLISH_STREAM) {
      this.#publisher.frame(frame);
    } else if (stream === 0) {
      this.#session(frame);
    } else if (stream >= THEIRS) {
      if (type === 'request') this.#asked(frame);
    } else {
      this.#streams.get(stream)?.frame(frame);
    }
  }

  /** @param {import('./codec.js').Frame} frame */
  #session({ type, head }) {
    if (type === 'ping') {
      this.send('pong', 0, { nonce: head.nonce });
    } else if (type === 'error' || type === 'close') {
      this.#reason = refusal(head.code, head.detail, head.retryAfterMs);
      if (type === 'close' && head.code === 0) this.#reason = ofClose(1000, head.detail);
      this.#reauth?.reject(this.#reason);
    } else if (type === 'ok') {
      this.#reauth?.resolve(undefined);
      this.#reauth = null;
    } else if (type === 'goaway' && head.code === EXPIRED) {
      const fresh = this.#credentials.find((one) => 'token' in one && typeof one.token === 'function');
      if (fresh) this.reauthenticate(fresh).catch((error) => { this.#reason ??= error; });
    }
  }

  /** @param {number} method @param {Uint8Array} nonce */
  async #challenge(method, nonce) {
    const session = this.generation;
    this.#nonce = nonce;
    this.#challenges += 1;
    const credentials = this.#credentials.find((one) => methodOf(one) === method);
    try {
      if (this.#challenges > Math.max(this.#credentials.length, 1)) {
        throw new TidegateError('auth-failed', 'the broker asks again and again', { number: 102 });
      }
      if (!credentials) throw new TidegateError('auth-failed', `the broker asks for method ${method}`, { number: 102 });
      const data = await answer(credentials, nonce, false);
      if (session === this.generation) this.send('auth', 0, { method, data });
    } catch (error) {
      const failed = error instanceof TidegateError ? error : new TidegateError('auth-failed', String(error), { number: 102, cause: error });
      if (session === this.generation) this.#lose(failed);
    }
  }

  /** @param {Terms} terms */
  #welcome(terms) {
    clearTimeout(this.#timer);
    this.terms = terms;
    this.#state = 'open';
    this.#failures = 0;
    const every = Math.max(terms.heartbeatMs, 30);
    clearInterval(this.#heartbeat);
    this.#heartbeat = setInterval(() => {
      const now = performance.now();
      if (now - this.#heard.at > 3 * every) this.#lose(refusal(103, 'nothing was heard for three heartbeats'));
      else if (now - this.#sent.at > every / 2) this.send('ping', 0, { nonce: 1 });
    }, every / 4);
    this.#nextStream = PUBLISH_STREAM + 1;
    for (const stream of this.#lasting) this.#open(stream);
    this.#publisher.opened();
    this.#opened.resolve(terms);
    this.guard(() => this.#options.onState?.('open', null));
  }

  /** @param {import('./codec.js').Frame} frame */
  #asked(frame) {
    for (const stream of this.#lasting) {
      if (stream instanceof Responder && matches(stream.filter, frame.head.channel)) {
        stream.answer(frame);
        return;
      }
    }
    this.send('cancel', frame.stream, { code: 403 });
  }

  /** The session is over; another is tried unless that cannot help. @param {TidegateError} error */
  #lose(error) {
    const socket = this.#socket;
    const wasOpen = this.#state === 'open';
    const before = this.terms !== null;
    if (!socket || this.#state === 'closed') return;
    this.#socket = null;
    // A close that nobody answers must not be waited for.
    socket.close();
    clearTimeout(this.#timer);
    clearInterval(this.#heartbeat);
    this.generation += 1;
    this.#reauth?.reject(error);
    this.#reauth = null;
    if (wasOpen) this.#opened = deferred();
    this.#publisher.lost();
    const streams = [...this.#streams.values()];
    this.#streams.clear();
    for (const stream of streams) {
      stream.lost();
      if (!stream.lasts) stream.end(new TidegateError('disconnected', error.message, { retryable: true, cause: error }));
    }
    const { reconnect = true, patienceMs = 0, backoffMs = 100, backoffMsMax = 30_000 } = this.#options;
    const patient = before || performance.now() - this.#started < patienceMs;
    if (error.final || !patient || (before && !reconnect)) {
      this.#end(error);
      return;
    }
    this.#state = 'waiting';
    const delay = Math.min(backoffMsMax, backoffMs * 2 ** Math.min(this.#failures, 20)) * (0.5 + Math.random() / 2);
    this.#failures += 1;
    this.#timer = setTimeout(() => this.#connect(), Math.max(delay, Math.min(error.retryAfterMs, RETRY_MS_MAX)));
    this.guard(() => this.#options.onState?.('waiting', error));
  }

  /** Over for good. @param {TidegateError} error */
  #end(error) {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    this.#reason = error;
    this.#socket = null;
    this.generation += 1;
    clearTimeout(this.#timer);
    clearInterval(this.#heartbeat);
    this.#opened.reject(error);
    this.#publisher.end(error);
    const streams = new Set([...this.#streams.values(), ...this.#lasting]);
    this.#streams.clear();
    this.#lasting.clear();
    for (const stream of streams) stream.end(error.code === 'closed' ? null : error);
    this.guard(() => this.#options.onState?.('closed', error));
  }
}

/** @typedef {{last: number} | {sinceMs: number} | {epoch: bigint, offset: number}} Past */

/**
 * @param {Past} past
 * @returns {import('./codec.js').Since}
 */
function sinceOf(past) {
  if ('last' in past) return { kind: 'last', count: past.last };
  if ('sinceMs' in past) return { kind: 'time', timeMs: past.sinceMs };
  return { kind: 'offset', epoch: past.epoch, offset: past.offset };
}
