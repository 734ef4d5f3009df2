/** A real terminal with a shell in it, of tmux: what a person at a keyboard sees. */
import { execFileSync, spawnSync } from 'node:child_process';

const LOOK_MS = 100;
const LOOKS = 300;

export class Terminal {
  /** False where tmux is not installed. */
  static isThere(): boolean {
    return spawnSync('tmux', ['-V']).status === 0;
  }

  /** Opens one with a server of its own at `socket`. The caller closes it. */
  constructor(
    private readonly socket: string,
    size: { readonly columns: number; readonly rows: number },
  ) {
    this.tmux('-f', '/dev/null', 'new-session', '-d', '-x', String(size.columns), '-y', String(size.rows), 'sh');
  }

  /** Types keys: text, or names as `Enter` and `C-c`. */
  type(...keys: string[]): void {
    this.tmux('send-keys', ...keys);
  }

  resize(size: { readonly columns: number; readonly rows: number }): void {
    this.tmux('resize-window', '-x', String(size.columns), '-y', String(size.rows));
  }

  /** What is shown, with wrapped lines as one. */
  screen(): string {
    return this.tmux('capture-pane', '-p', '-J');
  }

  /** The screen as soon as it shows `pattern`; throws after 30 s. */
  async until(pattern: RegExp): Promise<string> {
    for (let looks = 0; looks < LOOKS; looks++) {
      const screen = this.screen();
      if (pattern.test(screen)) {
        return screen;
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
    throw new Error(`the screen never showed ${String(pattern)}:\n${this.tmux('capture-pane', '-p')}`);
  }

  close(): void {
    this.tmux('kill-server');
  }

  private tmux(...args: string[]): string {
    return execFileSync('tmux', ['-S', this.socket, ...args], { encoding: 'utf8' });
  }
}
