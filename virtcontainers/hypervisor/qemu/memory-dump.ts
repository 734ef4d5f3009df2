/** `guest_memory_dump_path`: the memory of a guest whose kernel has panicked, and what is needed to read it (virtcontainers-behaviour 3.6). */
import { cpSync, existsSync, mkdirSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { KataError } from '../../../base/errors';
import type { VmSpec } from '../types';
import type { QmpClient } from './qmp/client';

const MIB = 1024 * 1024;
/** For writing all of the guest's memory to a disk. */
const DUMP_TIMEOUT_MS = 600_000;

/** `20260102030405.006`, in UTC. */
function stamp(now: Date): string {
  return now.toISOString().replace(/[-:T]/g, '').replace('Z', '');
}

export interface DumpInput {
  readonly spec: VmSpec;
  /** MiB that the guest has now. */
  readonly memoryMiB: number;
  /** What `query-version` or `--version` said. */
  readonly version: string;
  /** The sandbox's state on the host, copied beside the dump if it is there. */
  readonly stateFolder: string;
  readonly now?: Date;
}

/**
 * Writes `<path>/<id>/vmcore-<time>.elf` with `hypervisor.conf`, `hypervisor.version` and `state/` beside it, and returns its
 * path. ResourceExhausted unless the file system has twice the memory free: the guest's data must not fill the host.
 */
export async function dumpGuestMemory(qmp: Pick<QmpClient, 'execute'>, input: DumpInput): Promise<string> {
  const { config, id } = input.spec;
  const folder = join(config.guestMemoryDumpPath, id);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const { bavail, bsize } = statfsSync(folder);
  const [freeMiB, neededMiB] = [Math.floor((bavail * bsize) / MIB), 2 * input.memoryMiB];
  if (freeMiB < neededMiB) {
    throw new KataError('ResourceExhausted', `dump the memory of VM "${id}": ${folder} has ${String(freeMiB)} MiB free, wanted ${String(neededMiB)}`, { hint: 'free some, or name another folder in guest_memory_dump_path' });
  }
  writeFileSync(join(folder, 'hypervisor.conf'), `${JSON.stringify(config, null, 2)}\n`, { mode: 0o600 });
  writeFileSync(join(folder, 'hypervisor.version'), `${input.version}\n`, { mode: 0o600 });
  if (existsSync(input.stateFolder)) {
    cpSync(input.stateFolder, join(folder, 'state'), { recursive: true });
  }
  const path = join(folder, `vmcore-${stamp(input.now ?? new Date())}.elf`);
  await qmp.execute('dump-guest-memory', { paging: config.guestMemoryDumpPaging, protocol: `file:${path}`, format: 'elf' }, DUMP_TIMEOUT_MS);
  return path;
}
