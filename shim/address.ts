/** Where a sandbox's shim listens, how that is found out, and how one of many starters gets to listen there. */
import { closeSync, linkSync, mkdirSync, openSync, rmSync, statSync, unlinkSync } from 'node:fs';
import { connect, type Server } from 'node:net';
import { join, posix } from 'node:path';
import { errnoOf, KataError } from '../base/errors';
import { sha256Hex } from './sha256';

/** The folder that containerd's own shims use. */
export const DEFAULT_SOCKET_DIR = '/run/containerd/s';

/** The kernel's limit for the path of a unix socket, without the final zero. */
const MAX_SOCKET_PATH = 107;
const PROBE_TIMEOUT_MS = 1_000;
const CLAIM_ATTEMPTS = 20;

/** Path of the socket: a digest of who asks (containerd's address, namespace) and the sandbox, so that it is always short. */
export function socketPath(containerdAddress: string, namespace: string, sandboxId: string, folder = DEFAULT_SOCKET_DIR): string {
  const key = posix.join(...[containerdAddress, namespace, sandboxId].filter((part) => part !== ''));
  const path = join(folder, sha256Hex(key));
  if (path.length > MAX_SOCKET_PATH) {
    throw new KataError('InvalidArgument', `start: socket path ${path} is longer than ${String(MAX_SOCKET_PATH)} bytes`, {
      hint: 'choose a shorter socket_dir',
    });
  }
  return path;
}

/** True if a server accepts connections there. False: no file, or one that nobody listens on. */
export async function isListening(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    // A server whose queue is full or that is stopped still holds the place.
    const timer = setTimeout(() => {
      socket.destroy();
      resolve(true);
    }, PROBE_TIMEOUT_MS);
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error) => {
      clearTimeout(timer);
      const errno = errnoOf(error);
      if (errno === 'ENOENT' || errno === 'ECONNREFUSED' || errno === 'ENOTSOCK') {
        resolve(false);
      } else if (errno === 'EAGAIN') {
        resolve(true);
      } else {
        reject(KataError.from(error, `start: probe ${path}`));
      }
    });
  });
}

/** A place on which a server listens. */
export interface Claim {
  /** `claimed`: our server listens there now. `taken`: another live server does. */
  readonly outcome: 'claimed' | 'taken';
}

/**
 * Makes `server` listen at `path`, unless another live one does. It listens under a name of its own first and is then
 * linked to `path`: who finds the file there can connect, and of many that try at once exactly one succeeds. A file
 * that nobody listens on is replaced under a lock.
 */
export async function claimSocket(server: Server, path: string, folder: string): Promise<Claim> {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const own = join(folder, `.${process.pid.toString(36)}`);
  listenAt(server, own);
  try {
    for (let attempt = 0; attempt < CLAIM_ATTEMPTS; attempt++) {
      if (tryLink(own, path)) {
        return { outcome: 'claimed' };
      }
      if (await isListening(path)) {
        return { outcome: 'taken' };
      }
      await removeStale(path, folder);
    }
    throw new KataError('Unavailable', `start: ${path} keeps changing hands`);
  } finally {
    rmSync(own, { force: true });
  }
}

function listenAt(server: Server, path: string): void {
  rmSync(path, { force: true });
  const mask = process.umask(0o177);
  let failure: unknown;
  const onError = (error: Error): void => {
    failure = error;
  };
  try {
    server.on('error', onError);
    // For a path, Node binds and listens before this returns; only the event comes later.
    server.listen({ path });
    if (!server.listening) {
      throw KataError.from(failure, `start: cannot listen at ${path}`, { hint: 'is its folder writable?' });
    }
  } finally {
    process.umask(mask);
  }
}

function tryLink(own: string, path: string): boolean {
  try {
    linkSync(own, path);
    return true;
  } catch (reason) {
    if (errnoOf(reason) === 'EEXIST') {
      return false;
    }
    throw KataError.from(reason, `start: make the socket ${path}`);
  }
}

/** Removes the socket of a dead server. Under a lock with a second look: between look and removal nobody else removes it. */
export async function removeStale(path: string, folder: string): Promise<void> {
  // Lazy: only here is the native part needed.
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  const { flock } = require('../base/syscalls') as typeof import('../base/syscalls');
  const fd = openSync(join(folder, '.lock'), 'a', 0o600);
  try {
    // Blocks for as long as another starter looks, which is bounded.
    flock(fd, 'exclusive');
    if (!(await isListening(path))) {
      rmSync(path, { force: true });
    }
  } finally {
    closeSync(fd);
  }
}

/** Removes the socket at `path` if it still is the one that was claimed. */
export class SocketFile {
  private readonly inode: bigint;

  constructor(readonly path: string) {
    this.inode = statSync(path, { bigint: true }).ino;
  }

  remove(): void {
    try {
      if (statSync(this.path, { bigint: true }).ino === this.inode) {
        unlinkSync(this.path);
      }
    } catch {
      // Gone already.
    }
  }
}
