import type { BigIntStats } from 'node:fs';
import { constants } from 'node:fs';
import { lstat, open, readlink } from 'node:fs/promises';
import { KataError } from '../base/errors';
import type { CopyFileRequest } from '../gen/agent/agent';

/** Data bytes of one request. */
export const COPY_CHUNK_BYTES = 1 << 20;

/** Mode of the folders that the agent makes on the way: a folder of 0750 in Go's bits, as upstream sends it. */
const DIR_MODE = 0x8000_0000 + 0o750;

/** Sends one piece to the agent and waits for its answer. */
export type SendPiece = (piece: CopyFileRequest) => Promise<void>;

/**
 * Copies a file, a folder (itself, not what is in it) or a symbolic link (itself) into the guest, with mode and owner.
 * A file goes in pieces of 1 MiB, one at a time; at most one piece is in memory. Other types are InvalidArgument.
 */
export async function copyFile(hostPath: string, guestPath: string, send: SendPiece): Promise<void> {
  const what = `copy ${hostPath} into the guest`;
  try {
    const stats = await lstat(hostPath, { bigint: true });
    if (stats.isFile()) {
      await copyRegular(hostPath, guestPath, send);
    } else if (stats.isDirectory()) {
      await send(pieceOf(guestPath, stats, 0n));
    } else if (stats.isSymbolicLink()) {
      const target = Buffer.from(await readlink(hostPath, { encoding: 'buffer' }));
      await send({ ...pieceOf(guestPath, stats, BigInt(target.length)), data: target });
    } else {
      throw new KataError('InvalidArgument', 'neither file, folder nor symbolic link');
    }
  } catch (reason) {
    throw KataError.from(reason, `${what}: ${reason instanceof Error ? reason.message : String(reason)}`);
  }
}

async function copyRegular(hostPath: string, guestPath: string, send: SendPiece): Promise<void> {
  const file = await open(hostPath, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const stats = await file.stat({ bigint: true });
    const size = Number(stats.size);
    const piece = pieceOf(guestPath, stats, stats.size);
    if (size === 0) {
      await send(piece);
      return;
    }
    const buffer = Buffer.allocUnsafe(Math.min(size, COPY_CHUNK_BYTES));
    for (let offset = 0; offset < size; ) {
      const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, size - offset), offset);
      if (bytesRead === 0) {
        throw new KataError('DataLoss', `the file shrank from ${size} to ${offset} bytes meanwhile`);
      }
      await send({ ...piece, offset: BigInt(offset), data: buffer.subarray(0, bytesRead) });
      offset += bytesRead;
    }
  } finally {
    await file.close();
  }
}

function pieceOf(path: string, stats: BigIntStats, fileSize: bigint): CopyFileRequest {
  return {
    path,
    fileSize,
    fileMode: Number(stats.mode),
    dirMode: DIR_MODE,
    // int32 on the wire: ids above 2^31 wrap, and unwrap in the agent.
    uid: Number(stats.uid) | 0,
    gid: Number(stats.gid) | 0,
    offset: 0n,
    data: new Uint8Array(0),
  };
}
