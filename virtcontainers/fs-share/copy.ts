/** Copies files and whole folders into the guest, where nothing is shared. */
import { lstatSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { AgentClient } from '../../agent-client/types';
import { KataError } from '../../base/errors';
import type { PendingCopy } from './share';

/** More entries than this are no configuration but data: they belong on a block device. */
const MAX_ENTRIES = 200_000;

/** Copies files, folders and symbolic links in an order in which parents come first; other kinds are left out. */
export async function copyToGuest(agent: AgentClient, copy: PendingCopy): Promise<void> {
  const pending = [copy];
  let count = 0;
  for (let at = pending.pop(); at !== undefined; at = pending.pop()) {
    const kind = lstatSync(at.hostPath);
    if (!kind.isFile() && !kind.isDirectory() && !kind.isSymbolicLink()) {
      continue;
    }
    if (++count > MAX_ENTRIES) {
      throw new KataError('ResourceExhausted', `copy ${copy.hostPath} into the guest: more than ${MAX_ENTRIES} files`, {
        hint: 'use a block device, or a shared_fs other than "none"',
      });
    }
    await agent.copyFile(at.hostPath, at.guestPath);
    if (kind.isDirectory()) {
      for (const name of readdirSync(at.hostPath)) {
        pending.push({ hostPath: join(at.hostPath, name), guestPath: join(at.guestPath, name) });
      }
    }
  }
}
