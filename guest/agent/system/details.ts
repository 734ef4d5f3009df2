import { existsSync, readFileSync } from 'node:fs';
import type { GuestDetailsRequest, GuestDetailsResponse } from '../../../gen/agent/agent';
import { STORAGE_DRIVERS } from '../storage/storages';

const BLOCK_SIZE = '/sys/devices/system/memory/block_size_bytes';
const PROBE = '/sys/devices/system/memory/probe';
const DEVICE_DRIVERS = ['blk', 'mmioblk', 'scsi', 'nvdimm', 'vfio', 'vfio-gk', 'vfio-pci', 'vfio-pci-gk'];

function hexFile(path: string): bigint {
  try {
    return BigInt(`0x${readFileSync(path, 'latin1').trim()}`);
  } catch {
    return 0n;
  }
}

/** What this guest can do. */
export function guestDetails(request: GuestDetailsRequest, version: string, isInit: boolean): GuestDetailsResponse {
  return {
    memBlockSizeBytes: request.memBlockSize ? hexFile(BLOCK_SIZE) : 0n,
    supportMemHotplugProbe: request.memHotplugProbe && existsSync(PROBE),
    agentDetails: {
      version,
      initDaemon: isInit,
      deviceHandlers: DEVICE_DRIVERS,
      storageHandlers: [...STORAGE_DRIVERS],
      supportsSeccomp: /^Seccomp:/m.test(readFileSync('/proc/self/status', 'latin1')),
      extraFeatures: ['kata-ts'],
    },
  };
}
