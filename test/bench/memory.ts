/** Memory of the shim processes with 1, 5 and 10 pods: proportional (PSS) and private, per shim. */
import { readFileSync } from 'node:fs';
import { Host } from '../support/host';
import { row, type Row } from './row';

interface Memory {
  readonly pssMb: number;
  readonly privateMb: number;
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
      await new Promise((resolve) => setTimeout(resolve, 3000));
      const memory = ids.map((id) => memoryOf(host.shimPid(id)));
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
