import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { KataError } from './errors';

/**
 * Writes a file so that a reader sees the old content or the new, never a part: temporary file beside it, fsync,
 * rename. Nothing is left behind on failure.
 */
export function writeFileAtomic(path: string, content: string | Uint8Array, mode = 0o600): void {
  const temporary = join(dirname(path), `.${basename(path)}.${String(process.pid)}.${process.hrtime.bigint().toString(36)}`);
  try {
    const fd = openSync(temporary, 'wx', mode);
    try {
      const bytes = typeof content === 'string' ? Buffer.from(content) : content;
      for (let at = 0; at < bytes.length; ) {
        at += writeSync(fd, bytes, at);
      }
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
  } catch (reason) {
    rmSync(temporary, { force: true });
    throw KataError.from(reason, `write ${path}`, { hint: 'check free space and permissions of its folder' });
  }
}
