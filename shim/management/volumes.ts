/** /direct-volume/stats and /direct-volume/resize. */
import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { GUEST_STORAGE_DIR } from '../../agent-client/storage';
import type { VolumeStats } from '../../agent-client/types';
import { KataError } from '../../base/errors';
import type { Sandbox } from '../../virtcontainers/sandbox/types';
import { DIRECT_VOLUMES_ROOT, findVolume } from '../../virtcontainers/volume/direct-volume';
import { requireGuest, type Answer, type Asked } from './answer';

/** Where the guest has a volume: by its device, or by the source of a mount of some container. NotFound if none has it. */
export function guestPathOf(sandbox: Sandbox, device: string, directVolumes: string): string {
  for (const container of sandbox.containers.values()) {
    for (const mount of container.spec.mounts ?? []) {
      const source = mount.source ?? '';
      if (source !== '' && (source === device || findVolume(directVolumes, source)?.device === device)) {
        return `${GUEST_STORAGE_DIR}/${Buffer.from(source).toString('base64url')}`;
      }
    }
  }
  throw new KataError('NotFound', `mount ${device} not found in sandbox`);
}

/** As Go's encoder writes the proto: its names, zero members left out. */
export function statsJson(stats: VolumeStats): string {
  const usage = stats.usage.map(({ available, total, used, unit }) => {
    const numbers: [string, bigint][] = [['available', available], ['total', total], ['used', used], ['unit', unit === 'bytes' ? 1n : unit === 'inodes' ? 2n : 0n]];
    return `{${numbers.filter(([, value]) => value !== 0n).map(([name, value]) => `"${name}":${String(value)}`).join(',')}}`;
  });
  const { condition } = stats;
  const members = condition === undefined ? undefined : { ...(condition.abnormal ? { abnormal: true } : {}), ...(condition.message === '' ? {} : { message: condition.message }) };
  return `{${[...(usage.length === 0 ? [] : [`"usage":[${usage.join(',')}]`]), ...(members === undefined ? [] : [`"volume_condition":${JSON.stringify(members)}`])].join(',')}}`;
}

/** Clients escape the path once or twice. InvalidArgument for a bad escape. */
function unescapePath(path: string): string {
  if (!path.includes('%')) {
    return path;
  }
  try {
    return decodeURIComponent(path);
  } catch (reason) {
    throw new KataError('InvalidArgument', `path ${JSON.stringify(path.slice(0, 200))}: bad escape`, { cause: reason });
  }
}

export async function volumeStats({ options, query }: Asked): Promise<Answer> {
  const path = query.get('path') ?? '';
  if (path === '') {
    throw new KataError('InvalidArgument', 'Required parameter path not found');
  }
  requireGuest(options.sandbox);
  const guestPath = guestPathOf(options.sandbox, unescapePath(path), options.directVolumes ?? DIRECT_VOLUMES_ROOT);
  const stats = await options.sandbox.agent.getVolumeStats(guestPath);
  return { status: 200, body: statsJson(stats), type: 'application/json' };
}

/** `{"VolumePath":string,"Size":uint64}`; keys match without regard to case, as Go's do. InvalidArgument for anything else. */
export function parseResize(body: Buffer): { readonly device: string; readonly sizeBytes: bigint } {
  const wanted = 'wanted {"VolumePath":"/dev/...","Size":<bytes>}';
  const text = body.toString('utf8');
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (reason) {
    throw new KataError('InvalidArgument', `the body is not JSON: ${wanted}`, { cause: reason });
  }
  const fields = new Map(typeof parsed === 'object' && parsed !== null ? Object.entries(parsed).map(([key, value]: [string, unknown]) => [key.toLowerCase(), value]) : []);
  const [device, size] = [fields.get('volumepath'), fields.get('size')];
  // Beyond 2^53 the parsed number is rounded: the digits are taken from the text.
  const digits = /"size"\s*:\s*(\d{1,19})\s*[,}]/i.exec(text)?.[1];
  if (typeof device !== 'string' || device === '' || typeof size !== 'number' || digits === undefined || Number(digits) !== size || size <= 0) {
    throw new KataError('InvalidArgument', `the body is incomplete or of wrong types: ${wanted}`);
  }
  return { device, sizeBytes: BigInt(digits) };
}

/** Bytes that a device or a disk image of the host has now; undefined where it cannot be told. */
function hostSize(path: string): bigint | undefined {
  const stats = statSync(path, { bigint: true });
  if (!stats.isBlockDevice()) {
    return stats.size;
  }
  const size = `/sys/dev/block/${String((stats.rdev >> 8n) & 0xfffn)}:${String((stats.rdev & 0xffn) | ((stats.rdev >> 12n) & 0xfff00n))}/size`;
  return existsSync(size) ? BigInt(readFileSync(size, 'utf8').trim()) * 512n : undefined;
}

/** A VMM would cut an image file off; a device has the size that the host gave it. */
function checkSize(device: string, sizeBytes: bigint): void {
  const size = hostSize(device);
  if (size === undefined || size === sizeBytes) {
    return;
  }
  if (statSync(device).isBlockDevice()) {
    if (size < sizeBytes) {
      throw new KataError('FailedPrecondition', `resize ${device}: it has ${String(size)} bytes on the host, ${String(sizeBytes)} are wanted`, { hint: 'grow the device first (lvextend; losetup -c)' });
    }
  } else if (sizeBytes < size) {
    throw new KataError('InvalidArgument', `resize ${device}: it has ${String(size)} bytes and cannot be made smaller`);
  }
}

/** Tells the VM of the device's new size, then has the guest grow the file system. */
export async function volumeResize({ options, body }: Asked): Promise<Answer> {
  const { device, sizeBytes } = parseResize(body);
  const { sandbox } = options;
  requireGuest(sandbox);
  const guestPath = guestPathOf(sandbox, device, options.directVolumes ?? DIRECT_VOLUMES_ROOT);
  checkSize(realpathSync(device), sizeBytes);
  await sandbox.resizeBlock?.(realpathSync(device), sizeBytes);
  await sandbox.agent.resizeVolume(guestPath, sizeBytes);
  return { status: 200, body: '' };
}
