/** The factory: a start from the template and from the cache against a cold one, alone and many at once, and what a clone adds to the host's memory. */
import { spawn } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../../hack/private-containerd';
import { callCache } from '../../factory/grpc-cache/call';
import { RPC } from '../../factory/grpc-cache/wire';
import { pssBytes } from '../../factory/report';
import { factoryOverrides } from '../support/factory';
import { configText } from '../support/host';
import type { OutputFifo, ShimDriver } from '../support/shim-driver';
import { BenchPods, childrenOf } from './pods';
import { repeat, row, type Row } from './row';

const SAMPLES = 5;
const MEMORY_PODS = 5;
const COLD_MEMORY_PODS = 2;
const MIB = 1048576;
/** Who called `start` needs a moment to dial and to make ready what it asks for. */
const DIAL_MS = 50;

interface Started {
  readonly ms: number;
  readonly driver: ShimDriver;
}

interface Waiting {
  readonly driver: ShimDriver;
  readonly stdout: OutputFifo;
}

/** A shim that listens and has loaded what it loads while its host dials. The caller ends it. */
async function shim(pods: BenchPods): Promise<Waiting> {
  const driver = await pods.shim(['sh', '-c', 'echo up; exec sleep 1000']);
  await driver.client.call('Connect', { id: driver.id });
  await new Promise((resolve) => setTimeout(resolve, DIAL_MS));
  return { driver, stdout: driver.output('init') };
}

/** The first byte of stdout, counted from `began`. */
async function firstOutput({ driver, stdout }: Waiting, began: number): Promise<Started> {
  try {
    await driver.client.call('Create', { id: driver.id, bundle: driver.bundle, stdout: stdout.path });
    await driver.client.call('Start', { id: driver.id });
    return { ms: (await stdout.firstByte) - began, driver };
  } finally {
    stdout.close();
  }
}

/** `Create` called to the first byte of stdout; the shim listens before the clock starts. The caller ends the driver. */
async function start(pods: BenchPods): Promise<Started> {
  const waiting = await shim(pods);
  try {
    return await firstOutput(waiting, performance.now());
  } catch (reason) {
    await waiting.driver.end();
    throw reason;
  }
}

async function one(pods: BenchPods): Promise<number> {
  const { ms, driver } = await start(pods);
  await driver.end();
  return ms;
}

/** `Create` of `count` pods called at once, their shims listening as for one; the time to the last first output. */
async function many(pods: BenchPods, count: number): Promise<number> {
  const waiting: Waiting[] = [];
  try {
    for (let n = 0; n < count; n++) {
      waiting.push(await shim(pods));
    }
    const began = performance.now();
    const all = await Promise.all(waiting.map((pod) => firstOutput(pod, began)));
    return Math.max(...all.map(({ ms }) => ms));
  } finally {
    await Promise.all(waiting.map(({ driver }) => driver.end()));
  }
}

/** PSS of the VMM per pod, with `count` pods running. */
async function vmmMemory(pods: BenchPods, count: number): Promise<number[]> {
  const all: Started[] = [];
  try {
    for (let n = 0; n < count; n++) {
      all.push(await start(pods));
    }
    return all.map(({ driver }) => {
      const vmm = childrenOf(driver.pid).find(({ argv }) => argv[0]?.includes('qemu-system') === true);
      return vmm === undefined ? Number.NaN : (pssBytes(vmm.pid) ?? Number.NaN) / MIB;
    });
  } finally {
    await Promise.all(all.map(({ driver }) => driver.end()));
  }
}

class Cache {
  private constructor(
    private readonly folder: string,
    private readonly pid: number,
  ) {}

  static start(folder: string, count: number): Cache {
    const config = join(folder, 'cache.toml');
    writeFileSync(config, configText('qemu', merged(folder, { cache: count })));
    const server = spawn(process.execPath, [join(ROOT, 'build/kata-runtime.cjs'), '--config', config, 'factory', 'init'], { stdio: 'ignore' });
    return new Cache(folder, server.pid ?? 0);
  }

