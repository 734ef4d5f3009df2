/** The runtime folder of one VM: made 0700, removed without ever following what is in it. */
import { lstatSync, mkdirSync, readdirSync, rmdirSync, unlinkSync } from 'node:fs';
import { basename, isAbsolute, join, normalize } from 'node:path';
import { errnoOf, KataError } from '../../base/errors';
import type { VmSpec } from './types';

const MAX_SOCKET_PATH_BYTES = 107;
/** The longest name of a socket in it, with its slash. */
const LONGEST_NAME_BYTES = '/debug-console.sock'.length;

/** Makes the folder; AlreadyExists if it is there, InvalidArgument if its sockets would have too long paths. */
export function makeVmFolder(directory: string): void {
  if (Buffer.byteLength(directory) + LONGEST_NAME_BYTES > MAX_SOCKET_PATH_BYTES) {
    throw new KataError('InvalidArgument', `VM folder ${directory}: a socket in it would have a path of more than ${String(MAX_SOCKET_PATH_BYTES)} bytes`, {
      hint: 'use a shorter sandbox id',
    });
  }
  try {
    mkdirSync(join(directory, '..'), { recursive: true, mode: 0o700 });
    mkdirSync(directory, { mode: 0o700 });
  } catch (reason) {
    throw KataError.from(reason, `make the VM folder ${directory}: ${errnoOf(reason) ?? 'failed'}`);
  }
}

const TRANSFER_SHARE = 'share';

/** The share of a VM that gets its owner later; see `VmSpec.transferable`. */
export function transferShare(directory: string): string {
  return join(directory, TRANSFER_SHARE);
}

/** Makes that folder, if the VM has a share. */
export function makeTransferShare({ share, directory }: Pick<VmSpec, 'share' | 'directory'>): void {
  if (share?.source === transferShare(directory)) {
    mkdirSync(share.source, { mode: 0o700 });
  }
}

/**
 * Removes files and sockets in the folder, then the folder. It must carry the id as its name: the path may come from
 * a state file. Nothing below sub-folders is touched. Nothing there: nothing to do.
 */
export function removeVmFolder(directory: string, id: string): void {
  if (!isAbsolute(directory) || normalize(directory) !== directory || id === '' || basename(directory) !== id) {
    throw new KataError('InvalidArgument', `remove VM folder ${JSON.stringify(directory)}: not the folder of "${id}"`);
  }
  try {
    if (!lstatSync(directory).isDirectory()) {
      unlinkSync(directory);
      return;
    }
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      if (entry.isDirectory() && entry.name === TRANSFER_SHARE) {
        rmdirSync(join(directory, entry.name));
      } else if (!entry.isDirectory()) {
        unlinkIfThere(join(directory, entry.name));
      }
    }
    rmdirSync(directory);
  } catch (reason) {
    if (errnoOf(reason) !== 'ENOENT') {
      throw KataError.from(reason, `remove the VM folder ${directory}: ${errnoOf(reason) ?? 'failed'}`);
    }
  }
}

function unlinkIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (reason) {
    if (errnoOf(reason) !== 'ENOENT') {
      throw reason;
    }
  }
}
