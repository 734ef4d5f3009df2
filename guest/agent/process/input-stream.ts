import { Socket } from 'node:net';
import { KataError } from '../../../base/errors';

/** Standard input of a process. Writes end when the kernel took all; the end comes in order behind them. */
export class InputStream {
  private isEnding = false;
  private failure: Error | undefined;

  private constructor(
    private readonly socket: Socket,
    private readonly isTerminal: boolean,
  ) {
    socket.on('error', (error) => {
      this.failure = error;
    });
  }

  /** The stream of a pipe's write end, which it owns from here on. */
  static ofPipe(fd: number): InputStream {
    return new InputStream(new Socket({ fd, readable: false, writable: true, manualStart: true } as ConstructorParameters<typeof Socket>[0]), false);
  }

  /** The stream of a terminal: closing it has no meaning there. */
  static ofTerminal(socket: Socket): InputStream {
    return new InputStream(socket, true);
  }

  /** Writes; resolves with the number of bytes once all are in the pipe. No bytes: closes. */
  async write(bytes: Uint8Array): Promise<number> {
    if (bytes.length === 0) {
      this.end();
      return 0;
    }
    if (this.isEnding || this.socket.destroyed) {
      throw new KataError('FailedPrecondition', 'write stdin: it is closed', { cause: this.failure });
    }
    await new Promise<void>((resolve, reject) => {
      this.socket.write(bytes, (error) => {
        if (error) {
          reject(KataError.from(error, `write stdin: ${error.message}`));
        } else {
          resolve();
        }
      });
    });
    return bytes.length;
  }

  /** Closes behind the writes that wait. More calls do nothing. */
  end(): void {
    if (!this.isEnding && !this.isTerminal) {
      this.isEnding = true;
      this.socket.end(() => this.socket.destroy());
    }
  }

  /** The process is gone: whoever waits in `write` gets an error. */
  close(): void {
    this.isEnding = true;
    this.socket.destroy();
  }
}
