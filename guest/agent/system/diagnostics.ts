import { KataError } from '../../../base/errors';
import type { Sandbox } from '../sandbox/sandbox';
import { readText } from '../cgroup/cgroup';

const MAX_CHARACTERS = 256 * 1024;

/** Text for whoever looks into a sandbox: `dmesg` is not offered, since reading it would block; figures are. */
export function diagnosticData(kind: string, containerId: string, sandbox: Sandbox): string {
  switch (kind) {
    case 'mounts':
      return (readText('/proc/self/mountinfo') ?? '').slice(0, MAX_CHARACTERS);
    case 'memory':
      return readText('/proc/meminfo') ?? '';
    case '':
    case 'containers':
      return sandbox
        .list()
        .filter(({ id }) => containerId === '' || id === containerId)
        .map(({ id, init, cgroup }) => `${id} pid=${String(init.pid)} exit=${String(init.exitStatus ?? 'none')} processes=${String(cgroup.processes().length)}`)
        .join('\n');
    default:
      throw new KataError('Unimplemented', `diagnostic data "${kind.slice(0, 40)}": kinds are containers, memory, mounts`);
  }
}
