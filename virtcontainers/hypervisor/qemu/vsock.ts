/** A vsock address for the guest: an open vhost-vsock descriptor holds it. */
import { closeSync, constants, openSync, readSync } from 'node:fs';
import { errnoOf, KataError } from '../../../base/errors';
import { errnoName, ioctl } from '../../../base/syscalls';
import type { HypervisorConfig } from '../../config/types';
import type { AgentChannel } from './plan';

const DEVICE = '/dev/vhost-vsock';
/** _IOW(0xaf, 0x60, u64) */
const VHOST_VSOCK_SET_GUEST_CID = 0x4008af60;
const FIRST_CID = 3;
const MAX_CID = 0xffff_ffff - 1;
const TRIES = 4096;

/** `count` random bytes; /dev/urandom because `crypto` costs 2 ms to load. */
export function randomBytes(count: number): Buffer {
  const fd = openSync('/dev/urandom', 'r');
  try {
    const bytes = Buffer.alloc(count);
    readSync(fd, bytes, 0, count, null);
    return bytes;
  } finally {
    closeSync(fd);
  }
}

function claimCid(fd: number): number {
  const start = FIRST_CID + (randomBytes(4).readUInt32LE(0) % (MAX_CID - FIRST_CID));
  for (let i = 0; i < TRIES; i++) {
    const cid = FIRST_CID + ((start - FIRST_CID + i) % (MAX_CID - FIRST_CID));
    const argument = Buffer.alloc(8);
    argument.writeBigUInt64LE(BigInt(cid));
    const result = ioctl(fd, VHOST_VSOCK_SET_GUEST_CID, argument);
    if (result === 0) {
      return cid;
    }
    if (errnoName(result) !== 'EADDRINUSE') {
      throw new KataError('FailedPrecondition', `vsock: ${DEVICE} gives no address: ${errnoName(result)}`);
    }
  }
  throw new KataError('ResourceExhausted', `vsock: no free address in ${String(TRIES)} tries`);
}

/** vsock where it is asked for or there, else a virtio-serial port. With vsock the caller owns the descriptor. */
export function openChannel(wanted: HypervisorConfig['agentChannel']): AgentChannel {
  if (wanted === 'serial') {
    return { kind: 'serial' };
  }
  let fd: number;
  try {
    fd = openSync(DEVICE, constants.O_RDWR);
  } catch (reason) {
    if (wanted === 'auto') {
      return { kind: 'serial' };
    }
    throw KataError.from(reason, `agent_channel = "vsock" is configured, but ${DEVICE} cannot be opened (${errnoOf(reason) ?? 'error'})`, {
      hint: 'modprobe vhost_vsock, or set agent_channel = "auto"',
    });
  }
  try {
    return { kind: 'vsock', cid: claimCid(fd), fd };
  } catch (reason) {
    closeSync(fd);
    throw reason;
  }
}
