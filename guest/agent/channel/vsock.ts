import type { Socket } from 'node:net';
import { vsockListen } from '../../../base/syscalls';
import { describeError } from '../../../base/errors';
import { log } from '../console-log';
import { listenOnDescriptor } from './listen-fd';

/** Accepts connections on a vsock port for as long as the guest lives. */
export function listenVsock(port: number, onConnection: (socket: Socket) => void): void {
  try {
    listenOnDescriptor(vsockListen(port), onConnection);
    log.info('listening', { vsockPort: port });
  } catch (reason) {
    log.warn('vsock port cannot be served', { vsockPort: port, error: describeError(reason) });
  }
}
