import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isCode } from '../../base/errors';
import { containerType, sandboxIdOf } from './container-type';

const TYPE_KEYS = ['io.kubernetes.cri.container-type', 'io.kubernetes.cri-o.ContainerType', 'io.kubernetes.docker.type'];
const SANDBOX_KEYS = ['io.kubernetes.cri.sandbox-id', 'io.kubernetes.cri-o.SandboxID', 'io.kubernetes.sandbox.id'];

test('each type key means the same by the same values, and refuses others', () => {
  for (const key of TYPE_KEYS) {
    assert.equal(containerType({ [key]: 'sandbox' }), 'pod_sandbox');
    assert.equal(containerType({ [key]: 'podsandbox' }), 'pod_sandbox');
    assert.equal(containerType({ [key]: 'container' }), 'pod_container');
    for (const value of ['', 'foo', 'Sandbox', 'toString']) {
      assert.throws(() => containerType({ [key]: value }), (error) => isCode(error, 'InvalidArgument') && String(error).includes(key));
    }
  }
  assert.equal(containerType(undefined), 'single_container');
  assert.equal(containerType({ other: 'sandbox' }), 'single_container');
  assert.equal(containerType({ [TYPE_KEYS[1] ?? '']: 'sandbox', [TYPE_KEYS[0] ?? '']: 'container' }), 'pod_container');
});

test('a container finds its sandbox by any key in order; sandboxes and single containers are their own', () => {
  const type = { 'io.kubernetes.cri.container-type': 'container' };
  for (const key of SANDBOX_KEYS) {
    assert.equal(sandboxIdOf({ annotations: { ...type, [key]: 'pod1' } }, 'c1'), 'pod1');
  }
  assert.equal(sandboxIdOf({ annotations: { ...type, 'io.kubernetes.sandbox.id': 'late', 'io.kubernetes.cri.sandbox-id': 'first' } }, 'c1'), 'first');
  assert.equal(sandboxIdOf({ annotations: { 'io.kubernetes.cri.container-type': 'sandbox', 'io.kubernetes.cri.sandbox-id': 'x' } }, 'c1'), 'c1');
  assert.equal(sandboxIdOf({}, 'c1'), 'c1');
  assert.throws(() => sandboxIdOf({ annotations: type }, 'c1'), /container "c1": Could not find sandbox ID/);
});
