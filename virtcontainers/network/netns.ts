/** The network namespace of a sandbox. */
import { closeSync, existsSync, openSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, KataError } from '../../base/errors';
import type { OciSpec } from '../../base/oci-spec';
import type { UndoStack } from '../../base/undo';
import type { VmSpec } from '../hypervisor/types';

export interface SandboxNetns {
  /** '' for a namespace of the VMM's own, and for the host's. */
  readonly path: string;
  readonly forVm: VmSpec['netns'];
}

const HOST_REFUSED = 'host networking is not supported: a virtual machine has its own network';

function isOwn(fd: string, own: string): boolean {
  const [a, b] = [statSync(fd), statSync(own)];
  return a.ino === b.ino && a.dev === b.dev;
}

/** True if the file is a network namespace: one in /proc, or one bound to a file. */
function isNetns(path: string, fd: number): boolean {
  try {
    return /^pos:/m.test(readFileSync(`/proc/self/fdinfo/${String(fd)}`, 'utf8')) && statSync(path).dev === statSync('/proc/self/ns/net').dev;
  } catch {
    return false;
  }
}

/**
 * Unimplemented for a sandbox for which `folder` (`dan_conf`) holds a directly attached network, `<id>.json`: without it the
 * pod would run cut off, and nobody would see why.
 */
export function refuseDirectNetwork(folder: string, sandboxId: string): void {
  const path = join(folder, `${sandboxId}.json`);
  if (folder !== '' && existsSync(path)) {
    throw new KataError('Unimplemented', `attach the network of ${path} to sandbox "${sandboxId}": directly attached networks are not supported yet`, {
      hint: 'remove the file (folder: dan_conf in [runtime]) if the pod can do without',
    });
  }
}

/** Opens the namespace that the spec names. InvalidArgument for the host's own. An opened descriptor goes on `undo`. */
export function openNetns(undo: UndoStack, spec: OciSpec, disableNewNetns: boolean): SandboxNetns {
  const namespace = spec.linux?.namespaces?.find(({ type }) => type === 'network');
  if (disableNewNetns) {
    return { path: '', forVm: { kind: 'host' } };
  }
  if (namespace === undefined) {
    throw new KataError('InvalidArgument', HOST_REFUSED, { hint: 'run the container with a network namespace of its own' });
  }
  const path = namespace.path ?? '';
  if (path === '') {
    return { path, forVm: { kind: 'own' } };
  }
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (reason) {
    throw KataError.from(reason, `open the network namespace ${path}${errnoOf(reason) === 'ENOENT' ? ': no such file or directory' : ''}`);
  }
  undo.push(`network namespace ${path}`, () => {
    closeSync(fd);
  });
  if (!isNetns(path, fd)) {
    throw new KataError('InvalidArgument', `network namespace ${path}: not a network namespace`);
  }
  if (isOwn(path, '/proc/self/ns/net')) {
    throw new KataError('InvalidArgument', HOST_REFUSED, { hint: `the network namespace ${path} is the host's` });
  }
  return { path, forVm: { kind: 'fd', fd } };
}
