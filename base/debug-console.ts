/**
 * What the agent's debug console says beside the bytes of its shell. A plain client (socat, upstream's kata-runtime) needs
 * to know none of it: both marks are terminal sequences that no terminal shows, and its own bytes go to the shell as they are.
 *
 * - `CONSOLE_HELLO` opens the output of a console that can be told the size of the window. A client that wants to tell
 *   it answers with `CONSOLE_ATTACH`; from then on its input is escaped: FF FF is the byte FF, and FF 57 (`W`) is followed
 *   by the rows and the columns of its window, two bytes each, high byte first (as in telnet's NAWS, RFC 1073). FF is no part of
 *   any UTF-8 text, so nothing that is typed is ever held back.
 * - `CONSOLE_END` comes when the shell has ended. A connection that opened with `CONSOLE_HELLO` and ends without it has broken.
 *   A virtio-serial port does not tell the host that the guest has closed it: there the agent waits until the host, which
 *   has seen the mark, has gone before it serves the next.
 */
export const CONSOLE_HELLO = '\u001b]kata-console-hello\u0007';
export const CONSOLE_END = '\u001b]kata-console-end\u0007';
export const CONSOLE_ATTACH = Buffer.concat([Buffer.from([0xff]), Buffer.from('kata-console-attach'), Buffer.from([0xff])]);

const ESCAPE = 0xff;
const WINDOW = 0x57;
const WINDOW_BYTES = 4;
const MAX_CELLS = 0xffff;

export interface WindowSize {
  readonly rows: number;
  readonly columns: number;
}

/** How many bytes at the end of `bytes` may be the beginning of `mark`. */
function begun(bytes: Buffer, mark: Buffer): number {
  let length = Math.min(mark.length - 1, bytes.length);
  while (length > 0 && !bytes.subarray(bytes.length - length).equals(mark.subarray(0, length))) {
    length--;
  }
  return length;
}

/** The client's side: passes a console's output on without the marks, however the pieces are cut. */
export class ConsoleOutput {
  private held = Buffer.alloc(0);
  private isGreeted = false;

  /** What may be shown of what came so far. `greeted` is true once: the console can be told the size of the window. With `ended` nothing comes after it. */
  push(chunk: Uint8Array): { readonly output: Buffer; readonly greeted: boolean; readonly ended: boolean } {
    const [hello, end] = [Buffer.from(CONSOLE_HELLO), Buffer.from(CONSOLE_END)];
    let all = Buffer.concat([this.held, chunk]);
    const helloAt = this.isGreeted ? -1 : all.indexOf(hello);
    const greeted = helloAt >= 0;
    if (greeted) {
      this.isGreeted = true;
      all = Buffer.concat([all.subarray(0, helloAt), all.subarray(helloAt + hello.length)]);
    }
    const at = all.indexOf(end);
    if (at >= 0) {
      this.held = Buffer.alloc(0);
      return { output: all.subarray(0, at), greeted, ended: true };
    }
    const keep = Math.max(begun(all, end), this.isGreeted ? 0 : begun(all, hello));
    this.held = Buffer.from(all.subarray(all.length - keep));
    return { output: all.subarray(0, all.length - keep), greeted, ended: false };
  }
}

/** The client's input after `CONSOLE_ATTACH`. */
export function escapeInput(bytes: Buffer): Buffer {
  if (!bytes.includes(ESCAPE)) {
    return bytes;
  }
  return Buffer.from([...bytes].flatMap((byte) => (byte === ESCAPE ? [ESCAPE, ESCAPE] : [byte])));
}

/** Tells the size of the window, after `CONSOLE_ATTACH`. */
export function windowMessage({ rows, columns }: WindowSize): Buffer {
  const message = Buffer.alloc(2 + WINDOW_BYTES);
  message.writeUInt8(ESCAPE, 0);
  message.writeUInt8(WINDOW, 1);
  message.writeUInt16BE(Math.min(rows, MAX_CELLS), 2);
  message.writeUInt16BE(Math.min(columns, MAX_CELLS), 4);
  return message;
}

/** The agent's side: takes what is not for the shell out of a client's input, however the pieces are cut. */
export class ConsoleInput {
  private held = Buffer.alloc(0);
  private isAttached = false;

  /** The bytes for the shell, and the last size of the window that was told. */
  push(chunk: Uint8Array): { readonly input: Buffer; readonly window: WindowSize | undefined } {
    const all = this.held.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.held, chunk]);
    if (this.isAttached) {
      return this.unescape(all);
    }
    const at = all.indexOf(CONSOLE_ATTACH);
    if (at < 0) {
      const keep = begun(all, CONSOLE_ATTACH);
      this.held = Buffer.from(all.subarray(all.length - keep));
      return { input: all.subarray(0, all.length - keep), window: undefined };
    }
    this.isAttached = true;
    const { input, window } = this.unescape(all.subarray(at + CONSOLE_ATTACH.length));
    return { input: Buffer.concat([all.subarray(0, at), input]), window };
  }

  private unescape(all: Buffer): { readonly input: Buffer; readonly window: WindowSize | undefined } {
    const parts: Buffer[] = [];
    let window: WindowSize | undefined;
    let from = 0;
    for (let at = all.indexOf(ESCAPE); at >= 0; at = all.indexOf(ESCAPE, from)) {
      parts.push(all.subarray(from, at));
      const kind = all[at + 1];
      if (kind === undefined || (kind === WINDOW && all.length < at + 2 + WINDOW_BYTES)) {
        this.held = Buffer.from(all.subarray(at));
        return { input: Buffer.concat(parts), window };
      }
      if (kind === ESCAPE) {
        parts.push(all.subarray(at, at + 1));
      } else if (kind === WINDOW) {
        window = { rows: all.readUInt16BE(at + 2), columns: all.readUInt16BE(at + 4) };
      }
      from = at + 2 + (kind === WINDOW ? WINDOW_BYTES : 0);
    }
    this.held = Buffer.alloc(0);
    return { input: Buffer.concat([...parts, all.subarray(from)]), window };
  }
}
