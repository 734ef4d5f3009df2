/**
 * `make guest`: builds build/guest/{vmlinux,initrd.img,manifest.json} from Debian packages, Node.js and our agent.
 * Same inputs give the same bytes; with nothing changed it ends at once.
 * Options: --agent FILE  --sys FILE  --node FILE  --out FOLDER  --force
 */
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, readdirSync, realpathSync, renameSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { buildSync } from 'esbuild';
import { describeError, KataError } from '../../base/errors';
import { guestEntries, kernelRelease } from './contents';
import { cpioOf, withParents, type Entry } from './cpio';
import { extractKernel } from './kernel';
import { lz4Legacy } from './lz4';
import { nodeForGuest } from './node-program';
import { downloadPackages, guestPackageNames, resolvePackages, sha256Of, unpackPackages, type Package } from './packages';

const ROOT = join(__dirname, '../..');
const CACHE = join(ROOT, '.cache/debs');

interface Options {
  readonly agent: string;
  readonly sys: string;
  readonly node: string;
  readonly out: string;
  readonly force: boolean;
}

interface Output {
  readonly bytes: number;
  readonly sha256: string;
}

/** build/guest/manifest.json. Sizes in bytes. */
interface Manifest {
  readonly key: string;
  readonly kernelRelease: string;
  readonly inputs: { readonly packages: readonly Package[]; readonly node: Output & { readonly version: string }; readonly ours: Readonly<Record<string, Output>> };
  readonly outputs: Readonly<Record<string, Output>>;
  readonly contents: readonly { readonly path: string; readonly kind: Entry['kind']; readonly bytes: number }[];
}

function readOptions(argv: string[]): Options {
  const { values } = parseArgs({
    args: argv,
    options: { agent: { type: 'string' }, sys: { type: 'string' }, node: { type: 'string' }, out: { type: 'string' }, force: { type: 'boolean' } },
  });
  return {
    agent: values.agent ?? join(ROOT, 'build/agent.cjs'),
    sys: values.sys ?? join(ROOT, 'build/sys.node'),
    node: realpathSync(values.node ?? process.execPath),
    out: values.out ?? join(ROOT, 'build/guest'),
    force: values.force ?? false,
  };
}

function progress(text: string): void {
  console.log(`guest: ${text}`);
}

function mebibytes(bytes: number): string {
  return `${(bytes / 1048576).toFixed(1)} MiB`;
}

function checkInputs(options: Options): void {
  for (const [path, remedy] of [[options.agent, 'run make build'], [options.sys, 'run make build'], [options.node, 'give --node PATH']] as const) {
    if (!existsSync(path)) {
      throw new KataError('NotFound', `build the guest: no ${path}`, { hint: remedy });
    }
  }
  if (process.arch !== 'x64') {
    throw new KataError('Unimplemented', `build the guest: only x86_64 is supported so far, this is ${process.arch}`, { hint: 'build on an x86_64 machine' });
  }
}

/** Digest of all that the output depends on. Node.js counts by place, size and time: hashing 100 MB costs each run 0.3 s. */
function keyOf(options: Options, packages: readonly Package[]): string {
  const sources = readdirSync(__dirname).filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts')).sort();
  const node = statSync(options.node);
  return sha256Of(
    Buffer.from(
      JSON.stringify([
        [...sources.map((name) => join(__dirname, name)), options.agent, options.sys].map((path) => sha256Of(readFileSync(path))),
        sha256Of(bundleInit()),
        [options.node, node.size, node.mtimeMs],
        packages.map(({ name, version, sha256 }) => [name, version, sha256]),
      ]),
    ),
  );
}

function isUpToDate(out: string, key: string): Manifest | undefined {
  const file = join(out, 'manifest.json');
  if (!existsSync(file)) {
    return undefined;
  }
  const manifest = JSON.parse(readFileSync(file, 'utf8')) as Manifest;
  const whole = Object.entries(manifest.outputs).every(([name, output]) => existsSync(join(out, name)) && statSync(join(out, name)).size === output.bytes);
  return manifest.key === key && whole ? manifest : undefined;
}

function bundleInit(): Buffer {
  const built = buildSync({
    absWorkingDir: ROOT, entryPoints: ['guest/image/init.ts'], bundle: true, write: false, platform: 'node', target: 'node20', format: 'cjs', minify: true,
    external: ['./agent.cjs'], banner: { js: '#!/usr/bin/node' }, tsconfig: join(ROOT, 'tsconfig.json'), logLevel: 'warning',
  });
  return Buffer.from(built.outputFiles[0]?.contents ?? []);
}

