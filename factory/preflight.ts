/** Can this host and this configuration have a factory? Each point passes or fails with the remedy. */
import { existsSync, readFileSync, statfsSync } from 'node:fs';
import { dirname } from 'node:path';
import { run } from '../base/child';
import { describeError, KataError } from '../base/errors';
import type { RuntimeConfig } from '../virtcontainers/config/types';
import { slackMiB } from './template/tmpfs';
import type { FactoryDeps } from './types';

export interface PreflightPoint {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
  /** Empty where it passes. */
  readonly remedy: string;
}

/** The oldest QEMU that can leave shared memory out of a migration. */
const MIN_QEMU = [4, 1] as const;
const COMMAND_TIMEOUT_MS = 5000;
/** Pages that a booted guest has touched, with room to spare. */
const TOUCHED_MIB = 192;
const MIN_FILES = 1024;

function point(name: string, ok: boolean, detail: string, remedy: string): PreflightPoint {
  return { name, ok, detail, remedy: ok ? '' : remedy };
}

function guestPoint({ hypervisor }: RuntimeConfig): PreflightPoint {
  return point('guest', hypervisor.initrd !== '', hypervisor.initrd === '' ? `image ${hypervisor.image}` : `initrd ${hypervisor.initrd}`, `set initrd in [hypervisor.${hypervisor.type}] instead of image`);
}

function sharePoint({ hypervisor, factory }: RuntimeConfig): PreflightPoint {
  const { sharedFs, type } = hypervisor;
  const cost = sharedFs.startsWith('virtio-fs') && factory.enableTemplate ? ': each clone gets its own copy of the memory; virtio-9p and none share it' : '';
  return point('share', sharedFs !== 'virtio-fs-nydus', `shared_fs = "${sharedFs}"${cost}`, `set shared_fs to "virtio-9p" or "none" in [hypervisor.${type}]`);
}

async function qemuPoint({ hypervisor }: RuntimeConfig): Promise<PreflightPoint> {
  const remedy = 'install QEMU 4.1 or newer';
  try {
    const [, version = '', major = '0', minor = '0'] = /version ((\d+)\.(\d+)\S*)/.exec(await run(hypervisor.path, ['-version'], { timeoutMs: COMMAND_TIMEOUT_MS })) ?? [];
    const ok = Number(major) > MIN_QEMU[0] || (Number(major) === MIN_QEMU[0] && Number(minor) >= MIN_QEMU[1]);
    return point('qemu', ok, `${hypervisor.path} ${version}`, remedy);
  } catch (reason) {
    return point('qemu', false, describeError(reason), remedy);
  }
}

async function driverPoint({ hypervisor }: RuntimeConfig, deps: FactoryDeps): Promise<PreflightPoint> {
  try {
    const driver = await deps.driverFor(hypervisor.type);
    await driver.check(hypervisor);
    return point('hypervisor', driver.capabilities(hypervisor).template, `${hypervisor.type} can run here`, 'use [hypervisor.qemu]');
  } catch (reason) {
    return point('hypervisor', false, reason instanceof KataError ? reason.message : describeError(reason), (reason instanceof KataError ? reason.hint : undefined) ?? 'run kata-runtime check');
  }
}

function memoryPoint({ hypervisor, factory }: RuntimeConfig): PreflightPoint {
  const available = Math.floor(Number(/^MemAvailable:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'latin1'))?.[1] ?? 0) / 1024);
  const perVm = Math.min(hypervisor.defaultMemory, TOUCHED_MIB) + slackMiB();
  const needed = perVm * (1 + (factory.enableTemplate ? 0 : factory.vmCacheNumber));
  return point('memory', available >= needed, `${String(available)} MiB available, about ${String(needed)} MiB needed`, 'free some memory, or lower vm_cache_number');
}

/** The nearest folder that exists. */
function existing(path: string): string {
  return existsSync(path) ? path : existing(dirname(path));
}

function roomPoint({ factory, hypervisor }: RuntimeConfig): PreflightPoint {
  const folder = existing(factory.templatePath);
  const { bavail, bsize } = statfsSync(folder);
  const free = Math.floor((bavail * bsize) / 1048576);
  const needed = Math.min(hypervisor.defaultMemory, TOUCHED_MIB) + slackMiB();
  return point('template_path', free >= needed, `${factory.templatePath}: ${String(free)} MiB free without a tmpfs of its own`, `free ${String(needed)} MiB there, or set template_path`);
}

function filesPoint(): PreflightPoint {
  const limit = Number(/^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1] ?? Infinity);
  return point('limits', limit >= MIN_FILES, `${String(limit)} open files`, `raise the limit of open files to ${String(MIN_FILES)} or more (ulimit -n)`);
}

/** All points, in the order in which they are worth mending. */
export async function preflight(config: RuntimeConfig, deps: FactoryDeps): Promise<readonly PreflightPoint[]> {
  const { factory, hypervisor } = config;
  return [
    ...(factory.enableTemplate ? [guestPoint(config), sharePoint(config)] : []),
    ...(hypervisor.type === 'qemu' ? [await qemuPoint(config)] : []),
    await driverPoint(config, deps),
    memoryPoint(config),
    ...(factory.enableTemplate ? [roomPoint(config)] : []),
    filesPoint(),
  ];
}
