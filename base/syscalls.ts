/**
 * The system calls that Node lacks, typed. Loads `sys.node` (base/native/sys.c) at first use: from the folder of the
 * running bundle, or from `build/` in development. Numbers per architecture as in the kernel's syscall tables.
 */
import { existsSync, openSync, closeSync, writeSync } from 'node:fs';
import { constants as osConstants } from 'node:os';
import { join } from 'node:path';
import { KataError } from './errors';

type Argument = number | bigint | string | Uint8Array | null;

interface NativeModule {
  sys(number: number, ...args: Argument[]): number;
  addr(bytes: Uint8Array): bigint;
  spawn(path: string, fds: Int32Array, ...words: string[]): number;
}

const NUMBERS = {
  x64: {
    fcntl: 72, ioctl: 16, socket: 41, connect: 42, accept4: 288, sendmsg: 46, recvmsg: 47, bind: 49, listen: 50, socketpair: 53,
    getsockopt: 55, wait4: 61, kill: 62, flock: 73, mknod: 133, prctl: 157, mount: 165, umount2: 166, sethostname: 170, reboot: 169,
    settimeofday: 164, poll: 7, waitid: 247, unshare: 272, setns: 308, dup3: 292, pipe2: 293, syncfs: 306, finit_module: 313,
    read: 0, write: 1, splice: 275, pidfd_open: 434, open_tree: 428, move_mount: 429, chroot: 161, pivot_root: 155, sched_setaffinity: 203, setrlimit: 160, memfd_create: 319,
  },
  arm64: {
    fcntl: 25, ioctl: 29, socket: 198, connect: 203, accept4: 242, sendmsg: 211, recvmsg: 212, bind: 200, listen: 201, socketpair: 199,
    getsockopt: 209, wait4: 260, kill: 129, flock: 32, mknod: -1, prctl: 167, mount: 40, umount2: 39, sethostname: 161, reboot: 142,
    settimeofday: 170, poll: -1, waitid: 95, unshare: 97, setns: 268, dup3: 24, pipe2: 59, syncfs: 267, finit_module: 273,
    read: 63, write: 64, splice: 76, pidfd_open: 434, open_tree: 428, move_mount: 429, chroot: 51, pivot_root: 41, sched_setaffinity: 122, setrlimit: 164, memfd_create: 279,
  },
} as const;

type CallName = keyof (typeof NUMBERS)['x64'];

let native: NativeModule | undefined;

function load(): NativeModule {
  const candidates = [join(__dirname, 'sys.node'), join(__dirname, '..', 'build', 'sys.node')];
  const path = candidates.find((candidate) => existsSync(candidate));
  if (path === undefined) {
    throw new KataError('FailedPrecondition', `load system calls: no sys.node in ${candidates.join(' or ')}`, {
      hint: 'run make build',
    });
  }
  const holder = { exports: {} };
  process.dlopen(holder, path);
  return holder.exports as NativeModule;
}

function call(name: CallName, ...args: Argument[]): number {
  native ??= load();
  const numbers = process.arch === 'arm64' ? NUMBERS.arm64 : NUMBERS.x64;
  return native.sys(numbers[name], ...args);
}

/** EWOULDBLOCK has EAGAIN's number and comes later in the list: one name per number, the usual one. */
const ERRNO_NAMES = new Map<number, string>(
  Object.entries(osConstants.errno).flatMap(([name, value]) => (name === 'EWOULDBLOCK' ? [] : [[value, name]])),
);

/** An Error with `code` and `errno` like Node's own, so that `codeOf` maps it. */
export function errnoError(negative: number, what: string): Error {
  const code = ERRNO_NAMES.get(-negative) ?? `E${String(-negative)}`;
  return Object.assign(new Error(`${code}: ${what}`), { code, errno: negative });
}

/** The errno name of a negative result, e.g. `EAGAIN`. */
export function errnoName(negative: number): string {
  return ERRNO_NAMES.get(-negative) ?? `E${String(-negative)}`;
}

function check(result: number, what: string): number {
  if (result < 0) {
    throw KataError.from(errnoError(result, what), `${what}: ${errnoName(result)}`);
  }
  return result;
}

// ---- mounts and namespaces ------------------------------------------------------------------------------------

