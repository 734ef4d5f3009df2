/** A dockerd of our own over a private containerd: own data root, exec root, socket; no bridge, no firewall rules. */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { endDaemon, runCommand, type CommandResult } from '../../../hack/private-containerd';
import { RUNTIME, type Host } from '../host';

export const DOCKER_IMAGE = 'kata-ts-busybox';

export class PrivateDockerd {
  private daemon: ChildProcess | undefined;

  private constructor(
    private readonly binaries: string,
    private readonly host: Host,
    /** Sockets, pid file, log and network namespaces. */
    private readonly folder: string,
    /** Images and container folders, on disk. */
    private readonly dataRoot: string,
  ) {}

  /** Starts dockerd over `host`'s containerd, which the caller stops after this. Imports the busybox image. */
  static async start(binaries: string, host: Host, imageTar: string): Promise<PrivateDockerd> {
    const folder = mkdtempSync('/run/kata-ts/d');
    const dataRoot = mkdtempSync('/var/tmp/kata-ts-d');
    const dockerd = new PrivateDockerd(binaries, host, folder, dataRoot);
    await dockerd.launch();
    await dockerd.importImage(imageTar);
    return dockerd;
  }

  get log(): string {
    return readFileSync(join(this.folder, 'log'), 'utf8');
  }

  private get environment(): NodeJS.ProcessEnv {
    const folders = [join(this.binaries, 'usr/bin'), join(this.binaries, 'usr/sbin')];
    return { PATH: [...folders, '/usr/sbin:/usr/bin:/sbin:/bin'].join(':'), HOME: this.folder, DOCKER_HOST: `unix://${this.folder}/docker.sock` };
  }

  /** Starts the daemon (again) and waits until it answers. */
  async launch(): Promise<void> {
    const log = openSync(join(this.folder, 'log'), 'a');
    const args = [
      ...['--data-root', this.dataRoot, '--exec-root', join(this.folder, 'x'), '--pidfile', join(this.folder, 'pid')],
      ...['-H', `unix://${this.folder}/docker.sock`, '--containerd', this.host.containerd.address],
      ...['--bridge=none', '--iptables=false', '--ip6tables=false', '--ip-forward=false', '--live-restore'],
    ];
    const daemon = spawn(join(this.binaries, 'usr/sbin/dockerd'), args, { stdio: ['ignore', log, log], env: this.environment, detached: true });
    closeSync(log);
    this.daemon = daemon;
    for (let tries = 0; tries < 300 && daemon.exitCode === null; tries++) {
      if (existsSync(join(this.folder, 'docker.sock')) && (await this.docker(['version'])).code === 0) {
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(`dockerd did not start:\n${this.log.slice(-4000)}`);
  }

  private async importImage(imageTar: string): Promise<void> {
    const work = mkdtempSync(join(tmpdir(), 'kata-ts-docker-image-'));
    try {
      execFileSync('tar', ['-xf', imageTar, '-C', work]);
      const blobs = join(work, 'blobs/sha256');
      const largest = readdirSync(blobs)
        .map((name) => ({ path: join(blobs, name), sizeBytes: readFileSync(join(blobs, name)).length }))
        .sort((a, b) => b.sizeBytes - a.sizeBytes)[0];
      const imported = await this.docker(['import', '--change', 'ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin', largest?.path ?? '', DOCKER_IMAGE]);
      if (imported.code !== 0) {
        throw new Error(`docker import failed: ${imported.stderr}`);
      }
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }

  /** `docker` against this daemon. */
  async docker(args: readonly string[], options: { input?: string; timeoutMs?: number } = {}): Promise<CommandResult> {
    return runCommand(this.dockerPath, args, { env: this.environment, ...options });
  }

  /** `docker` under a terminal. */
  async dockerTerminal(args: string, input: string): Promise<CommandResult> {
    return runCommand('script', ['-qec', `stty rows 33 cols 101; ${this.dockerPath} ${args}`, '/dev/null'], { env: this.environment, input, timeoutMs: 60_000 });
  }

  private get dockerPath(): string {
    return join(this.binaries, 'usr/bin/docker');
  }

  /** `docker run --rm --network none` under our runtime, in the foreground. */
  async run(args: readonly string[], options: { input?: string } = {}): Promise<CommandResult> {
    return this.docker(['run', '--rm', '--network', 'none', '--runtime', RUNTIME, ...args], options);
  }

  /** `docker run -d`; throws if it does not start. */
  async runDetached(name: string, args: readonly string[]): Promise<void> {
    const done = await this.docker(['run', '-d', '--name', name, '--network', 'none', '--runtime', RUNTIME, ...args]);
    if (done.code !== 0) {
      throw new Error(`docker run -d ${name} failed: ${done.stderr}\n${this.log.slice(-2000)}`);
    }
  }

  /** A field of `docker inspect`, as its template prints it. */
  async inspect(name: string, template: string): Promise<string> {
    return (await this.docker(['inspect', '-f', template, name])).stdout.trim();
  }

  /** Ends the daemon only; with live-restore its containers live on. */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await endDaemon(this.daemon, signal);
    rmSync(join(this.folder, 'pid'), { force: true });
  }

  /** Removes all containers, ends the daemon and removes every file of this instance. */
  async stop(): Promise<void> {
    const ids = (await this.docker(['ps', '-aq'])).stdout.split('\n').filter(Boolean);
    if (ids.length > 0) {
      await this.docker(['rm', '-f', ...ids]);
    }
    await this.end();
    for (const line of readFileSync('/proc/self/mounts', 'utf8').split('\n').reverse()) {
      const target = line.split(' ')[1] ?? '';
      if (target.startsWith(`${this.folder}/`) || target.startsWith(`${this.dataRoot}/`) || target === this.dataRoot) {
        execFileSync('umount', ['-l', target], { stdio: 'ignore' });
      }
    }
    rmSync(this.folder, { recursive: true, force: true });
    rmSync(this.dataRoot, { recursive: true, force: true });
  }
}
