/** Finds what a pod may have left on the host: processes, mounts, sockets, cgroups, files, shared memory. */
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';

/** Everything of ours that exists now, each as one line of text that names it. */
export type Inventory = ReadonlySet<string>;

const PROCESS_MARKS = ['qemu-system', 'virtiofsd', 'shim.cjs', 'agent.cjs', 'containerd-shim-kata'];
const MOUNT_MARKS = ['/run/vc', '/run/kata-containers', 'io.containerd.runtime.v2.task', 'kataShared'];
const FOLDERS = ['/run/vc/sbs', '/run/vc/vm', '/run/kata-containers/shared/sandboxes', '/run/containerd/s', '/run/netns'];
/** Made by the first start of a shim on a host, and there for good: it orders the starts. */
const SHIM_LOCK = '/run/containerd/s/.lock';

function processes(): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const command = readFileSync(`/proc/${pid}/cmdline`, 'latin1').replaceAll('\0', ' ');
        const state = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]?.[0] ?? '?';
        return PROCESS_MARKS.some((mark) => command.includes(mark)) ? [`process ${pid} (${state}) ${command.slice(0, 160)}`] : [];
      } catch {
        return [];
      }
    });
}

function mounts(): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => MOUNT_MARKS.some((mark) => line.includes(mark)))
    .map((line) => `mount ${line.split(' ')[4] ?? line}`);
}

function entries(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder).map((name) => `file ${join(folder, name)}`) : [];
}

function cgroups(folder: string, depth: number): string[] {
  if (depth === 0 || !existsSync(folder)) {
    return [];
  }
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      const mine = entry.name.includes('kata') ? [`cgroup ${path}`] : [];
      return [...mine, ...cgroups(path, depth - 1)];
    });
}

function sharedMemory(): string[] {
  return existsSync('/dev/shm') ? readdirSync('/dev/shm').map((name) => `shm /dev/shm/${name}`) : [];
}

function everything(): string[] {
  return [...processes(), ...mounts(), ...FOLDERS.flatMap(entries), ...cgroups('/sys/fs/cgroup', 5), ...sharedMemory()].filter((line) => !line.endsWith(SHIM_LOCK));
}

/** Of VMs that a cache server made, in stock or taken. */
function isStock(line: string): boolean {
  return /\bcache-[0-9a-f]{16}/.test(line);
}

/** With KATA_TEST_FACTORY=cache the stock changes all the time: `stockInventory` looks at it when the server has ended. */
export function takeInventory(): Inventory {
  const all = everything();
  return new Set(process.env['KATA_TEST_FACTORY'] === 'cache' ? all.filter((line) => !isStock(line)) : all);
}

export function stockInventory(): Inventory {
  return new Set(everything().filter(isStock));
}

/** What is there now and was not before; waits up to `timeoutMs` for it to go away. Empty: nothing leaked. */
export async function leakedSince(before: Inventory, timeoutMs = 5000, take = takeInventory): Promise<string[]> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const extra = [...take()].filter((line) => !before.has(line));
    if (extra.length === 0 || Date.now() > deadline) {
      return extra;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/**
 * What is there of these ids (of sandboxes, containers; or paths): exact also where other sandboxes come and go
 * meanwhile. Waits up to `timeoutMs` for it to go away.
 */
export async function leftOf(ids: readonly string[], timeoutMs = 5000): Promise<string[]> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const left = [...takeInventory()].filter((line) => ids.some((id) => line.includes(id)));
    if (left.length === 0 || Date.now() > deadline) {
      return left;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Open descriptors of a process, as link targets. */
export function descriptorsOf(pid: number): string[] {
  return readdirSync(`/proc/${String(pid)}/fd`).map((fd) => {
    try {
      return readlinkSync(`/proc/${String(pid)}/fd/${fd}`);
    } catch {
      return '';
    }
  });
}
