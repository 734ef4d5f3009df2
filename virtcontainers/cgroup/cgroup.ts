/**
 * The cgroups of a sandbox on the host (virtcontainers-behaviour 8.1): `kata_<name>` from the spec's path, and the
 * overhead group for the VMM unless `sandbox_cgroup_only`. v1, hybrid and v2.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { sleep } from '../../base/deadline';
import { errnoOf, KataError } from '../../base/errors';
import { joinBelow } from '../../base/ids';

const V1_CONTROLLERS = ['blkio', 'cpu', 'cpuacct', 'cpuset', 'devices', 'freezer', 'hugetlb', 'memory', 'pids'];
const REMOVE_ATTEMPTS = 20;
const REMOVE_PAUSE_MS = 25;

/** The path of the sandbox's group below a hierarchy: `/a/b` -> `/a/kata_b`, empty -> `/vc/kata_<id>`, systemd's form as text. */
export function sandboxCgroupPath(cgroupsPath: string, sandboxId: string): string {
  if (cgroupsPath === '' || cgroupsPath === '.') {
    return `/vc/kata_${sandboxId}`;
  }
  const parts = cgroupsPath.split(':');
  const [slice, prefix, name] = parts;
  if (parts.length === 3 && slice !== undefined && prefix !== undefined && name !== undefined) {
    return `/${slice}/kata_${prefix}-${name}`.replace('//', '/');
  }
  const absolute = cgroupsPath.startsWith('/') ? cgroupsPath : `/vc/${cgroupsPath}`;
  return join(dirname(absolute), `kata_${basename(absolute)}`);
}

/** Where the hierarchies are mounted: one for v2, one per controller for v1 and hybrid. */
function hierarchies(root: string): { readonly unified: boolean; readonly folders: readonly string[] } {
  if (existsSync(join(root, 'cgroup.controllers'))) {
    return { unified: true, folders: [root] };
  }
  return { unified: false, folders: V1_CONTROLLERS.map((name) => join(root, name)).filter((path) => existsSync(path)) };
}

/** A new cpuset has no CPUs and takes no process: it gets its parent's. */
function inheritCpuset(folder: string): void {
  for (const file of ['cpuset.cpus', 'cpuset.mems']) {
    const own = join(folder, file);
    if (existsSync(own) && readFileSync(own, 'utf8').trim() === '') {
      writeFileSync(own, readFileSync(join(folder, '..', file), 'utf8'));
    }
  }
}

export class SandboxCgroups {
  /** Folders that we made, deepest last. */
  readonly folders: readonly string[];

  private constructor(
    private readonly made: string[],
    private readonly overhead: readonly string[],
    private readonly sandbox: readonly string[],
    private readonly unified: boolean,
    readonly sandboxPath: string,
    /** '' where everything is in the sandbox's group. */
    readonly overheadPath: string,
  ) {
    this.folders = made;
  }

  /** Makes the groups. `onMade` is told of each folder at once. Throws PermissionDenied and the like; the caller may go on without. */
  static create(root: string, sandboxId: string, cgroupsPath: string, sandboxCgroupOnly: boolean): SandboxCgroups {
    const { unified, folders } = hierarchies(root);
    const sandboxPath = sandboxCgroupPath(cgroupsPath, sandboxId);
    const overheadPath = sandboxCgroupOnly ? '' : `/kata_overhead/${sandboxId}`;
    const made: string[] = [];
    const make = (path: string): string[] => folders.map((folder) => makeGroup(folder, path, made));
    try {
      const sandbox = make(sandboxPath);
      const overhead = overheadPath === '' ? sandbox : make(overheadPath);
      // Shared by all sandboxes, and ours alone: whoever is last removes it, not whoever made it.
      made.unshift(...(overheadPath === '' ? [] : overhead.map(dirname).filter((folder) => !made.includes(folder))));
      return new SandboxCgroups(made, overhead, sandbox, unified, sandboxPath, overheadPath);
    } catch (reason) {
      for (const folder of made.reverse()) {
        removeGroup(folder);
      }
      throw KataError.from(reason, `make the cgroup ${sandboxPath}`);
    }
  }

