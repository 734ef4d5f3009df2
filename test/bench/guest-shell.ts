/** A root shell in a guest, through the console socket that `debug_console_enabled` gives. */
import { connect, type Socket } from 'node:net';

const READY_TIMEOUT_MS = 60_000;
const CONNECT_TRIES = 200;

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
    for (let tries = 0; ; tries++) {
      try {
        const shell = new GuestShell(await dial(path));
        await shell.run('stty -echo 2>/dev/null', READY_TIMEOUT_MS);
        return shell;
      } catch (reason) {
        if (tries >= CONNECT_TRIES) {
          throw reason;
        }
        await new Promise((resolve) => setTimeout(resolve, 50));
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

async function dial(path: string): Promise<Socket> {
  const socket = connect(path);
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
  return socket;
}
