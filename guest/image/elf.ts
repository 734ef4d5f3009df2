/** Reads and shrinks ELF64 little-endian files. Pure: bytes in, values or bytes out. */
import { KataError } from '../../base/errors';

const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const DT_NULL = 0n;
const DT_NEEDED = 1n;
const DT_STRTAB = 5n;

const EHDR_BYTES = 64;
const PHDR_BYTES = 56;

/** One program header; offsets and sizes in bytes. */
export interface Segment {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly vaddr: bigint;
  readonly paddr: bigint;
  readonly fileBytes: number;
  readonly memoryBytes: number;
  readonly align: bigint;
}

/** True if the bytes start like a 64-bit little-endian ELF file. */
export function isElf64(bytes: Buffer): boolean {
  return bytes.length >= EHDR_BYTES && bytes.readUInt32BE(0) === 0x7f454c46 && bytes[4] === 2 && bytes[5] === 1;
}

/** The program headers of an ELF64 file. Throws `InvalidArgument` where the bytes are no such file or are cut short. */
export function segmentsOf(bytes: Buffer, name: string): Segment[] {
  if (!isElf64(bytes)) {
    throw new KataError('InvalidArgument', `read ELF "${name}": not a 64-bit little-endian ELF file`);
  }
  const tableOffset = Number(bytes.readBigUInt64LE(32));
  const entryBytes = bytes.readUInt16LE(54);
  const count = bytes.readUInt16LE(56);
  if (entryBytes !== PHDR_BYTES || tableOffset + count * PHDR_BYTES > bytes.length) {
    throw new KataError('InvalidArgument', `read ELF "${name}": the program header table is damaged`);
  }
  const segments: Segment[] = [];
  for (let i = 0; i < count; i++) {
    const at = tableOffset + i * PHDR_BYTES;
    const segment = {
      type: bytes.readUInt32LE(at),
      flags: bytes.readUInt32LE(at + 4),
      offset: Number(bytes.readBigUInt64LE(at + 8)),
      vaddr: bytes.readBigUInt64LE(at + 16),
      paddr: bytes.readBigUInt64LE(at + 24),
      fileBytes: Number(bytes.readBigUInt64LE(at + 32)),
      memoryBytes: Number(bytes.readBigUInt64LE(at + 40)),
      align: bytes.readBigUInt64LE(at + 48),
    };
    if (segment.offset + segment.fileBytes > bytes.length) {
      throw new KataError('InvalidArgument', `read ELF "${name}": segment ${i} ends behind the end of the file`);
    }
    segments.push(segment);
  }
  return segments;
}

function textAt(bytes: Buffer, offset: number): string {
  const end = bytes.indexOf(0, offset);
  return bytes.toString('latin1', offset, end < 0 ? bytes.length : end);
}

/** What the dynamic loader needs for a program or library. */
export interface Needs {
  /** Path of the loader, `undefined` for libraries and static programs. */
  readonly interpreter: string | undefined;
  /** Sonames, in the file's order. */
  readonly libraries: readonly string[];
}

/** DT_NEEDED and PT_INTERP of an ELF file; both empty for a static one. */
export function needsOf(bytes: Buffer, name: string): Needs {
  const segments = segmentsOf(bytes, name);
  const interp = segments.find((segment) => segment.type === PT_INTERP);
  const interpreter = interp === undefined ? undefined : textAt(bytes, interp.offset);
  const dynamic = segments.find((segment) => segment.type === PT_DYNAMIC);
  if (dynamic === undefined) {
    return { interpreter, libraries: [] };
  }
  const needed: number[] = [];
  let strings: bigint | undefined;
  for (let at = dynamic.offset; at + 16 <= dynamic.offset + dynamic.fileBytes; at += 16) {
    const tag = bytes.readBigInt64LE(at);
    const value = bytes.readBigUInt64LE(at + 8);
    if (tag === DT_NULL) {
      break;
    }
    if (tag === DT_NEEDED) {
      needed.push(Number(value));
    } else if (tag === DT_STRTAB) {
      strings = value;
    }
  }
  if (needed.length === 0) {
    return { interpreter, libraries: [] };
  }
  const address = strings ?? -1n;
  const home = segments.find((s) => s.type === PT_LOAD && address >= s.vaddr && address < s.vaddr + BigInt(s.fileBytes));
  if (home === undefined) {
    throw new KataError('InvalidArgument', `read ELF "${name}": its dynamic string table is in no segment`);
  }
  const table = home.offset + Number(address - home.vaddr);
  return { interpreter, libraries: needed.map((offset) => textAt(bytes, table + offset)) };
}

