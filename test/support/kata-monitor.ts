/** kata-monitor as a process of its own, on a free port. */
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { ROOT } from '../../hack/private-containerd';

export interface Got {
  readonly status: number;
  readonly type: string;
  readonly text: string;
}

export class KataMonitor {
  private said = '';

  private constructor(
    private readonly child: ChildProcess,
    readonly base: string,
  ) {
    child.stderr?.on('data', (part: Buffer) => {
      this.said += part.toString();
    });
  }

  /** `criSocket`: also one that nobody serves. */
  static async start(criSocket: string, args: readonly string[] = []): Promise<KataMonitor> {
    const child = spawn(join(ROOT, 'build/kata-monitor'), ['--listen-address', '127.0.0.1:0', '-runtime-endpoint', criSocket, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
    const base = await new Promise<string>((resolve, reject) => {
      let said = '';
      child.stderr.on('data', (part: Buffer) => {
        said += part.toString();
        const address = /kata-monitor listens.*address=(\S+)/.exec(said)?.[1];
        if (address !== undefined) {
          resolve(`http://${address}`);
        }
      });
      child.once('exit', () => reject(new Error(`kata-monitor ended: ${said}`)));
    });
    return new KataMonitor(child, base);
  }

  /** Its log since it listened. */
  get log(): string {
    return this.said;
  }

  get pid(): number {
    return this.child.pid ?? 0;
  }

  get ended(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }

  async get(path: string, accept = '*/*', method = 'GET'): Promise<Got> {
    const response = await fetch(`${this.base}${path}`, { method, headers: { accept }, signal: AbortSignal.timeout(30_000) });
    return { status: response.status, type: response.headers.get('content-type') ?? '', text: await response.text() };
  }

  /** Ids that it lists now. */
  async sandboxes(): Promise<readonly string[]> {
    return (await this.get('/sandboxes')).text.split('\n').filter((line) => line !== '');
  }

  async stop(): Promise<void> {
    if (!this.ended) {
      const gone = new Promise((resolve) => this.child.once('exit', resolve));
      this.child.kill('SIGTERM');
      await gone;
    }
  }
}

/** Asks ten times a second until it holds; fails after `seconds`. */
export async function until(what: string, check: () => boolean | Promise<boolean>, seconds = 20): Promise<void> {
  const end = Date.now() + seconds * 1000;
  while (!(await check())) {
    if (Date.now() > end) {
      assert.fail(`not within ${String(seconds)} s: ${what}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
