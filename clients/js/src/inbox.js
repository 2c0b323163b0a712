/** A bounded queue between the connection and whoever iterates over it. */

/** @template T */
export class Inbox {
  /** @type {{value: T, bytes: number}[]} */
  #waiting = [];
  #bytes = 0;
  /** @type {{resolve: (r: IteratorResult<T>) => void, reject: (e: unknown) => void} | null} */
  #taker = null;
  #ended = false;
  /** @type {unknown} */
  #error = null;
  /** @type {(bytes: number) => void} */
  #onTaken;

  /**
   * @param {number} messagesMax @param {number} bytesMax
   * @param {(bytes: number) => void} [onTaken] called for each value that is taken
   */
  constructor(messagesMax, bytesMax, onTaken = () => {}) {
    this.messagesMax = messagesMax;
    this.bytesMax = bytesMax;
    this.#onTaken = onTaken;
  }

  /**
   * Puts a value in; false when there is no room.
   * @param {T} value @param {number} bytes
   */
  push(value, bytes) {
    if (this.#ended) return true;
    if (this.#taker) {
      const taker = this.#taker;
      this.#taker = null;
      this.#onTaken(bytes);
      taker.resolve({ value, done: false });
      return true;
    }
    const full = this.#waiting.length >= this.messagesMax || this.#bytes + bytes > this.bytesMax;
    if (full && this.#waiting.length > 0) return false;
    this.#waiting.push({ value, bytes });
    this.#bytes += bytes;
    return true;
  }

  /**
   * Nothing more comes; what is there can still be taken.
   * @param {unknown} [error]
   */
  end(error = null) {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    const taker = this.#taker;
    this.#taker = null;
    if (taker) this.#finish(taker);
  }

  /** @param {{resolve: (r: IteratorResult<T>) => void, reject: (e: unknown) => void}} taker */
  #finish(taker) {
    const error = this.#error;
    this.#error = null;
    if (error) taker.reject(error);
    else taker.resolve({ value: undefined, done: true });
  }

  /** Forgets what waits. */
  clear() {
    this.#waiting = [];
    this.#bytes = 0;
  }

  /** @returns {Promise<IteratorResult<T>>} */
  next() {
    const first = this.#waiting.shift();
    if (first) {
      this.#bytes -= first.bytes;
      this.#onTaken(first.bytes);
      return Promise.resolve({ value: first.value, done: false });
    }
    return new Promise((resolve, reject) => {
      if (this.#ended) this.#finish({ resolve, reject });
      else if (this.#taker) reject(new Error('one taker at a time'));
      else this.#taker = { resolve, reject };
    });
  }
}
