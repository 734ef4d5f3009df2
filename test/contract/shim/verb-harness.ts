/** Runs the shim's verbs as containerd does: argv, environment, working directory, merged output. */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ROOT } from '../../../hack/private-containerd';

export const SHIM = join(ROOT, 'build/containerd-shim-kata-v2');
export const SOCKETS = '/run/containerd/s';

export interface VerbResult {
  readonly code: number | null;
  /** stdout and stderr as one, in order: what containerd reads of `start`. */
  readonly merged: string;
  readonly stdout: Buffer;
  readonly stderr: string;
  readonly tookMs: number;
}

export interface VerbOptions {
  readonly cwd: string;
  readonly env?: NodeJS.ProcessEnv;
  /** Nothing: /dev/null. `open`: a pipe that stays open and silent. */
  readonly stdin?: Uint8Array | 'open';
  readonly shim?: string;
  /** Own process group, as containerd gives it. */
  readonly group?: boolean;
}

export async function runVerb(args: readonly string[], options: VerbOptions): Promise<VerbResult> {
  const began = performance.now();
  const child = spawn(options.shim ?? SHIM, [...args], {
    cwd: options.cwd,
    env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin', ...options.env },
    stdio: [options.stdin === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    detached: options.group ?? true,
  });
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  const all: Buffer[] = [];
  child.stdout?.on('data', (bytes: Buffer) => {
    out.push(bytes);
    all.push(bytes);
  });
  child.stderr?.on('data', (bytes: Buffer) => {
    err.push(bytes);
    all.push(bytes);
  });
  child.stdin?.on('error', () => undefined);
  if (options.stdin instanceof Uint8Array) {
    child.stdin?.end(options.stdin);
  }
  const code = await new Promise<number | null>((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new Error(`${args.join(' ')}: not done after 20 s: ${Buffer.concat(all).toString()}`));
    }, 20_000);
    // `close` comes when the process has ended *and* nobody holds its output any more.
    child.on('close', (status) => {
      clearTimeout(timer);
      resolve(status);
    });
  });
  child.stdin?.destroy();
  return { code, merged: Buffer.concat(all).toString(), stdout: Buffer.concat(out), stderr: Buffer.concat(err).toString(), tookMs: performance.now() - began };
}

/** A folder of bundles; what it started is gone after `close`. */
export class Bundles {
  readonly folder = mkdtempSync(join(tmpdir(), 'kata-ts-verbs-'));
  readonly namespace = `verbs-${String(process.pid)}`;

  bundle(id: string, annotations: Readonly<Record<string, string>> = {}): string {
    const path = join(this.folder, id);
    mkdirSync(join(path, 'rootfs'), { recursive: true });
    writeFileSync(join(path, 'config.json'), JSON.stringify({ ociVersion: '1.0.2', process: { args: ['true'], cwd: '/' }, root: { path: 'rootfs' }, annotations }));
    if (!existsSync(join(path, 'log'))) {
      execFileSync('mkfifo', [join(path, 'log')]);
    }
    return path;
  }

  /** Flags in containerd's order. */
  args(id: string, action: string, more: readonly string[] = []): string[] {
    return ['-namespace', this.namespace, '-address', '/run/containerd/containerd.sock', '-publish-binary', '/usr/bin/containerd', '-id', id, ...more, action];
  }

  async start(id: string, options: Partial<VerbOptions> = {}): Promise<VerbResult> {
    return runVerb(this.args(id, 'start'), { cwd: join(this.folder, id), ...options });
  }

  async delete(id: string, options: Partial<VerbOptions> = {}): Promise<VerbResult> {
    const cwd = join(this.folder, id);
    return runVerb(this.args(id, 'delete', ['-bundle', cwd]), { cwd: existsSync(cwd) ? cwd : this.folder, ...options });
  }

  pid(id: string): number {
    return Number(readFileSync(join(this.folder, id, 'shim.pid'), 'utf8'));
  }

  /** Pids of the servers that were started in these bundles and live; those that are about to end get a moment. */
  async servers(settleMs = 150): Promise<number[]> {
    await new Promise((resolve) => setTimeout(resolve, settleMs));
    return this.serversNow();
  }

  private serversNow(): number[] {
    return readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .map(Number)
      .filter((pid) => {
        try {
          const words = readFileSync(`/proc/${String(pid)}/cmdline`, 'utf8').split('\0');
          return words.includes('-reply-fd') && words.includes(this.namespace) && !readFileSync(`/proc/${String(pid)}/stat`, 'utf8').includes(') Z ');
        } catch {
          return false;
        }
      });
  }

  close(): void {
    for (const pid of this.serversNow()) {
      process.kill(pid, 'SIGKILL');
    }
    for (const name of existsSync(this.folder) ? readdirSync(this.folder) : []) {
      const address = join(this.folder, name, 'address');
      if (existsSync(address)) {
        rmSync(readFileSync(address, 'utf8').replace('unix://', ''), { force: true });
      }
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}
