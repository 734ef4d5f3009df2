/** What goes where in the guest's root file system: from unpacked Debian packages, Node.js and our files to entries. */
import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { KataError } from '../../base/errors';
import type { Entry } from './cpio';
import { dropUnloaded } from './elf';
import { libraryClosure, type Binary } from './libraries';
import { loadOrder, moduleName, modulesAlias, modulesDep, parseModule, type Module } from './modules';
import { BOOT_MODULES, LATER_MODULES, MODULES_BY_VIRTIO_ID, ON_DEMAND_MODULES } from './module-sets';

const LIBRARY_FOLDER = 'usr/lib/x86_64-linux-gnu';
const EXTENSIONS = `${LIBRARY_FOLDER}/xtables`;
/** Where init.cjs, agent.cjs and sys.node lie in the guest. */
export const AGENT_FOLDER = 'usr/lib/kata-ts';

/** Programs by guest path; the package's own path may be without `usr/`. */
const PROGRAMS: readonly string[] = [
  'usr/bin/busybox', 'usr/bin/crun', 'usr/bin/ip', 'usr/sbin/xtables-legacy-multi', 'usr/sbin/resize2fs', 'usr/sbin/mke2fs',
];

const LINKS: Readonly<Record<string, string>> = {
  bin: 'usr/bin',
  sbin: 'usr/sbin',
  lib: 'usr/lib',
  lib64: 'usr/lib64',
  init: `${AGENT_FOLDER}/init.cjs`,
  'usr/sbin/mkfs.ext4': 'mke2fs',
  'usr/sbin/modprobe': '../bin/busybox',
  'usr/sbin/ip': '../bin/ip',
  ...Object.fromEntries(['iptables', 'iptables-save', 'iptables-restore', 'ip6tables', 'ip6tables-save', 'ip6tables-restore'].map((name) => [`usr/sbin/${name}`, 'xtables-legacy-multi'])),
};

const FOLDERS: readonly string[] = ['dev', 'etc', 'mnt', 'newroot', 'proc', 'root', 'run', 'sys', 'tmp', 'var/lib', 'var/log'];

const TEXTS: Readonly<Record<string, string>> = {
  'etc/passwd': 'root:x:0:0:root:/root:/bin/sh\n',
  'etc/group': 'root:x:0:\n',
  'etc/hosts': '127.0.0.1 localhost\n::1 localhost ip6-localhost\n',
  'etc/os-release': 'NAME="kata-ts guest"\nID=kata-ts\nID_LIKE=debian\nPRETTY_NAME="kata-ts guest (Debian packages)"\n',
};

/** Names of busybox that would stand before a full program, or that only make sense for another PID 1. */
const APPLETS_LEFT_OUT: ReadonlySet<string> = new Set(['busybox', 'ip', 'init', 'linuxrc', 'halt', 'poweroff', 'reboot', 'modprobe']);

/** The unpacked packages, and the files of ours that go in. */
export interface Sources {
  /** Folder into which the packages were unpacked. */
  readonly packages: string;
  /** Path of the Node.js program. */
  readonly node: string;
  /** What goes into the guest of it. */
  readonly nodeBytes: Buffer;
}

function file(path: string, data: Buffer, mode: number): Entry {
  return { kind: 'file', path, data, mode };
}

