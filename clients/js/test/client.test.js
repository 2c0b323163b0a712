/** The client against a real broker, with the environment's WebSocket or that of `ws` (`WS=ws`). */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { TidegateError, connect } from '../src/index.js';
import { Broker } from './broker.js';

const WebSocket = process.env.WS ? (await import(process.env.WS)).WebSocket : globalThis.WebSocket;
const QUEUES = `
limits: {heartbeat: 1s}
queues:
  - {name: main, capture: ["a/#", "work/#"], history: {enabled: true}}
  - {name: tiny, capture: ["tiny/#"], keep: work, limits: {messages: 2}, overflow: reject}
`;

/** @type {Broker} */
let broker;
/** @type {import('../src/client.js').Client[]} */
const clients = [];
const open = async (options = {}) => {
  const client = await connect(broker.url, { WebSocket, backoffMs: 20, ...options });
  clients.push(client);
  return client;
};

before(async () => { broker = await Broker.start(QUEUES); });
after(async () => {
  await Promise.all(clients.map((client) => client.close({ flushMs: 0 })));
  await broker.end();
});

/** The next so many of an iterable. */
async function take(iterable, count) {
  const iterator = iterable[Symbol.asyncIterator]();
  const taken = [];
  while (taken.length < count) {
    const { value, done } = await iterator.next();
    assert.ok(!done, `it ended after ${taken.length}`);
    taken.push(value);
  }
  return taken;
}

test('publishes are acknowledged, and the same id is stored once', async () => {
  const client = await open({ name: 'js' });
  assert.equal(client.terms.server, 'tidegate');
  const first = await client.publish('a/b', { t: 21.5 }, { user: { unit: 'C' }, priority: 3 });
  assert.equal(first.outcome, 'stored');
  assert.match(first.id, /^[0-7][0-9A-Z]{25}$/);
  assert.equal((await client.publish('a/b', { t: 21.5 }, { id: first.id })).outcome, 'duplicate');
  assert.equal((await client.publish('nobody/hears', 'x')).outcome, 'live-only');
  await assert.rejects(client.publish('a/+', 'x'), { code: 'bad-channel' });
  await assert.rejects(client.publish('nobody/keeps', 'x', { contract: 'disk' }), { code: 'no-queue', retryable: false });
  await assert.rejects(client.publish('a/big', new Uint8Array(2_000_000)), { code: 'message-too-large' });
  assert.equal((await client.publish('a/b', 'after it')).outcome, 'stored');
});

test('a subscription hears live messages of every size, in order', async () => {
  const client = await open();
  const heard = await client.subscribe('a/sizes/#');
  const sizes = [0, 1, 16_384, 16_385, 100_000, 900_000];
  for (const size of sizes) client.publish('a/sizes/x', new Uint8Array(size).fill(7));
  const messages = await take(heard, sizes.length);
  assert.deepEqual(messages.map(({ payload }) => payload.length), sizes);
  assert.ok(messages.every(({ payload }) => payload.every((byte) => byte === 7)));
  await client.publish('a/sizes/x', 'text');
  const [last] = await take(heard, 1);
  assert.deepEqual([last.text(), last.encoding, last.channel], ['text', 'text', 'a/sizes/x']);
  await heard.close();
});

test('history and retained values come first', async () => {
  const client = await open();
  for (let n = 1; n <= 5; n += 1) await client.publish('a/past', n, { retain: n === 5, user: { n: String(n) } });
  const late = await client.subscribe('a/past', { history: { last: 3 } });
  const got = await take(late, 3);
  assert.deepEqual(got.map((message) => message.json()), [3, 4, 5]);
  assert.ok(got.every((message) => message.history && message.offset !== null));
  assert.equal(new TextDecoder().decode(got[0].user.n), '3');
  const retained = await client.subscribe('a/+', { retained: true });
  const [value] = await take(retained, 1);
  assert.deepEqual([value.retained, value.json()], [true, 5]);
  const { messages, complete } = await client.history('a/past', { last: 100 });
  assert.deepEqual([messages.map((message) => message.json()), complete], [[1, 2, 3, 4, 5], true]);
  await assert.rejects(client.history('nobody/keeps', { last: 1 }), { code: 'no-history' });
});

