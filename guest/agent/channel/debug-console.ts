import { spawn } from 'node:child_process';
import { closeSync, constants, existsSync, openSync } from 'node:fs';
import type { Socket } from 'node:net';
import { describeError, KataError } from '../../../base/errors';
import { streamFromFd } from '../../../base/fd-stream';
import { duplicate, ioctl, pollOnce } from '../../../base/syscalls';
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

/** Gives a connection a shell, until either ends. */
function serveConnection(connection: Socket): void {
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
    shell.on('error', over).on('end', over);
    connection.on('error', over).on('end', over);
    connection.once('close', () => {
      consoles--;
      over();
    });
    shell.pipe(connection);
    connection.pipe(shell);
  } catch (reason) {
    consoles--;
    log.warn(describeError(reason));
    connection.destroy();
  }
}

function servePort(path: string): void {
  const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  const look = (): void => {
    if ((pollOnce(fd, POLLOUT) & POLLHUP) !== 0) {
      setTimeout(look, LOOK_MS).unref();
      return;
    }
    const stream = streamFromFd(duplicate(fd));
    stream.once('close', () => setTimeout(look, LOOK_MS).unref());
    serveConnection(stream);
  };
  look();
}

/** Serves shells to whoever may reach the guest's vsock port or console port. Only with `agent.debug_console`. */
export function serveDebugConsole(port: number): void {
  if (existsSync('/dev/vsock')) {
    listenVsock(port, serveConnection);
  }
  const path = findPort(CONSOLE_PORT);
  if (path !== undefined) {
    servePort(path);
  }
}
