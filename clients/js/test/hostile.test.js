/** A broker that means harm: what it sends costs the client bounded memory, and nothing is signed or shown for ever. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Client, keyFromSeed } from '../src/index.js';
import { CONT, MORE, decodeFrame, encodeFrame, encodeHead } from '../src/codec.js';

const WELCOME = {
  version: 1, server: 'evil', session: 1, heartbeatMs: 10_000, frameBytesMax: 131_072, messageBytesMax: 1 << 20, windowMessages: 10,
  windowBytes: 1 << 20, timeMs: 0,
};

/** A WebSocket whose other end is the test. */
class Fake extends EventTarget {
  static last;

  readyState = 0;
  bufferedAmount = 0;
  sequence = 0;
  sent = [];

  constructor() {
    super();
    Fake.last = this;
    queueMicrotask(() => {
      this.readyState = 1;
      this.dispatchEvent(new Event('open'));
    });
  }

  send(bytes) {
    this.sent.push(decodeFrame(bytes).frame);
  }

  close() {
    this.readyState = 3;
  }

  /** Something comes from the broker. */
  tell(type, stream, head, payload, flags = 0) {
    const frame = encodeFrame(type, stream, this.sequence, flags & CONT ? undefined : encodeHead(type, head), payload, flags);
    this.sequence += 1;
    this.dispatchEvent(Object.assign(new Event('message'), { data: frame.buffer }));
  }
}

async function connected(options = {}) {
  const client = new Client('ws://evil.example/ws', { WebSocket: Fake, reconnect: false, ...options });
  const ended = client.opened().then(() => null, (error) => error);
  await new Promise((resolve) => { setTimeout(resolve, 0); });
  return { client, ended, broker: Fake.last };
}

test('chunked messages that are never whole are bounded in number and bytes', async () => {
  for (const total of [1, 16 * 1024 * 1024]) {
    const { client, broker } = await connected();
    broker.tell('welcome', 0, WELCOME);
    let begun = 0;
    while (broker.readyState === 1 && begun < 1000) {
      begun += 1;
      broker.tell('deliver', 2 + begun, { epoch: 0n, firstTag: 1, count: 1, total }, new Uint8Array(0), MORE);
    }
    assert.equal(begun, total === 1 ? 65 : 5);
    await client.close({ flushMs: 0 });
  }
});

test('a message of endless empty chunks ends the session', async () => {
  const { client, broker } = await connected();
  broker.tell('welcome', 0, WELCOME);
  broker.tell('deliver', 2, { epoch: 0n, firstTag: 1, count: 1, total: 9 }, new Uint8Array(1), MORE);
  broker.tell('deliver', 2, {}, new Uint8Array(0), MORE | CONT);
  assert.equal(broker.readyState, 3);
  await client.close({ flushMs: 0 });
});

test('a broker that asks for credentials again and again gets them once', async () => {
  const key = await keyFromSeed(new Uint8Array(32).fill(7));
  const { ended, broker } = await connected({ credentials: { key } });
  for (let n = 0; n < 20; n += 1) broker.tell('auth', 0, { method: 3, data: new Uint8Array(32).fill(n) });
  assert.equal((await ended).code, 'auth-failed');
  assert.ok(broker.sent.filter(({ type }) => type === 'auth').length <= 1);
});

test('a key signs challenges of 32 bytes and nothing else', async () => {
  const key = await keyFromSeed(new Uint8Array(32).fill(7));
  for (const length of [0, 31, 33, 1000]) {
    const { ended, broker } = await connected({ credentials: { key } });
    broker.tell('auth', 0, { method: 3, data: new Uint8Array(length) });
    assert.equal((await ended).code, 'auth-failed');
    assert.ok(!broker.sent.some(({ type }) => type === 'auth'));
  }
});