test('a callback hears as well, and its errors are its own', async () => {
  const errors = [];
  const client = await open({ onError: (error) => errors.push(error) });
  const heard = [];
  await client.subscribe('a/callback', {
    onMessage: (message) => {
      heard.push(message.text());
      if (heard.length === 1) throw new Error('mine');
    },
  });
  await client.publish('a/callback', 'one');
  await client.publish('a/callback', 'two');
  await client.request('$admin/nothing', undefined, { deadlineMs: 1000 }).catch(() => {});
  assert.deepEqual([heard, errors.map(({ message }) => message)], [['one', 'two'], ['mine']]);
});

test('a consumer acknowledges, gets failures again, and goes on where it was', async () => {
  const client = await open();
  const consumer = await client.consume('main', 'worker', { filters: ['work/#'], start: { kind: 'next' }, creditMessages: 4 });
  for (let n = 0; n < 20; n += 1) await client.publish('work/x', n);
  const iterator = consumer[Symbol.asyncIterator]();
  const seen = [];
  while (seen.length < 20) {
    const { value } = await iterator.next();
    if (value.json() === 3 && value.attempt === 1) {
      value.nack({ delayMs: 1, reason: 'not yet' });
      continue;
    }
    seen.push(value.json());
    if (seen.length <= 18) value.ack();
  }
  assert.deepEqual([...seen].sort((a, b) => a - b), Array.from({ length: 20 }, (_, n) => n));
  await consumer.close();
  const again = await client.consume('main', 'worker', { filters: ['work/#'] });
  const rest = await take(again, 2);
  assert.deepEqual(rest.map((delivery) => delivery.json()).sort(), seen.slice(18).sort());
  assert.ok(rest.every((delivery) => delivery.redelivered));
  rest.forEach((delivery) => delivery.ack());
  await again.close();
  await assert.rejects(client.consume('none', 'x'), { code: 'unknown-queue' });
});

test('requests are answered, in chunks where they are large', async () => {
  const [asker, answerer] = await Promise.all([open(), open()]);
  await answerer.respond('ask/+', ({ channel, body }) => {
    if (channel === 'ask/fail') throw new Error('it cannot');
    return channel === 'ask/status' ? { status: 7, body: 'no' } : body;
  });
  const body = new Uint8Array(70_000).fill(9);
  const echo = await asker.request('ask/echo', body);
  assert.deepEqual([echo.status, echo.body], [0, body]);
  const refused = await asker.request('ask/status');
  assert.deepEqual([refused.status, refused.text()], [7, 'no']);
  assert.equal((await asker.request('ask/fail')).text(), 'it cannot');
  await assert.rejects(asker.request('nobody/answers', 'x'), { code: 'no-responder', retryable: true });
});

test('a full queue is waited for, or is an error where that is asked', async () => {
  const client = await open();
  await client.publish('tiny/x', 1);
  await client.publish('tiny/x', 2);
  await assert.rejects(client.publish('tiny/x', 3, { retry: false }), { code: 'queue-full', retryable: true });
  // The stream goes on behind a refusal that was given up.
  assert.equal((await client.publish('a/after', 'x')).outcome, 'stored');
  const waiting = [client.publish('tiny/x', 4), client.publish('a/behind', 'x'), client.publish('tiny/x', 5)];
  const consumer = await client.consume('tiny', 'taker');
  const got = [];
  for await (const delivery of consumer) {
    got.push(delivery.json());
    delivery.ack();
    if (got.length === 4) break;
  }
  assert.deepEqual(got, [1, 2, 4, 5]);
  assert.deepEqual((await Promise.all(waiting)).map(({ outcome }) => outcome), ['stored', 'stored', 'stored']);
});