export const MS = {
  RDONLY: 1, NOSUID: 2, NODEV: 4, NOEXEC: 8, SYNCHRONOUS: 16, REMOUNT: 32, MANDLOCK: 64, DIRSYNC: 128, NOATIME: 1024, NODIRATIME: 2048,
  BIND: 4096, MOVE: 8192, REC: 16384, SILENT: 32768, UNBINDABLE: 1 << 17, PRIVATE: 1 << 18, SLAVE: 1 << 19, SHARED: 1 << 20,
  RELATIME: 1 << 21, STRICTATIME: 1 << 24, LAZYTIME: 1 << 25,
} as const;

export const UMOUNT = { FORCE: 1, DETACH: 2, NOFOLLOW: 8 } as const;

export const CLONE = { NEWNS: 0x20000, NEWNET: 0x40000000, NEWUTS: 0x4000000, NEWIPC: 0x8000000 } as const;

/** mount(2). `data` is the file system's own option string. */
export function mount(source: string, target: string, type: string, flags: number, data = ''): void {
  check(call('mount', source, target, type, flags, data === '' ? null : data), `mount ${type} ${source} on ${target}`);
}

/** umount2(2); returns false where nothing was mounted (EINVAL) or the target is gone (ENOENT). */
export function unmount(target: string, flags: number = UMOUNT.DETACH | UMOUNT.NOFOLLOW): boolean {
  const result = call('umount2', target, flags);
  if (result < 0 && ['EINVAL', 'ENOENT'].includes(errnoName(result))) {
    return false;
  }
  check(result, `unmount ${target}`);
  return true;
}

/** chroot(2) of the whole process; the working directory stays where it is. */
export function changeRoot(path: string): void {
  check(call('chroot', path), `change root to ${path}`);
}

/**
 * A copy of the mount at `path` in the mount namespace of another process, attached nowhere; the caller owns the
 * descriptor. Where the mount is shared, what is mounted below either copy later appears in both. Only the main thread
 * visits the other namespace; it has its working directory for itself from then on.
 */
export function copyMountOf(pid: number, path: string): number {
  const FS = 0x200;
  const CLONE_AND_CLOEXEC = 1 | 0o2000000;
  const cwd = process.cwd();
  const [home, theirs] = [openSync('/proc/thread-self/ns/mnt', 'r'), openSync(`/proc/${String(pid)}/ns/mnt`, 'r')];
  try {
    check(call('unshare', FS), 'unshare the working directory');
    check(call('setns', theirs, CLONE.NEWNS), `enter the mount namespace of process ${String(pid)}`);
    try {
      return check(call('open_tree', -100, path, CLONE_AND_CLOEXEC), `copy the mount ${path} of process ${String(pid)}`);
    } finally {
      if (call('setns', home, CLONE.NEWNS) < 0) {
        process.abort();
      }
      process.chdir(cwd);
    }
  } finally {
    closeSync(home);
    closeSync(theirs);
  }
}

/** Attaches a mount of `copyMountOf` at `target`; closes nothing. */
export function attachMount(fd: number, target: string): void {
  const FROM_EMPTY_PATH = 4;
  check(call('move_mount', fd, '', -100, target, FROM_EMPTY_PATH), `attach a mount at ${target}`);
}

/** unshare(2) of the calling (main) thread. Never with CLONE.NEWNS once Node's thread pool has started. */
export function unshare(flags: number): void {
  check(call('unshare', flags), 'unshare');
}

/**
 * Runs `work` with the main thread in the network namespace `netnsFd` (or a new one where it is `'new'`), then
 * returns home. `work` must be synchronous: processes that it spawns inherit the namespace. Node's thread pool must
 * have been started before (its threads keep the namespace in which they were made).
 */
export function inNetns<T>(netns: number | 'new', work: () => T): T {
  const home = openSync('/proc/thread-self/ns/net', 'r');
  try {
    check(netns === 'new' ? call('unshare', CLONE.NEWNET) : call('setns', netns, CLONE.NEWNET), 'enter the network namespace');
    try {
      return work();
    } finally {
      if (call('setns', home, CLONE.NEWNET) < 0) {
        process.abort();
      }
    }
  } finally {
    closeSync(home);
  }
}

/** sethostname(2). */
export function setHostname(name: string): void {
  const bytes = Buffer.from(name);
  check(call('sethostname', bytes, bytes.length), `set the host name "${name}"`);
}

/** settimeofday(2). */
export function setTimeOfDay(seconds: bigint, microseconds: bigint): void {
  const value = Buffer.alloc(16);
  value.writeBigInt64LE(seconds, 0);
  value.writeBigInt64LE(microseconds, 8);
  check(call('settimeofday', value, null), 'set the time of day');
}

