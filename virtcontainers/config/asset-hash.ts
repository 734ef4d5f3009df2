/** SHA-512 of a guest asset; apart from annotations.ts because few pods ask for it and `crypto` costs start-up time. */
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { KataError } from '../../base/errors';

const CHUNK_BYTES = 1024 * 1024;

/** Lower-case hexadecimal digits. Reads in chunks, so that the event loop goes on. */
export async function hashFile(path: string): Promise<string> {
  try {
    const hash = createHash('sha512');
    const handle = await open(path, 'r');
    try {
      const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
      for (;;) {
        const { bytesRead } = await handle.read(chunk, 0, chunk.length, null);
        if (bytesRead === 0) {
          return hash.digest('hex');
        }
        hash.update(chunk.subarray(0, bytesRead));
      }
    } finally {
      await handle.close();
    }
  } catch (reason) {
    throw KataError.from(reason, `hash ${path}`);
  }
}
