/** `-v` and `-info`: what this shim is and can do. */
import { basename } from 'node:path';
import { writeSync } from 'node:fs';
import { Any } from '../gen/google/protobuf/any';
import { RuntimeInfo } from '../gen/containerd/types/types';
import { readStdin } from './stdin';
import { version } from '../package.json';

const FEATURES_TYPE = 'types.containerd.io/opencontainers/runtime-spec/1/features/Features';

/** OCI features. No user namespaces and no idmapped mounts: hosts then refuse such pods with a clear word. */
const FEATURES = {
  ociVersionMin: '1.0.0',
  ociVersionMax: '1.2.0',
  hooks: ['prestart', 'createRuntime', 'poststart', 'poststop'],
  mountOptions: ['bind', 'rbind', 'ro', 'rw', 'nosuid', 'suid', 'nodev', 'dev', 'noexec', 'exec', 'noatime', 'relatime', 'private', 'rprivate', 'slave', 'rslave', 'shared', 'rshared'],
  linux: {
    namespaces: ['cgroup', 'ipc', 'mount', 'network', 'pid', 'uts'],
    cgroup: { v1: true, v2: true, systemd: true, systemdUser: false },
    seccomp: { enabled: true },
    apparmor: { enabled: false },
    selinux: { enabled: true },
    mountExtensions: { idmap: { enabled: false } },
  },
};

/** What `-v` prints. */
export function versionText(program: string): string {
  return `${basename(program)}:\n  Version:  ${version}\n  Runtime:  io.containerd.kata.v2 (kata-ts, containerd shim, Node ${process.version})\n`;
}

/** Writes a RuntimeInfo to standard output; options that were given on standard input are echoed. */
export async function writeInfo(): Promise<void> {
  const given = await readStdin();
  let options: Any | undefined;
  try {
    options = given.length === 0 ? undefined : Any.decode(given);
  } catch {
    options = undefined;
  }
  const info = {
    name: 'io.containerd.kata.v2',
    version: { version, revision: '' },
    options,
    features: { typeUrl: FEATURES_TYPE, value: Buffer.from(JSON.stringify(FEATURES)) },
  };
  writeSync(1, RuntimeInfo.encode(RuntimeInfo.fromPartial(info)).finish());
}
