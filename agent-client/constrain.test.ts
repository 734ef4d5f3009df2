import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isCode } from '../base/errors';
import { constrainSpec, plainCgroupsPath, type ConstrainOptions } from './constrain';

const options: ConstrainOptions = { guestRootPath: '/g', seccomp: { supported: true, disabled: false } };
const seccomp = { defaultAction: 'SCMP_ACT_ALLOW' };

test('seccomp goes to a guest that has it, is dropped when disabled, and fails when wanted in vain', () => {
  const spec = { linux: { seccomp } };
  assert.deepEqual(constrainSpec(spec, options).spec.linux?.seccomp, seccomp);
  const disabled = { ...options, seccomp: { supported: true, disabled: true } };
  assert.equal(constrainSpec(spec, disabled).spec.linux?.seccomp, undefined);
  const without = { ...options, seccomp: { supported: false, disabled: false } };
  assert.throws(() => constrainSpec(spec, without), (error) => isCode(error, 'FailedPrecondition'));
  assert.deepEqual(constrainSpec({ linux: {} }, without).spec.linux, {});
});

test('SELinux labels are dropped, or get the type of the guest', () => {
  const spec = { process: { selinuxLabel: 'u:r:host_t:s0:c1,c2' }, linux: { mountLabel: 'u:r:file_t:s0' } };
  assert.deepEqual(constrainSpec(spec, options).spec, { root: { path: '/g' }, process: {}, linux: {} });
  const guest = { ...options, selinux: { type: 'container_t' } };
  assert.equal(constrainSpec(spec, guest).spec.process?.selinuxLabel, 'u:r:container_t:s0:c1,c2');
  assert.equal(constrainSpec(spec, guest).spec.linux?.mountLabel, 'u:r:container_t:s0');
  assert.throws(() => constrainSpec({ process: { selinuxLabel: 'x' } }, guest), (error) => isCode(error, 'InvalidArgument'));
});

test('the cgroup path of systemd becomes a plain one', () => {
  assert.equal(plainCgroupsPath('system.slice:cri-containerd:abc'), '/cri-containerd/abc');
  assert.equal(plainCgroupsPath('/k8s.io/abc'), '/k8s.io/abc');
  assert.equal(plainCgroupsPath('a:b'), 'a:b');
  const spec = { linux: { cgroupsPath: 's.slice:p:n' } };
  assert.equal(constrainSpec(spec, { ...options, cgroupsPath: 'as-is' }).spec.linux?.cgroupsPath, 's.slice:p:n');
});

test('namespaces of the host do not reach the guest', () => {
  const namespaces = ['pid', 'network', 'ipc', 'uts', 'mount', 'cgroup', 'time', 'user'].map((type) => ({ type, path: `/n/${type}` }));
  const { spec, sandboxPidns } = constrainSpec({ linux: { namespaces } }, options);
  assert.deepEqual(spec.linux?.namespaces, [{ type: 'ipc' }, { type: 'uts' }, { type: 'mount' }, { type: 'user' }]);
  assert.equal(sandboxPidns, true);
  assert.equal(constrainSpec({ linux: { namespaces: [{ type: 'pid' }] } }, options).sandboxPidns, false);
  assert.equal(constrainSpec({}, options).sandboxPidns, false);
});

test('vfio nodes are dropped only where the guest binds the drivers', () => {
  const devices = [{ path: '/dev/vfio/12', type: 'c' }, { path: '/dev/fuse', type: 'c' }];
  assert.deepEqual(constrainSpec({ linux: { devices } }, options).spec.linux?.devices, devices);
  const guestKernel = { ...options, vfioGuestKernel: true };
  assert.deepEqual(constrainSpec({ linux: { devices } }, guestKernel).spec.linux?.devices, [devices[1]]);
});

test('limits that hold in the guest stay, those of the host go', () => {
  const resources = {
    devices: [{ allow: false }],
    pids: { limit: 5 },
    blockIO: { weight: 1 },
    network: { classID: 1 },
    memory: { limit: 9 },
    cpu: { shares: 2, quota: 3, cpus: '0', mems: '0' },
    hugepageLimits: [{ pageSize: '2MB', limit: 4 }],
  };
  assert.deepEqual(constrainSpec({ linux: { resources } }, options).spec.linux?.resources, {
    memory: { limit: 9 },
    cpu: { shares: 2, quota: 3 },
    hugepageLimits: [{ pageSize: '2MB', limit: 4 }],
  });
});

test('annotations for the start of the VM stay on the host', () => {
  const annotations = { 'io.katacontainers.config.agent.policy': 'x', 'io.katacontainers.config.hypervisor.cc_init_data': 'y', a: 'b' };
  assert.deepEqual(constrainSpec({ annotations }, options).spec.annotations, { a: 'b' });
});
