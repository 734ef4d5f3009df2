/**
 * Takes the uncompressed kernel out of a bzImage. QEMU starts the ELF file by PVH, without the decompressor, which
 * alone takes 2.6 s where every instruction is emulated. Offsets follow the kernel's Documentation/arch/x86/boot.rst.
 */
import { spawnSync } from 'node:child_process';
import { gunzipSync } from 'node:zlib';
import { KataError, errnoOf } from '../../base/errors';
import { isElf64, packKernel } from './elf';

const SETUP_SECTS_AT = 0x1f1;
const MAGIC_AT = 0x202;
const PAYLOAD_OFFSET_AT = 0x248;
const PAYLOAD_LENGTH_AT = 0x24c;

/** Undoes a compression. */
export type Decompress = (payload: Buffer) => Buffer;

/** The compressed payload of a bzImage, as it lies there. Throws `InvalidArgument` where the bytes are no bzImage. */
export function payloadOf(bzImage: Buffer, name: string): Buffer {
  if (bzImage.length < 0x250 || bzImage.toString('latin1', MAGIC_AT, MAGIC_AT + 4) !== 'HdrS') {
    throw new KataError('InvalidArgument', `extract kernel "${name}": not an x86 bzImage`);
  }
  const setupSectors = bzImage[SETUP_SECTS_AT] ?? 0;
  const start = ((setupSectors === 0 ? 4 : setupSectors) + 1) * 512 + bzImage.readUInt32LE(PAYLOAD_OFFSET_AT);
  const end = start + bzImage.readUInt32LE(PAYLOAD_LENGTH_AT);
  if (end > bzImage.length || end - start < 16) {
    throw new KataError('InvalidArgument', `extract kernel "${name}": its payload ends behind the end of the file`);
  }
  return bzImage.subarray(start, end);
}

function throughCommand(command: string, payload: Buffer): Buffer {
  const done = spawnSync(command, ['-dc'], { input: payload, maxBuffer: 512 << 20 });
  if (errnoOf(done.error) === 'ENOENT') {
    throw new KataError('FailedPrecondition', `extract kernel: the command ${command} is missing`, { hint: `install ${command}, in Debian the package ${command === 'xz' ? 'xz-utils' : command}` });
  }
  if (done.status !== 0) {
    throw new KataError('Internal', `extract kernel: ${command} failed: ${done.stderr.toString().trim()}`);
  }
  return done.stdout;
}

/** Undoes the kernel's compression, told by the first bytes: gzip, xz or zstd (the last two through their commands). */
export function decompressPayload(payload: Buffer): Buffer {
  const magic = payload.toString('hex', 0, 6);
  // The build appends the size of the unpacked kernel, 4 bytes, which the commands take for garbage.
  const stream = payload.subarray(0, -4);
  if (magic.startsWith('1f8b')) {
    return gunzipSync(stream);
  }
  if (magic === 'fd377a585a00') {
    return throughCommand('xz', stream);
  }
  if (magic.startsWith('28b52ffd')) {
    return throughCommand('zstd', stream);
  }
  throw new KataError('Unimplemented', `extract kernel: unknown compression (starts with ${magic}); gzip, xz and zstd are known`);
}

/** The bootable ELF kernel of a bzImage, packed: without zeros, gaps and sections. */
export function extractKernel(bzImage: Buffer, name: string, decompress: Decompress = decompressPayload): Buffer {
  const elf = decompress(payloadOf(bzImage, name));
  if (!isElf64(elf)) {
    throw new KataError('InvalidArgument', `extract kernel "${name}": what it holds is no 64-bit ELF file`);
  }
  return packKernel(elf, name);
}
