/**
 * The receipt of a deletion: what the `delete` verb would answer, left in the bundle once everything of the container
 * is freed. The launcher hands it out without starting Node, which saves every container some 50 ms. Without a
 * receipt (the shim died, or is still at it) `delete` does its work from disk.
 */
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describeError } from '../../base/errors';
import type { Logger } from '../../base/log';
import { DeleteResponse } from '../../gen/containerd/task/v2';
import type { ProcessExit } from '../../virtcontainers/process/types';
import { timestampOf } from '../events/event';

/** Name of the file in the bundle; the launcher knows it too. */
export const RECEIPT = 'kata-deleted';

/** Status and time of a container that never ran: as the `delete` verb answers for one without a record. */
const KILLED_STATUS = 137;

export interface Deletion {
  readonly bundle: string;
  readonly pid: number;
  readonly exit: ProcessExit | undefined;
}

/** Writes the receipt, whole or not at all. A failure costs time only and is logged. */
export function leaveReceipt(deletion: Deletion, logger: Logger): void {
  const { status, at } = deletion.exit ?? { status: KILLED_STATUS, at: new Date() };
  const path = join(deletion.bundle, RECEIPT);
  const temporary = `${path}.${String(process.pid)}`;
  try {
    writeFileSync(temporary, DeleteResponse.encode({ pid: deletion.pid, exitStatus: status, exitedAt: timestampOf(at) }).finish(), { mode: 0o600 });
    renameSync(temporary, path);
  } catch (reason) {
    rmSync(temporary, { force: true });
    logger.debug('no receipt of the deletion', { bundle: deletion.bundle, error: describeError(reason) });
  }
}
