/**
 * Daemons that no Debian suite has yet, built from their Go module into .cache/hosts, once. Nothing is installed. The
 * checksum database is not asked (it is not a package registry); the module's version is the pin.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../../../hack/private-containerd';
import type { Unpacked } from './debian-suite';

const CACHE = join(ROOT, '.cache/hosts');
const BUILD_TIMEOUT_MS = 15 * 60_000;

/** The commands of a module, in `usr/bin` of the folder as a Debian package has them. Needs Go 1.21, which fetches a newer one. */
export function buildGoModule(name: string, module: string, version: string, commands: readonly string[], tags: string): Unpacked {
  const target = join(CACHE, `go-${name}-${version}`);
  if (existsSync(target)) {
    return { folder: target };
  }
  const work = join(CACHE, `.go-${name}.${String(process.pid)}`);
  try {
    const release = /go1\.(\d+)/.exec(execFileSync('go', ['version'], { encoding: 'utf8' }))?.[1];
    if (Number(release) < 21) {
      return { missing: `${name} ${version} is built from its Go module, which needs Go 1.21 or newer; this is 1.${String(release)}` };
    }
    mkdirSync(join(work, 'usr/bin'), { recursive: true });
    writeFileSync(join(work, 'go.mod'), 'module hosts\n');
    execFileSync('go', ['install', '-tags', tags, ...commands.map((command) => `${module}/cmd/${command}@${version}`)], {
      cwd: work,
      env: { ...process.env, GOBIN: join(work, 'usr/bin'), GOSUMDB: 'off', GOFLAGS: '-mod=mod', CGO_ENABLED: '0' },
      stdio: ['ignore', 'ignore', 'pipe'],
      timeout: BUILD_TIMEOUT_MS,
    });
    rmSync(join(work, 'go.mod'));
    renameSync(work, target);
    return { folder: target };
  } catch (error) {
    const cause = error instanceof Error && 'stderr' in error ? String(error.stderr) : String(error);
    return { missing: `${name} ${version} cannot be built from its Go module: ${cause.trim().slice(-300)}` };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
