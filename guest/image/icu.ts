/**
 * Node.js carries 33 MB of language data (ICU), and the agent speaks one language: all but the root locale, English and
 * what belongs to no language is cut out. The program then maps as before, with an unmapped hole where the data was.
 * Layout of the data: ICU's ucmndata.h ("CmnD": header, table of contents sorted by name, items).
 */
import { segmentsOf } from './elf';

const PAGE = 4096;
const PT_LOAD = 1;
const PT_NOTE = 4;
const PHDR_BYTES = 56;

/** Without these Node.js prints a wrong thing or fails; by file name in any folder. */
const LANGUAGES_KEPT: ReadonlySet<string> = new Set(['root.res', 'en.res', 'en_US.res']);
const LANGUAGE = /^[a-z]{2,3}(_[A-Za-z0-9_]+)?\.res$/;

/** One item of the table of contents; offsets in bytes from the table's start. */
export interface Item {
  readonly name: string;
  readonly offset: number;
  readonly bytes: number;
}

/** Where the data lies in a file and what it holds. The last item, whose size is not known, is left out. */
export interface IcuData {
  /** Of the header, in the file. */
  readonly start: number;
  readonly headerBytes: number;
  /** In the file; where the last item begins. */
  readonly end: number;
  readonly items: readonly Item[];
}

/** Finds ICU's data in a program; `undefined` where there is none. */
export function findIcuData(bytes: Buffer): IcuData | undefined {
  for (let at = bytes.indexOf('CmnD'); at >= 0; at = bytes.indexOf('CmnD', at + 1)) {
    const start = at - 12;
    if (start < 0 || bytes.readUInt16BE(start + 2) !== 0xda27) {
      continue;
    }
    const headerBytes = bytes.readUInt16LE(start);
    const base = start + headerBytes;
    const count = bytes.readUInt32LE(base);
    if (count < 2 || base + 4 + count * 8 > bytes.length) {
      continue;
    }
    const raw = Array.from({ length: count }, (_, i) => {
      const name = base + bytes.readUInt32LE(base + 4 + i * 8);
      return { name: bytes.toString('latin1', name, bytes.indexOf(0, name)), offset: bytes.readUInt32LE(base + 8 + i * 8) };
    });
    const items = raw.slice(0, -1).map((item, i) => ({ ...item, bytes: (raw[i + 1]?.offset ?? item.offset) - item.offset }));
    const end = base + (raw.at(-1)?.offset ?? 0);
    if (items.every((item) => item.bytes >= 0) && end <= bytes.length) {
      return { start, headerBytes, end, items };
    }
  }
  return undefined;
}

/** True for what stays: no language but English, no conversion table of an old encoding, no dictionary. */
export function isKept(name: string): boolean {
  const file = name.split('/').at(-1) ?? '';
  if (file.endsWith('.cnv') || file.endsWith('.dict') || name.includes('/translit/')) {
    return false;
  }
  return LANGUAGES_KEPT.has(file) || !LANGUAGE.test(file);
}

/** ICU data with only the kept items, in the same order. */
export function packIcuData(bytes: Buffer, data: IcuData, kept: (name: string) => boolean): Buffer {
  const items = data.items.filter((item) => kept(item.name));
  const names = items.map((item) => Buffer.from(`${item.name}\0`, 'latin1'));
  const table = Buffer.alloc(4 + items.length * 8);
  table.writeUInt32LE(items.length, 0);
  let nameAt = table.length;
  const nameBytes = names.reduce((sum, name) => sum + name.length, 0);
  const parts: Buffer[] = [];
  let offset = table.length + nameBytes;
  items.forEach((item, i) => {
    const gap = -(offset + data.headerBytes) & 15;
    offset += gap;
    table.writeUInt32LE(nameAt, 4 + i * 8);
    table.writeUInt32LE(offset, 8 + i * 8);
    nameAt += names[i]?.length ?? 0;
    const from = data.start + data.headerBytes + item.offset;
    parts.push(Buffer.alloc(gap), bytes.subarray(from, from + item.bytes));
    offset += item.bytes;
  });
  return Buffer.concat([bytes.subarray(data.start, data.start + data.headerBytes), table, ...names, ...parts]);
}

/**
 * Takes the bytes [from, to) out of an ELF program, whole pages in the middle of one loaded segment, which becomes
 * two; addresses stay. `undefined` where the header table has no entry to spare (a PT_NOTE is given up) or the file
 * is of another shape.
 */
export function cutHole(bytes: Buffer, name: string, from: number, to: number): Buffer | undefined {
  const segments = segmentsOf(bytes, name);
  const home = segments.findIndex((s) => s.type === PT_LOAD && s.offset < from && to < s.offset + s.fileBytes && s.fileBytes === s.memoryBytes);
  const spare = segments.findIndex((s) => s.type === PT_NOTE);
  const tableAt = Number(bytes.readBigUInt64LE(32));
  const inTheWay = segments.some((s, i) => i !== home && s.offset < to && s.offset + s.fileBytes > from);
  if (home < 0 || spare < 0 || inTheWay || from % PAGE !== 0 || to % PAGE !== 0 || tableAt + segments.length * PHDR_BYTES > from || segments.some((s) => s.type === PT_LOAD && s.align > BigInt(PAGE))) {
    return undefined;
  }
  const entries = segments.flatMap((segment, i): Buffer[] => {
    const entry = Buffer.from(bytes.subarray(tableAt + i * PHDR_BYTES, tableAt + (i + 1) * PHDR_BYTES));
    if (i === spare) {
      return [];
    }
    if (i === home) {
      const first = BigInt(from - segment.offset);
      const skipped = BigInt(to - segment.offset);
      const second = Buffer.from(entry);
      entry.writeBigUInt64LE(first, 32);
      entry.writeBigUInt64LE(first, 40);
      second.writeBigUInt64LE(BigInt(from), 8);
      second.writeBigUInt64LE(segment.vaddr + skipped, 16);
      second.writeBigUInt64LE(segment.paddr + skipped, 24);
      second.writeBigUInt64LE(BigInt(segment.fileBytes) - skipped, 32);
      second.writeBigUInt64LE(BigInt(segment.memoryBytes) - skipped, 40);
      return [entry, second];
    }
    if (segment.offset >= to) {
      entry.writeBigUInt64LE(BigInt(segment.offset - (to - from)), 8);
    }
    return [entry];
  });
  const out = Buffer.concat([bytes.subarray(0, from), bytes.subarray(to)]);
  Buffer.concat(entries).copy(out, tableAt);
  return out;
}

/** A Node.js without the languages that the agent does not speak; `undefined` where this program cannot be cut. */
export function dropLanguages(bytes: Buffer, name: string): Buffer | undefined {
  const data = findIcuData(bytes);
  if (data === undefined) {
    return undefined;
  }
  const packed = packIcuData(bytes, data, isKept);
  const from = Math.ceil((data.start + packed.length) / PAGE) * PAGE;
  const to = Math.floor(data.end / PAGE) * PAGE;
  if (to <= from) {
    return undefined;
  }
  const changed = Buffer.from(bytes);
  packed.copy(changed, data.start);
  changed.fill(0, data.start + packed.length, from);
  return cutHole(changed, name, from, to);
}
