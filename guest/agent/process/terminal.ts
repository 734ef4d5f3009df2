import { closeSync, rmSync } from 'node:fs';
import { createServer, Socket, type Server } from 'node:net';
import { KataError } from '../../../base/errors';
import { defer, withTimeout } from '../../../base/deadline';
import { duplicate, duplicateOnto, ioctl, receiveDescriptors, setNonblocking, socketPair } from '../../../base/syscalls';
import { InputStream } from './input-stream';
import { OutputStream } from './output-stream';

const TIOCSWINSZ = 0x5414;
const TIOCGPTPEER = 0x5441;
const O_RDWR_NOCTTY_CLOEXEC = 0o2 | 0o400 | 0o2000000;

/** The largest value of a row or column count. */
const MAX_CELLS = 0xffff;

function socketOf(fd: number, onread?: { buffer: Buffer; callback(bytes: number): boolean }): Socket {
  const [adopted, spare] = socketPair();
  const options = { fd: adopted, readable: onread !== undefined, writable: onread === undefined, allowHalfOpen: true, manualStart: true };
  const socket = new Socket({ ...options, ...(onread === undefined ? {} : { onread }) });
  duplicateOnto(fd, adopted);
  closeSync(fd);
  closeSync(spare);
  return socket;
}

/**
 * The agent's side of a process's pty. A slave is held open until the process has ended and its output was read, since
 * the event loop drops what is left in a pty at hang-up.
 */
export class Terminal {
  readonly output: OutputStream;
  readonly input: InputStream;
  private isClosed = false;

  /** Takes the master over. */
  constructor(private readonly master: number) {
    setNonblocking(master);
    const slave = ioctl(master, TIOCGPTPEER, O_RDWR_NOCTTY_CLOEXEC);
    const outputFd = duplicate(master);
    this.input = InputStream.ofTerminal(socketOf(duplicate(master)));
    this.output = new OutputStream({
      fd: outputFd,
      isSharedWithSocket: false,
      adopt: (onread) => socketOf(duplicate(outputFd), onread),
      onLastRead: () => {
        if (slave >= 0) {
          closeSync(slave);
        }
      },
    });
  }

  /** Sets the size in character cells. */
  resize(rows: number, columns: number): void {
    if (this.isClosed) {
      return;
    }
    const size = Buffer.alloc(8);
    size.writeUInt16LE(Math.min(rows, MAX_CELLS), 0);
    size.writeUInt16LE(Math.min(columns, MAX_CELLS), 2);
    ioctl(this.master, TIOCSWINSZ, size);
  }

  /** Gives the descriptors back. */
  close(): void {
    if (!this.isClosed) {
      this.isClosed = true;
      this.output.close();
      this.input.close();
      closeSync(this.master);
    }
  }
}

/** The socket at which the OCI runtime hands over the master of the pty it made. */
export class ConsoleSocket {
  private readonly connection = defer<Socket>();

  private constructor(
    readonly path: string,
    private readonly server: Server,
  ) {}

  /** Listens at `path`. */
  static async listen(path: string): Promise<ConsoleSocket> {
    const server = createServer({ pauseOnConnect: true });
    const socket = new ConsoleSocket(path, server);
    server.once('connection', (connection) => {
      connection.on('error', () => undefined);
      socket.connection.resolve(connection);
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
    });
    return socket;
  }

  /** The master; call when the runtime has succeeded. Rejects after `timeoutMs`. */
  async receive(timeoutMs: number): Promise<number> {
    const timedOut = (): KataError => new KataError('DeadlineExceeded', 'wait for the console: the runtime sent none');
    const connection = await withTimeout(this.connection.promise, timeoutMs, timedOut);
    const fd = descriptorOf(connection);
    try {
      const { fds } = receiveDescriptors(fd, Buffer.alloc(4096));
      const [master, ...others] = fds;
      others.forEach((other) => closeSync(other));
      if (master === undefined) {
        throw new KataError('Internal', 'wait for the console: the runtime sent no descriptor');
      }
      return master;
    } finally {
      connection.destroy();
    }
  }

  /** Stops listening and removes the socket. */
  close(): void {
    this.server.close();
    void this.connection.promise.then((connection) => connection.destroy());
    rmSync(this.path, { force: true });
  }
}

/** Node keeps the descriptor of a socket to itself; receiving descriptors needs it. */
function descriptorOf(socket: Socket): number {
  const handle: unknown = Reflect.get(socket, '_handle');
  const fd: unknown = typeof handle === 'object' && handle !== null ? Reflect.get(handle, 'fd') : undefined;
  if (typeof fd !== 'number' || fd < 0) {
    throw new KataError('Internal', 'wait for the console: the connection is gone');
  }
  return fd;
}
