/** What a guest or its VMM printed, as text to show to a user. */

/** The lines that say something, without control characters. */
export function spokenLines(text: string): string[] {
  return text
    .split(/\r?\n/)
    .map((line) => line.replace(/\x1b\[[0-9;?]*[A-Za-z]/g, '').replace(/[\x00-\x08\x0b-\x1f\x7f]/g, '').trimEnd())
    .filter((line) => line.trim() !== '');
}

const DYING = /Kernel panic - not syncing|Out of memory: Kill|BUG: unable to handle/;

/** What a dying kernel said first, the last time that it did: registers and a trace follow it, so that it is seldom among the last lines. */
export function dyingLine(lines: readonly string[]): string | undefined {
  return [...lines].reverse().find((line) => DYING.test(line));
}
