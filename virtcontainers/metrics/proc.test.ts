import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseIo, parseLimits, parseNetdev, parseStat, parseStatus, procFigures, residentBytes } from './proc';

test('status: kB become bytes, other lines are left out', () => {
  assert.deepEqual([...parseStatus('Name:\tx\nVmRSS:\t  10 kB\nvoluntary_ctxt_switches:\t7\nThreads:\t3\n')], [['vmrss', 10240], ['voluntary_ctxt_switches', 7]]);
});

test('stat: a name with brackets and spaces does not shift the fields', () => {
  const text = '1 (a) b) S 1 1 1 0 -1 4 5 6 7 8 11 12 13 14 20 0';
  assert.deepEqual([...parseStat(text)], [['utime', 11], ['stime', 12], ['cutime', 13], ['cstime', 14]]);
});

test('io and net/dev', () => {
  assert.deepEqual([...parseIo('rchar: 5\nread_bytes: 6\n')], [['rchar', 5], ['readbytes', 6]]);
  const text = 'Inter-|\n face |\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n';
  assert.equal(parseNetdev(text).get('eth0')?.get('sent_bytes'), 9);
});

test('this process has figures, a gone one none', () => {
  const figures = procFigures(process.pid, { interfaces: 1, limits: true });
  assert.ok((figures?.procStatus.get('vmrss') ?? 0) > 1024 * 1024);
  assert.ok((figures?.threads ?? 0) >= 1);
  assert.equal(procFigures(2 ** 30), undefined);
  assert.ok(residentBytes(process.pid) > 1024 * 1024);
  assert.equal(residentBytes(2 ** 30), 0);
});

test('limits: numbers, none, and what is not there', () => {
  const text = 'Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 524288               files     \nMax address space         unlimited            unlimited            bytes     \n';
  assert.deepEqual(parseLimits(text), { openFiles: 1024, addressSpaceBytes: Infinity });
  assert.deepEqual(parseLimits(''), { openFiles: 0, addressSpaceBytes: 0 });
});

test('only as many interfaces are taken as asked for: the host has one for every pod', () => {
  const line = (name: string): string => `  ${name}: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n`;
  const text = `Inter-|\n face |\n${['lo', 'eth0', 'veth1', 'veth2'].map(line).join('')}`;
  assert.deepEqual([...parseNetdev(text, 2).keys()], ['lo', 'eth0']);
  assert.equal(parseNetdev(text).size, 4);
});