function inPackages(sources: Sources, path: string): string {
  const candidates = [path, path.replace(/^usr\//, ''), path.replace('/bin/', '/sbin/').replace(/^usr\//, '')].map((each) => join(sources.packages, each));
  const found = candidates.find((candidate) => existsSync(candidate));
  if (found === undefined) {
    throw new KataError('NotFound', `collect the guest's files: "${path}" is in no package`, { hint: 'hack/debian-packages lists the packages with scope guest' });
  }
  return found;
}

function libraryFinder(sources: Sources): (soname: string) => Binary | undefined {
  const ours = ['usr/lib/x86_64-linux-gnu', 'lib/x86_64-linux-gnu', 'lib64'].map((folder) => join(sources.packages, folder));
  // Node.js may be built against libraries that our packages do not have; then the machine's own are taken.
  const hosts = [join(dirname(realpathSync(sources.node)), '../lib'), '/usr/lib/x86_64-linux-gnu', '/lib/x86_64-linux-gnu'];
  return (soname) => {
    const path = [...ours, ...hosts].map((folder) => join(folder, soname)).find((candidate) => existsSync(candidate));
    return path === undefined ? undefined : { from: soname, bytes: readFileSync(path) };
  };
}

function programEntries(sources: Sources): Entry[] {
  const node = sources.nodeBytes;
  const programs: Binary[] = PROGRAMS.map((path) => ({ from: path, bytes: readFileSync(inPackages(sources, path)) }));
  const extensions = extensionEntries(sources);
  const all = [...programs, { from: 'usr/bin/node', bytes: node }];
  const find = libraryFinder(sources);
  const { libraries, interpreters } = libraryClosure([...all, ...extensions.filter((entry) => entry.kind === 'file').map((entry) => ({ from: entry.path, bytes: entry.data }))], find);
  if ([...libraries.keys()].some((soname) => soname.startsWith('libnode.so'))) {
    throw new KataError('Unimplemented', `collect the guest's files: ${sources.node} is a Node.js cut into libraries, which starts 1 s slower in the guest and is not supported there`, { hint: 'take the Node.js of nodejs.org or NodeSource, with --node PATH' });
  }
  const entries = all.map(({ from, bytes }) => file(from, dropUnloaded(bytes, from), 0o755));
  for (const [soname, { bytes }] of libraries) {
    if (![...interpreters].some((path) => basename(path) === soname)) {
      entries.push(file(`${LIBRARY_FOLDER}/${soname}`, dropUnloaded(bytes, soname), 0o755));
    }
  }
  for (const path of interpreters) {
    const loader = find(basename(path));
    if (loader === undefined) {
      throw new KataError('NotFound', `collect the guest's files: no loader "${path}"`);
    }
    entries.push(file(path.replace(/^\/(usr\/)?/, 'usr/'), loader.bytes, 0o755));
  }
  return [...entries, ...extensions];
}

function extensionEntries(sources: Sources): Entry[] {
  const folder = join(sources.packages, EXTENSIONS);
  // The ebtables and arptables extensions (libebt_, libarpt_) belong to programs that are not here.
  return readdirSync(folder).filter((name) => /^lib(xt|ipt|ip6t)_.*\.so$/.test(name)).sort().map((name): Entry => {
    const path = join(folder, name);
    return lstatSync(path).isSymbolicLink()
      ? { kind: 'symlink', path: `${EXTENSIONS}/${name}`, target: readlinkSync(path) }
      : file(`${EXTENSIONS}/${name}`, dropUnloaded(readFileSync(path), name), 0o644);
  });
}

function appletEntries(sources: Sources): Entry[] {
  const listed = spawnSync(inPackages(sources, 'usr/bin/busybox'), ['--list'], { encoding: 'utf8' });
  if (listed.status !== 0) {
    throw KataError.from(listed.error ?? new Error(listed.stderr), 'collect the guest\'s files: busybox --list failed');
  }
  return listed.stdout.split('\n').filter((name) => name !== '' && !APPLETS_LEFT_OUT.has(name))
    .map((name) => ({ kind: 'symlink', path: `usr/bin/${name}`, target: 'busybox' }));
}

/** The release (`6.1.0-56-amd64`) of the one kernel in the unpacked packages. */
export function kernelRelease(packages: string): string {
  const found = readdirSync(join(packages, 'boot')).filter((name) => name.startsWith('vmlinuz-'));
  const only = found[0];
  if (only === undefined || found.length > 1) {
    throw new KataError('NotFound', `collect the guest's files: ${String(found.length)} kernels in the kernel package, one is wanted`);
  }
  return only.slice('vmlinuz-'.length);
}

function moduleEntries(sources: Sources): Entry[] {
  const release = kernelRelease(sources.packages);
  const base = join(sources.packages, 'lib/modules', release);
  const paths = new Map((readdirSync(join(base, 'kernel'), { recursive: true, encoding: 'utf8' })).filter((path) => path.endsWith('.ko')).map((path) => [moduleName(path), `kernel/${path}`]));
  const bytesOf = new Map<string, Buffer>();
  const parsed = new Map<string, Module>();
  const find = (name: string): Module | undefined => {
    const path = paths.get(name);
    if (path !== undefined && !parsed.has(name)) {
      const bytes = readFileSync(join(base, path));
      bytesOf.set(name, bytes);
      parsed.set(name, parseModule(path, bytes));
    }
    return parsed.get(name);
  };
  const guestPath = (module: Module): string => `/lib/modules/${release}/${module.path}`;
  const ordered = (names: readonly string[]): string[] => loadOrder(names, find).map(guestPath);
  const boot = ordered(BOOT_MODULES);
  const lists = {
    kernel: release,
    boot,
    later: ordered(LATER_MODULES).filter((path) => !boot.includes(path)),
    byVirtioId: Object.fromEntries(Object.entries(MODULES_BY_VIRTIO_ID).map(([id, names]) => [id, ordered(names).filter((path) => !boot.includes(path))])),
  };
  // What the agent loads itself stays as it is; the rest waits compressed for busybox modprobe, which unpacks it.
  const plain = new Set(loadOrder([...BOOT_MODULES, ...LATER_MODULES, ...Object.values(MODULES_BY_VIRTIO_ID).flat()], find).map(({ name }) => name));
  const all = loadOrder([...plain, ...ON_DEMAND_MODULES], find).map((module) => (plain.has(module.name) ? module : { ...module, path: `${module.path}.gz` }));
  const findPacked = (name: string): Module | undefined => all.find((module) => module.name === name);
  const folder = `usr/lib/modules/${release}`;
  const entries = all.map((module) => {
    const bytes = bytesOf.get(module.name) ?? Buffer.alloc(0);
    return file(`${folder}/${module.path}`, plain.has(module.name) ? bytes : gzipSync(bytes, { level: 9 }), 0o644);
  });
  return [
    ...entries,
    file(`${folder}/modules.dep`, Buffer.from(modulesDep(all, findPacked)), 0o644),
    file(`${folder}/modules.alias`, Buffer.from(modulesAlias(all)), 0o644),
    file(`${folder}/modules.builtin`, readFileSync(join(base, 'modules.builtin')), 0o644),
    file('etc/kata-modules.json', Buffer.from(`${JSON.stringify(lists)}\n`), 0o644),
  ];
}

/** Our own files, by name in AGENT_FOLDER: a small archive of its own, so that a changed agent is built in at once. */
export function agentEntries(ours: Readonly<Record<string, Buffer>>): Entry[] {
  return Object.entries(ours).map(([name, data]) => file(`${AGENT_FOLDER}/${name}`, data, name === 'init.cjs' ? 0o755 : 0o644));
}

/** All other entries of the initrd. */
export function baseEntries(sources: Sources): Entry[] {
  const fixed: Entry[] = [
    ...FOLDERS.map((path): Entry => ({ kind: 'directory', path, mode: path === 'tmp' ? 0o1777 : path === 'root' ? 0o700 : 0o755 })),
    ...Object.entries(LINKS).map(([path, target]): Entry => ({ kind: 'symlink', path, target })),
    ...Object.entries(TEXTS).map(([path, text]) => file(path, Buffer.from(text), 0o644)),
    { kind: 'character-device', path: 'dev/console', mode: 0o600, major: 5, minor: 1 },
    { kind: 'character-device', path: 'dev/null', mode: 0o666, major: 1, minor: 3 },
  ];
  const entries = [...fixed, ...programEntries(sources), ...moduleEntries(sources)];
  const taken = new Set(entries.map((entry) => basename(entry.path)));
  return [...entries, ...appletEntries(sources).filter((entry) => !taken.has(basename(entry.path)))];
}
