/** Runs test files with node:test, shows them as they come, and keeps what `hack/test.ts` tells at the end. */
import { setMaxListeners } from 'node:events';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { finished } from 'node:stream/promises';
import { relative } from 'node:path';

export interface Totals {
  passed: number;
  failed: number;
  skipped: number;
  /** A text for each failure: where, what, and the error. */
  readonly failures: string[];
}

export interface RunOptions {
  readonly root: string;
  readonly files: readonly string[];
  /** Files at once. */
  readonly concurrency: number;
  /** A test that hangs fails; a suite that hangs all the same is ended. */
  readonly testTimeoutMs: number;
  readonly suiteTimeoutMs: number;
}

interface TestEnd {
  readonly name: string;
  readonly nesting: number;
  readonly file?: string;
  readonly skip?: string | boolean;
  readonly details: { readonly type?: string; readonly error?: { readonly failureType?: string; readonly cause?: unknown } };
}

/** CI shows only the end of a log: a long error must not push the others out of it. */
const MAX_ERROR_LINES = 40;
const MAX_LINE = 400;

export function emptyTotals(): Totals {
  return { passed: 0, failed: 0, skipped: 0, failures: [] };
}

/** The lines of an error, shortened in their middle. */
export function shorten(text: string): string {
  const lines = text.trimEnd().split('\n').map((line) => (line.length > MAX_LINE ? `${line.slice(0, MAX_LINE)}...` : line));
  const half = MAX_ERROR_LINES / 2;
  return (lines.length > MAX_ERROR_LINES ? [...lines.slice(0, half), `... (${String(lines.length - 2 * half)} lines)`, ...lines.slice(-half)] : lines).join('\n');
}

/** Message and place of an error: its stack without the frames of Node and of packages. */
export function errorText(root: string, error: NonNullable<TestEnd['details']['error']>): string {
  const { failureType = 'testCodeFailure', cause } = error;
  const { message = String(cause), stack = '' } = (typeof cause === 'object' && cause !== null ? cause : {}) as Partial<Error>;
  const frames = stack.split('\n').filter((line) => /^\s+at .*\d+:\d+\)?$/.test(line) && !/node:|node_modules/.test(line));
  return [
    ...(failureType === 'testCodeFailure' ? [] : [`(${failureType})`]),
    shorten(message),
    ...frames.slice(0, 4).map((line) => line.replaceAll(`${root}/`, '')),
  ].join('\n');
}

/** How long each file took, where one ran after the other. */
class FileTimes {
  private readonly ms = new Map<string, number>();
  private last = performance.now();
  /** The test file that runs; undefined where several do. */
  current: string | undefined;

  constructor(
    private readonly files: readonly string[],
    private readonly oneByOne: boolean,
  ) {}

  seen(file: string | undefined): void {
    const now = performance.now();
    if (file !== undefined && this.files.includes(file)) {
      this.current = this.oneByOne ? file : undefined;
      this.ms.set(file, (this.ms.get(file) ?? 0) + now - this.last);
      this.last = now;
    }
  }

  text(root: string): string {
    return [...this.ms].map(([file, ms]) => `${relative(root, file).replace(/^.*\/|\.test\.ts$/g, '')} ${(ms / 1000).toFixed(0)} s`).join(', ');
  }
}

export async function runFiles(options: RunOptions): Promise<Totals> {
  const { root, files, concurrency } = options;
  const totals = emptyTotals();
  const paths = files.map((file) => `${root}/${file}`);
  const times = new FileTimes(paths, concurrency === 1);
  const timer = new AbortController();
  // Each file listens to it.
  setMaxListeners(0, timer.signal);
  const ended = setTimeout(() => { timer.abort(); }, options.suiteTimeoutMs);
  const stream = run({ files: paths, concurrency, timeout: options.testTimeoutMs, signal: timer.signal });
  stream.on('test:pass', (end: TestEnd) => {
    if (end.details.type !== 'suite') {
      totals[end.skip === undefined || end.skip === false ? 'passed' : 'skipped']++;
    }
  });
  stream.on('test:fail', (end: TestEnd) => {
    const { error } = end.details;
    if (error?.failureType === 'subtestsFailed') {
      return;
    }
    totals.failed++;
    // A hook fails under the name of the file that has it, which may be one of test/support.
    const name = end.name === end.file ? 'the file itself, or its before or after' : end.name;
    totals.failures.push(`${relative(root, times.current ?? end.file ?? '')}: ${name}\n${error === undefined ? '' : errorText(root, error)}`);
  });
  for (const event of ['test:pass', 'test:fail', 'test:plan', 'test:diagnostic'] as const) {
    stream.on(event, ({ file }: { readonly file?: string }) => { times.seen(file); });
  }
  const shown = stream.compose(new spec()) as NodeJS.ReadableStream;
  shown.pipe(process.stdout, { end: false });
  await finished(shown).catch((reason: unknown) => {
    totals.failed++;
    totals.failures.push(`the run of ${String(files.length)} files: ${String(reason)}`);
  });
  clearTimeout(ended);
  if (concurrency === 1) {
    console.log(`   ${times.text(root)}`);
  }
  return totals;
}
