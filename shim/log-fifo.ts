import { closeSync, constants, openSync, writeSync } from 'node:fs';
import type { LogSink } from '../base/log';

/**
 * Writes log lines to the bundle's `log` FIFO, which the host reads into its own log. Opened for reading and writing
 * without blocking, so that neither a missing nor a stuck reader can hold us: what does not fit is dropped.
 */
export function openLogFifo(path: string): LogSink {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  } catch {
    return () => undefined;
  }
  let dropped = 0;
  let isBroken = false;
  return (line) => {
    if (isBroken) {
      return;
    }
    try {
      writeSync(fd, dropped === 0 ? line : `${line.trimEnd()} dropped_lines=${String(dropped)}\n`);
      dropped = 0;
    } catch (reason) {
      dropped++;
      if (!(reason instanceof Error && 'code' in reason && reason.code === 'EAGAIN')) {
        isBroken = true;
        closeSync(fd);
      }
    }
  };
}
