/**
 * Runs suites: `npx tsx hack/test.ts [lint] [unit] [contract] [integration]`, with `--only WORD` for files whose path
 * has that word. Prints each suite's results as they come and ends with `N passed, N failed` alone on a line.
 */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';

const ROOT = join(__dirname, '..');
const RESULTS = join(ROOT, 'build/test');
/** A test that hangs fails; a suite that hangs all the same is ended. */
const TEST_TIMEOUT_MS = 10 * 60_000;
const SUITE_TIMEOUT_MS = 40 * 60_000;

interface Totals {
  passed: number;
  failed: number;
  skipped: number;
}

/** Checks that are one command each; a check counts as one test. */
const CHECKS: readonly { readonly name: string; readonly command: readonly string[] }[] = [
  { name: 'eslint', command: ['npx', 'eslint', '--max-warnings', '0', '.'] },
  { name: 'types', command: ['npx', 'tsc', '--noEmit', '-p', 'tsconfig.json'] },
  { name: 'layers and cycles', command: ['npm', 'run', '-s', 'layers'] },
  { name: 'generated code is up to date', command: ['hack/generate.sh', '--check'] },
  { name: 'docs/configuration.md is up to date', command: ['npx', 'tsx', 'hack/config-docs.ts', '--check'] },
];

const UNIT_FOLDERS = ['base', 'ttrpc-ts/src', 'agent-client', 'virtcontainers', 'factory', 'shim', 'kata-runtime', 'guest', 'hack'];

function testFiles(folder: string): string[] {
  const absolute = join(ROOT, folder);
  if (!existsSync(absolute)) {
    return [];
  }
  return readdirSync(absolute, { withFileTypes: true })
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) {
        return entry.name === 'node_modules' || entry.name === 'dist' ? [] : testFiles(path);
      }
      return entry.name.endsWith('.test.ts') ? [path] : [];
    })
    .sort();
}

function filesOf(suite: string): string[] {
  return suite === 'unit' ? UNIT_FOLDERS.flatMap(testFiles) : testFiles(`test/${suite}`);
}

async function runFiles(suite: string, files: readonly string[], concurrency: number): Promise<Totals> {
  mkdirSync(RESULTS, { recursive: true });
  const tap = join(RESULTS, `${suite}.tap`);
  const reporters = ['--test-reporter=spec', '--test-reporter-destination=stdout', '--test-reporter=tap', `--test-reporter-destination=${tap}`];
  const limits = [`--test-concurrency=${String(concurrency)}`, `--test-timeout=${String(TEST_TIMEOUT_MS)}`];
  const args = ['--import', 'tsx', '--test', ...limits, ...reporters, ...files];
  const status = await new Promise<number>((resolve) => {
    const child = spawn(process.execPath, args, { cwd: ROOT, stdio: ['ignore', 'inherit', 'inherit'], timeout: SUITE_TIMEOUT_MS, killSignal: 'SIGKILL' });
    child.on('close', (code) => resolve(code ?? 1));
  });
  const text = existsSync(tap) ? readFileSync(tap, 'utf8') : '';
  const count = (what: string): number => Number(new RegExp(`^# ${what} (\\d+)$`, 'm').exec(text)?.[1] ?? 0);
  const totals = { passed: count('pass'), failed: count('fail') + count('cancelled'), skipped: count('skipped') };
  if (status !== 0 && totals.failed === 0) {
    totals.failed = 1;
  }
  return totals;
}

function runChecks(): Totals {
  const totals = { passed: 0, failed: 0, skipped: 0 };
  for (const { name, command } of CHECKS) {
    const [file = '', ...args] = command;
    const done = spawnSync(file, args, { cwd: ROOT, encoding: 'utf8', maxBuffer: 64 << 20 });
    if (done.status === 0) {
      totals.passed++;
      console.log(`ok: ${name}`);
    } else {
      totals.failed++;
      console.log(`FAILED: ${name} (${command.join(' ')})\n${done.stdout}${done.stderr}`);
    }
  }
  return totals;
}

async function main(argv: readonly string[]): Promise<void> {
  const onlyAt = argv.indexOf('--only');
  const only = onlyAt < 0 ? undefined : argv[onlyAt + 1];
  const suites = argv.filter((_, index) => onlyAt < 0 || (index !== onlyAt && index !== onlyAt + 1));
  const all: Totals = { passed: 0, failed: 0, skipped: 0 };
  for (const suite of suites) {
    const started = Date.now();
    console.log(`\n== ${suite} ==`);
    const files = suite === 'lint' ? [] : filesOf(suite).filter((file) => only === undefined || file.includes(only));
    const totals = suite === 'lint' ? runChecks() : await runFiles(suite, files, suite === 'unit' ? 2 : 1);
    if (suite !== 'lint' && totals.passed + totals.failed === 0) {
      console.log(`no test ran in ${relative(process.cwd(), ROOT) || '.'} for "${suite}"`);
      totals.failed = 1;
    }
    console.log(`-- ${suite}: ${String(totals.passed)} passed, ${String(totals.failed)} failed, ${String(totals.skipped)} skipped, ${String(Math.round((Date.now() - started) / 1000))} s`);
    all.passed += totals.passed;
    all.failed += totals.failed;
    all.skipped += totals.skipped;
  }
  if (all.skipped > 0) {
    console.log(`\n${String(all.skipped)} skipped, each with what is missing in its text`);
  }
  console.log(`\n${String(all.passed)} passed, ${String(all.failed)} failed`);
  process.exitCode = all.failed === 0 ? 0 : 1;
}

void main(process.argv.slice(2));
