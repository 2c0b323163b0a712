/** Logging in to a real broker by token, password and key, and renewing what ends. */

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { connect, keyFromSeed, keyFromText } from '../src/index.js';
import { Broker } from './broker.js';

const WebSocket = process.env.WS ? (await import(process.env.WS)).WebSocket : globalThis.WebSocket;
const SECRET = 'a secret of at least thirty-two bytes, for tests only';
/** Of the reference implementation's own tests: the password is `password`. */
const HASH = '$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4';
const base64 = (bytes) => Buffer.from(bytes).toString('base64');
const seed = crypto.getRandomValues(new Uint8Array(32));

const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
function token(seconds) {
  const now = Math.floor(Date.now() / 1000);
  const body = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({
    iss: 'tests', aud: 'tidegate', sub: 'token-user', exp: now + seconds, roles: ['open'],
  })}`;
  return `${body}.${createHmac('sha256', SECRET).update(body).digest('base64url')}`;
}

/** @type {Broker} */
let broker;
const open = async (credentials, options = {}) => connect(broker.url, { WebSocket, credentials, ...options });

before(async () => {
  broker = await Broker.start(`
auth: {anonymous: [], identities: ../identities}
issuers:
  - {name: tests, algorithms: [HS256], keys: ["file:../secret"], audiences: [tidegate], leeway: 0s, roles: [open]}
`, async (folder) => {
    const { publicKey } = await keyFromSeed(seed);
    writeFileSync(join(folder, 'secret'), SECRET, { mode: 0o600 });
    writeFileSync(join(folder, 'identities'), `key ed25519:${base64(publicKey)} name=sensor roles=open
password alice ${HASH} roles=open
`, { mode: 0o600 });
  });
});
after(() => broker.end());

async function works(client) {
  assert.match((await client.publish('a/b', 'x')).outcome, /^stored$/);
  await client.close();
}

test('a token opens the door', async () => works(await open({ token: token(600) })));
test('a password does', async () => works(await open({ username: 'alice', password: 'password' })));
test('a key does', async () => {
  await works(await open({ key: await keyFromSeed(seed) }));
  await works(await open({ key: await keyFromText(`# sensor\ned25519-private:${base64(seed)}\n`) }));
});

test('wrong credentials are refused for good', async () => {
  for (const wrong of [
    { token: token(-600) },
    { token: 'x.y.z' },
    { username: 'alice', password: 'wrong' },
    { key: await keyFromSeed(crypto.getRandomValues(new Uint8Array(32))) },
  ]) {
    const error = await open(wrong, { patienceMs: 10_000 }).then(() => null, (failed) => failed);
    assert.ok(['auth-failed', 'too-many-attempts'].includes(error?.code), `${error}`);
  }
});

test('a token that ends is renewed in place', async () => {
  let calls = 0;
  const fresh = () => {
    calls += 1;
    return token(calls === 1 ? 20 : 600);
  };
  const client = await open({ token: fresh });
  const { session } = client.terms;
  while (calls < 2) await new Promise((resolve) => { setTimeout(resolve, 5); });
  await client.publish('a/b', 'x');
  assert.equal(client.terms.session, session);
  await client.reauthenticate();
  assert.equal(calls, 3);
  await works(client);
});
