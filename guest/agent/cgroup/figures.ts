/** A counter of the kernel: `max`, nothing and nonsense have the fallback. */
export function toCounter(text: string | undefined, fallback = 0n): bigint {
  return text !== undefined && /^\d+$/.test(text.trim()) ? BigInt(text.trim()) : fallback;
}

/** `key value` lines. */
export function toTable(text: string | undefined): Map<string, bigint> {
  const table = new Map<string, bigint>();
  for (const line of (text ?? '').split('\n')) {
    const match = /^(\S+) (\d+)$/.exec(line.trim());
    if (match?.[1] !== undefined && match[2] !== undefined) {
      table.set(match[1], BigInt(match[2]));
    }
  }
  return table;
}

/** The limit of "no limit" as v1 says it. */
export const NO_LIMIT = 9223372036854771712n;

/** Page sizes of huge pages as the files of the controllers name them. */
export const HUGE_PAGE_SIZES = ['64KB', '2MB', '32MB', '1GB'] as const;
