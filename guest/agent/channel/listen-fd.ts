import { closeSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { KataError } from '../../../base/errors';
import { duplicateOnto } from '../../../base/syscalls';

let count = 0;

/**
 * Accepts connections at any listening stream socket (AF_VSOCK), through a `net.Server`: the server adopts a unix
 * socket, whose number then gets `fd`. Nothing was registered for polling before, as all of it happens in one tick.
 * Takes `fd` over.
 */
export function listenOnDescriptor(fd: number, onConnection: (socket: Socket) => void, folder = '/run'): Server {
  const server = createServer({ allowHalfOpen: false }, onConnection);
  server.on('error', () => undefined);
  const path = `${folder}/.listen-${String(process.pid)}-${String(++count)}`;
  server.listen({ path });
  const handle: unknown = Reflect.get(server, '_handle');
  const adopted: unknown = typeof handle === 'object' && handle !== null ? Reflect.get(handle, 'fd') : undefined;
  if (typeof adopted !== 'number' || adopted < 0) {
    closeSync(fd);
    throw new KataError('Internal', 'listen: the server has no descriptor');
  }
  duplicateOnto(fd, adopted);
  closeSync(fd);
  rmSync(path, { force: true });
  return server;
}
