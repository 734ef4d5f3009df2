/** What the configuration names must be there: said before QEMU starts, with the key. */
import { accessSync, constants, statSync } from 'node:fs';
import { errnoOf, KataError } from '../../../base/errors';
import type { HypervisorConfig } from '../../config/types';

function checkFile(path: string, key: string, mode: number): void {
  try {
    accessSync(path, mode);
    if (statSync(path).isDirectory()) {
      throw Object.assign(new Error('a folder'), { code: 'EISDIR' });
    }
  } catch (reason) {
    const errno = errnoOf(reason);
    const what = errno === 'ENOENT' ? 'no such file' : errno === 'EISDIR' ? 'is a folder' : (errno ?? 'not usable');
    throw KataError.from(reason, `${key} ${path}: ${what}`, { hint: `set ${key} in [hypervisor.qemu]` });
  }
}

/** NotFound or PermissionDenied for the first thing that is missing; InvalidArgument without a guest. */
export function checkFiles(config: HypervisorConfig): void {
  checkFile(config.path, 'path', constants.X_OK);
  if (config.kernel === '') {
    throw new KataError('InvalidArgument', 'kernel: not set', { hint: 'set kernel in [hypervisor.qemu]' });
  }
  checkFile(config.kernel, 'kernel', constants.R_OK);
  if ((config.image === '') === (config.initrd === '')) {
    throw new KataError('InvalidArgument', 'exactly one of image and initrd must be set', { hint: 'set image or initrd in [hypervisor.qemu]' });
  }
  checkFile(config.image === '' ? config.initrd : config.image, config.image === '' ? 'initrd' : 'image', constants.R_OK);
  if (config.firmware !== '') {
    checkFile(config.firmware, 'firmware', constants.R_OK);
  }
  if (!['q35', 'microvm', '', 'pc'].includes(config.machineType)) {
    throw new KataError('InvalidArgument', `machine_type ${JSON.stringify(config.machineType)}: not supported`, { hint: 'use q35 or microvm' });
  }
}