/** reboot(2) with RB_AUTOBOOT or RB_POWER_OFF. Returns only on failure. */
export function reboot(how: 'restart' | 'power-off'): void {
  check(call('reboot', 0xfee1dead, 672274793, how === 'restart' ? 0x01234567 : 0x4321fedc, null), `reboot (${how})`);
}

/** finit_module(2). Returns false if the module is already there. */
export function loadModule(fd: number, parameters = ''): boolean {
  const result = call('finit_module', fd, parameters, 0);
  if (result < 0 && errnoName(result) === 'EEXIST') {
    return false;
  }
  check(result, 'load the kernel module');
  return true;
}

/** mknod(2); `mode` holds type bits. */
export function mknod(path: string, mode: number, major: number, minor: number): void {
  const device = ((major & 0xfff) << 8) | (minor & 0xff) | ((minor & ~0xff) << 12);
  check(call('mknod', path, mode, device), `make the node ${path}`);
}

// ---- processes ------------------------------------------------------------------------------------------------

/** Makes this process adopt orphaned descendants. */
export function becomeSubreaper(): void {
  check(call('prctl', 36, 1, 0, 0, 0), 'become subreaper');
}

/** Puts the process into a new core-scheduling cookie, for its whole group (PR_SCHED_CORE_CREATE). */
export function createCoreSchedulingCookie(): void {
  check(call('prctl', 62, 1, 0, 2, 0), 'create a core scheduling cookie');
}

/**
 * Starts the program at `path` with the arguments `words` (the first is its own name), our environment, and `fds` as its 0, 1 and 2,
 * which must be others. The caller reaps it (`reapChild`). Node.js copies its own page tables for a child, which under
 * emulation takes 60 ms, and then page by page what both write to; this child shares our memory until it runs the program.
 */
export function spawnChild(path: string, words: readonly string[], fds: readonly [number, number, number]): number {
  if (fds.some((fd) => !Number.isInteger(fd) || fd <= 2)) {
    throw new KataError('Internal', `run ${path}: descriptors ${fds.join(', ')} cannot become 0, 1 and 2`);
  }
  native ??= load();
  const result = native.spawn(path, Int32Array.from(fds), ...words);
  check(result, `run ${path}`);
  return result;
}

/** How a child ended: `code` for exit, 128 + signal for a death by signal. */
export interface ReapedChild {
  readonly pid: number;
  readonly status: number;
}

/** The pid of a child that has ended and can be reaped, without reaping it; 0 if there is none. */
export function peekEndedChild(): number {
  const info = Buffer.alloc(128);
  const WEXITED = 4;
  const WNOHANG = 1;
  const WNOWAIT = 0x01000000;
  return call('waitid', 0, 0, info, WEXITED | WNOHANG | WNOWAIT, null) < 0 ? 0 : info.readInt32LE(16);
}

/** Reaps one ended child by pid; undefined if it has not ended (or is not ours). */
export function reapChild(pid: number): ReapedChild | undefined {
  const status = Buffer.alloc(4);
  if (call('wait4', pid, status, 1, null) !== pid) {
    return undefined;
  }
  const word = status.readUInt32LE(0);
  const signal = word & 0x7f;
  return { pid, status: signal === 0 ? (word >> 8) & 0xff : 128 + signal };
}

/** kill(2); returns the errno name on failure, e.g. `ESRCH`. Refuses pid <= 0, which would mean groups. */
export function killProcess(pid: number, signal: number): string | undefined {
  if (!Number.isInteger(pid) || pid <= 0) {
    throw new KataError('Internal', `kill: refused for pid ${String(pid)}`);
  }
  const result = call('kill', pid, signal);
  return result < 0 ? errnoName(result) : undefined;
}

// ---- descriptors ----------------------------------------------------------------------------------------------

/** flock(2). With `'try'` modes false means that somebody else holds it; the others block the event loop. */
export function flock(fd: number, mode: 'exclusive' | 'try-exclusive' | 'try-shared' | 'unlock'): boolean {
  const flags = { exclusive: 2, 'try-exclusive': 2 | 4, 'try-shared': 1 | 4, unlock: 8 }[mode];
  const result = call('flock', fd, flags);
  if (result < 0 && errnoName(result) === 'EAGAIN') {
    return false;
  }
  check(result, 'flock');
  return true;
}

/** ioctl(2) with a buffer, a number or nothing; returns the result or -errno. */
export function ioctl(fd: number, request: number, argument: Uint8Array | number | null): number {
  return call('ioctl', fd, request, argument);
}

