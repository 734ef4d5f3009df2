/** The text form of dm-verity parameters, as `kernel_verity_params` and `guest_extension_images` have it. */
import { KataError } from '../../base/errors';

export interface Verity {
  /** Hexadecimal, SHA-256. */
  readonly rootHash: string;
  /** Hexadecimal, or `-` for none. */
  readonly salt: string;
  readonly dataBlocks: number;
  readonly dataBlockSize: number;
  readonly hashBlockSize: number;
}

const SECTOR_BYTES = 512;
const NAMES = ['root_hash', 'salt', 'data_blocks', 'data_block_size', 'hash_block_size'] as const;

/** InvalidArgument says what is wrong; the caller says where. Nothing that a kernel command line would cut is let through. */
export function parseVerity(text: string): Verity {
  const fields = new Map<string, string>();
  for (const part of text.split(',').map((word) => word.trim())) {
    const [name = '', value = ''] = part.split('=', 2);
    if (!(NAMES as readonly string[]).includes(name) || value === '' || fields.has(name) || part !== `${name}=${value}`) {
      throw bad(`${JSON.stringify(part.slice(0, 80))} is not one of its fields`);
    }
    fields.set(name, value);
  }
  const missing = NAMES.find((name) => !fields.has(name));
  if (missing !== undefined) {
    throw bad(`${missing} is missing`);
  }
  const rootHash = fields.get('root_hash') ?? '';
  const salt = fields.get('salt') ?? '';
  if (!/^[0-9a-fA-F]{64}$/.test(rootHash)) {
    throw bad('root_hash is not a SHA-256 of 64 hexadecimal digits');
  }
  if (salt !== '-' && !/^([0-9a-fA-F]{2})+$/.test(salt)) {
    throw bad('salt is neither hexadecimal nor "-"');
  }
  return { rootHash, salt, dataBlocks: count(fields, 'data_blocks'), dataBlockSize: blockSize(fields, 'data_block_size'), hashBlockSize: blockSize(fields, 'hash_block_size') };
}

function count(fields: ReadonlyMap<string, string>, name: string): number {
  const text = fields.get(name) ?? '';
  const value = /^\d{1,15}$/.test(text) ? Number(text) : 0;
  if (value === 0) {
    throw bad(`${name} is no positive number`);
  }
  return value;
}

function blockSize(fields: ReadonlyMap<string, string>, name: string): number {
  const value = count(fields, name);
  if (value % SECTOR_BYTES !== 0) {
    throw bad(`${name} is no multiple of ${String(SECTOR_BYTES)}`);
  }
  return value;
}

function bad(what: string): KataError {
  return new KataError('InvalidArgument', what, { hint: `wanted is ${NAMES.map((name) => `${name}=...`).join(',')}` });
}

/** 512-byte sectors of the data device. */
export function veritySectors({ dataBlocks, dataBlockSize }: Verity): number {
  return dataBlocks * (dataBlockSize / SECTOR_BYTES);
}
