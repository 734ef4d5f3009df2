/** What the benchmarks that drive the shim by itself share: a configuration, a root file system, a taker of events. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { codecFromTsProto, TtrpcServer } from 'ttrpc-ts';
import { ForwardRequest } from '../../gen/containerd/events/forward';
import { Empty } from '../../gen/google/protobuf/empty';
import { busyboxRootfs, defaultSpec, drainFifo, ShimDriver } from '../support/shim-driver';
import { configText, type ConfigOverrides } from '../support/host';

/** Shim and floor have the same channel, whatever the host has. */
const OVERRIDES: ConfigOverrides = { hypervisor: { agent_channel: '"serial"' } };

export class BenchPods {
  private count = 0;

  private constructor(
    readonly folder: string,
    private readonly events: Server,
    private readonly config: string,
  ) {}

  static async open(more: ConfigOverrides = {}): Promise<BenchPods> {
    const folder = mkdtempSync('/run/kata-ts-bench-');
    busyboxRootfs(join(folder, 'rootfs'));
    const config = join(folder, 'configuration.toml');
    writeFileSync(config, configText('qemu', { ...OVERRIDES, ...more }));
    const events = await takeEvents(join(folder, 'events.sock'));
    return new BenchPods(folder, events, config);
  }

  /** A shim that listens; nothing is created in it yet. The caller ends it. */
  async shim(args: readonly string[]): Promise<ShimDriver> {
    const driver = new ShimDriver(`bench-${String(process.pid)}-${String(++this.count)}`, this.folder, { config: this.config, ttrpcAddress: join(this.folder, 'events.sock') });
    await driver.start(defaultSpec(args, join(this.folder, 'rootfs')));
    return driver;
  }

  /** A running pod whose init sleeps. */
  async pod(): Promise<ShimDriver> {
    const driver = await this.shim(['sleep', '100000']);
    try {
      await driver.client.call('Create', { id: driver.id, bundle: driver.bundle });
      await driver.client.call('Start', { id: driver.id });
      return driver;
    } catch (reason) {
      await driver.end();
      throw reason;
    }
  }

  close(): void {
    this.events.close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Phases of a start in ms, from the shim's own log line. Call once, before the shim ends: it empties the log. */
export function phasesOf(driver: ShimDriver): Map<string, number> {
  const log = drainFifo(join(driver.bundle, 'log'));
  const text = /\bphases="([^"]*)"/.exec(log)?.[1] ?? '';
  return new Map(text.split(/[ ,]/).flatMap((word) => {
    const [name, ms] = word.split('=');
    return name === undefined || ms === undefined ? [] : [[name, Number.parseFloat(ms)] as const];
  }));
}

/** Processes that the shim has started, as pid and arguments. */
export function childrenOf(pid: number): { readonly pid: number; readonly argv: readonly string[] }[] {
  return readdirSync(`/proc/${String(pid)}/task`)
    .flatMap((thread) => readFileSync(`/proc/${String(pid)}/task/${thread}/children`, 'latin1').split(' ').filter(Boolean))
    .map((child) => ({ pid: Number(child), argv: readFileSync(`/proc/${child}/cmdline`, 'utf8').split('\0').slice(0, -1) }));
}

async function takeEvents(path: string): Promise<Server> {
  const ttrpc = new TtrpcServer();
  ttrpc.register(
    { name: 'containerd.services.events.ttrpc.v1.Events', methods: { Forward: { kind: 'unary', request: codecFromTsProto(ForwardRequest), response: codecFromTsProto(Empty) } } },
    { forward: () => ({}) },
  );
  const server = createServer((socket) => {
    ttrpc.handleConnection(socket);
  });
  mkdirSync(join(path, '..'), { recursive: true });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  server.unref();
  return server;
}
