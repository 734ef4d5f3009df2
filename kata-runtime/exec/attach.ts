/** Joins a terminal and a stream until the stream ends; the terminal is as before in every case. */
import type { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { CONSOLE_ATTACH, ConsoleOutput, escapeInput, windowMessage } from '../../base/debug-console';
import { KataError } from '../../base/errors';

export interface Terminal {
  readonly input: Readable & { readonly isTTY?: boolean; setRawMode?(raw: boolean): unknown };
  readonly output: Writable & { readonly isTTY?: boolean; readonly rows?: number; readonly columns?: number };
}

const SIGNALS = ['SIGTERM', 'SIGHUP', 'SIGINT', 'SIGQUIT'] as const;

/** The console is a terminal in the guest: the end of a piped input is its end-of-file character. */
const END_OF_FILE = '\u0004';

/**
 * Resolves when the console has ended, which is how one leaves it (`exit`). With a terminal: raw mode, and
 * a console that offers it (ours does, upstream's does not) is told the window's size, at once and whenever it changes. Without one (a pipe) the input's end is told to the shell, whose output is still awaited.
 */
export async function attach(socket: Socket, terminal: Terminal): Promise<void> {
  const { input, output } = terminal;
  const raw = input.isTTY === true && input.setRawMode !== undefined;
  const restore = (): void => {
    if (raw) {
      input.setRawMode?.(false);
    }
    input.pause();
    input.removeAllListeners('data');
  };
  const onSignal = (signal: NodeJS.Signals): void => void socket.destroy(new KataError('Canceled', `ended by ${signal}`));
  try {
    if (raw) {
      input.setRawMode?.(true);
    }
    for (const signal of SIGNALS) {
      process.on(signal, onSignal);
    }
    await pump(socket, terminal, raw);
  } finally {
    restore();
    for (const signal of SIGNALS) {
      process.off(signal, onSignal);
    }
    socket.destroy();
    output.removeAllListeners('drain').removeAllListeners('resize');
  }
}

/** The window's size, as long as the terminal tells one. */
function windowOf({ rows, columns }: Terminal['output']): Buffer | undefined {
  return rows === undefined || columns === undefined || rows <= 0 ? undefined : windowMessage({ rows, columns });
}

/** Tells the console the size of the window from now on; returns what the input becomes. */
function followWindow(socket: Socket, output: Terminal['output']): (bytes: Buffer) => Buffer {
  const tell = (): void => {
    const message = windowOf(output);
    if (message !== undefined && socket.writable) {
      socket.write(message);
    }
  };
  socket.write(CONSOLE_ATTACH);
  tell();
  output.on('resize', tell);
  return escapeInput;
}

async function pump(socket: Socket, { input, output }: Terminal, raw: boolean): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    let encode = (bytes: Buffer): Buffer => bytes;
    let greeted = false;
    // A console that greets also says good-bye.
    const over = (): void => {
      if (greeted) {
        reject(new KataError('Unavailable', 'debug console: the connection broke before the shell ended', { hint: 'kata-runtime ps tells whether the sandbox still runs' }));
      } else {
        resolve();
      }
    };
    socket.on('error', (reason) => reject(KataError.from(reason, 'debug console: the connection broke')));
    socket.on('close', over);
    socket.on('end', over);
    const shown = new ConsoleOutput();
    socket.on('data', (bytes: Buffer) => {
      const found = shown.push(bytes);
      greeted ||= found.greeted;
      if (found.greeted && raw) {
        encode = followWindow(socket, output);
      }
      if (found.ended) {
        socket.pause();
        output.write(found.output, () => resolve());
      } else if (!output.write(found.output)) {
        socket.pause();
        output.once('drain', () => socket.resume());
      }
    });
    input.on('data', (bytes: Buffer) => {
      if (!socket.write(encode(bytes))) {
        input.pause();
        socket.once('drain', () => input.resume());
      }
    });
    input.on('end', () => {
      if (!raw) {
        socket.write(END_OF_FILE);
      }
    });
    socket.resume();
    input.resume();
  });
}