function writeParts(path: string, parts: readonly Buffer[]): Output {
  const whole = Buffer.concat(parts);
  const fd = openSync(path, 'w', 0o644);
  try {
    for (let done = 0; done < whole.length; ) {
      done += writeSync(fd, whole, done);
    }
  } finally {
    closeSync(fd);
  }
  return { bytes: whole.length, sha256: sha256Of(whole) };
}

function outputOf(bytes: Buffer): Output {
  return { bytes: bytes.length, sha256: sha256Of(bytes) };
}

function build(options: Options, packages: readonly Package[], key: string): Manifest {
  const debs = downloadPackages(packages, CACHE, progress);
  mkdirSync(options.out, { recursive: true });
  const work = mkdtempSync(join(options.out, '.building-'));
  try {
    const unpacked = join(work, 'packages');
    progress(`unpacking ${String(debs.size)} packages`);
    unpackPackages(debs.values(), unpacked);
    const release = kernelRelease(unpacked);
    progress(`extracting kernel ${release}`);
    const vmlinux = writeParts(join(work, 'vmlinux'), [extractKernel(readFileSync(join(unpacked, 'boot', `vmlinuz-${release}`)), `vmlinuz-${release}`)]);
    progress('writing the initrd');
    const ours = { 'init.cjs': bundleInit(), 'agent.cjs': readFileSync(options.agent), 'sys.node': readFileSync(options.sys) };
    const nodeBytes = nodeForGuest(options.node, join(work, 'node'), progress);
    const entries = guestEntries({ packages: unpacked, node: options.node, nodeBytes, ours });
    const initrd = writeParts(join(work, 'initrd.img'), lz4Legacy(Buffer.concat(cpioOf(entries))));
    const manifest: Manifest = {
      key,
      kernelRelease: release,
      inputs: {
        packages,
        node: { version: options.node === realpathSync(process.execPath) ? process.version : 'given', ...outputOf(readFileSync(options.node)) },
        ours: Object.fromEntries(Object.entries(ours).map(([name, bytes]) => [name, outputOf(bytes)])),
      },
      outputs: { vmlinux, 'initrd.img': initrd },
      contents: withParents(entries)
        .map((entry) => ({ path: entry.path, kind: entry.kind, bytes: entry.kind === 'file' ? entry.data.length : 0 }))
        .sort((a, b) => (a.path < b.path ? -1 : 1)),
    };
    writeFileSync(join(work, 'manifest.json'), `${JSON.stringify(manifest, undefined, 1)}\n`);
    // The manifest last: it says that the others are whole.
    for (const name of ['vmlinux', 'initrd.img', 'manifest.json']) {
      renameSync(join(work, name), join(options.out, name));
    }
    return manifest;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** What takes the room, by folder; the largest first. */
function printContents(manifest: Manifest): void {
  const groups = new Map<string, number>();
  for (const { path, bytes } of manifest.contents) {
    const group = path.startsWith('usr/lib/modules') ? 'kernel modules' : path === 'usr/bin/node' ? 'Node.js' : path.startsWith('usr/lib/kata-ts') ? 'agent' : path.includes('/lib') ? 'libraries' : 'programs and texts';
    groups.set(group, (groups.get(group) ?? 0) + bytes);
  }
  console.log('unpacked in the guest:');
  for (const [group, bytes] of [...groups].sort((a, b) => b[1] - a[1])) {
    console.log(`  ${mebibytes(bytes).padStart(10)}  ${group}`);
  }
}

function print(manifest: Manifest, out: string): void {
  for (const [name, { bytes, sha256 }] of Object.entries(manifest.outputs)) {
    console.log(`  ${mebibytes(bytes).padStart(10)}  ${relative(process.cwd(), join(out, name))}  sha256 ${sha256.slice(0, 16)}`);
  }
}

function main(): void {
  const options = readOptions(process.argv.slice(2));
  checkInputs(options);
  const packages = resolvePackages(guestPackageNames(readFileSync(join(ROOT, 'hack/debian-packages'), 'utf8')), CACHE, progress);
  const key = keyOf(options, packages);
  const known = options.force ? undefined : isUpToDate(options.out, key);
  if (known !== undefined) {
    progress(`up to date, kernel ${known.kernelRelease}, ${String(known.contents.length)} files`);
    print(known, options.out);
    return;
  }
  const started = Date.now();
  const manifest = build(options, packages, key);
  progress(`built in ${((Date.now() - started) / 1000).toFixed(1)} s, kernel ${manifest.kernelRelease}, ${String(manifest.contents.length)} files`);
  print(manifest, options.out);
  printContents(manifest);
}

try {
  main();
} catch (reason) {
  console.error(`guest: ${describeError(reason)}`);
  process.exitCode = 1;
}
