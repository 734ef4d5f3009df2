/**
 * Lets only as many sandboxes of a host start at once as its processors can serve. A start is processor work, under
 * emulation above all: with more at once each takes longer than its share, and the last ones run into their deadlines. The others
 * wait before anything of theirs runs, but after what they ask for was looked at, so that none of their deadlines has begun.
 */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { sleep } from '../../base/deadline';
import { describeError } from '../../base/errors';
import { FileLock } from '../../base/file-lock';
import type { Logger } from '../../base/log';

const SLOTS_PER_CPU = 2;
const POLL_MS = 100;
/** A start that hangs keeps others waiting no longer than this. */
const HOLD_MS = 30_000;
/** Who has waited so long starts anyway. */
const WAIT_MS = 120_000;

export interface GateOptions {
  /** Where the slots are, one locked file each. Shared by all shims of the host. */
  readonly folder: string;
  readonly logger: Logger;
  readonly signal: AbortSignal;
  readonly slots?: number;
  readonly holdMs?: number;
  readonly waitMs?: number;
}

/** One slot that is free now, with its file locked; undefined if all are taken. Throws where there can be no locks. */
function takeSlot(folder: string, slots: number): FileLock | undefined {
  for (let slot = 0; slot < slots; slot++) {
    const lock = FileLock.tryTake(join(folder, String(slot)), 'exclusive');
    if (lock !== undefined) {
      return lock;
    }
  }
  return undefined;
}

async function waitForSlot(options: GateOptions): Promise<FileLock | undefined> {
  const { folder, signal, slots = SLOTS_PER_CPU * availableParallelism(), waitMs = WAIT_MS } = options;
  const began = performance.now();
  for (;;) {
    const lock = takeSlot(folder, slots);
    if (lock !== undefined) {
      return lock;
    }
    const waitedMs = performance.now() - began;
    if (waitedMs > waitMs) {
      options.logger.warn('other sandboxes of this host start all the time: this one no longer waits for them', { waitedMs: Math.round(waitedMs), atOnce: slots });
      return undefined;
    }
    await sleep(POLL_MS, signal);
  }
}

/**
 * Waits until fewer than `slots` sandboxes start (default: 2 per CPU), at most `waitMs`. The caller calls the result when
 * its start is over, well or not; a process that dies gives its slot back. Rejects only with the signal's reason:
 * where there can be no locks nobody waits.
 */
export async function enterStartGate(options: GateOptions): Promise<() => void> {
  const { signal, logger, holdMs = HOLD_MS } = options;
  let lock: FileLock | undefined;
  try {
    lock = await waitForSlot(options);
  } catch (reason) {
    if (signal.aborted) {
      throw reason;
    }
    logger.warn('starts of this host are not queued', { error: describeError(reason) });
  }
  const held = setTimeout(() => lock?.remove(), holdMs);
  held.unref();
  return () => {
    clearTimeout(held);
    lock?.remove();
  };
}
