/**
 * A containerd of our own: Debian's binaries unpacked (never installed) into .cache, own root, state, socket and
 * configuration. The machine's containerd is never touched. For the demo, the integration tests and the benchmarks.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, openSync, closeSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';

export const ROOT = join(__dirname, '..');
const CACHE = join(ROOT, '.cache');

/** Unpacks Debian packages into `.cache/<name>` once; returns the folder. */
export function unpackDebian(name: string, packages: readonly string[]): string {
  const target = join(CACHE, name);
  if (existsSync(target)) {
    return target;
  }
  const work = join(CACHE, `.${name}.${String(process.pid)}`);
  mkdirSync(work, { recursive: true });
  const download = (): void => {
    execFileSync('apt-get', ['download', '-qq', ...packages], { cwd: work, stdio: ['ignore', 'ignore', 'pipe'] });
  };
  try {
    download();
  } catch {
    execFileSync('apt-get', ['update', '-qq'], { stdio: ['ignore', 'ignore', 'inherit'] });
    download();
  }
  for (const file of readdirSync(work).filter((entry) => entry.endsWith('.deb'))) {
    execFileSync('dpkg-deb', ['-x', join(work, file), work]);
    rmSync(join(work, file));
  }
  renameSync(work, target);
  return target;
}

export interface ContainerdOptions {
  /** Folder of the shim binaries, put first on containerd's PATH. Default: build/. */
  readonly shimFolder?: string;
  /** More environment for containerd, and so for every shim. */
  readonly env?: Readonly<Record<string, string>>;
  /** Folder with usr/bin/containerd and usr/bin/ctr; default Debian 12's. */
  readonly binaries?: string;
  readonly debug?: boolean;
  /** TOML of the CRI plugin, which is off without it. */
  readonly criConfig?: string;
}

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end with a time limit (default 120 s). Never rejects for a non-zero exit. */
export async function runCommand(
  file: string,
  args: readonly string[],
  options: { env?: NodeJS.ProcessEnv; input?: string | Buffer; timeoutMs?: number } = {},
): Promise<CommandResult> {
  const child = spawn(file, [...args], { env: options.env ?? process.env, stdio: ['pipe', 'pipe', 'pipe'] });
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
  child.stdin.on('error', () => undefined);
  child.stdin.end(options.input ?? '');
  const timer = setTimeout(() => child.kill('SIGKILL'), options.timeoutMs ?? 120_000);
  const code = await new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status, signal) => resolve(status ?? (signal === 'SIGKILL' ? 137 : 128)));
  });
  clearTimeout(timer);
  return { code, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() };
}

/** Sends `signal` and waits for the end; fine if it has ended or never began. */
export async function endDaemon(daemon: ChildProcess | undefined, signal: NodeJS.Signals): Promise<void> {
  if (daemon === undefined || daemon.exitCode !== null || daemon.signalCode !== null) {
    return;
  }
  const gone = new Promise((resolve) => daemon.once('exit', resolve));
  daemon.kill(signal);
  await gone;
}

export class PrivateContainerd {
  readonly address: string;
  private daemon: ChildProcess | undefined;

  private constructor(
    /** Everything of this instance lives below this folder. */
    readonly folder: string,
    private readonly binaries: string,
    private readonly options: ContainerdOptions,
  ) {
    this.address = join(folder, 'c.sock');
  }

  static async start(options: ContainerdOptions = {}): Promise<PrivateContainerd> {
    const binaries = options.binaries ?? unpackDebian('containerd', ['containerd', 'runc']);
    mkdirSync('/run/kata-ts', { recursive: true, mode: 0o711 });
    const folder = mkdtempSync('/run/kata-ts/c');
    const containerd = new PrivateContainerd(folder, binaries, options);
    writeFileSync(join(folder, 'config.toml'), containerd.config());
    await containerd.launch();
    return containerd;
  }

