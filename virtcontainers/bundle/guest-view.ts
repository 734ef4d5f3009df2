/** What the sandbox takes from a bundle for the guest: host name, name servers, size of /dev/shm, hints on the caller. */
import { constants } from 'node:fs';
import { open, statfs } from 'node:fs/promises';
import { KataError } from '../../base/errors';
import type { OciSpec } from '../../base/oci-spec';

/** Of a /dev/shm that is not shared from the host; upstream's and Docker's figure. */
export const DEFAULT_SHM_BYTES = 64 * 1024 * 1024;
const MAX_RESOLV_BYTES = 64 * 1024;

/** Host name of the guest: the spec's, '' if it names none (or shares the host's UTS namespace). */
export function hostnameOf(spec: OciSpec): string {
  return spec.hostname ?? '';
}

/**
 * Lines of the file that is mounted at /etc/resolv.conf, at most 64 KiB; [] if nothing is mounted there or the source is
 * no regular file. Upstream sends the raw lines to the agent, so comments and options stay.
 */
export async function dnsLinesOf(spec: OciSpec): Promise<string[]> {
  const source = spec.mounts?.find((mount) => mount.destination === '/etc/resolv.conf')?.source;
  if (source === undefined || !source.startsWith('/')) {
    return [];
  }
  try {
    const handle = await open(source, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      if (!(await handle.stat()).isFile()) {
        return [];
      }
      const { buffer, bytesRead } = await handle.read(Buffer.alloc(MAX_RESOLV_BYTES), 0, MAX_RESOLV_BYTES, 0);
      const lines = buffer.toString('utf8', 0, bytesRead).split('\n');
      if (bytesRead === MAX_RESOLV_BYTES) {
        lines.pop();
      }
      return lines.map((line) => line.trimEnd()).filter((line) => line !== '');
    } finally {
      await handle.close();
    }
  } catch (reason) {
    throw KataError.from(reason, `read ${source}, mounted at /etc/resolv.conf`);
  }
}

/** Bytes of the sandbox's shm: 0 without a /dev/shm mount, the size of the source where that is bound, else 64 MiB. */
export async function shmSizeOf(spec: OciSpec): Promise<number> {
  const mount = spec.mounts?.find((candidate) => candidate.destination === '/dev/shm');
  if (mount === undefined) {
    return 0;
  }
  const bound = mount.type === 'bind' || (mount.options ?? []).some((option) => option === 'bind' || option === 'rbind');
  if (!bound || mount.source === undefined || mount.source === '/dev/shm') {
    return DEFAULT_SHM_BYTES;
  }
  try {
    const size = await statfs(mount.source);
    return size.bsize * size.blocks;
  } catch (reason) {
    throw KataError.from(reason, `find the size of ${mount.source}, mounted at /dev/shm`);
  }
}

/** Path of the network namespace that the spec names; '' if it wants a new one; undefined if it wants the host's. */
export function netnsPathOf(spec: OciSpec): string | undefined {
  const namespace = spec.linux?.namespaces?.find((candidate) => candidate.type === 'network');
  return namespace === undefined ? undefined : (namespace.path ?? '');
}

/** Who made the bundle, as far as it shows. */
export interface CallerHints {
  /** Pod name and namespace, from containerd (cri) or cri-o; '' if unknown. */
  readonly podName: string;
  readonly podNamespace: string;
  /** Docker: a hook calls libnetwork to set the network up after create. */
  readonly docker: boolean;
  /** Docker's id of the network namespace (64 hex digits), from the arguments of that hook; '' if unknown. */
  readonly dockerNetns: string;
}

/** Reads hints; never fails. */
export function callerHints(spec: OciSpec): CallerHints {
  const annotation = (...keys: string[]): string => keys.map((key) => spec.annotations?.[key]).find((value) => value !== undefined) ?? '';
  const hooks = [...(spec.hooks?.prestart ?? []), ...(spec.hooks?.createRuntime ?? [])];
  const libnetwork = hooks.find((hook) => (hook.args ?? []).some((arg) => arg.startsWith('libnetwork')));
  const args = libnetwork?.args ?? [];
  const next = args[args.indexOf('libnetwork-setkey') + 1] ?? '';
  return {
    podName: annotation('io.kubernetes.cri.sandbox-name', 'io.kubernetes.cri-o.KubeName'),
    podNamespace: annotation('io.kubernetes.cri.sandbox-namespace', 'io.kubernetes.cri-o.Namespace'),
    docker: libnetwork !== undefined,
    dockerNetns: args.includes('libnetwork-setkey') && /^[0-9a-f]{64}$/.test(next) ? next : (args.find((arg) => /^[0-9a-f]{64}$/.test(arg)) ?? ''),
  };
}
