import { existsSync, readFileSync, realpathSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { VolumeUsage_Unit as Unit, type VolumeStatsResponse } from '../../../gen/agent/volume';
import { sleep } from '../../../base/deadline';
import { KataError } from '../../../base/errors';
import { checkAbsolute } from '../../../base/ids';
import { mustRun } from '../process/tool';
import { blockDeviceOf } from '../storage/block-device';

const RESIZE_TIMEOUT_MS = 50_000;
const DEVICE_TIMEOUT_MS = 10_000;
const SIZE_TIMEOUT_MS = 5_000;
const SIZE_POLL_MS = 20;

/** Use of the file system at a path. */
export function volumeStats(path: string): VolumeStatsResponse {
  const target = checkAbsolute(path, 'volume');
  statSync(target);
  const fs = statfsSync(target, { bigint: true });
  return {
    usage: [
      { available: fs.bavail * fs.bsize, total: fs.blocks * fs.bsize, used: (fs.blocks - fs.bfree) * fs.bsize, unit: Unit.BYTES },
      { available: fs.ffree, total: fs.files, used: fs.files - fs.ffree, unit: Unit.INODES },
    ],
    volumeCondition: { abnormal: false, message: '' },
  };
}

/** What is mounted at a path: its device and file system type. */
export function mountAt(target: string, mountinfo: string): { readonly device: string; readonly type: string } | undefined {
  let found: { readonly device: string; readonly type: string } | undefined;
  for (const line of mountinfo.split('\n')) {
    const [before = '', after = ''] = line.split(' - ');
    const [type = '', device = ''] = after.split(' ');
    const path = (before.split(' ')[4] ?? '').replace(/\\(\d{3})/g, (_all, code: string) => String.fromCharCode(parseInt(code, 8)));
    if (path === target) {
      found = { device, type };
    }
  }
  return found;
}

/** A SCSI disk tells its new size only when it is asked; other devices have no such file. */
function rescan(device: string): void {
  const file = `/sys/class/block/${basename(device)}/device/rescan`;
  if (device.startsWith('/dev/') && existsSync(file)) {
    writeFileSync(file, '1');
  }
}

/** Bytes of a block device, from sysfs, where they are counted in sectors of 512. */
function deviceSize(device: string): bigint {
  return BigInt(readFileSync(`/sys/class/block/${basename(realpathSync(device))}/size`, 'utf8').trim()) * 512n;
}

/** The host tells a device's new size by an interrupt, which may come after the call: waits until the kernel knows it. */
async function awaitSize(device: string, sizeBytes: bigint): Promise<bigint> {
  const endsMs = performance.now() + SIZE_TIMEOUT_MS;
  for (;;) {
    rescan(device);
    const size = deviceSize(device);
    if (size >= sizeBytes) {
      return size;
    }
    if (performance.now() >= endsMs) {
      throw new KataError('FailedPrecondition', `its device has ${String(size)} bytes in the guest, ${String(sizeBytes)} are wanted`, { hint: 'grow the device on the host first' });
    }
    await sleep(SIZE_POLL_MS);
  }
}

/** Grows the file system at a path to its device's size, which is at least `sizeBytes`. */
export async function resizeVolume(path: string, sizeBytes: bigint): Promise<void> {
  const target = checkAbsolute(path, 'volume');
  const mounted = mountAt(target, readFileSync('/proc/self/mountinfo', 'utf8'));
  if (mounted === undefined) {
    throw new KataError('NotFound', `resize volume ${target}: nothing is mounted there`);
  }
  try {
    const grow = GROWERS.get(mounted.type);
    if (grow === undefined) {
      throw new KataError('FailedPrecondition', `file system ${mounted.type} cannot be grown while it is mounted`, { hint: 'ext2, ext3, ext4 and xfs can' });
    }
    await grow(mounted.device, target, await awaitSize(mounted.device, sizeBytes));
  } catch (reason) {
    throw KataError.from(reason, `resize volume ${target}`);
  }
}

async function growExt(device: string): Promise<void> {
  await mustRun('resize2fs', [device], { timeoutMs: RESIZE_TIMEOUT_MS });
}

type Grow = (device: string, target: string, deviceBytes: bigint) => Promise<void>;

/** How to grow a mounted file system, by its type. */
const GROWERS: ReadonlyMap<string, Grow> = new Map<string, Grow>([
  ['ext2', growExt],
  ['ext3', growExt],
  ['ext4', growExt],
  [
    'xfs',
    async (_device, target, deviceBytes) => {
      const { growXfs } = await import('./xfs');
      growXfs(target, deviceBytes);
    },
  ],
]);

/** Makes and uses swap on the block device at a PCI path, one slot per level. */
export async function addSwap(pciPath: readonly number[]): Promise<void> {
  const path = pciPath.map((slot) => slot.toString(16).padStart(2, '0')).join('/');
  await addSwapPath(await blockDeviceOf('blk', path, DEVICE_TIMEOUT_MS));
}

/** Uses the swap that is on a device; makes it where there is none. */
export async function addSwapPath(path: string): Promise<void> {
  const device = checkAbsolute(path, 'swap device');
  if (!device.startsWith('/dev/')) {
    throw new KataError('InvalidArgument', `add swap: ${device} is not below /dev`);
  }
  const header = Buffer.alloc(4096);
  const { openSync, readSync, closeSync } = await import('node:fs');
  const fd = openSync(device, 'r');
  try {
    readSync(fd, header, 0, header.length, 0);
  } finally {
    closeSync(fd);
  }
  if (header.subarray(4086).toString('latin1') !== 'SWAPSPACE2') {
    await mustRun('mkswap', [device], { timeoutMs: RESIZE_TIMEOUT_MS });
  }
  await mustRun('swapon', [device], { timeoutMs: RESIZE_TIMEOUT_MS });
}