  private config(): string {
    // The root must not be on a tmpfs-backed overlay-unfriendly place; /var/tmp is disk everywhere.
    const off = ['snapshotter.v1.btrfs', 'snapshotter.v1.zfs', 'snapshotter.v1.devmapper', 'snapshotter.v1.aufs', 'tracing.processor.v1.otlp', 'internal.v1.opt'];
    const disabled = this.options.criConfig === undefined ? ['grpc.v1.cri', ...off] : off;
    return [
      'version = 2',
      `root = "${this.rootFolder}"`,
      `state = "${join(this.folder, 's')}"`,
      'oom_score = 0',
      `disabled_plugins = [${disabled.map((name) => `"io.containerd.${name}"`).join(', ')}]`,
      '[grpc]',
      `  address = "${this.address}"`,
      '[debug]',
      `  level = "${this.options.debug === true ? 'debug' : 'info'}"`,
      this.options.criConfig ?? '',
      '',
    ].join('\n');
  }

  private get rootFolder(): string {
    return join('/var/tmp', `kata-ts-${this.folder.split('/').at(-1) ?? ''}`);
  }

  /** containerd's log, shim lines included. */
  get log(): string {
    return readFileSync(join(this.folder, 'log'), 'utf8');
  }

  /** Folder of a task's bundle. */
  bundle(id: string, namespace = 'default'): string {
    return join(this.folder, 's', 'io.containerd.runtime.v2.task', namespace, id);
  }

  get pid(): number {
    return this.daemon?.pid ?? 0;
  }

  private environment(): NodeJS.ProcessEnv {
    const shim = this.options.shimFolder ?? join(ROOT, 'build');
    const bin = join(this.binaries, 'usr/bin');
    const sbin = join(this.binaries, 'usr/sbin');
    const path = `${shim}:${bin}:${sbin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`;
    return { PATH: path, HOME: '/root', ...this.options.env };
  }

  /** Starts the daemon (again) and waits until its socket answers. */
  async launch(): Promise<void> {
    const log = openSync(join(this.folder, 'log'), 'a');
    const daemon = spawn(join(this.binaries, 'usr/bin/containerd'), ['--config', join(this.folder, 'config.toml')], {
      stdio: ['ignore', log, log],
      env: this.environment(),
      detached: true,
    });
    closeSync(log);
    this.daemon = daemon;
    for (let tries = 0; tries < 400; tries++) {
      if (daemon.exitCode !== null) {
        break;
      }
      if (await answers(this.address)) {
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
    throw new Error(`containerd did not start:\n${this.log.slice(-4000)}`);
  }

  /** Ends the daemon only; shims live on. */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await endDaemon(this.daemon, signal);
    rmSync(this.address, { force: true });
  }

  async restart(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    await this.end(signal);
    await this.launch();
  }

  /** `ctr` against this containerd. */
  async ctr(args: readonly string[], options: { input?: string | Buffer; timeoutMs?: number } = {}): Promise<CommandResult> {
    return runCommand(this.ctrPath, ['-a', this.address, ...args], { env: this.environment(), ...options });
  }

  get ctrPath(): string {
    return join(this.binaries, 'usr/bin/ctr');
  }

  /** Starts `ctr` and leaves it running; the caller ends it. */
  spawnCtr(args: readonly string[]): ChildProcess {
    return spawn(this.ctrPath, ['-a', this.address, ...args], { env: this.environment(), stdio: ['pipe', 'pipe', 'pipe'] });
  }

  /** Kills and deletes all containers, ends the daemon and removes every file of this instance. */
  async stop(): Promise<void> {
    for (const namespace of (await this.ctr(['namespaces', 'ls', '-q'])).stdout.split('\n').filter(Boolean)) {
      const ns = ['-n', namespace];
      for (const id of (await this.ctr([...ns, 'tasks', 'ls', '-q'])).stdout.split('\n').filter(Boolean)) {
        await this.ctr([...ns, 'tasks', 'rm', '-f', id]);
      }
      for (const id of (await this.ctr([...ns, 'containers', 'ls', '-q'])).stdout.split('\n').filter(Boolean)) {
        await this.ctr([...ns, 'containers', 'rm', id]);
      }
    }
    await this.end();
    for (const line of readFileSync('/proc/self/mounts', 'utf8').split('\n').reverse()) {
      const target = line.split(' ')[1] ?? '';
      if (target.startsWith(`${this.folder}/`) || target.startsWith(`${this.rootFolder}/`)) {
        execFileSync('umount', ['-l', target], { stdio: 'ignore' });
      }
    }
    rmSync(this.folder, { recursive: true, force: true });
    rmSync(this.rootFolder, { recursive: true, force: true });
  }
}

async function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
