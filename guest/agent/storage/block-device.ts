import { closeSync, openSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sleep } from '../../../base/deadline';
import { errnoOf, KataError } from '../../../base/errors';

const POLL_MS = 10;
const ROOT_BUS = '/sys/devices/pci0000:00';

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** The sysfs folder of a guest PCI path: slots from the root bus down, hexadecimal, `02/01` or `02.1/00`. */
export function pciFolder(path: string, root = ROOT_BUS): string | undefined {
  let folder = root;
  for (const part of path.split('/')) {
    const match = /^([0-9a-f]{1,2})(?:\.([0-7]))?$/i.exec(part);
    if (match?.[1] === undefined) {
      throw new KataError('InvalidArgument', `PCI path ${JSON.stringify(path.slice(0, 80))} is not valid`);
    }
    const end = `:${match[1].toLowerCase().padStart(2, '0')}.${match[2] ?? '0'}`;
    const next = list(folder).find((name) => /^[0-9a-f]{4}:[0-9a-f]{2}:/.test(name) && name.endsWith(end));
    if (next === undefined) {
      return undefined;
    }
    folder = join(folder, next);
  }
  return folder;
}

/** The block device below a device's sysfs folder, through whatever bus layers lie between. */
function blockBelow(folder: string, depth = 0): string | undefined {
  const names = list(join(folder, 'block'));
  if (names[0] !== undefined) {
    return `/dev/${names[0]}`;
  }
  if (depth >= 4) {
    return undefined;
  }
  for (const name of list(folder).filter((entry) => /^(?:virtio\d+|host\d+|target[\d:]+|[\d:]+|nvme\w*|ata\d+)$/.test(entry))) {
    const found = blockBelow(join(folder, name), depth + 1);
    if (found !== undefined) {
      return found;
    }
  }
  return undefined;
}

function scsiDevice(address: string): string | undefined {
  const match = /^(\d+):(\d+)$/.exec(address);
  if (match?.[1] === undefined || match[2] === undefined) {
    throw new KataError('InvalidArgument', `SCSI address ${JSON.stringify(address.slice(0, 40))} is not target:lun`);
  }
  const [target, lun] = [match[1], match[2]];
  const end = `:0:${target}:${lun}`;
  const found = list('/sys/bus/scsi/devices').find((name) => name.endsWith(end) && /^\d/.test(name));
  if (found === undefined) {
    for (const host of list('/sys/class/scsi_host')) {
      writeFileSync(`/sys/class/scsi_host/${host}/scan`, `0 ${target} ${lun}`);
    }
    return undefined;
  }
  const name = list(join('/sys/bus/scsi/devices', found, 'block'))[0];
  return name === undefined ? undefined : `/dev/${name}`;
}

function look(driver: string, source: string): string | undefined {
  if (source.startsWith('/dev/')) {
    return source.includes('..') ? undefined : source;
  }
  switch (driver) {
    case 'scsi':
      return scsiDevice(source);
    case 'blk':
    case 'vfio': {
      const folder = pciFolder(source);
      return folder === undefined ? undefined : blockBelow(folder);
    }
    default:
      throw new KataError('InvalidArgument', `${driver} device ${JSON.stringify(source.slice(0, 80))} is not a path below /dev`);
  }
}

/** The node comes before the disk can be opened (ENXIO until then), and sysfs comes before the node. */
function opens(path: string): boolean {
  try {
    closeSync(openSync(path, 'r'));
    return true;
  } catch (reason) {
    return !['ENOENT', 'ENXIO', 'ENODEV'].includes(errnoOf(reason) ?? '');
  }
}

/** The node of a block device; waits until the guest has it, for at most `timeoutMs`. */
export async function blockDeviceOf(driver: string, source: string, timeoutMs: number): Promise<string> {
  const endsMs = performance.now() + timeoutMs;
  for (;;) {
    const path = look(driver, source);
    if (path !== undefined && opens(path)) {
      return path;
    }
    if (performance.now() >= endsMs) {
      throw new KataError('DeadlineExceeded', `wait for ${driver} device "${source}": not there after ${String(timeoutMs)} ms (agent.hotplug_timeout)`);
    }
    await sleep(POLL_MS);
  }
}
