import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KataError } from '../../base/errors';
import type { VmFacts } from '../hypervisor/types';
import { failureReport } from './failure-report';

const FACTS: VmFacts = {
  alive: false, exit: { code: null, signal: 'SIGKILL' }, program: '/usr/bin/qemu-system-x86_64', pid: 42, stderrTail: '', consoleTail: '',
  consolePath: '/run/vc/vm/s1/console.log', accelerator: 'tcg', hints: [],
};

test('a VMM that was killed', () => {
  assert.equal(
    failureReport({ sandboxId: 's1', doing: 'run', vm: FACTS, cause: new KataError('Unavailable', 'the virtual machine ended (signal SIGKILL)') }),
    'sandbox "s1" failed (run)\ncause: the virtual machine ended (signal SIGKILL)\nvirtual machine: /usr/bin/qemu-system-x86_64 (pid 42, accelerator tcg) ended with signal SIGKILL',
  );
});

test('a guest that panicked while the VMM lives, with a time-out and a hint', () => {
  const vm = { ...FACTS, alive: true, exit: undefined, consoleTail: 'a\r\n\u001b[31mKernel panic\u001b[0m\n\n', hints: ['KVM is not usable'] };
  assert.equal(
    failureReport({ sandboxId: 's1', doing: 'connect to the agent', vm, waited: { address: 'vsock://3:1024', ms: 30040, configKey: 'dial_timeout' } }),
    [
      'sandbox "s1" failed (connect to the agent)',
      'waited 30.0 s for vsock://3:1024 (configuration key dial_timeout)',
      'virtual machine: /usr/bin/qemu-system-x86_64 (pid 42, accelerator tcg) is still running',
      'last lines of the guest console (/run/vc/vm/s1/console.log):',
      '  a',
      '  Kernel panic',
      'hint: KVM is not usable',
    ].join('\n'),
  );
});

test('a VMM that never ran, with what it said', () => {
  const vm = { ...FACTS, exit: undefined, pid: undefined, stderrTail: 'qemu: could not open kernel\n' };
  assert.equal(
    failureReport({ sandboxId: 's1', doing: 'boot', vm }),
    'sandbox "s1" failed (boot)\nvirtual machine: /usr/bin/qemu-system-x86_64 never ran\nits last messages:\n  qemu: could not open kernel',
  );
});

test('only the last lines, each of bounded length', () => {
  const stderrTail = Array.from({ length: 50 }, (_, index) => `${index}${'x'.repeat(1000)}`).join('\n');
  const report = failureReport({ sandboxId: 's1', doing: 'run', vm: { ...FACTS, stderrTail } });
  assert.equal(report.split('\n').length, 3 + 6);
  assert.ok(report.length < 2000);
  assert.match(report, /\n {2}49x/);
});

test('a panic is told although registers and a trace came after it', () => {
  const trace = Array.from({ length: 20 }, (_, index) => `[    5.9] R${String(index)}: 0000000000000000`);
  const consoleTail = ['[    1.0] up', '[    5.9] Kernel panic - not syncing: Attempted to kill init!', ...trace].join('\n');
  const report = failureReport({ sandboxId: 's1', doing: 'run', vm: { ...FACTS, consoleTail } });
  assert.deepEqual(report.split('\n').slice(3), ['  [    5.9] Kernel panic - not syncing: Attempted to kill init!', '  ...', ...trace.slice(-4).map((line) => `  ${line}`)]);
});