/** read(2): bytes read, 0 at the end, -errno. For descriptors that libuv cannot poll. */
export function readRaw(fd: number, into: Uint8Array): number {
  return call('read', fd, into, into.length);
}

/** write(2): bytes written or -errno. */
export function writeRaw(fd: number, bytes: Uint8Array): number {
  return call('write', fd, bytes, bytes.length);
}

/** Sets O_NONBLOCK. */
export function setNonblocking(fd: number): void {
  const flags = check(call('fcntl', fd, 3, 0), 'fcntl F_GETFL');
  check(call('fcntl', fd, 4, flags | 0o4000), 'fcntl F_SETFL');
}

/** A close-on-exec duplicate of a descriptor; the caller owns it. */
export function duplicate(fd: number): number {
  return check(call('fcntl', fd, 1030, 0), 'fcntl F_DUPFD_CLOEXEC');
}

/** Sets the capacity of a pipe (F_SETPIPE_SZ); false where the kernel refuses. */
export function setPipeSize(fd: number, sizeBytes: number): boolean {
  return call('fcntl', fd, 1031, sizeBytes) >= 0;
}

/**
 * A copy of a program in memory that nobody can change any more (all seals set). Close-on-exec; the caller owns it and
 * runs it as /proc/self/fd/<number>.
 */
export function sealedProgram(name: string, bytes: Uint8Array): number {
  const [closeOnExec, allowSealing, executable] = [1, 2, 0x10];
  let fd = call('memfd_create', name, closeOnExec | allowSealing | executable);
  if (errnoName(fd) === 'EINVAL') {
    // Before Linux 6.3 all of them are executable and the flag is not known.
    fd = call('memfd_create', name, closeOnExec | allowSealing);
  }
  check(fd, 'memfd_create');
  try {
    for (let done = 0; done < bytes.length; ) {
      done += writeSync(fd, bytes, done);
    }
    check(call('fcntl', fd, 1033 /* F_ADD_SEALS */, 15), 'seal a program');
    return fd;
  } catch (reason) {
    closeSync(fd);
    throw reason;
  }
}

/** dup3(2) with O_CLOEXEC. */
export function duplicateOnto(from: number, onto: number): void {
  check(call('dup3', from, onto, 0o2000000), 'dup3');
}

/** A connected pair of close-on-exec unix stream sockets. The caller owns both. */
export function socketPair(): [number, number] {
  const pair = Buffer.alloc(8);
  check(call('socketpair', 1, 1 | 0o2000000, 0, pair), 'socketpair');
  return [pair.readInt32LE(0), pair.readInt32LE(4)];
}

/** A close-on-exec pipe `[read end, write end]`; the caller owns both. */
export function pipe(): [number, number] {
  const pair = Buffer.alloc(8);
  check(call('pipe2', pair, 0o2000000), 'pipe2');
  return [pair.readInt32LE(0), pair.readInt32LE(4)];
}

function vsockAddress(cid: number, port: number): Buffer {
  const address = Buffer.alloc(16);
  address.writeUInt16LE(40, 0);
  address.writeUInt32LE(port >>> 0, 4);
  address.writeUInt32LE(cid >>> 0, 8);
  return address;
}

/** A non-blocking AF_VSOCK stream socket that is connecting to cid:port; poll it with `vsockConnected`. Caller owns it. */
export function vsockConnect(cid: number, port: number): number {
  const fd = check(call('socket', 40, 1 | 0o2000000 | 0o4000, 0), 'make a vsock socket');
  const result = call('connect', fd, vsockAddress(cid, port), 16);
  if (result < 0 && errnoName(result) !== 'EINPROGRESS') {
    closeSync(fd);
    check(result, `connect vsock ${String(cid)}:${String(port)}`);
  }
  return fd;
}

/** A listening non-blocking AF_VSOCK socket on any CID. Caller owns it. */
export function vsockListen(port: number): number {
  const fd = check(call('socket', 40, 1 | 0o2000000 | 0o4000, 0), 'make a vsock socket');
  const bound = call('bind', fd, vsockAddress(0xffffffff, port), 16);
  const result = bound < 0 ? bound : call('listen', fd, 16);
  if (result < 0) {
    closeSync(fd);
    check(result, `listen on vsock port ${String(port)}`);
  }
  return fd;
}

