/** The codes of proto/frame.md, section 20, and the one error class of this client. */

/** Codes by number. */
export const CODES = Object.freeze({
  0: 'normal', 1: 'bad-magic', 2: 'bad-version', 3: 'bad-crc', 4: 'unknown-type', 5: 'unsupported-flag',
  6: 'flags-contradict', 7: 'bad-head', 8: 'frame-too-large', 9: 'bad-sequence', 10: 'frame-timeout', 11: 'bad-payload',
  100: 'hello-expected', 101: 'handshake-timeout', 102: 'auth-failed', 103: 'heartbeat-timeout',
  104: 'too-many-connections', 105: 'forbidden', 106: 'shutting-down', 107: 'bad-stream', 108: 'unexpected-frame',
  109: 'too-many-streams', 110: 'slow-reader', 111: 'reassembly-budget', 112: 'credit-overflow', 113: 'not-supported',
  114: 'window-exceeded', 115: 'credentials-expired', 116: 'too-many-attempts', 117: 'quota-exceeded',
  118: 'rate-exceeded',
  200: 'bad-channel', 201: 'bad-record', 202: 'message-too-large', 203: 'no-queue', 204: 'queue-full',
  205: 'storage-full', 206: 'storage-failed', 207: 'fenced', 208: 'bad-publish-number', 209: 'limit-reached',
  210: 'rate-limited', 211: 'bad-signature', 212: 'no-upstream', 213: 'upstream-refused', 214: 'not-forwarded',
  300: 'bad-filter', 301: 'unknown-queue', 302: 'queue-has-consumer', 303: 'bad-name', 304: 'never-delivered',
  305: 'duplicate-consumer', 306: 'no-history', 307: 'bad-options', 308: 'conflict',
  400: 'no-responder', 401: 'deadline-exceeded', 402: 'cancelled', 403: 'responder-failed', 500: 'internal',
});

/** Codes where trying the same again later can help. */
const RETRYABLE = new Set([104, 106, 116, 117, 118, 204, 205, 206, 207, 209, 210, 308, 400, 401]);

/** Codes on stream 0 after which connecting again with the same settings cannot help. */
const FINAL = new Set([2, 102, 105, 113, 303]);

/** Close codes of the WebSocket that are not ours plus 4000. */
const CLOSES = new Map([[1000, 0], [1001, 106], [1002, 6], [1003, 11], [1007, 11], [1008, 11], [1009, 8]]);

/** Whatever goes wrong. `name` is always `TidegateError`; `code` says what. */
export class TidegateError extends Error {
  /**
   * @param {string} code a name of section 20, or one of this client: `disconnected`, `closed`, `backlog-full`, `timeout`,
   *   `too-large`, `bad-argument`, `connect-failed`
   * @param {string} message for people
   * @param {{number?: number, retryable?: boolean, retryAfterMs?: number, cause?: unknown}} [more]
   */
  constructor(code, message, more = {}) {
    super(message ? `${code}: ${message}` : code, { cause: more.cause });
    this.name = 'TidegateError';
    this.code = code;
    /** The code of section 20, or -1 for one of this client. */
    this.number = more.number ?? -1;
    /** Whether trying the same again later can help. */
    this.retryable = more.retryable ?? false;
    /** When that makes sense, in milliseconds; 0 is unknown. */
    this.retryAfterMs = more.retryAfterMs ?? 0;
  }

  /** Whether connecting again cannot help. */
  get final() {
    return FINAL.has(this.number);
  }
}

/**
 * A refusal of the broker.
 * @param {number} number @param {string} detail @param {number} [retryAfterMs]
 */
export function refusal(number, detail, retryAfterMs = 0) {
  const code = CODES[/** @type {keyof typeof CODES} */ (number)] ?? `code-${number}`;
  return new TidegateError(code, detail, { number, retryable: RETRYABLE.has(number), retryAfterMs });
}

/**
 * What a close of the WebSocket means.
 * @param {number} close @param {string} reason
 */
export function ofClose(close, reason) {
  if (close >= 4000 && close <= 4999) return refusal(close - 4000, reason.replace(/^[a-z-]+: /, ''));
  const number = CLOSES.get(close);
  if (number !== undefined && close !== 1000) return refusal(number, reason);
  return new TidegateError('disconnected', reason || `the connection ended (${close})`, { retryable: true });
}
