/** The cgroups of a mock VM: a VM's are inside its guest, a mock's are the host's and must go with it. */
import { existsSync, readdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { removeCgroups } from '../../cgroup/cgroup';

const CGROUP_ROOT = '/sys/fs/cgroup';
/** Our parent of the mock's cgroups, below each hierarchy's root. */
const CGROUP_PARENT = 'kata_mock';

/** For the agent's `--cgroup-parent`. */
export function mockCgroupParent(id: string): string {
  return `/${CGROUP_PARENT}/${id}`;
}

/** Removes the cgroups of one mock VM; the processes in them must be dead or dying. */
export async function removeMockCgroups(id: string): Promise<void> {
  const hierarchies = [CGROUP_ROOT, ...(existsSync(CGROUP_ROOT) ? readdirSync(CGROUP_ROOT).map((name) => join(CGROUP_ROOT, name)) : [])];
  const own = hierarchies.map((root) => join(root, CGROUP_PARENT, id)).filter((path) => existsSync(path));
  await removeCgroups(own.flatMap(treeOf));
  for (const root of hierarchies) {
    try {
      rmdirSync(join(root, CGROUP_PARENT));
    } catch {
      // Not there in this hierarchy, or still in use by another mock VM.
    }
  }
}

/** A cgroup and all below it, outermost first. */
function treeOf(path: string): string[] {
  const below = readdirSync(path, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  return [path, ...below.flatMap((entry) => treeOf(join(path, entry.name)))];
}
