import assert from 'node:assert/strict';
import { test } from 'node:test';
import { dropUnloaded, needsOf, packKernel, segmentsOf } from './elf';
import { buildElf } from './synthetic-elf';
import { libraryClosure } from './libraries';

const NOTE = 4;

test('needed libraries and the loader are read from the dynamic segment', () => {
  const { bytes } = buildElf({ needed: ['liba.so.1', 'libc.so.6'], interpreter: '/lib64/ld.so' });
  assert.deepEqual(needsOf(bytes, 'x'), { interpreter: '/lib64/ld.so', libraries: ['liba.so.1', 'libc.so.6'] });
});

test('a static program needs nothing', () => {
  const { bytes } = buildElf({});
  assert.deepEqual(needsOf(bytes, 'x'), { interpreter: undefined, libraries: [] });
});

test('what is no ELF file, and what is cut short, is refused by name', () => {
  assert.throws(() => segmentsOf(Buffer.from('#!/bin/sh\n'.repeat(10)), 'script'), /read ELF "script": not a 64-bit/);
  const { bytes } = buildElf({ needed: ['libc.so.6'] });
  assert.throws(() => segmentsOf(bytes.subarray(0, bytes.length - 64), 'cut'), /"cut": segment \d ends behind the end/);
  assert.throws(() => segmentsOf(bytes.subarray(0, 70), 'short'), /program header table is damaged/);
});

test('the bytes behind the last segment are dropped, and the section table with them', () => {
  const { bytes } = buildElf({ needed: ['libc.so.6'] });
  const withSections = Buffer.concat([bytes, Buffer.alloc(500, 7)]);
  withSections.writeBigUInt64LE(BigInt(bytes.length), 40);
  withSections.writeUInt16LE(3, 60);
  const small = dropUnloaded(withSections, 'x');
  assert.equal(small.length, bytes.length);
  assert.equal(small.readBigUInt64LE(40), 0n);
  assert.equal(small.readUInt16LE(60), 0);
  assert.deepEqual(needsOf(small, 'x'), needsOf(bytes, 'x'));
});

test('a packed kernel has the same memory and its PVH note, without the zero tail', () => {
  const code = Buffer.concat([Buffer.from('code and a note'), Buffer.alloc(9000)]);
  const { bytes } = buildElf({ loads: [{ data: code, memoryBytes: 20_000 }, { data: Buffer.from('data'), memoryBytes: 4 }], noteInFirst: { offset: 11, length: 4 } });
  const packed = packKernel(bytes, 'k');
  const before = segmentsOf(bytes, 'k');
  const after = segmentsOf(packed, 'k');
  assert.deepEqual(after.map(({ vaddr, paddr, memoryBytes }) => ({ vaddr, paddr, memoryBytes })), before.map(({ vaddr, paddr, memoryBytes }) => ({ vaddr, paddr, memoryBytes })));
  assert.equal(after[0]?.fileBytes, 15);
  const note = after.find((segment) => segment.type === NOTE);
  assert.equal(packed.toString('latin1', note?.offset, (note?.offset ?? 0) + 4), 'note');
  assert.ok(packed.length < bytes.length);
  assert.equal(packed.readBigUInt64LE(24), bytes.readBigUInt64LE(24));
});

test('the closure of libraries is followed, and a missing one names who needs it', () => {
  const files = new Map([
    ['liba.so', buildElf({ needed: ['libb.so'] }).bytes],
    ['libb.so', buildElf({ needed: ['liba.so'] }).bytes],
  ]);
  const find = (soname: string): { from: string; bytes: Buffer } | undefined => {
    const bytes = files.get(soname);
    return bytes === undefined ? undefined : { from: soname, bytes };
  };
  const program = { from: 'prog', bytes: buildElf({ needed: ['liba.so'], interpreter: '/lib64/ld.so' }).bytes };
  const { libraries, interpreters } = libraryClosure([program], find);
  assert.deepEqual([...libraries.keys()], ['liba.so', 'libb.so']);
  assert.deepEqual([...interpreters], ['/lib64/ld.so']);
  files.delete('libb.so');
  assert.throws(() => libraryClosure([program], find), /"libb\.so", needed by liba\.so/);
});
