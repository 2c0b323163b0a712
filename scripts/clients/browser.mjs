/** Pages in headless Chromium use the JavaScript client against a real broker; one of another origin is refused. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Broker } from '../../clients/js/test/broker.js';

const root = fileURLToPath(new URL('../../', import.meta.url));
const chromium = process.argv[2] ?? 'chromium';

/** Serves the page and the client, and hears its report. */
async function serve() {
  const heard = {};
  heard.report = new Promise((resolve) => { heard.resolve = resolve; });
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url, 'http://here');
    if (request.method === 'POST' && pathname === '/report') {
      let body = '';
      request.on('data', (text) => { body += text; });
      request.on('end', () => {
        response.end();
        heard.resolve(JSON.parse(body));
      });
      return;
    }
    const path = pathname === '/' ? 'scripts/clients/page.html' : /^\/src\/[a-z]+\.js$/.test(pathname) && `clients/js${pathname}`;
    if (!path) {
      response.writeHead(404).end();
      return;
    }
    response.setHeader('content-type', path.endsWith('.html') ? 'text/html' : 'text/javascript');
    response.end(readFileSync(join(root, path)));
  });
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  return { server, report: heard.report, origin: `http://127.0.0.1:${server.address().port}` };
}

/** Opens a page and gives what it reports. */
async function visit(page, broker) {
  const profile = mkdtempSync(join(tmpdir(), 'tidegate-chromium-'));
  const url = `${page.origin}/?broker=${encodeURIComponent(broker.url)}`;
  const browser = spawn(chromium, ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
    `--user-data-dir=${profile}`, url], { stdio: ['ignore', 'ignore', 'pipe'] });
  let words = '';
  browser.stderr.on('data', (text) => { words += text; });
  const ended = new Promise((resolve) => { browser.on('exit', resolve); });
  const failed = ended.then(() => { throw new Error(`chromium ended: ${words}`); });
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`no report: ${words}`)), 60_000); });
  try {
    return await Promise.race([page.report, failed, late]);
  } finally {
    failed.catch(() => {});
    clearTimeout(timer);
    browser.kill();
    await ended;
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

const [own, other] = [await serve(), await serve()];
const broker = await Broker.start(`http: {origins: ["${own.origin}"]}\nqueues: [{name: main, capture: ["web/#"], keep: limits, overflow: drop-oldest, history: {enabled: true}}]\n`);
try {
  const result = await visit(own, broker);
  assert.ok(result.ok, result.error);
  for (const step of result.steps) console.log(step);
  const refused = await visit(other, broker);
  assert.equal(refused.ok, false, 'a page of another origin was let in');
  console.log(`another origin: ${refused.error}`);
} finally {
  own.server.close();
  other.server.close();
  await broker.end();
}
