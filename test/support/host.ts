/** One private containerd with our shim, our image and a configuration: what an integration test runs against. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TtrpcClient } from 'ttrpc-ts';
import type { OciSpec } from '../../base/oci-spec';
import { IMAGE, makeBusyboxImage } from '../../hack/busybox-image';
import { PrivateContainerd, ROOT, type CommandResult, type ContainerdOptions } from '../../hack/private-containerd';
import { FactoryMode } from './factory-mode';

export { IMAGE };
export const RUNTIME = 'io.containerd.kata.v2';

export type HypervisorName = 'qemu' | 'mock';

/** Values for keys of configuration.toml by section, as TOML literals. */
export type ConfigOverrides = Readonly<Record<string, Readonly<Record<string, string>>>>;

/**
 * A configuration for the guest in build/guest; `overrides` replaces and adds keys. KATA_TEST_SHARED_FS is the kind of
 * share where a suite does not choose one.
 */
export function configText(hypervisor: HypervisorName, overrides: ConfigOverrides = {}): string {
  const base: Record<string, Record<string, string>> = {
    [`hypervisor.${hypervisor}`]:
      hypervisor === 'mock'
        ? { path: `"${process.execPath}"` }
        : {
            path: '"/usr/bin/qemu-system-x86_64"',
            kernel: `"${join(ROOT, 'build/guest/vmlinux')}"`,
            initrd: `"${join(ROOT, 'build/guest/initrd.img')}"`,
            default_memory: '1024',
            ...(process.env['KATA_TEST_SHARED_FS'] === undefined ? {} : { shared_fs: `"${process.env['KATA_TEST_SHARED_FS']}"` }),
          },
    runtime: { internetworking_model: '"tcfilter"', disable_guest_seccomp: 'true' },
  };
  for (const [section, values] of Object.entries(overrides)) {
    const name = section === 'hypervisor' ? `hypervisor.${hypervisor}` : section;
    base[name] = { ...base[name], ...values };
  }
  return Object.entries(base)
    .map(([name, values]) => section(name, values))
    .join('\n');
}

function section(name: string, values: Readonly<Record<string, string>>): string {
  return `[${name}]\n${Object.entries(values).map(([key, value]) => `${key} = ${value}\n`).join('')}`;
}

export interface RunOptions {
  readonly args?: readonly string[];
  readonly input?: string | Buffer;
  readonly timeoutMs?: number;
  readonly namespace?: string;
}

export class Host {
  private readonly mountedImages: string[] = [];

  private constructor(
    readonly containerd: PrivateContainerd,
    readonly folder: string,
    /** Where the sandboxes of this host come from, if not from a boot. */
    readonly mode: FactoryMode | undefined,
  ) {}

  /** KATA_TEST_HYPERVISOR=mock runs a suite that was written for QEMU over the mock, to try things quickly. */
  static async start(wanted: HypervisorName = 'qemu', overrides: ConfigOverrides = {}, options: ContainerdOptions = {}): Promise<Host> {
    if (!existsSync(join(ROOT, 'build/shim.cjs'))) {
      throw new Error('build/shim.cjs is missing: run make build guest');
    }
    const hypervisor = process.env['KATA_TEST_HYPERVISOR'] === 'mock' ? 'mock' : wanted;
    const folder = mkdtempSync(join(tmpdir(), 'kata-ts-host-'));
    const image = join(ROOT, 'build/busybox.tar');
    makeBusyboxImage(image);
    const mode = hypervisor === 'qemu' && overrides['factory'] === undefined ? FactoryMode.fromEnv() : undefined;
    const config = join(folder, 'configuration.toml');
    writeFileSync(config, configText(hypervisor, mode === undefined ? overrides : { ...overrides, factory: mode.keys }));
    await mode?.begin(config);
    const env = { KATA_CONF_FILE: config, ...options.env };
    const containerd = await PrivateContainerd.start({ ...options, env });
    const host = new Host(containerd, folder, mode);
    const imported = await containerd.ctr(['images', 'import', image]);
    if (imported.code !== 0) {
      await host.stop();
      throw new Error(`import failed: ${imported.stderr}`);
    }
    return host;
  }

  /** Writes one more configuration file for `--runtime-config-path`; returns its path. The factory is on in it as in the host's own. */
  config(name: string, text: string): string {
    const folder = join(this.folder, name);
    mkdirSync(folder, { recursive: true });
    const path = join(folder, 'configuration.toml');
    const more = this.mode === undefined || text.includes('[factory]') ? '' : `\n${section('factory', this.mode.keysApart)}`;
    writeFileSync(path, text + more);
    return path;
  }

  async stop(): Promise<void> {
    for (const rootfs of this.mountedImages.splice(0)) {
      await this.ctr(['images', 'unmount', '--rm', rootfs]);
    }
    const { log } = this.containerd;
    await this.containerd.stop();
    try {
      await this.mode?.end(join(this.folder, 'configuration.toml'), log);
    } finally {
      rmSync(this.folder, { recursive: true, force: true });
    }
  }

  /** `ctr run --rm` in the foreground. */
  async run(id: string, command: readonly string[], options: RunOptions = {}): Promise<CommandResult> {
    await this.mode?.ready();
    return this.ctr(['run', '--rm', '--runtime', RUNTIME, ...(options.args ?? []), IMAGE, id, ...command], options);
  }

