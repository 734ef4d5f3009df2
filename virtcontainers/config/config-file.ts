/** Reading of configuration files. */
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { errnoOf, KataError } from '../../base/errors';

const MAX_FILE_BYTES = 1024 * 1024;

/** Reads a configuration file, at most 1 MiB of UTF-8. A FIFO or device is refused, never waited for. */
export function readConfigFile(path: string): string {
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const info = fstatSync(fd);
    if (!info.isFile()) {
      throw new KataError('InvalidArgument', `read configuration ${path}: not a regular file`, {
        hint: info.isDirectory() && basename(dirname(path)) === 'config.d' ? 'every entry of config.d is read as a file; move the folder elsewhere' : 'name a file',
      });
    }
    if (info.size > MAX_FILE_BYTES) {
      throw new KataError('InvalidArgument', `read configuration ${path}: ${String(info.size)} bytes, more than ${String(MAX_FILE_BYTES)}`);
    }
    return textOf(readFileSync(fd), path);
  } catch (reason) {
    if (reason instanceof KataError) {
      throw reason;
    }
    throw KataError.from(reason, errnoOf(reason) === 'ENOENT' ? `read configuration: file ${path} does not exist` : `read configuration ${path}`);
  } finally {
    if (fd !== undefined) {
      closeSync(fd);
    }
  }
}

/** What is no UTF-8 must not get into paths and kernel parameters with other characters in its place. */
function textOf(bytes: Buffer, path: string): string {
  const text = bytes.toString('utf8');
  const bad = bytes.includes(0) ? bytes.indexOf(0) : text.includes('\ufffd') ? firstBadByte(bytes, text) : -1;
  if (bad >= 0) {
    const line = bytes.subarray(0, bad).filter((byte) => byte === 0x0a).length + 1;
    throw new KataError('InvalidArgument', `read configuration ${path}:${String(line)}: not a text file: byte 0x${(bytes[bad] ?? 0).toString(16).padStart(2, '0')} at ${String(bad)} is not UTF-8`, {
      hint: 'is it the right file? else save it as UTF-8',
    });
  }
  return text;
}

/** -1 if the replacement character itself is in the file. */
function firstBadByte(bytes: Buffer, text: string): number {
  const again = Buffer.from(text, 'utf8');
  return again.equals(bytes) ? -1 : bytes.findIndex((byte, at) => byte !== again[at]);
}
