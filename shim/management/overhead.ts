/** What a pod costs beyond its containers: CPU and memory of shim, VMM and helpers, less what the containers in the guest use. */
import { readFileSync } from 'node:fs';
import { sleep, withTimeout } from '../../base/deadline';
import { KataError } from '../../base/errors';
import type { Sandbox } from '../../virtcontainers/sandbox/types';

export interface Overhead {
  readonly cpuPercent: number;
  readonly memoryBytes: number;
}

const INTERVAL_MS = 1_000;
const STATS_TIMEOUT_MS = 5_000;
const TICK_NS = 10_000_000;
const PAGE_BYTES = 4096;

interface Point {
  readonly atNs: bigint;
  readonly cpuNs: number;
  readonly memoryBytes: number;
}

/** With the containers whose use is taken off: points of other containers do not compare. */
interface PointOf extends Point {
  readonly containers: string;
}

function hostFigures(pid: number): { readonly cpuNs: number; readonly memoryBytes: number } {
  try {
    const stat = readFileSync(`/proc/${String(pid)}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return { cpuNs: (Number(fields[11]) + Number(fields[12])) * TICK_NS, memoryBytes: Number(fields[21]) * PAGE_BYTES };
  } catch {
    return { cpuNs: 0, memoryBytes: 0 };
  }
}

/** Host less guest. Never below zero: the clocks of host and guest do not tick together. */
export function overheadBetween(first: Point, second: Point): Overhead {
  const seconds = Number(second.atNs - first.atNs);
  const percent = seconds <= 0 ? 0 : ((second.cpuNs - first.cpuNs) / seconds) * 100;
  return { cpuPercent: Math.max(0, percent), memoryBytes: Math.max(0, second.memoryBytes) };
}

export class PodOverhead {
  /** Of the sample before; undefined until there is one. */
  latest: Overhead | undefined;
  private sampling = false;
  private previous: PointOf | undefined;

  constructor(private readonly sandbox: Sandbox) {}

  /**
   * Takes a point in the background and compares it with the one of the scrape before; two points one second apart
   * where there is none to compare with. At most one sampling at a time. Never throws.
   */
  sample(pids: readonly number[]): void {
    if (this.sampling || this.sandbox.state !== 'running') {
      return;
    }
    this.sampling = true;
    this.measure(pids).then(
      (overhead) => {
        this.latest = overhead ?? this.latest;
        this.sampling = false;
      },
      () => {
        this.sampling = false;
      },
    );
  }

  private async measure(pids: readonly number[]): Promise<Overhead | undefined> {
    const { previous } = this;
    const now = await this.point(pids);
    if (previous !== undefined && now.atNs - previous.atNs < BigInt(INTERVAL_MS) * 1_000_000n) {
      return undefined;
    }
    this.previous = now;
    if (previous?.containers === now.containers) {
      return overheadBetween(previous, now);
    }
    await sleep(INTERVAL_MS);
    const later = await this.point(pids);
    this.previous = later;
    return later.containers === now.containers ? overheadBetween(now, later) : undefined;
  }

  private async point(pids: readonly number[]): Promise<PointOf> {
    const late = (): KataError => new KataError('DeadlineExceeded', 'the guest gave no figures in time');
    const running = [...this.sandbox.containers.values()].filter((container) => container.state === 'running');
    const guest = await withTimeout(Promise.all(running.map((container) => container.stats())), STATS_TIMEOUT_MS, late);
    const host = pids.map(hostFigures);
    const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
    return {
      containers: running.map((container) => container.id).join(),
      atNs: process.hrtime.bigint(),
      cpuNs: sum(host.map((figures) => figures.cpuNs)) - sum(guest.map((stats) => Number(stats.cpu.totalNs))),
      memoryBytes: sum(host.map((figures) => figures.memoryBytes)) - sum(guest.map((stats) => Number(stats.memory.usage.usage))),
    };
  }
}

const known = new WeakMap<Sandbox, PodOverhead>();

/** The one of a sandbox. */
export function overheadOf(sandbox: Sandbox): PodOverhead {
  const overhead = known.get(sandbox) ?? new PodOverhead(sandbox);
  known.set(sandbox, overhead);
  return overhead;
}
