/** A host whose sandboxes come from the factory, and the operator's command for its configuration. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT, type CommandResult } from '../../hack/private-containerd';
import type { FactoryReport } from '../../factory/report';
import { Host, type ConfigOverrides } from './host';

export const KATA_RUNTIME = join(ROOT, 'build/kata-runtime');

export interface FactoryHostOptions {
  readonly template?: boolean;
  /** VMs in stock; 0: no cache. */
  readonly cache?: number;
  readonly memoryMiB?: number;
  readonly sharedFs?: 'virtio-9p' | 'virtio-fs' | 'none';
  /** More keys. */
  readonly more?: ConfigOverrides;
}

export class FactoryHost {
  private server: ChildProcess | undefined;

  private constructor(
    readonly host: Host,
    /** Where this host has templates and the socket of the cache. */
    readonly folder: string,
  ) {}

  static async start(options: FactoryHostOptions = {}): Promise<FactoryHost> {
    const folder = `/run/kata-ts-factory-${String(process.pid)}-${process.hrtime.bigint().toString(36)}`;
    return new FactoryHost(await Host.start('qemu', factoryOverrides(folder, options)), folder);
  }

  get configFile(): string {
    return join(this.host.folder, 'configuration.toml');
  }

  get endpoint(): string {
    return join(this.folder, 'cache.sock');
  }

  get serverPid(): number | undefined {
    return this.server?.pid;
  }

  /** `kata-runtime factory ...`; `config` is another configuration file. */
  command(args: readonly string[], config = this.configFile): CommandResult {
    const done = spawnSync('node', [join(ROOT, 'build/kata-runtime.cjs'), '--config', config, 'factory', ...args], { encoding: 'utf8', timeout: 120_000 });
    return { code: done.status ?? -1, stdout: done.stdout, stderr: done.stderr };
  }

  report(): FactoryReport {
    return JSON.parse(this.command(['status', '--json']).stdout) as FactoryReport;
  }

  /** Starts the cache server and waits until `count` VMs are in stock. */
  async serve(count: number): Promise<void> {
    this.server = spawn('node', [join(ROOT, 'build/kata-runtime.cjs'), '--config', this.configFile, '--log', join(this.host.folder, 'cache.log'), 'factory', 'init'], { stdio: 'ignore' });
    await this.stocked(count);
  }

  async stocked(count: number, timeoutMs = 120_000): Promise<void> {
    const end = Date.now() + timeoutMs;
    while (Date.now() < end) {
      if ((this.report().cache?.vms.length ?? 0) >= count) {
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    throw new Error(`not ${String(count)} VMs in stock after ${String(timeoutMs)} ms`);
  }

  /** Pids of VMMs of the cache, in stock or not. */
  stockPids(): number[] {
    return (this.report().cache?.vms ?? []).map(({ pid }) => pid);
  }

  killServer(signal: NodeJS.Signals): Promise<void> {
    const { server } = this;
    return new Promise((resolve) => {
      if (server === undefined || server.exitCode !== null || server.signalCode !== null) {
        resolve();
        return;
      }
      server.once('exit', () => { resolve(); });
      server.kill(signal);
    });
  }

  async stop(): Promise<void> {
    await this.killServer('SIGTERM');
    this.command(['destroy']);
    await this.host.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export function factoryOverrides(folder: string, options: FactoryHostOptions): ConfigOverrides {
  const { template = true, cache = 0, memoryMiB = 512, sharedFs = 'virtio-9p', more = {} } = options;
  return {
    ...more,
    hypervisor: { shared_fs: `"${sharedFs}"`, default_memory: String(memoryMiB), default_maxvcpus: '2', enable_annotations: '["default_vcpus", "default_memory", "kernel_params"]', ...more['hypervisor'] },
    factory: {
      enable_template: String(template), template_path: `"${join(folder, 'template')}"`,
      vm_cache_number: String(cache), vm_cache_endpoint: `"${join(folder, 'cache.sock')}"`,
    },
  };
}

export function isAlive(pid: number): boolean {
  const done = spawnSync('grep', ['-qs', '^State:.[^ZX]', `/proc/${String(pid)}/status`]);
  return done.status === 0;
}

export async function untilGone(pids: readonly number[], timeoutMs = 5000): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (pids.some(isAlive)) {
    if (Date.now() > end) {
      throw new Error(`still alive: ${pids.filter(isAlive).join(' ')}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
