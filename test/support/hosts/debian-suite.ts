/**
 * Binaries of other Debian suites, unpacked into .cache/hosts and never installed: apt runs with a sources file, state
 * and cache of its own, so that the machine's apt is untouched. Their Go binaries want no newer libc than Debian 12's.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../../../hack/private-containerd';

const CACHE = join(ROOT, '.cache/hosts');
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

export type Suite = 'bookworm' | 'trixie' | 'forky';

/** Either the folder of the unpacked packages, or in one sentence why they cannot be had. */
export type Unpacked = { readonly folder: string } | { readonly missing: string };

/** The Debian archive that this machine's apt uses already, or undefined where it uses none. */
function archiveUri(): string | undefined {
  const listed = execFileSync('apt-get', ['indextargets', '--format', '$(REPO_URI)', 'Created-By: Packages'], { encoding: 'utf8' });
  return listed.split('\n').find((uri) => /\/debian\/?$/.test(uri));
}

/** Options that give apt sources, lists and cache below `work` and nothing of the machine's but its installed keyring. */
function aptOptions(work: string, suite: Suite, uri: string): string[] {
  for (const folder of ['state/lists/partial', 'cache/archives/partial', 'parts']) {
    mkdirSync(join(work, folder), { recursive: true });
  }
  const sources = join(work, 'debian.sources');
  writeFileSync(sources, `Types: deb\nURIs: ${uri}\nSuites: ${suite}\nComponents: main\nSigned-By: ${KEYRING}\n`);
  return [
    `Dir::Etc::sourcelist=${sources}`,
    `Dir::Etc::sourceparts=${join(work, 'parts')}`,
    `Dir::State=${join(work, 'state')}`,
    `Dir::Cache=${join(work, 'cache')}`,
    'APT::Sandbox::User=root',
    'Acquire::Languages=none',
    'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false',
    'Acquire::Retries=3',
  ].flatMap((option) => ['-o', option]);
}

/** Unpacks `packages` of `suite` together into one folder, once. */
export function unpackSuite(suite: Suite, packages: readonly string[]): Unpacked {
  const target = join(CACHE, `${suite}-${packages.join('+')}`);
  if (existsSync(target)) {
    return { folder: target };
  }
  const uri = existsSync(KEYRING) ? archiveUri() : undefined;
  if (uri === undefined) {
    return { missing: `apt of this machine has no Debian archive to take ${packages.join(', ')} of ${suite} from` };
  }
  const work = join(CACHE, `.${suite}.${String(process.pid)}`);
  const unpacked = join(work, 'unpacked');
  mkdirSync(unpacked, { recursive: true });
  try {
    const options = aptOptions(work, suite, uri);
    execFileSync('apt-get', [...options, '-qq', 'update'], { stdio: ['ignore', 'ignore', 'pipe'], timeout: 180_000 });
    execFileSync('apt-get', [...options, '-qq', 'download', ...packages], { cwd: work, stdio: ['ignore', 'ignore', 'pipe'], timeout: 300_000 });
    for (const file of readdirSync(work).filter((entry) => entry.endsWith('.deb'))) {
      execFileSync('dpkg-deb', ['-x', join(work, file), unpacked]);
    }
    renameSync(unpacked, target);
    return { folder: target };
  } catch (error) {
    const cause = error instanceof Error && 'stderr' in error ? String(error.stderr) : String(error);
    return { missing: `${packages.join(', ')} of Debian ${suite} cannot be had: ${cause.trim().slice(0, 300)}` };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
