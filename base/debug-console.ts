/**
 * A virtio-serial port does not tell the host that the guest has closed it. The agent therefore ends a debug console on
 * such a port with this sequence, which no terminal shows, and waits until the host has gone before it serves the next.
 */
export const CONSOLE_END = '\u001b]kata-console-end\u0007';

/** Passes a console's output on and finds `CONSOLE_END` in it, however the pieces are cut. */
export class ConsoleEndFinder {
  private held = Buffer.alloc(0);

  /** What may be shown of what came so far; with `ended` nothing comes after it. */
  push(chunk: Uint8Array): { readonly output: Buffer; readonly ended: boolean } {
    const mark = Buffer.from(CONSOLE_END);
    const all = Buffer.concat([this.held, chunk]);
    const at = all.indexOf(mark);
    if (at >= 0) {
      this.held = Buffer.alloc(0);
      return { output: all.subarray(0, at), ended: true };
    }
    let keep = Math.min(mark.length - 1, all.length);
    while (keep > 0 && !all.subarray(all.length - keep).equals(mark.subarray(0, keep))) {
      keep--;
    }
    this.held = Buffer.from(all.subarray(all.length - keep));
    return { output: all.subarray(0, all.length - keep), ended: false };
  }
}
