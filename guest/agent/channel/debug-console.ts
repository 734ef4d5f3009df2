import { spawn } from 'node:child_process';
import { closeSync, constants, existsSync, openSync } from 'node:fs';
import type { Socket } from 'node:net';
import { CONSOLE_END } from '../../../base/debug-console';
import { describeError, KataError } from '../../../base/errors';
import { streamFromFd } from '../../../base/fd-stream';
import { duplicate, ioctl, pollOnce, readRaw } from '../../../base/syscalls';
import { log } from '../console-log';
import { reaper } from '../process/reaper';
import { findPort } from './virtio-port';
import { listenVsock } from './vsock';

const TIOCSPTLCK = 0x40045431;
const TIOCGPTPEER = 0x5441;
const CONSOLE_PORT = 'console.channel.0';
const LOOK_MS = 50;
const POLLOUT = 4;
const POLLHUP = 16;
const MAX_CONSOLES = 16;

let consoles = 0;

/** A shell on a new pty; returns the master as a stream. */
function startShell(): Socket {
  const master = openSync('/dev/ptmx', constants.O_RDWR | constants.O_NOCTTY);
  ioctl(master, TIOCSPTLCK, Buffer.alloc(4));
  const slave = ioctl(master, TIOCGPTPEER, constants.O_RDWR | constants.O_NOCTTY);
  if (slave < 0) {
    closeSync(master);
    throw new KataError('Internal', 'debug console: no pty');
  }
  const shell = existsSync('/bin/bash') ? '/bin/bash' : '/bin/sh';
  const child = spawn('setsid', ['-c', shell, '-i'], { stdio: [slave, slave, slave], cwd: '/', env: { ...process.env, TERM: 'xterm', HOME: '/root' } });
  closeSync(slave);
  child.on('error', (error) => log.warn('debug console: no shell', { error: error.message }));
  const { pid } = child;
  if (pid !== undefined) {
    reaper.addOwn(pid);
    child.on('exit', () => reaper.removeOwn(pid));
  }
  const stream = streamFromFd(master);
  stream.on('close', () => child.kill('SIGKILL'));
  return stream;
}

/**
 * Gives a connection a shell, until either ends. `endMark` is for a connection whose host cannot see our end: it is
 * written when the shell has ended, and then the host is waited for.
 */
function serveConnection(connection: Socket, endMark = ''): void {
  if (consoles >= MAX_CONSOLES) {
    connection.destroy();
    return;
  }
  consoles++;
  try {
    const shell = startShell();
    const over = (): void => {
      shell.destroy();
      connection.destroy();
    };
    const shellEnded = (): void => {
      shell.destroy();
      if (endMark === '') {
        over();
      } else if (!connection.destroyed) {
        connection.write(endMark);
        connection.resume();
      }
    };
    shell.once('error', shellEnded).once('end', shellEnded).on('error', () => undefined);
    connection.on('error', over).on('end', over);
    connection.once('close', () => {
      consoles--;
      over();
    });
    shell.pipe(connection, { end: false });
    connection.pipe(shell);
  } catch (reason) {
    consoles--;
    log.warn(describeError(reason));
    connection.destroy();
  }
}

function servePort(path: string): void {
  const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  const stale = Buffer.alloc(4096);
  const look = (): void => {
    if ((pollOnce(fd, POLLOUT) & POLLHUP) !== 0) {
      // What a host that has gone had still sent must not reach the next one's shell.
      while (readRaw(fd, stale) > 0) {
        // until there is no more
      }
      setTimeout(look, LOOK_MS).unref();
      return;
    }
    const stream = streamFromFd(duplicate(fd));
    stream.once('close', () => setTimeout(look, LOOK_MS).unref());
    serveConnection(stream, CONSOLE_END);
  };
  look();
}

/** Serves shells to whoever may reach the guest's vsock port or console port. Only with `agent.debug_console`. */
export function serveDebugConsole(port: number): void {
  if (existsSync('/dev/vsock')) {
    listenVsock(port, (connection) => serveConnection(connection));
  }
  const path = findPort(CONSOLE_PORT);
  if (path !== undefined) {
    servePort(path);
  }
}
