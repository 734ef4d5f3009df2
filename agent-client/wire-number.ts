import { KataError } from '../base/errors';
import type { OciInteger } from '../base/oci-spec';

const MAX_U32 = 2 ** 32 - 1;

interface Range {
  readonly min: bigint;
  readonly max: bigint;
  readonly name: string;
}

const U64: Range = { min: 0n, max: (1n << 64n) - 1n, name: 'unsigned 64-bit' };
const I64: Range = { min: -(1n << 63n), max: (1n << 63n) - 1n, name: 'signed 64-bit' };

/** A number of config.json as uint32; absent is 0. InvalidArgument naming `field` where it does not fit. */
export function u32(value: number | undefined, field: string): number {
  if (value === undefined) {
    return 0;
  }
  if (!Number.isInteger(value) || value < 0 || value > MAX_U32) {
    throw new KataError('InvalidArgument', `convert ${field}: ${String(value)} is no unsigned 32-bit number`);
  }
  return value;
}

/** The same for uint64. */
export function u64(value: OciInteger | undefined, field: string): bigint {
  return big(value, field, U64);
}

/** The same for int64. */
export function i64(value: OciInteger | undefined, field: string): bigint {
  return big(value, field, I64);
}

function big(value: OciInteger | undefined, field: string, range: Range): bigint {
  if (value === undefined) {
    return 0n;
  }
  const exact = typeof value === 'bigint' ? value : Number.isInteger(value) ? BigInt(value) : undefined;
  if (exact !== undefined && exact >= range.min && exact <= range.max) {
    return exact;
  }
  // JSON.parse rounds the greatest value ("unlimited") up to the next power of two.
  if (typeof value === 'number' && exact === range.max + 1n) {
    return range.max;
  }
  throw new KataError('InvalidArgument', `convert ${field}: ${String(value)} is no ${range.name} number`);
}
