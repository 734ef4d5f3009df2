import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import type { OnlineCPUMemRequest } from '../../../gen/agent/agent';
import { KataError } from '../../../base/errors';
import { sleep } from '../../../base/deadline';

const CPUS = '/sys/devices/system/cpu';
const MEMORY = '/sys/devices/system/memory';
const WAIT_MS = 10_000;
const POLL_MS = 10;
const MAX_PROBES = 4096;

function offlineFiles(root: string, name: RegExp): string[] {
  return readdirSync(root)
    .filter((entry) => name.test(entry))
    .map((entry) => `${root}/${entry}/online`)
    .filter((file) => {
      try {
        return readFileSync(file, 'latin1').trim() === '0';
      } catch {
        return false;
      }
    });
}

/** Brings everything of one kind on line, in parallel; returns how many came. */
async function online(root: string, name: RegExp): Promise<number> {
  const results = await Promise.all(
    offlineFiles(root, name).map(async (file) => {
      try {
        await writeFile(file, '1');
        return 1;
      } catch {
        return 0;
      }
    }),
  );
  return results.reduce<number>((sum, one) => sum + one, 0);
}

function onlineCount(): number {
  const cpus = readdirSync(CPUS).filter((entry) => /^cpu\d+$/.test(entry)).length;
  return cpus - offlineFiles(CPUS, /^cpu\d+$/).length;
}

/**
 * Brings plugged CPUs and memory on line. With `wait`, or where the number of CPUs is given, new ones are waited for:
 * the host's answer to plugging comes before the guest has seen the device.
 */
export async function onlineCpuMemory(request: OnlineCPUMemRequest): Promise<void> {
  const before = onlineCount();
  const memory = request.cpuOnly ? Promise.resolve(0) : online(MEMORY, /^memory\d+$/);
  const wanted = request.nbCpus;
  // 3.x counts the added ones, 4.x all: either is reached when so many came, or so many are there.
  const isEnough = (): boolean => onlineCount() - before >= wanted || (onlineCount() >= wanted && onlineCount() > before);
  const endsMs = performance.now() + WAIT_MS;
  for (;;) {
    await online(CPUS, /^cpu\d+$/);
    if (wanted === 0 || isEnough()) {
      break;
    }
    if (performance.now() >= endsMs) {
      if (onlineCount() >= wanted) {
        break;
      }
      throw new KataError('DeadlineExceeded', `online CPUs: ${String(onlineCount() - before)} of ${String(wanted)} came within ${String(WAIT_MS)} ms`);
    }
    await sleep(POLL_MS);
  }
  await memory;
}

/** Tells the kernel of memory at these addresses (platforms without ACPI). */
export function probeMemory(addresses: readonly bigint[]): void {
  if (addresses.length > MAX_PROBES) {
    throw new KataError('InvalidArgument', `probe memory: ${String(addresses.length)} addresses`);
  }
  for (const address of addresses) {
    writeFileSync(`${MEMORY}/probe`, `0x${address.toString(16)}`);
  }
}
