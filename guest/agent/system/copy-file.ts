import {
  chmodSync, chownSync, closeSync, constants, fchownSync, fchmodSync, ftruncateSync, lchownSync, lstatSync, mkdirSync, openSync, renameSync, rmSync, symlinkSync, writeSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { CopyFileRequest } from '../../../gen/agent/agent';
import { KataError } from '../../../base/errors';
import { checkAbsolute } from '../../../base/ids';
import { GUEST_RUN } from '../boot/mock';

const { O_CREAT, O_DIRECTORY, O_NOFOLLOW, O_RDWR } = constants;
const TYPE_MASK = 0o170000;
const FOLDER = 0o040000;
const LINK = 0o120000;
const REGULAR = 0o100000;
const DEFAULT_FOLDER_MODE = 0o750;

/**
 * The folder of `path` below the agent's own, made where it is missing. No part of it may be a link: what a container
 * put there must not lead the copy elsewhere.
 */
function openFolders(path: string, mode: number, uid: number, gid: number): string {
  let at = GUEST_RUN;
  for (const part of dirname(path).slice(GUEST_RUN.length).split('/').filter((name) => name !== '')) {
    at = join(at, part);
    try {
      closeSync(openSync(at, O_DIRECTORY | O_NOFOLLOW));
    } catch (reason) {
      if (lstatOf(at) !== undefined) {
        throw KataError.from(reason, `copy file ${path}: ${at} is not a folder`);
      }
      mkdirSync(at);
      chmodSync(at, mode);
      chownSync(at, Math.max(uid, 0), Math.max(gid, 0));
    }
  }
  return at;
}

function lstatOf(path: string): { isDirectory(): boolean } | undefined {
  return lstatSync(path, { throwIfNoEntry: false });
}

/** Writes one piece of a file from the host, or makes a folder or link. Only below /run/kata-containers. */
export function copyFile(request: CopyFileRequest): void {
  const path = checkAbsolute(request.path, 'copy file');
  if (!path.startsWith(`${GUEST_RUN}/`)) {
    throw new KataError('InvalidArgument', `copy file ${path}: only below ${GUEST_RUN}`);
  }
  const uid = Math.max(request.uid, 0);
  const gid = Math.max(request.gid, 0);
  const folderMode = request.dirMode & 0o777;
  openFolders(path, folderMode === 0 ? DEFAULT_FOLDER_MODE : folderMode, uid, gid);
  const type = request.fileMode & TYPE_MASK;
  if (type === FOLDER) {
    if (lstatOf(path)?.isDirectory() !== true) {
      mkdirSync(path);
    }
    chmodSync(path, request.fileMode & 0o7777);
    chownSync(path, uid, gid);
  } else if (type === LINK) {
    const temporary = join(dirname(path), `.${basename(path)}.link`);
    rmSync(temporary, { force: true });
    symlinkSync(Buffer.from(request.data).toString(), temporary);
    lchownSync(temporary, uid, gid);
    renameSync(temporary, path);
  } else if (type === REGULAR || type === 0) {
    writePiece(path, request, uid, gid);
  } else {
    throw new KataError('InvalidArgument', `copy file ${path}: neither file, folder nor link`);
  }
}

/** Pieces are gathered in a file beside; the whole one is put in place with the last. */
function writePiece(path: string, request: CopyFileRequest, uid: number, gid: number): void {
  const { offset, fileSize, data } = request;
  const end = offset + BigInt(data.length);
  if (offset < 0n || fileSize < 0n || end > fileSize) {
    throw new KataError('InvalidArgument', `copy file ${path}: bytes ${String(offset)} to ${String(end)} of ${String(fileSize)}`);
  }
  const temporary = join(dirname(path), `.${basename(path)}.part`);
  if (offset === 0n) {
    rmSync(temporary, { force: true });
  }
  const fd = openSync(temporary, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600);
  try {
    for (let at = 0; at < data.length; ) {
      at += writeSync(fd, data, at, data.length - at, Number(offset) + at);
    }
    if (end < fileSize) {
      return;
    }
    ftruncateSync(fd, Number(fileSize));
    fchownSync(fd, uid, gid);
    fchmodSync(fd, request.fileMode & 0o7777);
  } finally {
    closeSync(fd);
  }
  renameSync(temporary, path);
}
