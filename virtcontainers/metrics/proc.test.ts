import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseIo, parseNetdev, parseStat, parseStatus, procFigures } from './proc';

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
  const figures = procFigures(process.pid, true);
  assert.ok((figures?.procStatus.get('vmrss') ?? 0) > 1024 * 1024);
  assert.ok((figures?.threads ?? 0) >= 1);
  assert.equal(procFigures(2 ** 30, false), undefined);
});
