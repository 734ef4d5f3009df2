/**
 * Debian packages as inputs: which versions, downloaded with apt into a cache, checked, unpacked. Nothing is installed.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { KataError } from '../../base/errors';

/** One package at one version. */
export interface Package {
  readonly name: string;
  readonly version: string;
  /** SHA-256 of the .deb, as the archive's signed index says. */
  readonly sha256: string;
}

/** The names with scope `guest` in the text of hack/debian-packages. */
export function guestPackageNames(list: string): string[] {
  return list
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter((words) => words[0] !== undefined && !words[0].startsWith('#') && words[2] === 'guest')
    .map((words) => words[0] ?? '');
}

/** Records of `apt-cache show`, by package; the first record of a package wins. Pure. */
export function parseShow(text: string): Map<string, Map<string, string>> {
  const records = new Map<string, Map<string, string>>();
  for (const paragraph of text.split(/\n\n+/)) {
    const fields = new Map<string, string>();
    for (const match of paragraph.matchAll(/^([A-Za-z0-9-]+): (.*)$/gm)) {
      fields.set(match[1] ?? '', match[2] ?? '');
    }
    const name = fields.get('Package');
    if (name !== undefined && !records.has(name)) {
      records.set(name, fields);
    }
  }
  return records;
}

/** The package that a kernel metapackage stands for: its first `linux-image-*` dependency, else the name itself. */
export function kernelPackageOf(name: string, records: ReadonlyMap<string, ReadonlyMap<string, string>>): string {
  const depends = records.get(name)?.get('Depends') ?? '';
  return /(?:^|[\s,])(linux-image-[^\s,(]+)/.exec(depends)?.[1] ?? name;
}

function aptCacheShow(names: readonly string[]): Map<string, Map<string, string>> {
  const done = spawnSync('apt-cache', ['show', '--no-all-versions', ...names], { encoding: 'utf8', maxBuffer: 64 << 20 });
  if (done.error !== undefined) {
    throw KataError.from(done.error, 'look up Debian packages: apt-cache does not run', { hint: 'build the guest on Debian 12, or copy build/guest/ from there' });
  }
  return parseShow(done.stdout);
}

function lookUp(names: readonly string[]): Package[] | string {
  const first = aptCacheShow(names);
  const real = names.map((name) => kernelPackageOf(name, first));
  const extra = real.filter((name) => !first.has(name));
  const records = extra.length === 0 ? first : new Map([...first, ...aptCacheShow(extra)]);
  const found: Package[] = [];
  for (const name of real) {
    const version = records.get(name)?.get('Version');
    const sha256 = records.get(name)?.get('SHA256');
    if (version === undefined || sha256 === undefined) {
      return name;
    }
    found.push({ name, version, sha256 });
  }
  return found;
}

/** Changes whenever apt's package lists do; empty where there are none. */
function listsStamp(): string {
  const folder = '/var/lib/apt/lists';
  if (!existsSync(folder)) {
    return '';
  }
  const files = readdirSync(folder).filter((file) => file.includes('_Packages')).sort();
  return files.map((file) => `${file}@${String(statSync(join(folder, file)).mtimeMs)}`).join(' ');
}

interface Resolution {
  readonly names: readonly string[];
  readonly stamp: string;
  readonly packages: readonly Package[];
}

/**
 * The versions that apt would install today. Remembered in the cache while apt's lists stay as they are (and where
 * there are no lists). Runs `apt-get update` only where a package is unknown.
 */
export function resolvePackages(names: readonly string[], cache: string, progress: (text: string) => void): readonly Package[] {
  const file = join(cache, 'versions.json');
  const stamp = listsStamp();
  if (existsSync(file)) {
    const known = JSON.parse(readFileSync(file, 'utf8')) as Resolution;
    if (known.names.join() === names.join() && (stamp === '' || stamp === known.stamp)) {
      return known.packages;
    }
  }
  let found = lookUp(names);
  if (typeof found === 'string') {
    progress(`apt does not know ${found}: apt-get update`);
    spawnSync('apt-get', ['update', '-qq'], { stdio: ['ignore', 'ignore', 'ignore'] });
    found = lookUp(names);
  }
  if (typeof found === 'string') {
    throw new KataError('NotFound', `look up Debian packages: apt does not know "${found}"`, { hint: 'the guest is made of Debian 12 packages: check /etc/apt/sources.list and run apt-get update as root' });
  }
  mkdirSync(cache, { recursive: true });
  const resolution: Resolution = { names, stamp: listsStamp(), packages: found };
  writeFileSync(`${file}.${String(process.pid)}`, JSON.stringify(resolution, undefined, 1));
  renameSync(`${file}.${String(process.pid)}`, file);
  return found;
}

/** Hex SHA-256 of bytes. */
export function sha256Of(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function debFile(cache: string, wanted: Package): string | undefined {
  const prefix = `${wanted.name}_${wanted.version.replaceAll(':', '%3a')}_`;
  const file = existsSync(cache) ? readdirSync(cache).find((each) => each.startsWith(prefix) && each.endsWith('.deb')) : undefined;
  return file === undefined ? undefined : join(cache, file);
}

/** The .deb files of the packages, from the cache or the archive; each one's digest is checked. */
export function downloadPackages(packages: readonly Package[], cache: string, progress: (text: string) => void): Map<string, string> {
  mkdirSync(cache, { recursive: true });
  const missing = packages.filter((wanted) => debFile(cache, wanted) === undefined);
  if (missing.length > 0) {
    progress(`downloading ${String(missing.length)} Debian packages (linux-image is 70 MB)`);
    const folder = join(cache, `partial.${String(process.pid)}`);
    mkdirSync(folder);
    try {
      // No other user for the download: the cache may lie where only we may write.
      execFileSync('apt-get', ['-o', 'APT::Sandbox::User=root', '-qq', 'download', ...missing.map(({ name, version }) => `${name}=${version}`)], { cwd: folder, stdio: ['ignore', 'ignore', 'inherit'] });
      readdirSync(folder).forEach((file) => renameSync(join(folder, file), join(cache, file)));
    } catch (reason) {
      throw KataError.from(reason, 'download Debian packages: apt-get failed, see the lines above', { hint: 'check the network, run apt-get update and try again' });
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }
  return new Map(
    packages.map((wanted) => {
      const file = debFile(cache, wanted);
      if (file === undefined) {
        throw new KataError('NotFound', `download Debian packages: no "${wanted.name}" of version ${wanted.version} came`);
      }
      if (sha256Of(readFileSync(file)) !== wanted.sha256) {
        rmSync(file);
        throw new KataError('DataLoss', `download Debian packages: ${file} is not what the archive's index says; it was removed`, { hint: 'run make guest again' });
      }
      return [wanted.name, file];
    }),
  );
}

/** Unpacks .deb files over each other into `folder`, which is made. */
export function unpackPackages(files: Iterable<string>, folder: string): void {
  mkdirSync(folder, { recursive: true });
  for (const file of files) {
    execFileSync('dpkg-deb', ['-x', file, folder], { stdio: ['ignore', 'ignore', 'inherit'] });
  }
}
