/**
 * Runs suites: `npx tsx hack/test.ts [lint] [unit] [contract] [integration] [template] [cache]`, with `--only WORD` for
 * files whose path has that word. Prints each suite's results as they come, then what failed and why, and ends with
 * `N passed, N failed` alone on a line.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { destroyTemplates } from '../test/support/factory-mode';
import { emptyTotals, runFiles, shorten, type Totals } from './test-run';

const ROOT = join(__dirname, '..');
const TEST_TIMEOUT_MS = 10 * 60_000;
const SUITE_TIMEOUT_MS = 40 * 60_000;

/** Checks that are one command each; a check counts as one test. */
const CHECKS: readonly { readonly name: string; readonly command: readonly string[] }[] = [
  { name: 'eslint', command: ['npx', 'eslint', '--max-warnings', '0', '.'] },
  { name: 'types', command: ['npx', 'tsc', '--noEmit', '-p', 'tsconfig.json'] },
  { name: 'layers and cycles', command: ['npm', 'run', '-s', 'layers'] },
  { name: 'generated code is up to date', command: ['hack/generate.sh', '--check'] },
  { name: 'docs/configuration.md is up to date', command: ['npx', 'tsx', 'hack/config-docs.ts', '--check'] },
];

const UNIT_FOLDERS = ['base', 'ttrpc-ts/src', 'agent-client', 'virtcontainers', 'factory', 'shim', 'kata-runtime', 'guest', 'hack'];

/**
 * `template` and `cache` run the integration suites once more, every sandbox from the factory. Not these, to which it
 * makes no difference where a VM comes from:
 */
const NOT_FROM_A_FACTORY: Readonly<Record<string, string>> = {
  'bad-host': 'the mock hypervisor, which has no factory',
  cli: 'commands and endpoints, which ask the same shim and agent',
  'cli-bad-input': 'what the command says of wrong input',
  'cli-monitor': 'the mock hypervisor',
  compat: 'the side of the shim that versions of containerd see; all but one test of each on the mock hypervisor',
  'compat-docker': 'the same for dockerd',
  cri: 'the same for the CRI plugin',
  'direct-volume': 'disks added to a running VM, as the root file systems of clones in factory-shares',
  install: 'which files are where, and which version a pod runs',
  'monitor-metrics': 'turns the factory on itself, as all factory-* do',
  'monitor-page': 'a page over the metrics that cli looks at',
  streams: 'the mock hypervisor',
};

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
  if (suite === 'template' || suite === 'cache') {
    const without = Object.keys(NOT_FROM_A_FACTORY).map((name) => `test/integration/${name}.test.ts`);
    return testFiles('test/integration').filter((file) => !without.includes(file) && !/\/factory[^/]*$/.test(file));
  }
  return suite === 'unit' ? UNIT_FOLDERS.flatMap(testFiles) : testFiles(`test/${suite}`);
}

async function runSuite(suite: string, files: readonly string[]): Promise<Totals> {
  const run = async (): Promise<Totals> =>
    runFiles({ root: ROOT, files, concurrency: suite === 'unit' ? 2 : 1, testTimeoutMs: TEST_TIMEOUT_MS, suiteTimeoutMs: SUITE_TIMEOUT_MS });
  if (suite !== 'template' && suite !== 'cache') {
    return run();
  }
  // One template for all files of the suite that have the same configuration, as on a real host.
  const templates = `/run/kata-ts-templates-${String(process.pid)}`;
  process.env['KATA_TEST_FACTORY'] = suite;
  process.env['KATA_TEST_TEMPLATES'] = templates;
  try {
    const totals = await run();
    const problem = destroyTemplates(templates);
    if (problem !== undefined) {
      totals.failed++;
      totals.failures.push(`the templates of the suite could not be destroyed: ${problem}`);
    }
    return totals;
  } finally {
    delete process.env['KATA_TEST_FACTORY'];
    delete process.env['KATA_TEST_TEMPLATES'];
  }
}

function runChecks(): Totals {
  const totals = emptyTotals();
  for (const { name, command } of CHECKS) {
    const [file = '', ...args] = command;
    const done = spawnSync(file, args, { cwd: ROOT, encoding: 'utf8', maxBuffer: 64 << 20 });
    if (done.status === 0) {
      totals.passed++;
      console.log(`ok: ${name}`);
    } else {
      totals.failed++;
      totals.failures.push(`${name} (${command.join(' ')})\n${shorten(`${done.stdout}${done.stderr}`)}`);
      console.log(`FAILED: ${name} (${command.join(' ')})\n${done.stdout}${done.stderr}`);
    }
  }
  return totals;
}

async function main(argv: readonly string[]): Promise<void> {
  const onlyAt = argv.indexOf('--only');
  const only = onlyAt < 0 ? undefined : argv[onlyAt + 1];
  const suites = argv.filter((_, index) => onlyAt < 0 || (index !== onlyAt && index !== onlyAt + 1));
  const all = emptyTotals();
  for (const suite of suites) {
    const started = Date.now();
    console.log(`\n== ${suite} ==`);
    const files = suite === 'lint' ? [] : filesOf(suite).filter((file) => only === undefined || file.includes(only));
    const totals = suite === 'lint' ? runChecks() : await runSuite(suite, files);
    if (totals.passed + totals.failed === 0) {
      totals.failed = 1;
      totals.failures.push(`no test ran in ${relative(process.cwd(), ROOT) || '.'}`);
    }
    console.log(`-- ${suite}: ${String(totals.passed)} passed, ${String(totals.failed)} failed, ${String(totals.skipped)} skipped, ${String(Math.round((Date.now() - started) / 1000))} s`);
    all.passed += totals.passed;
    all.failed += totals.failed;
    all.skipped += totals.skipped;
    all.failures.push(...totals.failures.map((text) => `FAILED in ${suite}: ${text}`));
  }
  if (all.skipped > 0) {
    console.log(`\n${String(all.skipped)} skipped, each with what is missing in its text`);
  }
  for (const text of all.failures) {
    console.log(`\n${text.replaceAll('\n', '\n    ')}`);
  }
  console.log(`\n${String(all.passed)} passed, ${String(all.failed)} failed`);
  process.exitCode = all.failed === 0 ? 0 : 1;
}

void main(process.argv.slice(2));
