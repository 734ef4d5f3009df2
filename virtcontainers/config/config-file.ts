/** Reading of configuration files. */
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { errnoOf, KataError } from '../../base/errors';

const MAX_FILE_BYTES = 1024 * 1024;

/** Reads a configuration file, at most 1 MiB. A FIFO or device is refused, never waited for. */
export function readConfigFile(path: string): string {
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const info = fstatSync(fd);
    if (!info.isFile()) {
      throw new KataError('InvalidArgument', `read configuration ${path}: not a regular file`, {
        hint: info.isDirectory() ? 'every entry of config.d is read as a file; move the folder elsewhere' : 'name a file',
      });
    }
    if (info.size > MAX_FILE_BYTES) {
      throw new KataError('InvalidArgument', `read configuration ${path}: ${String(info.size)} bytes, more than ${String(MAX_FILE_BYTES)}`);
    }
    return readFileSync(fd, 'utf8');
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
