/**
 * Direct-assigned volumes on disk: `<root>/<base64url of the volume path>/mountInfo.json`, beside it an empty file named
 * after the sandbox that uses the volume. Layout and field names are upstream's (cli-and-config.md section 5).
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../../base/atomic-file';
import { errnoOf, KataError } from '../../base/errors';
import { checkId } from '../../base/ids';

export const DIRECT_VOLUMES_ROOT = '/run/kata-containers/shared/direct-volumes';
const MOUNT_INFO = 'mountInfo.json';
const MAX_MOUNT_INFO_BYTES = 1024 * 1024;
/** Longest name of one folder on Linux file systems. */
const MAX_NAME_BYTES = 255;

export interface MountInfo {
  /** `block`. */
  readonly volumeType: string;
  readonly device: string;
  readonly fstype: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly options: readonly string[];
}

/** The folder of a volume: base64url with padding of the path's bytes. InvalidArgument for a blank or an over-long path. */
export function volumeFolder(root: string, volumePath: string): string {
  if (volumePath === '') {
    throw new KataError('InvalidArgument', 'find the direct volume: the volume path is blank', { hint: 'give --volume-path' });
  }
  const name = Buffer.from(volumePath).toString('base64').replaceAll('+', '-').replaceAll('/', '_');
  if (name.length > MAX_NAME_BYTES) {
    throw new KataError('InvalidArgument', `find the direct volume: the volume path has ${String(Buffer.byteLength(volumePath))} bytes`, {
      hint: 'its base64 must fit a file name: use at most 189 bytes',
    });
  }
  return join(root, name);
}

/** Text to MountInfo. InvalidArgument says which field is wrong; unknown fields are let through, as upstream does. */
export function parseMountInfo(text: string, where: string): MountInfo {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (reason) {
    const why = reason instanceof Error ? reason.message.slice(0, 200) : '';
    throw new KataError('InvalidArgument', `read ${where}: not JSON: ${why}`, { cause: reason, hint: 'wanted {"volume-type":"block","device":"/dev/...","fstype":"ext4"}' });
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new KataError('InvalidArgument', `read ${where}: wanted a JSON object`);
  }
  const fields = parsed as Readonly<Record<string, unknown>>;
  const field = (key: string): string => {
    const value = fields[key] ?? '';
    if (typeof value !== 'string') {
      throw new KataError('InvalidArgument', `read ${where}: "${key}" is no string`);
    }
    return value;
  };
  const options = fields['options'] ?? [];
  if (!Array.isArray(options) || !options.every((option) => typeof option === 'string')) {
    throw new KataError('InvalidArgument', `read ${where}: "options" is no list of strings`);
  }
  const metadata = fields['metadata'] ?? {};
  if (typeof metadata !== 'object' || Array.isArray(metadata) || !Object.values(metadata).every((value) => typeof value === 'string')) {
    throw new KataError('InvalidArgument', `read ${where}: "metadata" is no object of strings`);
  }
  return { volumeType: field('volume-type'), device: field('device'), fstype: field('fstype'), metadata: metadata as Record<string, string>, options };
}

/** Keeps `mountInfo` (the caller's bytes) for a volume path, replacing what was there. Nothing is left on a failure. */
export function addVolume(root: string, volumePath: string, mountInfo: string): void {
  const folder = volumeFolder(root, volumePath);
  if (Buffer.byteLength(mountInfo) > MAX_MOUNT_INFO_BYTES) {
    throw new KataError('InvalidArgument', `add the direct volume ${volumePath}: --mount-info is larger than ${String(MAX_MOUNT_INFO_BYTES)} bytes`);
  }
  parseMountInfo(mountInfo, '--mount-info');
  if (statSync(folder, { throwIfNoEntry: false })?.isDirectory() === false) {
    throw new KataError('FailedPrecondition', `add the direct volume ${volumePath}: ${folder} should be a directory`, { hint: 'remove that file' });
  }
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  } catch (reason) {
    throw KataError.from(reason, `add the direct volume ${volumePath}: make ${folder}`, { hint: 'run as root' });
  }
  writeFileAtomic(join(folder, MOUNT_INFO), mountInfo, 0o600);
}

/** Forgets a volume; fine if it is not there. */
export function removeVolume(root: string, volumePath: string): void {
  const folder = volumeFolder(root, volumePath);
  try {
    rmSync(folder, { recursive: true, force: true });
  } catch (reason) {
    throw KataError.from(reason, `remove the direct volume ${volumePath}: ${folder}`);
  }
}

/** What was added for a volume path; undefined if nothing was. */
export function findVolume(root: string, volumePath: string): MountInfo | undefined {
  if (Buffer.byteLength(volumePath) > 189 || volumePath === '') {
    return undefined;
  }
  const file = join(volumeFolder(root, volumePath), MOUNT_INFO);
  try {
    if (statSync(file).size > MAX_MOUNT_INFO_BYTES) {
      throw new KataError('InvalidArgument', `read ${file}: larger than ${String(MAX_MOUNT_INFO_BYTES)} bytes`);
    }
    return parseMountInfo(readFileSync(file, 'utf8'), file);
  } catch (reason) {
    if (errnoOf(reason) === 'ENOENT') {
      return undefined;
    }
    throw reason instanceof KataError ? reason : KataError.from(reason, `read ${file}`);
  }
}

/** `fsGroup` and `fsGroupChangePolicy` of the metadata. InvalidArgument for values that are none. */
export function fsGroupOf(info: MountInfo): { readonly groupId: number; readonly changePolicy: 'always' | 'on-root-mismatch' } | undefined {
  const { fsGroup, fsGroupChangePolicy } = info.metadata as { readonly fsGroup?: string; readonly fsGroupChangePolicy?: string };
  if (fsGroup === undefined) {
    return undefined;
  }
  if (!/^\d{1,10}$/.test(fsGroup)) {
    throw new KataError('InvalidArgument', `direct volume ${info.device}: fsGroup ${JSON.stringify(fsGroup)} is no group id`);
  }
  return { groupId: Number(fsGroup), changePolicy: fsGroupChangePolicy === 'OnRootMismatch' ? 'on-root-mismatch' : 'always' };
}

/** Notes that a sandbox uses the volume. One pod per volume: notes of others, which are gone, are taken away. */
export function claimVolume(root: string, volumePath: string, sandboxId: string): void {
  const folder = volumeFolder(root, volumePath);
  const path = join(folder, checkId(sandboxId, 'sandbox'));
  try {
    for (const name of readdirSync(folder)) {
      if (name !== MOUNT_INFO && name !== sandboxId && !name.startsWith('.')) {
        rmSync(join(folder, name), { force: true });
      }
    }
    writeFileSync(path, '', { mode: 0o600 });
  } catch (reason) {
    throw KataError.from(reason, `note the sandbox of the direct volume ${volumePath}`);
  }
}


/** The volume and the sandboxes that use it, by name. NotFound if it was not added. */
export function readVolume(root: string, volumePath: string): { readonly info: MountInfo; readonly sandboxes: readonly string[] } {
  const info = findVolume(root, volumePath);
  if (info === undefined) {
    throw new KataError('NotFound', `find the direct volume ${JSON.stringify(volumePath.slice(0, 300))}: it was not added`, {
      hint: 'kata-runtime direct-volume add makes it known',
    });
  }
  const sandboxes = readdirSync(volumeFolder(root, volumePath)).filter((name) => name !== MOUNT_INFO && !name.startsWith('.'));
  return { info, sandboxes: sandboxes.sort() };
}
