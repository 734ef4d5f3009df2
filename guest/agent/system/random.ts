import { closeSync, openSync } from 'node:fs';
import { errnoError, ioctl } from '../../../base/syscalls';
import { KataError } from '../../../base/errors';

const RNDADDENTROPY = 0x40085203;
const RNDRESEEDCRNG = 0x5207;
/** More than the kernel's pool takes at once makes no difference. */
const MAX_BYTES = 4096;

/** Feeds the kernel's random generator and makes it use that at once: clones of one template start alike. */
export function reseedRandom(data: Uint8Array): void {
  const seed = data.subarray(0, MAX_BYTES);
  const fd = openSync('/dev/random', 'r+');
  try {
    const pool = Buffer.alloc(8 + seed.length);
    pool.writeInt32LE(seed.length * 8, 0);
    pool.writeInt32LE(seed.length, 4);
    pool.set(seed, 8);
    for (const [name, request, argument] of [['add entropy', RNDADDENTROPY, pool], ['reseed', RNDRESEEDCRNG, null]] as const) {
      const result = ioctl(fd, request, argument);
      if (result < 0) {
        throw KataError.from(errnoError(result, name), `reseed the random generator: ${name} refused`);
      }
    }
  } finally {
    closeSync(fd);
  }
}