test('what waits to be published is bounded', async () => {
  const client = await open({ queueMessages: 10 });
  const all = await Promise.allSettled(Array.from({ length: 12 }, (_, n) => client.publish('a/bounded', n)));
  assert.deepEqual(all.map(({ status }) => status), [...Array(10).fill('fulfilled'), 'rejected', 'rejected']);
  assert.equal(all[11].reason.code, 'backlog-full');
});

test('an idle session lives by heartbeats', async () => {
  const client = await open({ heartbeatMs: 100 });
  assert.equal(client.terms.heartbeatMs, 100);
  const states = [];
  const session = client.terms.session;
  await new Promise((resolve) => { setTimeout(resolve, 1_000); });
  assert.deepEqual([client.state, client.terms.session, states], ['open', session, []]);
});

test('nothing is lost when the broker is killed in the middle of publishing', async () => {
  const states = [];
  const client = await open({ onState: (state) => states.push(state) });
  const notices = [];
  const past = await client.subscribe('a/kill', { history: { last: 1 }, onNotice: (notice) => notices.push(notice) });
  const consumer = await client.consume('main', 'after-kill', { filters: ['a/kill'], start: { kind: 'next' } });
  const [all, batch] = [3_000, 300];
  const publishes = [];
  for (let n = 0; n < all; n += batch) {
    const some = Array.from({ length: batch }, (_, i) => client.publish('a/kill', n + i, { contract: 'disk' }));
    publishes.push(...some);
    // Some are on their way then, and some are written.
    if (n === all / 2) {
      await new Promise((resolve) => { setImmediate(resolve); });
      await broker.kill();
      await broker.up();
    } else if (n < all / 2) {
      await Promise.all(some);
    }
  }
  const outcomes = new Set((await Promise.all(publishes)).map(({ outcome }) => outcome));
  assert.ok([...outcomes].every((outcome) => outcome === 'stored' || outcome === 'duplicate'), [...outcomes].join());
  const seen = new Map();
  for await (const delivery of consumer) {
    const n = delivery.json();
    assert.ok(!seen.has(delivery.seq) || delivery.redelivered, `${n} came twice`);
    seen.set(delivery.seq, n);
    delivery.ack();
    if (seen.size === all) break;
  }
  // Once each, in order.
  const bySeq = [...seen].sort(([a], [b]) => a - b).map(([, n]) => n);
  assert.deepEqual(bySeq, Array.from({ length: all }, (_, n) => n));
  const heard = await take(past, all);
  assert.deepEqual(heard.map((message) => message.json()), bySeq);
  assert.deepEqual([states.includes('waiting'), notices], [true, [{ kind: 'reconnected', complete: true }]]);
});

test('a broker that stops in order is come back to', async () => {
  const errors = [];
  const client = await open({ onState: (state, error) => error && errors.push(error.code) });
  await broker.stop();
  while (client.state === 'open') await new Promise((resolve) => { setTimeout(resolve, 5); });
  assert.equal(errors[0], 'shutting-down');
  const pending = client.publish('a/later', 'x');
  await broker.up();
  assert.equal((await pending).outcome, 'stored');
});

test('where nobody listens the first connect fails, or is patient', async () => {
  const nowhere = 'ws://127.0.0.1:1/ws';
  await assert.rejects(connect(nowhere, { WebSocket }), (error) => error instanceof TidegateError && error.code === 'connect-failed');
  await assert.rejects(connect(nowhere, { WebSocket, patienceMs: 200, backoffMs: 20 }), { code: 'connect-failed' });
  await assert.rejects(connect(broker.url.replace('/ws', '/healthz'), { WebSocket }), TidegateError);
});

test('a closed client is closed', async () => {
  const client = await open();
  const subscription = await client.subscribe('a/#');
  const publish = client.publish('a/closed', 'x');
  await client.close();
  assert.equal((await publish).outcome, 'stored');
  await assert.rejects(client.publish('a/closed', 'x'), { code: 'closed' });
  const rest = [];
  for await (const message of subscription) rest.push(message.text());
  assert.ok(rest.length <= 1);
});