/** A listening close-on-exec unix stream socket at `path` (at most 107 bytes), for a child to inherit. Caller owns it and the path. */
export function unixListen(path: string): number {
  const name = Buffer.from(path);
  if (name.length > 107 || name.includes(0)) {
    throw new KataError('InvalidArgument', `listen on ${path}: a socket path is at most 107 bytes`);
  }
  const address = Buffer.alloc(3 + name.length);
  address.writeUInt16LE(1, 0);
  name.copy(address, 2);
  const fd = check(call('socket', 1, 1 | 0o2000000, 0), 'make a unix socket');
  const bound = call('bind', fd, address, address.length);
  const result = bound < 0 ? bound : call('listen', fd, 16);
  if (result < 0) {
    closeSync(fd);
    check(result, `listen on ${path}`);
  }
  return fd;
}

/** accept4(2) without blocking: the new descriptor, or undefined if nobody waits. Caller owns it. */
export function acceptRaw(fd: number): number | undefined {
  const result = call('accept4', fd, null, null, 0o2000000 | 0o4000);
  if (result < 0 && ['EAGAIN', 'EINTR', 'ECONNABORTED'].includes(errnoName(result))) {
    return undefined;
  }
  return check(result, 'accept');
}

/** poll(2) for at most `timeoutMs`: the ready events of one descriptor (1 in, 4 out, 8 error, 16 hang-up), 0 for none. */
export function pollOnce(fd: number, events: number, timeoutMs = 0): number {
  const entry = Buffer.alloc(8);
  entry.writeInt32LE(fd, 0);
  entry.writeInt16LE(events, 4);
  check(call('poll', entry, 1, timeoutMs), 'poll');
  return entry.readInt16LE(6);
}

/** The pending error of a socket (SO_ERROR), as a negative errno, 0 for none. */
export function socketError(fd: number): number {
  const value = Buffer.alloc(4);
  const length = Buffer.from(new Uint32Array([4]).buffer);
  check(call('getsockopt', fd, 1, 4, value, length), 'getsockopt SO_ERROR');
  return -value.readInt32LE(0);
}

/** sendmsg(2) or recvmsg(2) with one vector over `data` and one control buffer; the result, and how much of `control` is filled. */
function callWithMessage(name: 'sendmsg' | 'recvmsg', socketFd: number, data: Uint8Array, control: Buffer, flags: number): { result: number; controlLength: number } {
  native ??= load();
  const vector = Buffer.alloc(16);
  vector.writeBigUInt64LE(native.addr(data), 0);
  vector.writeBigUInt64LE(BigInt(data.length), 8);
  const header = Buffer.alloc(56);
  header.writeBigUInt64LE(native.addr(vector), 16);
  header.writeBigUInt64LE(1n, 24);
  header.writeBigUInt64LE(native.addr(control), 32);
  header.writeBigUInt64LE(BigInt(control.length), 40);
  const result = call(name, socketFd, header, flags);
  // The header holds addresses only: reading the buffers here keeps them from being collected before the call.
  const alive = [vector, data, control].every((buffer) => buffer.length >= 0);
  return { result, controlLength: alive ? Number(header.readBigUInt64LE(40)) : 0 };
}

/** sendmsg(2) of `data` with descriptors (SCM_RIGHTS) on a unix socket; bytes sent or -errno. The caller keeps the descriptors. */
export function sendDescriptors(socketFd: number, data: Uint8Array, fds: readonly number[]): number {
  const control = Buffer.alloc(16 + ((4 * fds.length + 7) & ~7));
  control.writeBigUInt64LE(BigInt(16 + 4 * fds.length), 0);
  control.writeInt32LE(1, 8);
  control.writeInt32LE(1, 12);
  fds.forEach((fd, index) => control.writeInt32LE(fd, 16 + 4 * index));
  return callWithMessage('sendmsg', socketFd, data, control, 0x4000).result;
}

/** recvmsg(2): up to 16 descriptors that came with at most `into.length` bytes. `length` is -errno on failure. Caller owns the descriptors. */
export function receiveDescriptors(socketFd: number, into: Uint8Array): { length: number; fds: number[] } {
  const control = Buffer.alloc(16 + 4 * 16);
  const { result: length, controlLength } = callWithMessage('recvmsg', socketFd, into, control, 0x40000000);
  const fds: number[] = [];
  if (length >= 0 && controlLength >= 16 && control.readInt32LE(12) === 1) {
    const end = Math.min(Number(control.readBigUInt64LE(0)), control.length);
    for (let at = 16; at + 4 <= end; at += 4) {
      fds.push(control.readInt32LE(at));
    }
  }
  return { length, fds };
}
