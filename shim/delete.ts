/** The `delete` verb: cleans up after one container, from disk alone, and says how it ended. */
import { existsSync, readFileSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describeError, KataError } from '../base/errors';
import { checkId } from '../base/ids';
import { Logger } from '../base/log';
import { UMOUNT, unmount } from '../base/syscalls';
import { DeleteResponse } from '../gen/containerd/task/v2';
import { sandboxIdOf } from '../virtcontainers/bundle/container-type';
import { cleanupContainer } from '../virtcontainers/sandbox/cleanup';
import type { CleanupResult } from '../virtcontainers/sandbox/types';
import { isListening, removeStale, socketPath } from './address';
import type { ShimArgs } from './args';
import { timestampOf } from './events/event';

/** 128 + SIGKILL: what a task that ended without a record counts as. */
const KILLED_STATUS = 137;
const MAX_STACKED_MOUNTS = 64;

/** Does it and writes the DeleteResponse to standard output. Every step is tried; only a bad id is an error. */
export async function deleteVerb(args: ShimArgs): Promise<void> {
  process.on('SIGTERM', () => undefined);
  process.on('SIGINT', () => undefined);
  const logger = Logger.to((line) => writeSync(2, line), args.debug ? 'debug' : 'warn', { container: args.id });
  const id = checkId(args.id, 'container');
  const bundle = args.bundle === '' ? process.cwd() : args.bundle;
  const sandboxId = sandboxOf(bundle, id, logger);
  let result: CleanupResult | undefined;
  try {
    result = await cleanupContainer({ sandboxId, containerId: id, bundle, logger });
  } catch (reason) {
    logger.error('cleaning up failed', { error: describeError(reason) });
  }
  try {
    unmountStack(join(bundle, 'rootfs'));
    await removeDeadSocket(args, bundle, sandboxId);
  } catch (reason) {
    logger.error('cleaning up failed', { error: describeError(reason) });
  }
  const { status, at } = result?.exit ?? { status: KILLED_STATUS, at: new Date() };
  writeSync(1, DeleteResponse.encode({ pid: result?.pid ?? 0, exitStatus: status, exitedAt: timestampOf(at) }).finish());
}

/** From config.json, else from what containerd 2 leaves in a grouped container's bundle, else the container's own id. */
function sandboxOf(bundle: string, id: string, logger: Logger): string {
  try {
    const spec: unknown = JSON.parse(readFileSync(join(bundle, 'config.json'), 'utf8'));
    const annotations: unknown = typeof spec === 'object' && spec !== null && 'annotations' in spec ? spec.annotations : undefined;
    return checkId(sandboxIdOf({ annotations: (annotations ?? {}) as Record<string, string> }, id), 'sandbox');
  } catch (reason) {
    logger.debug('no usable config.json', { error: describeError(reason) });
  }
  try {
    return checkId(readFileSync(join(bundle, 'sandbox'), 'utf8').trim(), 'sandbox');
  } catch {
    return id;
  }
}

/** Mounts may lie one on the other. */
function unmountStack(target: string): void {
  if (!existsSync(target)) {
    return;
  }
  for (let count = 0; unmount(target, UMOUNT.DETACH | UMOUNT.NOFOLLOW); count++) {
    if (count >= MAX_STACKED_MOUNTS) {
      throw new KataError('Internal', `unmount ${target}: still mounted after ${String(count)} times`);
    }
  }
}

/** The socket of a server that is gone. A live one, of this sandbox's other containers too, is left alone. */
async function removeDeadSocket(args: ShimArgs, bundle: string, sandboxId: string): Promise<void> {
  const paths = new Set([socketPath(args.address, args.namespace, sandboxId)]);
  const recorded = addressIn(bundle);
  if (recorded !== undefined) {
    paths.add(recorded);
  }
  for (const path of paths) {
    if (existsSync(path) && !(await isListening(path))) {
      await removeStale(path, dirname(path));
    }
  }
}

function addressIn(bundle: string): string | undefined {
  try {
    const address = readFileSync(join(bundle, 'address'), 'utf8').trim();
    // Only what looks like a socket of ours: the file is the host's to read, and anything might be in it.
    return /^unix:\/\/(\/.*\/[0-9a-f]{64})$/.exec(address)?.[1];
  } catch {
    return undefined;
  }
}
