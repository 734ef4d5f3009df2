import assert from 'node:assert/strict';
import { it } from 'node:test';
import { isCode } from '../../../base/errors';
import { chooseAccelerator, hostAccelerator, type AcceleratorProbe } from './accelerator';

const fails = (code: string) => (): void => {
  throw Object.assign(new Error(code), { code });
};
const probe = (flags: string, openKvm: () => void = () => undefined): AcceleratorProbe => ({
  openKvm,
  cpuinfo: () => `processor\t: 0\nflags\t\t: fpu ${flags}\nbogomips\t: 5199.99\n`,
  arch: 'x64',
});

it('takes KVM where the device opens and the CPU can', () => {
  assert.deepEqual(chooseAccelerator('auto', probe('vmx')), { kind: 'kvm', reason: undefined, nested: false, tscKhz: 2599995 });
  assert.equal(chooseAccelerator('auto', probe('svm hypervisor')).nested, true);
});
it('does not believe a KVM that only opens', () => {
  const { kind, reason } = chooseAccelerator('auto', probe('hypervisor'));
  assert.equal(kind, 'tcg');
  assert.match(reason ?? '', /no vmx or svm/);
});
it('takes TCG where the device does not open, and names the errno', () => {
  assert.match(chooseAccelerator('auto', probe('vmx', fails('EACCES'))).reason ?? '', /\/dev\/kvm.*EACCES/);
});
it('refuses a KVM that is configured and cannot be had', () => {
  assert.throws(() => chooseAccelerator('kvm', probe('vmx', fails('ENOENT'))), (error) => isCode(error, 'FailedPrecondition'));
});
it('takes TCG where it is configured', () => {
  assert.equal(chooseAccelerator('tcg', probe('vmx')).kind, 'tcg');
});
it('warns once, also where the choice was asked for before without a logger', () => {
  const heard: string[] = [];
  hostAccelerator('tcg');
  hostAccelerator('tcg', (text) => heard.push(text));
  hostAccelerator('tcg', (text) => heard.push(text));
  assert.equal(heard.length, 1);
  assert.match(heard[0] ?? '', /without KVM/);
});
