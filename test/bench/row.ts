/** One row of the table that `make bench` prints and writes to build/bench.json. */
export interface Row {
  readonly id: string;
  readonly what: string;
  /** Median of the samples, in `unit`. */
  readonly value: number;
  readonly unit: string;
  /** Against the row's yardstick, taken in the same run; null where there is none. */
  readonly ratio: number | null;
  /** The ratio or value promised in SPECIFICATION.md; null where nothing is promised. */
  readonly budget: number | null;
  readonly samples: readonly number[];
}

export function median(samples: readonly number[]): number {
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}

export interface RowInput {
  readonly id: string;
  readonly what: string;
  readonly unit: string;
  readonly samples: readonly number[];
  /** Samples of the yardstick; the ratio is median against median. */
  readonly yardstick?: readonly number[];
  readonly budget?: number;
}

export function row(input: RowInput): Row {
  const value = median(input.samples);
  return {
    id: input.id,
    what: input.what,
    value: round(value),
    unit: input.unit,
    ratio: input.yardstick === undefined ? null : round(value / median(input.yardstick)),
    budget: input.budget ?? null,
    samples: input.samples.map(round),
  };
}

/** The table as a person reads it; a missed budget is marked. `higherIsBetter` rows are those in MB/s. */
export function renderTable(rows: readonly Row[]): string {
  const lines = rows.map((r) => {
    const measured = r.ratio ?? r.value;
    const missed = r.budget !== null && (r.unit === 'MB/s' ? measured < r.budget : measured > r.budget);
    return [r.id, `${String(r.value)} ${r.unit}`, r.ratio === null ? '' : `${String(r.ratio)} x`, r.budget === null ? '' : String(r.budget), missed ? 'MISSED' : r.budget === null ? '' : 'ok', r.what];
  });
  const head = ['id', 'median', 'ratio', 'budget', '', 'what'];
  const widths = head.map((text, column) => Math.max(text.length, ...lines.map((line) => (line[column] ?? '').length)));
  return [head, ...lines].map((line) => line.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ').trimEnd()).join('\n');
}

/** Milliseconds that `work` takes. */
export async function timed(work: () => Promise<void> | void): Promise<number> {
  const start = process.hrtime.bigint();
  await work();
  return Number(process.hrtime.bigint() - start) / 1e6;
}

export async function repeat(count: number, work: (n: number) => Promise<number>): Promise<number[]> {
  const samples: number[] = [];
  for (let n = 0; n < count; n++) {
    samples.push(await work(n));
  }
  return samples;
}
