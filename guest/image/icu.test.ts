import assert from 'node:assert/strict';
import { test } from 'node:test';
import { segmentsOf } from './elf';
import { cutHole, dropLanguages, findIcuData, isKept, packIcuData } from './icu';
import { buildElf } from './synthetic-elf';

function icu(items: Readonly<Record<string, Buffer>>): Buffer {
  const header = Buffer.alloc(32);
  header.writeUInt16LE(32, 0);
  header.writeUInt16BE(0xda27, 2);
  header.write('CmnD', 12, 'latin1');
  const entries = Object.entries(items);
  const table = Buffer.alloc(4 + entries.length * 8);
  table.writeUInt32LE(entries.length, 0);
  const names = entries.map(([name]) => Buffer.from(`${name}\0`));
  let name = table.length;
  let data = table.length + Buffer.concat(names).length;
  entries.forEach(([, bytes], i) => {
    table.writeUInt32LE(name, 4 + i * 8);
    table.writeUInt32LE(data, 8 + i * 8);
    name += names[i]?.length ?? 0;
    data += bytes.length;
  });
  return Buffer.concat([header, table, ...names, ...Object.values(items)]);
}

const ITEMS = { 'i/de.res': Buffer.alloc(9000, 1), 'i/en.res': Buffer.from('english'), 'i/pool.res': Buffer.from('pool'), 'i/zz.res': Buffer.alloc(9000, 2), 'i/zz_ZZ.res': Buffer.alloc(4) };

function itemsOf(bytes: Buffer): Record<string, string> {
  const data = findIcuData(bytes);
  assert.ok(data);
  return Object.fromEntries(data.items.map((item) => [item.name, bytes.toString('latin1', data.start + data.headerBytes + item.offset, data.start + data.headerBytes + item.offset + item.bytes)]));
}

test('English, the root and what is no language stay; other languages, encodings and dictionaries go', () => {
  for (const name of ['i/root.res', 'i/zone/en.res', 'i/zoneinfo64.res', 'i/nfkc.nrm', 'i/cnvalias.icu', 'i/supplementalData.res', 'i/brkitr/char.brk']) {
    assert.ok(isKept(name), name);
  }
  for (const name of ['i/de.res', 'i/lang/sr_Latn_RS.res', 'i/ibm-1047.cnv', 'i/brkitr/thaidict.dict', 'i/translit/root.res', 'i/yue.res']) {
    assert.ok(!isKept(name), name);
  }
});

test('packed data holds the kept items unchanged', () => {
  const bytes = Buffer.concat([Buffer.from('before'), icu(ITEMS)]);
  const data = findIcuData(bytes);
  assert.ok(data);
  const packed = packIcuData(bytes, data, isKept);
  // The last item's size is not known to a reader, so the test looks at what stands before it.
  assert.equal(itemsOf(packed)['i/en.res']?.slice(0, 7), 'english');
  assert.equal(packed.subarray(-4).toString(), 'pool');
  assert.ok(packed.length < 200);
});

test('a program loses whole pages of data and keeps every address', () => {
  const data = Buffer.concat([Buffer.alloc(3000, 7), icu(ITEMS), Buffer.from('after the data'), Buffer.alloc(5000, 8)]);
  const { bytes } = buildElf({ loads: [{ data, memoryBytes: data.length }, { data: Buffer.from('second'), memoryBytes: 6 }], noteInFirst: { offset: 0, length: 8 } });
  const small = dropLanguages(bytes, 'prog');
  assert.ok(small);
  assert.ok(bytes.length - small.length >= 8192);
  const at = (file: Buffer, address: number, length: number): string => {
    const home = segmentsOf(file, 'prog').find((s) => s.type === 1 && s.vaddr <= BigInt(address) && BigInt(address) < s.vaddr + BigInt(s.memoryBytes));
    assert.ok(home, `address ${String(address)} is mapped`);
    const offset = home.offset + address - Number(home.vaddr);
    return file.toString('latin1', offset, offset + length);
  };
  for (const text of ['after the data', 'second']) {
    assert.equal(at(small, bytes.indexOf(text), text.length), text);
  }
  const loads = segmentsOf(small, 'prog').filter((s) => s.type === 1);
  assert.deepEqual(loads.map((s) => s.vaddr), loads.map((s) => s.vaddr).sort((a, b) => Number(a - b)));
});

test('a program without such data, or without a header to spare, is left alone', () => {
  assert.equal(dropLanguages(buildElf({ needed: ['libc.so.6'] }).bytes, 'p'), undefined);
  const { bytes } = buildElf({ loads: [{ data: Buffer.alloc(40_000, 1), memoryBytes: 40_000 }] });
  assert.equal(cutHole(bytes, 'p', 8192, 16384), undefined);
});
