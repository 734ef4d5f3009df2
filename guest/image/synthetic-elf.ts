/** Small ELF64 files for tests. Holds no code: only headers, segments and a dynamic table. */

interface Load {
  readonly data: Buffer;
  readonly memoryBytes: number;
}

/** What the file shall have. */
export interface Plan {
  readonly needed?: readonly string[];
  readonly interpreter?: string;
  readonly loads?: readonly Load[];
  /** A PT_NOTE inside the first of `loads`. */
  readonly noteInFirst?: { readonly offset: number; readonly length: number };
}

interface Part {
  readonly type: number;
  readonly offset: number;
  readonly fileBytes: number;
  readonly memoryBytes: number;
}

function dynamicParts(plan: Plan, start: number): { data: Buffer; parts: Part[] } {
  const names = plan.needed ?? [];
  const interp = Buffer.from(`${plan.interpreter ?? ''}\0`);
  const strings = Buffer.from(`\0${names.map((name) => `${name}\0`).join('')}`);
  const table = Buffer.alloc((names.length + 2) * 16);
  let offset = 1;
  names.forEach((name, i) => {
    table.writeBigInt64LE(1n, i * 16);
    table.writeBigUInt64LE(BigInt(offset), i * 16 + 8);
    offset += name.length + 1;
  });
  table.writeBigInt64LE(5n, names.length * 16);
  table.writeBigUInt64LE(BigInt(start + table.length), names.length * 16 + 8);
  const data = Buffer.concat([table, strings, interp]);
  const parts: Part[] = [];
  if (names.length > 0) {
    parts.push({ type: 2, offset: start, fileBytes: table.length, memoryBytes: table.length });
  }
  if (plan.interpreter !== undefined) {
    parts.push({ type: 3, offset: start + table.length + strings.length, fileBytes: interp.length, memoryBytes: interp.length });
  }
  parts.push({ type: 1, offset: start, fileBytes: data.length, memoryBytes: data.length });
  return { data, parts };
}

/** The file; every segment's address is its place in the file. */
export function buildElf(plan: Plan): { bytes: Buffer } {
  const count = 5 + (plan.loads?.length ?? 0);
  let offset = 64 + count * 56;
  const parts: Part[] = [];
  const pieces: Buffer[] = [];
  for (const load of plan.loads ?? []) {
    parts.push({ type: 1, offset, fileBytes: load.data.length, memoryBytes: load.memoryBytes });
    pieces.push(load.data);
    offset += load.data.length;
  }
  if (plan.noteInFirst !== undefined) {
    const { offset: inside, length } = plan.noteInFirst;
    parts.push({ type: 4, offset: (parts[0]?.offset ?? 0) + inside, fileBytes: length, memoryBytes: length });
  }
  if (plan.loads === undefined) {
    const dynamic = dynamicParts(plan, offset);
    parts.push(...dynamic.parts);
    pieces.push(dynamic.data);
  }
  const header = Buffer.alloc(64 + count * 56);
  header.write('\x7fELF\x02\x01\x01', 'latin1');
  header.writeBigUInt64LE(0x1000n, 24);
  header.writeBigUInt64LE(64n, 32);
  header.writeUInt16LE(56, 54);
  header.writeUInt16LE(parts.length, 56);
  parts.forEach((part, i) => {
    const at = 64 + i * 56;
    header.writeUInt32LE(part.type, at);
    header.writeUInt32LE(5, at + 4);
    header.writeBigUInt64LE(BigInt(part.offset), at + 8);
    header.writeBigUInt64LE(BigInt(part.offset), at + 16);
    header.writeBigUInt64LE(BigInt(part.offset), at + 24);
    header.writeBigUInt64LE(BigInt(part.fileBytes), at + 32);
    header.writeBigUInt64LE(BigInt(part.memoryBytes), at + 40);
    header.writeBigUInt64LE(4096n, at + 48);
  });
  return { bytes: Buffer.concat([header, ...pieces]) };
}
