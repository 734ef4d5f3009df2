import { existsSync, writeFileSync } from 'node:fs';
import { KataError } from '../../../base/errors';

const NAME = /^[a-zA-Z0-9_]+([./][a-zA-Z0-9_-]+)+$/;

/** The file of a sysctl, for both forms of the name (`net.ipv4.x`, `net/ipv4/x`, where dots belong to the interface). */
export function sysctlPath(name: string): string {
  if (!NAME.test(name.replace(/\/[a-zA-Z0-9_.-]+(?=\/)/g, (part) => part.replaceAll('.', '_'))) || name.includes('..')) {
    throw new KataError('InvalidArgument', `sysctl ${JSON.stringify(name.slice(0, 80))} is not a valid name`);
  }
  return `/proc/sys/${name.includes('/') ? name : name.replaceAll('.', '/')}`;
}

/** Writes sysctls of a container: network, IPC and UTS settings hold for all the pod, whose namespaces these are. */
export function applySysctls(sysctls: Readonly<Record<string, string>>): void {
  for (const [name, value] of Object.entries(sysctls)) {
    const path = sysctlPath(name);
    if (!existsSync(path)) {
      throw new KataError('InvalidArgument', `set sysctl ${name}: the guest's kernel has none of that name`);
    }
    try {
      writeFileSync(path, value);
    } catch (reason) {
      throw KataError.from(reason, `set sysctl ${name} to ${JSON.stringify(value.slice(0, 80))}: refused`);
    }
  }
}
