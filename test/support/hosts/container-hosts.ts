/** The containerd and dockerd versions that the compatibility suites run on. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { unpackSuite, type Suite, type Unpacked } from './debian-suite';

export interface HostVersion {
  /** What the test names and docs/compatibility.md call it. */
  readonly name: string;
  readonly suite: Suite;
}

/** Debian's own choice of versions: 1.6, 1.7 and the newest 2.x. A suite that moves on tests the newer one. */
export const CONTAINERD_HOSTS: readonly HostVersion[] = [
  { name: 'containerd 1.6', suite: 'bookworm' },
  { name: 'containerd 1.7', suite: 'trixie' },
  { name: 'containerd 2.x', suite: 'forky' },
];

/** dockerd runs over the containerd of the same suite. bookworm's dockerd 20.10 knows no shim but runc's. */
export const DOCKER_HOSTS: readonly HostVersion[] = [
  { name: 'dockerd 26', suite: 'trixie' },
  { name: 'dockerd 28', suite: 'forky' },
];

export function containerdBinaries(host: HostVersion): Unpacked {
  return unpackSuite(host.suite, ['containerd']);
}

export function dockerBinaries(host: HostVersion): Unpacked {
  return unpackSuite(host.suite, ['docker.io', 'docker-cli']);
}

/** The version line that a daemon prints, for the log of the suite. */
export function versionOf(folder: string, daemon: 'usr/bin/containerd' | 'usr/sbin/dockerd'): string {
  return execFileSync(join(folder, daemon), ['--version'], { encoding: 'utf8' }).trim();
}
