/** A real broker in a process and a folder of its own. Its program is `$TIDEGATE`, or what cargo built. */

import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const program = process.env.TIDEGATE ?? ['target/release/tidegate', 'target/debug/tidegate'].map((path) => join(root, path))
  .find(existsSync);

export class Broker {
  /**
   * @param {string} [extra] YAML behind the defaults of the tests
   * @param {(folder: string) => void | Promise<void>} [prepare] puts files there; data are in `data` below it
   */
  static async start(extra = '', prepare = () => {}) {
    if (!program) throw new Error('no broker to test against: cargo build, or set TIDEGATE');
    const broker = new Broker();
    broker.folder = mkdtempSync(join(tmpdir(), 'tidegate-js-'));
    broker.port = 0;
    broker.extra = extra;
    await prepare(broker.folder);
    await broker.up();
    return broker;
  }

  /** Starts it, again on the port it had. */
  async up() {
    const data = join(this.folder, 'data');
    const config = join(this.folder, 'config.yaml');
    writeFileSync(config, `listen: {tcp: [], http: ["127.0.0.1:${this.port}"]}\n${this.extra}`, { mode: 0o600 });
    rmSync(join(data, 'ready.json'), { force: true });
    this.log = '';
    this.child = spawn(program, ['serve', '--config', config, '--data', data], { stdio: ['ignore', 'ignore', 'pipe'] });
    this.child.stderr.on('data', (text) => { this.log += text; });
    this.ended = new Promise((resolve) => { this.child.on('exit', resolve); });
    let over = false;
    this.ended.then(() => { over = true; });
    for (let looks = 0; looks < 2_000; looks += 1) {
      const ready = existsSync(join(data, 'ready.json')) && JSON.parse(readFileSync(join(data, 'ready.json'), 'utf8'));
      if (ready && ready.pid === this.child.pid) {
        const [address] = ready.http;
        this.port = Number(address.split(':').pop());
        this.url = `ws://${address}/ws`;
        return;
      }
      if (over) throw new Error(`the broker did not start: ${this.log}`);
      await sleep(10);
    }
    throw new Error(`the broker did not start in time: ${this.log}`);
  }

  /** As a power cut does it. */
  async kill() {
    this.child.kill('SIGKILL');
    await this.ended;
  }

  async stop() {
    this.child.kill('SIGTERM');
    await this.ended;
  }

  async end() {
    await this.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
