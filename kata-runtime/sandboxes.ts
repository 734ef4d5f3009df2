/** The sandboxes of this machine: what is on disk, and what their shims say. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isProcessAlive } from '../base/child';
import { describeError, errnoOf, KataError } from '../base/errors';
import type { OwnState } from '../virtcontainers/persist/document';
import { SandboxStore } from '../virtcontainers/persist/store';
import type { CliHost } from './host';
import { askMonitorOk } from './shim-monitor';

export interface DiskSandbox {
  readonly id: string;
  /** Undefined: no document yet, or a broken one; `problem` says which. */
  readonly own: OwnState | undefined;
  readonly problem: string;
  readonly shimAlive: boolean;
}

/** What a shim answers on /sandbox. All members may be missing: it may be another version. */
export interface LiveSandbox {
  readonly state?: string;
  readonly vmSource?: string;
  /** Why the factory gave it no VM. */
  readonly vmFallback?: string;
  readonly hypervisor?: string;
  readonly vcpus?: number;
  readonly memoryMiB?: number;
  /** What VMM and shim hold on the host. */
  readonly residentBytes?: number;
  readonly startedAt?: string;
  readonly phases?: readonly { readonly name: string; readonly startMs?: number; readonly durationMs: number }[];
  readonly containers?: readonly { readonly id: string; readonly state: string }[];
}

const ID = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}$/;

/** Names of folders that can be sandboxes, sorted. A root that is not there has none. */
export function sandboxIds(root: string): string[] {
  try {
    return readdirSync(root, { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && ID.test(entry.name))
      .map((entry) => entry.name)
      .sort();
  } catch (reason) {
    if (errnoOf(reason) === 'ENOENT') {
      return [];
    }
    throw KataError.from(reason, `list the sandboxes in ${root}`, { hint: 'run as root' });
  }
}

/** Never throws for a single broken sandbox. */
export function readSandbox(root: string, id: string): DiskSandbox {
  let own: OwnState | undefined;
  let problem = '';
  try {
    own = new SandboxStore(root, id).load();
    problem = own === undefined ? 'no persist.json' : '';
  } catch (reason) {
    problem = describeError(reason);
  }
  return { id, own, problem, shimAlive: own !== undefined && isProcessAlive(own.shim.pid, own.shim.startTime) };
}

const INFO_TIMEOUT_MS = 2_000;

type Unknowns = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Unknowns => typeof value === 'object' && value !== null;
const objects = (value: unknown): Unknowns[] | undefined => (Array.isArray(value) ? value.filter(isObject) : undefined);

/** Members that are what we take them for; others are left out, as of a shim of another version. Undefined for no object. */
export function liveSandbox(value: unknown): LiveSandbox | undefined {
  if (!isObject(value)) {
    return undefined;
  }
  const text = (key: string): object => (typeof value[key] === 'string' ? { [key]: value[key] } : {});
  const number = (key: string): object => (typeof value[key] === 'number' ? { [key]: value[key] } : {});
  const phases = objects(value['phases'])?.flatMap(({ name, startMs, durationMs }) =>
    typeof name === 'string' && typeof durationMs === 'number' ? [{ name, durationMs, ...(typeof startMs === 'number' ? { startMs } : {}) }] : [],
  );
  const containers = objects(value['containers'])?.flatMap(({ id, state }) => (typeof id === 'string' && typeof state === 'string' ? [{ id, state }] : []));
  return {
    ...Object.assign({}, ...['state', 'vmSource', 'vmFallback', 'hypervisor', 'startedAt'].map(text)) as LiveSandbox,
    ...Object.assign({}, ...['vcpus', 'memoryMiB', 'residentBytes'].map(number)) as LiveSandbox,
    ...(phases === undefined ? {} : { phases }),
    ...(containers === undefined ? {} : { containers }),
  };
}

/** What the shim says of its sandbox; undefined if it does not answer, or is of another version. */
export async function askSandbox(host: CliHost, id: string): Promise<LiveSandbox | undefined> {
  try {
    const reply = await askMonitorOk(host.roots.monitor, id, { method: 'GET', path: '/sandbox', timeoutMs: INFO_TIMEOUT_MS });
    const parsed: unknown = JSON.parse(reply.body.toString('utf8'));
    return liveSandbox(parsed);
  } catch {
    return undefined;
  }
}

/** When a process with this start time (clock ticks since boot) was started; undefined if /proc does not tell. */
export function startDate(host: CliHost, startTicks: string): Date | undefined {
  const TICKS_PER_SECOND = 100;
  try {
    const boot = /^btime (\d+)$/m.exec(readFileSync(join(host.roots.proc, 'stat'), 'utf8'))?.[1];
    const seconds = Number(boot) + Number(startTicks) / TICKS_PER_SECOND;
    return Number.isFinite(seconds) && startTicks !== '' ? new Date(seconds * 1000) : undefined;
  } catch {
    return undefined;
  }
}
