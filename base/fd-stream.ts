import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { duplicateOnto, setNonblocking, socketPair } from './syscalls';

/**
 * Any pollable descriptor (vsock, character device, virtio-serial port, pty) as a `net.Socket`. `net.Socket` adopts
 * one end of a socket pair, then the descriptor is put under that number; nothing was registered for polling before.
 * Takes ownership of `fd`. A pty's tail may be lost at hang-up: its owner keeps a slave open and drains.
 */
export function streamFromFd(fd: number): Socket {
  const [adopted, spare] = socketPair();
  const options = { fd: adopted, readable: true, writable: true, allowHalfOpen: true, manualStart: true };
  const socket = new Socket(options);
  setNonblocking(fd);
  duplicateOnto(fd, adopted);
  closeSync(fd);
  closeSync(spare);
  return socket;
}