  async stocked(count: number): Promise<void> {
    for (let tries = 0; tries < 600; tries++) {
      const status = await callCache(join(this.folder, 'cache.sock'), RPC.Status, {}, { timeoutMs: 2000 }).catch(() => undefined);
      if ((status?.vmstatus.length ?? 0) >= count) {
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(`the cache does not fill up to ${String(count)}`);
  }

  async end(): Promise<void> {
    process.kill(this.pid, 'SIGTERM');
    for (let tries = 0; tries < 200 && /^State:.[^ZX]/m.test(statusOf(this.pid)); tries++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

function statusOf(pid: number): string {
  try {
    return readFileSync(`/proc/${String(pid)}/status`, 'latin1');
  } catch {
    return '';
  }
}

/** The same VM for all three, with the agent's channel that BenchPods has. */
function merged(folder: string, options: Parameters<typeof factoryOverrides>[1]): ReturnType<typeof factoryOverrides> {
  const overrides = factoryOverrides(folder, options);
  return { ...overrides, hypervisor: { ...overrides['hypervisor'], agent_channel: '"serial"' } };
}

export async function factoryRows(): Promise<Row[]> {
  const folder = `/run/kata-ts-bench-factory-${String(process.pid)}`;
  const [cold, template, cached] = [
    await BenchPods.open(merged(folder, { template: false })),
    await BenchPods.open(merged(folder, {})),
    await BenchPods.open(merged(folder, { cache: SAMPLES })),
  ];
  try {
    await one(template);
    const [coldMs, templateMs]: [number[], number[]] = [[], []];
    for (let n = 0; n < SAMPLES; n++) {
      coldMs.push(await one(cold));
      templateMs.push(await one(template));
    }
    const templateFive = await many(template, 5);
    const templateTwenty = await many(template, 20);
    const clone = await vmmMemory(template, MEMORY_PODS);
    const booted = await vmmMemory(cold, COLD_MEMORY_PODS);
    const { cacheMs, cacheFive } = await cacheTimes(folder, cached);
    return [
      row({ id: 'factory-cold', what: 'yardstick: Create to first output of a booted VM', unit: 'ms', samples: coldMs }),
      row({ id: 'template', what: 'the same from the template', unit: 'ms', samples: templateMs, yardstick: coldMs, budget: 0.2 }),
      row({ id: 'cache', what: 'the same from the cache', unit: 'ms', samples: cacheMs, yardstick: coldMs, budget: 0.12 }),
      row({ id: 'clone-memory', what: `PSS of a clone's VMM, ${String(MEMORY_PODS)} clones, against a booted VM's`, unit: 'MB', samples: clone, yardstick: booted, budget: 0.25 }),
      row({ id: 'template-parallel-5', what: '5 clones at once: the last first output, against one', unit: 'ms', samples: [templateFive], yardstick: templateMs }),
      row({ id: 'template-parallel-20', what: '20 clones at once: the last first output, against one', unit: 'ms', samples: [templateTwenty], yardstick: templateMs, budget: 12 }),
      row({ id: 'cache-parallel-5', what: '5 from the cache at once: the last first output, against one', unit: 'ms', samples: [cacheFive], yardstick: cacheMs }),
    ];
  } finally {
    for (const pods of [cold, template, cached]) {
      pods.close();
    }
    await destroy(folder);
  }
}

async function cacheTimes(folder: string, pods: BenchPods): Promise<{ readonly cacheMs: number[]; readonly cacheFive: number }> {
  const cache = Cache.start(folder, SAMPLES);
  try {
    const cacheMs = await repeat(SAMPLES, async () => {
      // Full: the refill that a start sets off would take its share of the two cores.
      await cache.stocked(SAMPLES);
      return one(pods);
    });
    await cache.stocked(SAMPLES);
    return { cacheMs, cacheFive: await many(pods, SAMPLES) };
  } finally {
    await cache.end();
  }
}

async function destroy(folder: string): Promise<void> {
  const config = join(folder, 'destroy.toml');
  writeFileSync(config, configText('qemu', merged(folder, {})));
  await new Promise((resolve) => spawn(process.execPath, [join(ROOT, 'build/kata-runtime.cjs'), '--config', config, 'factory', 'destroy'], { stdio: 'ignore' }).on('close', resolve));
  rmSync(folder, { recursive: true, force: true });
}