  /** Puts the processes of the VM into their group. Returns what failed, if something did. */
  addVmm(pids: readonly number[]): KataError | undefined {
    return addAll(this.overhead, 'cgroup.procs', pids);
  }

  /** vCPU threads go to the sandbox's group. Not on v2, where a thread would take its whole process along. */
  get holdsVcpus(): boolean {
    return !this.unified && this.overheadPath !== '';
  }

  /** Puts vCPU threads into the sandbox's group, if it `holdsVcpus`. */
  addVcpus(tids: readonly number[]): KataError | undefined {
    return this.holdsVcpus ? addAll(this.sandbox, 'tasks', tids) : undefined;
  }

  /** Removes the groups, waiting a little for their processes to be gone. Idempotent. */
  async remove(): Promise<void> {
    await removeCgroups(this.made.splice(0));
  }
}

const MAKE_ATTEMPTS = 5;

/** Makes one group with its missing parents below a hierarchy; remembers those that it made. */
function makeGroup(hierarchy: string, path: string, made: string[]): string {
  const target = joinBelow(hierarchy, path, 'cgroup path');
  for (let attempt = 1; ; attempt++) {
    try {
      makeMissing(hierarchy, target, made);
      if (!made.includes(target)) {
        // Left by a dead sandbox of this name: ours from now on.
        made.push(target);
      }
      return target;
    } catch (reason) {
      // Another sandbox has just removed a parent that we found.
      if (errnoOf(reason) !== 'ENOENT' || attempt === MAKE_ATTEMPTS) {
        throw reason;
      }
    }
  }
}

function makeMissing(hierarchy: string, target: string, made: string[]): void {
  const missing: string[] = [];
  for (let at = target; !existsSync(at); at = dirname(at)) {
    missing.unshift(at);
  }
  for (const folder of missing) {
    try {
      mkdirSync(folder, { mode: 0o755 });
      made.push(folder);
    } catch (reason) {
      // Made by another sandbox in this very moment: shared, not ours to list.
      if (errnoOf(reason) !== 'EEXIST') {
        throw reason;
      }
    }
    if (hierarchy.endsWith('/cpuset')) {
      inheritCpuset(folder);
    }
  }
}

function addAll(folders: readonly string[], file: string, ids: readonly number[]): KataError | undefined {
  let failure: KataError | undefined;
  for (const folder of folders) {
    for (const id of ids) {
      try {
        writeFileSync(join(folder, file), String(id));
      } catch (reason) {
        failure ??= KataError.from(reason, `add ${id} to ${join(folder, file)}`);
      }
    }
  }
  return failure;
}

/** Busy without groups below: its last processes are still going. Others are parents that live on for somebody else. */
function isDraining(folder: string): boolean {
  try {
    return !readdirSync(folder, { withFileTypes: true }).some((entry) => entry.isDirectory());
  } catch {
    return false;
  }
}

/** False while it has processes or groups below. */
function removeGroup(folder: string): boolean {
  try {
    rmdirSync(folder);
    return true;
  } catch (reason) {
    return errnoOf(reason) !== 'EBUSY';
  }
}

/**
 * Removes groups of ours (deepest last in `folders`), waiting half a second at most for their processes to be gone.
 * Parents go with the last sandbox that uses them.
 */
export async function removeCgroups(folders: readonly string[]): Promise<void> {
  let left = [...folders].reverse();
  for (let i = 0; i < REMOVE_ATTEMPTS; i++) {
    left = left.filter((folder) => !removeGroup(folder));
    if (!left.some(isDraining)) {
      return;
    }
    await sleep(REMOVE_PAUSE_MS);
  }
}