  /** `ctr run -d`: returns when the task runs. Throws if it does not. */
  async runDetached(id: string, command: readonly string[], options: RunOptions = {}): Promise<void> {
    await this.mode?.ready();
    const done = await this.ctr(['run', '-d', '--runtime', RUNTIME, ...(options.args ?? []), IMAGE, id, ...command], options);
    if (done.code !== 0) {
      throw new Error(`run -d ${id} failed: ${done.stderr}\n${this.containerd.log.slice(-3000)}`);
    }
  }

  /** `ctr run` with the spec that containerd would make, changed by `change`; the rootfs is a mounted copy of the image. */
  async runWithSpec(id: string, command: readonly string[], change: (spec: OciSpec) => void, options: RunOptions & { readonly detach?: boolean } = {}): Promise<CommandResult> {
    const model = `model-of-${id}`;
    await this.ctr(['containers', 'create', '--runtime', RUNTIME, IMAGE, model]);
    const info = JSON.parse((await this.ctr(['containers', 'info', model])).stdout) as { Spec: OciSpec };
    await this.ctr(['containers', 'rm', model]);
    const rootfs = join(this.folder, `rootfs-${id}`);
    mkdirSync(rootfs);
    const mounted = await this.ctr(['images', 'mount', '--rw', IMAGE, rootfs]);
    if (mounted.code !== 0) {
      throw new Error(`mount ${IMAGE}: ${mounted.stderr}`);
    }
    this.mountedImages.push(rootfs);
    const spec: OciSpec = { ...info.Spec, root: { path: rootfs }, process: { ...info.Spec.process, args: [...command] } };
    change(spec);
    await this.mode?.ready();
    const file = join(this.folder, `${id}.json`);
    writeFileSync(file, JSON.stringify(spec));
    return this.ctr(['run', options.detach === true ? '-d' : '--rm', '--runtime', RUNTIME, ...(options.args ?? []), '--config', file, id], options);
  }

  /** Like `run`, for much output: its length and MD5 in place of the text. Standard error and the time are not bounded here. */
  async runHashed(id: string, command: readonly string[], args: readonly string[] = []): Promise<{ readonly code: number | null; readonly bytes: number; readonly md5: string }> {
    const ctr = this.containerd.spawnCtr(['run', '--rm', '--runtime', RUNTIME, ...args, IMAGE, id, ...command]);
    const hash = createHash('md5');
    let bytes = 0;
    ctr.stdout?.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      hash.update(chunk);
    });
    const code = await new Promise<number | null>((resolve) => ctr.on('close', resolve));
    return { code, bytes, md5: hash.digest('hex') };
  }

  async exec(id: string, command: readonly string[], options: RunOptions = {}): Promise<CommandResult> {
    const execId = `e${process.hrtime.bigint().toString(36)}`;
    return this.ctr(['tasks', 'exec', '--exec-id', execId, ...(options.args ?? []), id, ...command], options);
  }

  /** Kills and deletes task and container; fine if they are gone. */
  async remove(id: string, options: RunOptions = {}): Promise<CommandResult> {
    const removed = await this.ctr(['tasks', 'rm', '-f', id], options);
    await this.ctr(['containers', 'rm', id], options);
    return removed;
  }

  /**
   * `ctr run` under the id of a task whose shim died. containerd does not show such a task any more, yet answers
   * "already exists" until the shim's delete verb has ended; nothing tells a client when (runc's shim: 200 ms here).
   */
  async runAgain(id: string, command: readonly string[], timeoutMs = 10_000): Promise<CommandResult> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      await this.remove(id);
      const done = await this.run(id, command);
      if (!done.stderr.includes('already exists') || Date.now() > deadline) {
        return done;
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async ctr(args: readonly string[], options: RunOptions = {}): Promise<CommandResult> {
    const { namespace, input, timeoutMs } = options;
    return this.containerd.ctr([...(namespace === undefined ? [] : ['-n', namespace]), ...args], {
      ...(input === undefined ? {} : { input }),
      timeoutMs: timeoutMs ?? 180_000,
    });
  }

  /** Status words of `ctr tasks ls`: RUNNING, STOPPED, CREATED, PAUSED; undefined if there is no such task. */
  async status(id: string): Promise<string | undefined> {
    const listed = await this.ctr(['tasks', 'ls']);
    return listed.stdout.split('\n').map((line) => line.trim().split(/\s+/)).find((words) => words[0] === id)?.[2];
  }

  async waitForStatus(id: string, wanted: string, timeoutMs = 30_000): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    let seen: string | undefined;
    while (Date.now() < deadline) {
      seen = await this.status(id);
      if (seen === wanted) {
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`task ${id} is ${seen ?? 'gone'}, not ${wanted}, after ${String(timeoutMs)} ms`);
  }

  /** A direct connection to the shim of a task, for what ctr cannot say. The caller closes it. */
  async shimClient(id: string): Promise<TtrpcClient> {
    const path = readFileSync(join(this.containerd.bundle(id), 'address'), 'utf8').replace('unix://', '');
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return new TtrpcClient(socket);
  }

  shimPid(id: string): number {
    return Number(readFileSync(join(this.containerd.bundle(id), 'shim.pid'), 'utf8'));
  }

  get vmSource(): 'direct' | 'template' | 'cache' {
    return this.mode?.source ?? 'direct';
  }

  /** Of the VMM, whose name tells nothing where the VM comes from a cache. */
  vmPid(sandboxId: string): number {
    const pid = new RegExp('"name":\\s*"[^"]*",\\s*"pid":\\s*(\\d+)').exec(readFileSync(`/run/vc/sbs/${sandboxId}/persist.json`, 'utf8'))?.[1];
    if (pid === undefined) {
      throw new Error(`no VMM of sandbox ${sandboxId}`);
    }
    return Number(pid);
  }
}
