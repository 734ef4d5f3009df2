import assert from 'node:assert/strict';
import { it } from 'node:test';
import { KataError } from '../../../base/errors';
import type { VmFacts } from '../types';
import { startFailure, type StartFailure } from './failure';

const facts: VmFacts = {
  alive: false, exit: undefined, program: '/usr/bin/qemu', pid: 7, stderrTail: '', consoleTail: '', consolePath: '/c', accelerator: 'tcg', hints: [],
};
const text = (failure: Partial<StartFailure>): KataError =>
  startFailure({ id: 'ab', facts, cause: new KataError('Unavailable', 'qmp: QEMU closed the connection'), shutdownReason: undefined, timedOut: false, waitedMs: 60_000, configKey: 'boot_timeout in [hypervisor.qemu]', ...failure });

it('tells how QEMU ended and its last line', () => {
  const error = text({ facts: { ...facts, exit: { code: 1, signal: null }, stderrTail: 'warning: x\nqemu: no such device\n\n' } });
  assert.equal(error.message, 'start VM "ab": /usr/bin/qemu ended with exit code 1; qemu: no such device');
  assert.equal(error.code, 'FailedPrecondition');
});
it('tells the panic of the guest, not the stack below it', () => {
  const consoleTail = 'Kernel panic - not syncing: No working init found.\r\n\u001b[1mCPU: 0\u001b[0m\r\n---[ end ]---\r\n';
  const error = text({ facts: { ...facts, exit: { code: 0, signal: null }, consoleTail }, shutdownReason: 'guest-reset' });
  assert.equal(
    error.message,
    'start VM "ab": /usr/bin/qemu ended with exit code 0 because the guest ended (guest-reset); last on the guest console: Kernel panic - not syncing: No working init found.',
  );
});
it('tells the time, the key and that nothing was said', () => {
  const error = text({ timedOut: true });
  assert.equal(error.message, 'start VM "ab": guest not up within 60.0 s (boot_timeout in [hypervisor.qemu]), accelerator tcg; nothing on the guest console');
  assert.equal(error.code, 'DeadlineExceeded');
});
it('keeps code, text and hint of what went wrong before QEMU ran', () => {
  const error = text({ cause: new KataError('NotFound', 'kernel /k: no such file', { hint: 'set kernel' }) });
  assert.equal(error.message, 'start VM "ab": kernel /k: no such file');
  assert.equal(error.hint, 'set kernel');
  assert.equal(error.code, 'NotFound');
});
