/**
 * Builds everything that is shipped into build/: the native system calls, one bundle per entry, the launchers.
 * `npx tsx hack/build.ts`; called by `make build`.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, rmSync, readFileSync, statSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { buildSync } from 'esbuild';

const ROOT = join(__dirname, '..');
const OUT = join(ROOT, 'build');

/** Entry file -> bundle. Entries that do not exist yet are skipped with a word. */
const BUNDLES: readonly { readonly entry: string; readonly out: string }[] = [
  { entry: 'shim/main.ts', out: 'shim.cjs' },
  // Loaded by shim.cjs when it needs them (shim/parts.ts).
  { entry: 'shim/serve.ts', out: 'shim-serve.cjs' },
  { entry: 'shim/wiring.ts', out: 'shim-wiring.cjs' },
  { entry: 'shim/delete.ts', out: 'shim-delete.cjs' },
  { entry: 'kata-runtime/main.ts', out: 'kata-runtime.cjs' },
  { entry: 'guest/agent/main.ts', out: 'agent.cjs' },
];

const LAUNCHERS: readonly string[] = ['containerd-shim-kata-v2', 'kata-runtime', 'kata-monitor'];

/** Constants of the bundles; kata-runtime/version.ts reads them. */
function constants(): Record<string, string> {
  const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
  let commit = '';
  try {
    commit = execFileSync('git', ['rev-parse', 'HEAD'], { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    // built from an archive: unknown
  }
  return { KATA_TS_VERSION: JSON.stringify(version), KATA_TS_COMMIT: JSON.stringify(commit) };
}

function isNewer(output: string, ...inputs: string[]): boolean {
  return existsSync(output) && inputs.every((input) => statSync(output).mtimeMs >= statSync(input).mtimeMs);
}

function buildNative(): void {
  const source = join(ROOT, 'base/native/sys.c');
  const output = join(OUT, 'sys.node');
  if (isNewer(output, source)) {
    return;
  }
  const include = join(dirname(require.resolve('node-api-headers/package.json')), 'include');
  execFileSync(
    'gcc',
    ['-O2', '-s', '-Wall', '-Werror', '-shared', '-fPIC', '-nostdlib', '-fno-stack-protector', '-Wl,--build-id=none', `-I${include}`, '-o', output, source],
    { stdio: 'inherit' },
  );
}

function buildBundles(): void {
  const define = constants();
  for (const { entry, out } of BUNDLES) {
    if (!existsSync(join(ROOT, entry))) {
      console.log(`skip ${entry}: not there yet`);
      continue;
    }
    const { outputFiles } = buildSync({
      write: false,
      absWorkingDir: ROOT,
      entryPoints: [entry],
      outfile: join(OUT, out),
      bundle: true,
      platform: 'node',
      target: 'node20',
      // Compiled code (code-cache.ts) runs without a callback for import(): a late module is a late require.
      supported: { 'dynamic-import': false },
      format: 'cjs',
      minify: true,
      // Every pod pays for the shim's names, 0.4 MB; its stack traces are read with the source maps.
      keepNames: !out.startsWith('shim'),
      sourcemap: 'linked',
      logLevel: 'warning',
      tsconfig: join(ROOT, 'tsconfig.json'),
      define,
    });
    // In one step: a shim that starts meanwhile must find a whole bundle.
    for (const { path, contents } of outputFiles) {
      writeFileSync(`${path}.new`, contents);
      renameSync(`${path}.new`, path);
    }
  }
}

const CACHED = BUNDLES.map(({ out }) => join(OUT, out)).filter((file) => /\/shim-\w+\.cjs$/.test(file));

/** Before new bundles are there: V8 would take an old cache for other code of the same length. */
function dropCaches(): void {
  for (const file of CACHED) {
    rmSync(`${file}.cache`, { force: true });
  }
}

/** Compiled code beside the bundles that every pod loads. */
function cacheCode(): void {
  const files = CACHED.filter((file) => existsSync(file));
  execFileSync(process.execPath, ['--import', 'tsx', join(ROOT, 'hack/code-cache.ts'), ...files], { cwd: ROOT, stdio: 'inherit' });
}

function copyLaunchers(): void {
  for (const name of LAUNCHERS) {
    const source = join(ROOT, 'hack', 'launchers', name);
    if (existsSync(source)) {
      copyFileSync(source, join(OUT, name));
      chmodSync(join(OUT, name), 0o755);
    }
  }
}

mkdirSync(OUT, { recursive: true });
buildNative();
dropCaches();
buildBundles();
cacheCode();
copyLaunchers();