/**
 * The file without what is never loaded: symbols, debug sections and the section table behind the last loaded byte.
 * A program runs from it as before. A file that has nothing there comes back as it is.
 */
export function dropUnloaded(bytes: Buffer, name: string): Buffer {
  const segments = segmentsOf(bytes, name);
  const tableEnd = Number(bytes.readBigUInt64LE(32)) + segments.length * PHDR_BYTES;
  const end = segments.reduce((most, segment) => Math.max(most, segment.offset + segment.fileBytes), tableEnd);
  if (end >= bytes.length) {
    return bytes;
  }
  const out = Buffer.from(bytes.subarray(0, end));
  clearSectionTable(out);
  return out;
}

function clearSectionTable(header: Buffer): void {
  header.writeBigUInt64LE(0n, 40);
  header.writeUInt16LE(0, 60);
  header.writeUInt16LE(0, 62);
}

function withoutZeroTail(bytes: Buffer): Buffer {
  let end = bytes.length;
  while (end > 0 && bytes[end - 1] === 0) {
    end--;
  }
  return bytes.subarray(0, end);
}

/**
 * A kernel image with the same segments in memory and without zeros, gaps and sections in the file. PT_NOTE is kept
 * pointing into its segment, because the PVH entry point is found through it.
 */
export function packKernel(bytes: Buffer, name: string): Buffer {
  const segments = segmentsOf(bytes, name);
  const header = Buffer.from(bytes.subarray(0, EHDR_BYTES));
  header.writeBigUInt64LE(BigInt(EHDR_BYTES), 32);
  clearSectionTable(header);
  const parts: Buffer[] = [];
  let offset = EHDR_BYTES + segments.length * PHDR_BYTES;
  const placed = new Map<Segment, { offset: number; fileBytes: number }>();
  for (const segment of segments.filter((s) => s.type === PT_LOAD)) {
    const data = withoutZeroTail(bytes.subarray(segment.offset, segment.offset + segment.fileBytes));
    const gap = -offset & 0xfff;
    parts.push(Buffer.alloc(gap), data);
    placed.set(segment, { offset: offset + gap, fileBytes: data.length });
    offset += gap + data.length;
  }
  const table = Buffer.alloc(segments.length * PHDR_BYTES);
  segments.forEach((segment, i) => {
    const at = i * PHDR_BYTES;
    const inside = [...placed].find(([load]) => segment.offset >= load.offset && segment.offset + segment.fileBytes <= load.offset + load.fileBytes);
    if (inside === undefined) {
      throw new KataError('InvalidArgument', `pack kernel "${name}": program header ${i} is in no loaded segment`);
    }
    const [load, place] = inside;
    const fileBytes = segment === load ? place.fileBytes : segment.fileBytes;
    table.writeUInt32LE(segment.type, at);
    table.writeUInt32LE(segment.flags, at + 4);
    table.writeBigUInt64LE(BigInt(place.offset + segment.offset - load.offset), at + 8);
    table.writeBigUInt64LE(segment.vaddr, at + 16);
    table.writeBigUInt64LE(segment.paddr, at + 24);
    table.writeBigUInt64LE(BigInt(fileBytes), at + 32);
    table.writeBigUInt64LE(BigInt(segment.memoryBytes), at + 40);
    table.writeBigUInt64LE(segment.type === PT_LOAD ? 4096n : segment.align, at + 48);
  });
  return Buffer.concat([header, table, ...parts]);
}
