/** A root shell in a guest, through the console socket that `debug_console_enabled` gives. */
import { connect, type Socket } from 'node:net';

const READY_TIMEOUT_MS = 60_000;
const READY_TRY_MS = 3_000;
const CONNECT_STEP_MS = 50;

export class GuestShell {
  private text = '';
  private wake: (() => void) | undefined;
  private count = 0;

  private constructor(private readonly socket: Socket) {
    socket.on('data', (chunk: Buffer) => {
      this.text += chunk.toString('latin1');
      this.wake?.();
    });
    socket.on('error', () => undefined);
  }

  static async open(path: string): Promise<GuestShell> {
    const endsAt = performance.now() + READY_TIMEOUT_MS;
    const shell = new GuestShell(await dialUntil(path, endsAt));
    for (;;) {
      try {
        // What is written before the guest has its shell may be lost: again, until there is an answer.
        await shell.run('stty -echo 2>/dev/null', READY_TRY_MS);
        return shell;
      } catch (reason) {
        if (performance.now() > endsAt) {
          shell.close();
          throw reason;
        }
      }
    }
  }

  /** Runs a command line; what it wrote. Throws if its status is not 0. */
  async run(command: string, timeoutMs: number): Promise<string> {
    const mark = `end-of-${String(++this.count)}`;
    this.text = '';
    // The echo of the line itself has the quotes in it, so it is not taken for the answer.
    this.socket.write(`${command}; echo "be""gin:$?:${mark}"\n`);
    const pattern = new RegExp(`^([^]*?)begin:(\\d+):${mark}`);
    const endsAt = performance.now() + timeoutMs;
    for (;;) {
      const found = pattern.exec(this.text);
      if (found !== null) {
        if (found[2] !== '0') {
          throw new Error(`in the guest: ${command}: status ${String(found[2])}: ${found[1] ?? ''}`);
        }
        return found[1] ?? '';
      }
      if (performance.now() > endsAt) {
        throw new Error(`in the guest: ${command}: no end within ${String(timeoutMs)} ms; so far ${JSON.stringify(this.text.slice(-500))}`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 1000);
        this.wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  close(): void {
    this.socket.destroy();
  }
}

async function dialUntil(path: string, endsAt: number): Promise<Socket> {
  for (;;) {
    try {
      return await dial(path);
    } catch (reason) {
      if (performance.now() > endsAt) {
        throw reason;
      }
      await new Promise((resolve) => setTimeout(resolve, CONNECT_STEP_MS));
    }
  }
}

async function dial(path: string): Promise<Socket> {
  const socket = connect(path);
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
  return socket;
}
