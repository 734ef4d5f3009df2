/**
 * `make guest`: builds build/guest/{vmlinux,initrd.img,manifest.json} from Debian packages, Node.js and our agent.
 * Same inputs give the same bytes; with nothing changed it ends at once, and
 * where only the agent changed it takes a second.
 * Options: --agent FILE  --sys FILE  --node FILE  --out FOLDER  --force (put together again; remove .cache/guest for all)
 */
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, readdirSync, realpathSync, renameSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { buildSync } from 'esbuild';
import { describeError, KataError } from '../../base/errors';
import { agentEntries, baseEntries, kernelRelease } from './contents';
import { compileAgent } from './compile-agent';
import { cpioOf, withParents, type Entry } from './cpio';
import { extractKernel } from './kernel';
import { lz4Legacy } from './lz4';
import { nodeForGuest } from './node-program';
import { downloadPackages, guestPackageNames, resolvePackages, sha256Of, unpackPackages, type Package } from './packages';

const ROOT = join(__dirname, '../..');
const CACHE = join(ROOT, '.cache/debs');
const BASES = join(ROOT, '.cache/guest');
/** Sources that the base does not depend on. */
const NOT_IN_BASE: ReadonlySet<string> = new Set(['init.ts', 'agent-script.ts', 'synthetic-elf.ts']);

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

/**
 * Digest of what the base depends on. Node.js counts by place, size and time: hashing 100 MB would cost each run 0.3 s.
 */
function baseKeyOf(options: Options, packages: readonly Package[]): string {
  const sources = readdirSync(__dirname).filter((name) => name.endsWith('.ts') && !NOT_IN_BASE.has(name) && !name.endsWith('.test.ts')).sort();
  const node = statSync(options.node);
  return sha256Of(
    Buffer.from(
      JSON.stringify([
        sources.map((name) => sha256Of(readFileSync(join(__dirname, name)))),
        [options.node, node.size, node.mtimeMs],
        packages.map(({ name, version, sha256 }) => [name, version, sha256]),
      ]),
    ),
  );
}

/** Files of ours, by name in the guest. */
function readOurs(options: Options): Readonly<Record<string, Buffer>> {
  return { 'init.cjs': bundleInit(), 'agent.cjs': readFileSync(options.agent), 'sys.node': readFileSync(options.sys) };
}

function keyOf(baseKey: string, ours: Readonly<Record<string, Buffer>>): string {
  return sha256Of(Buffer.from(JSON.stringify([baseKey, sha256Of(readFileSync(__filename)), Object.entries(ours).map(([name, bytes]) => [name, sha256Of(bytes)])])));
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
    banner: { js: '#!/usr/bin/node' }, tsconfig: join(ROOT, 'tsconfig.json'), logLevel: 'warning',
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

/** What changes seldom and takes long: the kernel, and the archive of packages, modules and Node.js. */
interface Base {
  readonly kernelRelease: string;
  readonly node: Output & { readonly version: string };
  readonly contents: Manifest['contents'];
}

function contentsOf(entries: readonly Entry[]): Manifest['contents'] {
  return withParents(entries).map((entry) => ({ path: entry.path, kind: entry.kind, bytes: entry.kind === 'file' ? entry.data.length : 0 }));
}

/** Builds the base into `folder`; base.json comes last and says that the others are whole. */
function buildBase(options: Options, packages: readonly Package[], folder: string): void {
  const debs = downloadPackages(packages, CACHE, progress);
  const unpacked = join(folder, 'packages');
  progress(`unpacking ${String(debs.size)} packages`);
  unpackPackages(debs.values(), unpacked);
  const release = kernelRelease(unpacked);
  progress(`extracting kernel ${release}`);
  writeFileSync(join(folder, 'vmlinux'), extractKernel(readFileSync(join(unpacked, 'boot', `vmlinuz-${release}`)), `vmlinuz-${release}`));
  const nodeBytes = nodeForGuest(options.node, join(folder, 'node'), progress);
  const entries = baseEntries({ packages: unpacked, node: options.node, nodeBytes });
  progress('compressing the initrd (about 10 s)');
  writeFileSync(join(folder, 'base.cpio.lz4'), Buffer.concat(lz4Legacy(Buffer.concat(cpioOf(entries)))));
  const version = options.node === realpathSync(process.execPath) ? process.version : 'given';
  const base: Base = { kernelRelease: release, node: { version, ...outputOf(readFileSync(options.node)) }, contents: contentsOf(entries) };
  writeFileSync(join(folder, 'base.json'), JSON.stringify(base));
  rmSync(unpacked, { recursive: true });
}

/** The folder with the base for this key, built where the cache has none; older ones are removed. */
function baseFor(options: Options, packages: readonly Package[], baseKey: string): string {
  const folder = join(BASES, baseKey.slice(0, 16));
  if (!existsSync(join(folder, 'base.json'))) {
    mkdirSync(BASES, { recursive: true });
    const work = mkdtempSync(join(BASES, 'building-'));
    try {
      buildBase(options, packages, work);
      const old = readdirSync(BASES).filter((name) => !name.startsWith('building-'));
      rmSync(folder, { recursive: true, force: true });
      renameSync(work, folder);
      old.filter((name) => join(BASES, name) !== folder).forEach((name) => rmSync(join(BASES, name), { recursive: true, force: true }));
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }
  return folder;
}

/** Up to the next multiple of 512 with zeros, which the kernel skips between two archives. */
function padded(parts: readonly Buffer[]): Buffer {
  const bytes = Buffer.concat(parts);
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 511)]);
}

function build(options: Options, packages: readonly Package[], baseKey: string, ours: Readonly<Record<string, Buffer>>): Manifest {
  const from = baseFor(options, packages, baseKey);
  const base = JSON.parse(readFileSync(join(from, 'base.json'), 'utf8')) as Base;
  mkdirSync(options.out, { recursive: true });
  const work = mkdtempSync(join(options.out, '.building-'));
  try {
    const agent = agentEntries({ ...ours, 'agent.code': compileAgent(options.node, readFileSync(options.agent)) });
    // The plain archive first: the kernel takes what follows a compressed one for its continuation.
    const initrd = writeParts(join(work, 'initrd.img'), [padded(cpioOf(agent)), readFileSync(join(from, 'base.cpio.lz4'))]);
    const manifest: Manifest = {
      key: keyOf(baseKey, ours),
      kernelRelease: base.kernelRelease,
      inputs: { packages, node: base.node, ours: Object.fromEntries(Object.entries(ours).map(([name, bytes]) => [name, outputOf(bytes)])) },
      outputs: { vmlinux: writeParts(join(work, 'vmlinux'), [readFileSync(join(from, 'vmlinux'))]), 'initrd.img': initrd },
      contents: [...base.contents, ...contentsOf(agent).filter(({ kind }) => kind === 'file')].sort((a, b) => (a.path < b.path ? -1 : 1)),
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
  const baseKey = baseKeyOf(options, packages);
  const ours = readOurs(options);
  const known = options.force ? undefined : isUpToDate(options.out, keyOf(baseKey, ours));
  if (known !== undefined) {
    progress(`up to date, kernel ${known.kernelRelease}, ${String(known.contents.length)} files`);
    print(known, options.out);
    return;
  }
  const started = Date.now();
  const manifest = build(options, packages, baseKey, ours);
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
