import { spawn } from 'node:child_process';
import { closeSync, constants, existsSync, openSync } from 'node:fs';
import type { Socket } from 'node:net';
import { CONSOLE_END, CONSOLE_HELLO, ConsoleInput, type WindowSize } from '../../../base/debug-console';
import { describeError, KataError } from '../../../base/errors';
import { streamFromFd } from '../../../base/fd-stream';
import { duplicate, ioctl, pollOnce, readRaw } from '../../../base/syscalls';
import { log } from '../console-log';
import { reaper } from '../process/reaper';
import { findPort } from './virtio-port';
import { listenVsock } from './vsock';

const TIOCSPTLCK = 0x40045431;
const TIOCGPTPEER = 0x5441;
const TIOCSWINSZ = 0x5414;
const CONSOLE_PORT = 'console.channel.0';
const LOOK_MS = 50;
const POLLOUT = 4;
const POLLHUP = 16;
const MAX_CONSOLES = 16;

let consoles = 0;

/** A shell on a new pty. */
interface Shell {
  /** The pty's master. */
  readonly stream: Socket;
  readonly resize: (size: WindowSize) => void;
}

function startShell(): Shell {
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
  const sizeFd = duplicate(master);
  const stream = streamFromFd(master);
  stream.once('close', () => {
    closeSync(sizeFd);
    child.kill('SIGKILL');
  });
  const resize = ({ rows, columns }: WindowSize): void => {
    const size = Buffer.alloc(8);
    size.writeUInt16LE(rows, 0);
    size.writeUInt16LE(columns, 2);
    // The kernel tells the programs of the terminal by SIGWINCH.
    ioctl(sizeFd, TIOCSWINSZ, size);
  };
  return { stream, resize };
}

/** A client's bytes to the shell, the sizes of its window to the terminal. */
function pumpInput(connection: Socket, { stream, resize }: Shell): void {
  const decoder = new ConsoleInput();
  connection.on('data', (bytes: Buffer) => {
    if (stream.destroyed) {
      return;
    }
    const { input, window } = decoder.push(bytes);
    if (window !== undefined) {
      resize(window);
    }
    if (input.length > 0 && !stream.write(input)) {
      connection.pause();
      stream.once('drain', () => connection.resume());
    }
  });
}

/**
 * Gives a connection a shell, until either ends; the end of the shell is marked, so that the client can tell it from the
 * end of the guest. `hostEnds` is for a connection whose host cannot see our end: then the host is waited for.
 */
function serveConnection(connection: Socket, hostEnds: boolean): void {
  if (consoles >= MAX_CONSOLES) {
    connection.destroy();
    return;
  }
  consoles++;
  try {
    const shell = startShell();
    const { stream } = shell;
    const over = (): void => {
      stream.destroy();
      connection.destroy();
    };
    const shellEnded = (): void => {
      stream.destroy();
      if (connection.destroyed) {
        return;
      }
      if (hostEnds) {
        connection.write(CONSOLE_END);
      } else {
        connection.end(CONSOLE_END);
      }
      connection.resume();
    };
    stream.once('error', shellEnded).once('end', shellEnded).on('error', () => undefined);
    connection.on('error', over).on('end', over);
    connection.once('close', () => {
      consoles--;
      over();
    });
    connection.write(CONSOLE_HELLO);
    stream.pipe(connection, { end: false });
    pumpInput(connection, shell);
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
    serveConnection(stream, true);
  };
  look();
}

/** Serves shells to whoever may reach the guest's vsock port or console port. Only with `agent.debug_console`. */
export function serveDebugConsole(port: number): void {
  if (existsSync('/dev/vsock')) {
    listenVsock(port, (connection) => serveConnection(connection, false));
  }
  const path = findPort(CONSOLE_PORT);
  if (path !== undefined) {
    servePort(path);
  }
}
