/** The codec against the golden frames of the protocol, whose README says what each must become. */

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { test } from 'node:test';
import {
  FrameError, crc32c, decodeBatch, decodeFilters, decodeFrame, decodeItems, decodeRecord, encodeFrame, encodeHead,
  encodeRecord, utf8,
} from '../src/codec.js';
import { idBytes, idText, ulid } from '../src/ulid.js';

const folder = new URL('../../../proto/golden/', import.meta.url);
const golden = (name) => new Uint8Array(readFileSync(new URL(name, folder)));
const expected = new Map(readFileSync(new URL('README.md', folder), 'utf8').split('\n')
  .map((line) => line.match(/^\| `([\w-]+\.bin)` \| [\d,]+ \| `[^`]*` \| (.*) \|$/)).filter(Boolean)
  .map((row) => [row[1], row[2]]));

/** Everything a receiver looks at. */
function read(bytes) {
  const decoded = decodeFrame(bytes, 131072);
  if (decoded === null) return 'incomplete';
  const { frame, length } = decoded;
  assert.equal(length, bytes.length);
  if (frame.flags & 3) return frame;
  const { type, head, payload } = frame;
  if ('total' in head && head.total !== payload.length) throw new FrameError(11, 'total');
  if (type === 'publish') frame.record = decodeRecord(payload);
  if (type === 'batch') frame.records = decodeBatch(payload, head.count).map(decodeRecord);
  if (type === 'consume') frame.filters = decodeFilters(payload, head.filters);
  if (type === 'deliver') frame.items = decodeItems(payload, head.count);
  return frame;
}

/** Read, and written again in another form: the decoder skips extensions and unknown flags, and varints become short. */
const FORMS_NOT_KEPT = new Set(
  ['varint-longer-than-needed.bin', 'extension-unknown.bin', 'hello-auth-methods.bin', 'flag-high-unknown.bin',
    'hello-bridge.bin', 'welcome-bridge.bin', 'publish-source.bin', 'batch-source.bin']);

/** What only brokers are sent, by bridges: this client skips those extensions, as it does all it does not know. */
const BY_BRIDGES = /^(bad-bridge|bad-source|bad-batch-lz4|batch-lz4)/;

const files = readdirSync(folder).filter((name) => name.endsWith('.bin') && !BY_BRIDGES.test(name));

test('every golden file is in the table', () => {
  assert.ok(files.length > 60);
  assert.deepEqual(files.filter((name) => !expected.has(name)), []);
});

for (const name of files) {
  test(`golden ${name}`, () => {
    const error = expected.get(name)?.match(/error (\d+) `/);
    if (error) {
      assert.throws(() => read(golden(name)), (e) => e instanceof FrameError && e.number === Number(error[1]));
    } else if (expected.get(name)?.includes('incomplete:')) {
      assert.equal(read(golden(name)), 'incomplete');
    } else {
      const frame = read(golden(name));
      assert.match(expected.get(name), new RegExp(`${frame.type}, stream ${frame.stream}, sequence ${frame.sequence}`));
      if (frame.flags & 2 || FORMS_NOT_KEPT.has(name)) return;
      // And back.
      const again = encodeFrame(frame.type, frame.stream, frame.sequence, encodeHead(frame.type, frame.head), frame.payload, frame.flags);
      assert.deepEqual(again, golden(name));
      if (frame.record) assert.deepEqual(encodeRecord(frame.record), frame.payload);
    }
  });
}

test('fields of the example are what the page says', () => {
  const { frame } = decodeFrame(golden('welcome.bin'));
  assert.deepEqual(frame.head, {
    version: 1, server: 'edge-1', session: 42, heartbeatMs: 5000, frameBytesMax: 131072, messageBytesMax: 1048576,
    windowMessages: 1024, windowBytes: 4194304, timeMs: 1763726400000,
  });
  const { record } = read(golden('record-full.bin'));
  assert.equal(idText(record.id), '01JD75MTVWHPFAZC61TBHZ818P');
  assert.deepEqual([record.channel, record.priority, record.retain, record.encoding], ['site/boiler/temp', 9, true, 'text']);
  assert.deepEqual(record.properties.map(([tag]) => tag), [0, 1, 6, 99]);
});

test('the check value of CRC-32C', () => {
  assert.equal(crc32c(utf8('123456789')), 0xe3069283);
  assert.equal(crc32c(utf8('1234'), utf8('56789')), 0xe3069283);
});

test('every single flipped bit of a frame is noticed', () => {
  const bytes = golden('publish.bin');
  for (let bit = 0; bit < bytes.length * 8; bit += 1) {
    const flipped = bytes.slice();
    flipped[bit >> 3] ^= 1 << (bit & 7);
    let got;
    try {
      got = decodeFrame(flipped);
    } catch (error) {
      assert.ok(error instanceof FrameError, `${bit}: ${error}`);
      continue;
    }
    assert.equal(got, null, `bit ${bit}`);
  }
});

test('ids read back and carry their time', () => {
  const id = ulid(1_763_726_400_000);
  assert.deepEqual(idBytes(idText(id)), id);
  assert.equal(Number(id.slice(0, 6).reduce((sum, byte) => sum * 256n + BigInt(byte), 0n)), 1_763_726_400_000);
  assert.throws(() => idBytes('81JD75MTVWHPFAZC61TBHZ818P'), RangeError);
});
