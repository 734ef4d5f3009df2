/** The containerd and dockerd versions that the compatibility suites run on. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { unpackSuite, type Suite, type Unpacked } from './debian-suite';
import { buildGoModule } from './go-module';

export interface HostVersion {
  /** What the test names and docs/compatibility.md call it. */
  readonly name: string;
  /** Start of the version that the daemon prints. */
  readonly version: string;
  readonly from: { readonly suite: Suite } | { readonly module: string };
}

/** Debian's own choice of versions, and the newest, which passes the bootstrap parameters on standard input. */
export const CONTAINERD_HOSTS: readonly HostVersion[] = [
  { name: 'containerd 1.6', version: '1.6.', from: { suite: 'bookworm' } },
  { name: 'containerd 1.7', version: '1.7.', from: { suite: 'trixie' } },
  { name: 'containerd 2.x', version: '2.', from: { suite: 'forky' } },
  { name: 'containerd 2.4', version: '2.4.', from: { module: 'v2.4.2' } },
];

export interface DockerVersion {
  readonly name: string;
  readonly suite: Suite;
}

/** dockerd runs over the containerd of the same suite. bookworm's dockerd 20.10 knows no shim but runc's. */
export const DOCKER_HOSTS: readonly DockerVersion[] = [
  { name: 'dockerd 26', suite: 'trixie' },
  { name: 'dockerd 28', suite: 'forky' },
];

export function containerdBinaries({ from }: Pick<HostVersion, 'from'>): Unpacked {
  return 'suite' in from
    ? unpackSuite(from.suite, ['containerd'])
    : buildGoModule('containerd', 'github.com/containerd/containerd/v2', from.module, ['containerd', 'ctr'], 'no_btrfs no_devmapper no_zfs');
}

export function dockerBinaries(host: DockerVersion): Unpacked {
  return unpackSuite(host.suite, ['docker.io', 'docker-cli']);
}

/** The version line that a daemon prints, for the log of the suite. */
export function versionOf(folder: string, daemon: 'usr/bin/containerd' | 'usr/sbin/dockerd'): string {
  return execFileSync(join(folder, daemon), ['--version'], { encoding: 'utf8' }).trim();
}
