/** The virtio-fs daemon: the one in QEMU 7 (C) or its successor (Rust), which take different arguments. */
import { existsSync, statSync } from 'node:fs';
import { closeSync } from 'node:fs';
import { run, type Child } from '../../../base/child';
import { KataError } from '../../../base/errors';
import { unixListen } from '../../../base/syscalls';
import type { HypervisorConfig } from '../../config/types';
import { startGuarded } from '../processes';

const UPSTREAM_PATH = '/usr/libexec/virtiofsd';
const PLACES: readonly string[] = [UPSTREAM_PATH, '/usr/lib/qemu/virtiofsd', '/usr/libexec/qemu/virtiofsd', '/usr/lib/virtiofsd'];

export type VirtiofsdFlavour = 'c' | 'rust';

/** The configured daemon, or the first that is there. NotFound with the key otherwise. */
export function findVirtiofsd(config: HypervisorConfig): string {
  const { virtioFsDaemon } = config;
  // Upstream's own path is in every copied configuration file; distributions put the daemon elsewhere.
  const candidates = virtioFsDaemon !== '' && virtioFsDaemon !== UPSTREAM_PATH ? [virtioFsDaemon] : PLACES;
  const found = candidates.find((path) => existsSync(path));
  if (found === undefined) {
    throw new KataError('NotFound', `virtiofsd: not found at ${candidates.join(', ')}`, {
      hint: 'set virtio_fs_daemon in [hypervisor.qemu], install virtiofsd, or use shared_fs = "virtio-9p"',
    });
  }
  return found;
}

/** Arguments for one flavour. The listening socket is descriptor 3. */
export function virtiofsdArgs(flavour: VirtiofsdFlavour, config: HypervisorConfig, source: string): string[] {
  const cache = config.virtioFsCache === '' ? 'auto' : config.virtioFsCache;
  if (flavour === 'c') {
    const mode = { never: 'none', metadata: 'auto' }[cache] ?? cache;
    return ['-o', `cache=${mode}`, '-o', 'no_posix_lock', '-o', `source=${source}`, '--fd=3', '-f', ...config.virtioFsExtraArgs];
  }
  return [`--cache=${cache === 'none' ? 'never' : cache}`, `--shared-dir=${source}`, '--fd=3', ...config.virtioFsExtraArgs];
}

const flavours = new Map<string, VirtiofsdFlavour>();

async function flavourOf(path: string): Promise<VirtiofsdFlavour> {
  const key = `${path}\0${String(statSync(path).mtimeMs)}`;
  const known = flavours.get(key);
  if (known !== undefined) {
    return known;
  }
  const version = await run(path, ['--version'], { timeoutMs: 5000 });
  const flavour = /^virtiofsd version .*\n?.*Fabrice Bellard/.test(version) || version.includes('FUSE kernel interface') ? 'c' : 'rust';
  flavours.set(key, flavour);
  return flavour;
}

/** Starts the daemon with its socket listening already, so that QEMU may start beside it. It dies with us and with QEMU. */
export async function startVirtiofsd(config: HypervisorConfig, source: string, socketPath: string, selinuxLabel?: string): Promise<Child> {
  const path = findVirtiofsd(config);
  const flavour = await flavourOf(path);
  const listener = unixListen(socketPath);
  try {
    return startGuarded(path, virtiofsdArgs(flavour, config, source), { kind: 'host' }, { extraFds: [listener], stdout: 'ignore', selinuxLabel });
  } finally {
    closeSync(listener);
  }
}
