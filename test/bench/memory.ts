/** Memory of the shim processes with 1, 5 and 10 pods: proportional (PSS) and private, per shim. */
import { readFileSync } from 'node:fs';
import { Host } from '../support/host';
import { row, type Row } from './row';

interface Memory {
  readonly pssMb: number;
  readonly privateMb: number;
}

/** How long the shims must have used no processor before they are measured, and how long that may take. V8 collects the garbage of a start within 8 s of rest. */
const QUIET_MS = 9_000;
const QUIET_TIMEOUT_MS = 20_000;

/** Processor time that a process has used, in clock ticks. */
function ticksOf(pid: number): number {
  const fields = (readFileSync(`/proc/${String(pid)}/stat`, 'latin1').split(') ')[1] ?? '').split(' ');
  return Number(fields[11]) + Number(fields[12]);
}

/** Waits until the shims have nothing left to do: what a start leaves to be collected counts no more than it must. */
async function untilQuiet(pids: readonly number[]): Promise<void> {
  const endsAt = performance.now() + QUIET_TIMEOUT_MS;
  const total = (): number => pids.reduce((sum, pid) => sum + ticksOf(pid), 0);
  for (let before = total(); performance.now() < endsAt; ) {
    await new Promise((resolve) => setTimeout(resolve, QUIET_MS));
    const after = total();
    if (after - before <= pids.length) {
      return;
    }
    before = after;
  }
}

/** The one process of a pod that is ours; not the launcher, not a child. */
function shimOf(host: Host, id: string): number {
  const pid = host.shimPid(id);
  const command = readFileSync(`/proc/${String(pid)}/cmdline`, 'latin1').split('\0');
  if (!command.some((word) => word.endsWith('/shim.cjs'))) {
    throw new Error(`pid ${String(pid)} of pod ${id} is no shim: ${command.join(' ')}`);
  }
  return pid;
}

function memoryOf(pid: number): Memory {
  const text = readFileSync(`/proc/${String(pid)}/smaps_rollup`, 'utf8');
  const kib = (key: string): number => Number(new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0);
  return { pssMb: kib('Pss') / 1024, privateMb: (kib('Private_Clean') + kib('Private_Dirty')) / 1024 };
}

export async function memoryRows(): Promise<Row[]> {
  const host = await Host.start('qemu', { hypervisor: { default_memory: '512' } });
  const ids: string[] = [];
  const rows: Row[] = [];
  try {
    for (const pods of [1, 5, 10]) {
      while (ids.length < pods) {
        const batch = Array.from({ length: Math.min(3, pods - ids.length) }, (_, n) => `mem${String(ids.length + n)}`);
        await Promise.all(batch.map((id) => host.runDetached(id, ['sleep', '100000'])));
        ids.push(...batch);
      }
      const pids = ids.map((id) => shimOf(host, id));
      await untilQuiet(pids);
      const memory = pids.map(memoryOf);
      const suffix = pods === 10 ? '' : `-${String(pods)}`;
      rows.push(
        row({ id: `shim-pss${suffix}`, what: `PSS per shim, ${String(pods)} pods`, unit: 'MB', samples: memory.map((m) => m.pssMb), ...(pods === 10 ? { budget: 14 } : {}) }),
        row({ id: `shim-private${suffix}`, what: `private memory per shim, ${String(pods)} pods`, unit: 'MB', samples: memory.map((m) => m.privateMb), ...(pods === 10 ? { budget: 10 } : {}) }),
      );
    }
    return rows;
  } finally {
    await Promise.all(ids.map((id) => host.remove(id)));
    await host.stop();
  }
}
