let last = 0n;

/** 16 hex digits that no other name made by this process has, and hardly one of another: the clock, strictly growing. Not secret. */
export function uniqueHex(): string {
  const now = process.hrtime.bigint();
  last = now > last ? now : last + 1n;
  return last.toString(16).padStart(16, '0').slice(-16);
}
