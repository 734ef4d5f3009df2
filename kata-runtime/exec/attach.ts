/** Joins a terminal and a stream until the stream ends; the terminal is as before in every case. */
import type { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { ConsoleEndFinder } from '../../base/debug-console';
import { KataError } from '../../base/errors';

export interface Terminal {
  readonly input: Readable & { readonly isTTY?: boolean; setRawMode?(raw: boolean): unknown };
  readonly output: Writable & { readonly isTTY?: boolean; readonly rows?: number; readonly columns?: number };
}

const SIGNALS = ['SIGTERM', 'SIGHUP', 'SIGINT', 'SIGQUIT'] as const;

/** The console is a terminal in the guest: the end of a piped input is its end-of-file character. */
const END_OF_FILE = '\u0004';

/** `stty` line for a window: the console is a plain stream, so its size can only be told to its shell. */
export function sizeCommand(rows: number, columns: number): string {
  return ` stty rows ${String(rows)} cols ${String(columns)} 2>/dev/null\n`;
}

/**
 * Resolves when the console has ended, which is how one leaves it (`exit`). With a terminal: raw mode, and its window
 * size at the start. Without one (a pipe) the input's end is told to the shell, whose output is still awaited.
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
  const onSignal = (): void => void socket.destroy();
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
    output.removeAllListeners('drain');
  }
}

async function pump(socket: Socket, { input, output }: Terminal, raw: boolean): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    socket.on('error', (reason) => reject(KataError.from(reason, 'debug console: the connection broke')));
    socket.on('close', () => resolve());
    socket.on('end', () => resolve());
    const finder = new ConsoleEndFinder();
    socket.on('data', (bytes: Buffer) => {
      const found = finder.push(bytes);
      if (found.ended) {
        socket.pause();
        output.write(found.output, () => resolve());
      } else if (!output.write(found.output)) {
        socket.pause();
        output.once('drain', () => socket.resume());
      }
    });
    input.on('data', (bytes: Buffer) => {
      if (!socket.write(bytes)) {
        input.pause();
        socket.once('drain', () => input.resume());
      }
    });
    input.on('end', () => {
      if (!raw) {
        socket.write(END_OF_FILE);
      }
    });
    const { rows, columns } = output;
    if (raw && rows !== undefined && columns !== undefined && rows > 0) {
      socket.write(sizeCommand(rows, columns));
    }
    socket.resume();
    input.resume();
  });
}
