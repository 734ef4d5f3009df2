import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { OciSpec } from '../base/oci-spec';
import { isCode } from '../base/errors';
import { Spec } from '../gen/agent/oci';
import { constrainSpec } from './constrain';
import { toWireProcess, toWireSpec } from './oci';

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
interface Recorded {
  readonly OCI: Json;
  readonly sandbox_pidns?: boolean;
}

/** Requests that upstream's runtime sent, recorded at its agent. */
const recorded = JSON.parse(readFileSync(join(__dirname, 'testdata/create-container.json'), 'utf8')) as Record<string, Recorded>;

const MAPS = new Set(['Sysctl', 'Annotations']);

/** Upstream's field names as ours: `UIDMappings` is `uidMappings`, `Path` is `path`. */
function rename(name: string): string {
  const shout = /^[A-Z]+(?=[A-Z][a-z]|$)/.exec(name)?.[0] ?? name.charAt(0);
  return shout.toLowerCase() + name.slice(shout.length);
}

function fromRecorded(value: Json): Json {
  if (Array.isArray(value)) {
    return value.map(fromRecorded);
  }
  if (value === null || typeof value !== 'object') {
    return value;
  }
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, field]) => field !== null)
      .map(([key, field]) => [rename(key), MAPS.has(key) ? field : fromRecorded(field)]),
  );
}

/** Without what the wire leaves out: zero, empty, absent. Messages stay even if empty. */
function canonical(value: unknown): unknown {
  if (typeof value === 'bigint') {
    return Number(value);
  }
  if (value instanceof Map) {
    return Object.fromEntries(value);
  }
  if (Array.isArray(value)) {
    return value.map(canonical);
  }
  if (value === null || typeof value !== 'object') {
    return value;
  }
  const isEmpty = (field: unknown): boolean =>
    field === undefined || field === '' || field === 0 || field === 0n || field === false ||
    (Array.isArray(field) && field.length === 0) || (field instanceof Map && field.size === 0);
  return Object.fromEntries(Object.entries(value).filter(([, field]) => !isEmpty(field)).map(([key, field]) => [key, canonical(field)]));
}

function overTheWire(spec: OciSpec): unknown {
  return canonical(Spec.decode(Spec.encode(toWireSpec(spec)).finish()));
}

/** What the host had before: the recorded configuration with everything back that must not reach the guest. */
function hostSpecOf({ OCI, sandbox_pidns }: Recorded): { spec: OciSpec; guestRootPath: string } {
  const { version, ...sent } = fromRecorded(OCI) as unknown as { version: string } & OciSpec;
  const guestRootPath = sent.root?.path ?? '';
  const { linux, process } = sent;
  assert.ok(linux !== undefined && process !== undefined);
  const spec: OciSpec = {
    ...sent,
    ociVersion: version,
    root: { ...sent.root, path: 'rootfs' },
    hooks: { prestart: [{ path: '/usr/bin/dockerd', args: ['libnetwork-setkey'] }] },
    process: { ...process, selinuxLabel: 'system_u:system_r:container_t:s0:c1,c2' },
    linux: {
      ...linux,
      mountLabel: 'system_u:object_r:container_file_t:s0',
      seccomp: { defaultAction: 'SCMP_ACT_ERRNO' },
      resources: {
        ...linux.resources,
        devices: [{ allow: false, access: 'rwm' }],
        pids: { limit: 100 },
        blockIO: { weight: 10 },
        network: { classID: 1 },
        ...(linux.resources?.cpu === undefined ? {} : { cpu: { ...linux.resources.cpu, cpus: '0-1', mems: '0' } }),
      },
      namespaces: [
        { type: 'pid', ...(sandbox_pidns === true ? { path: '/proc/1/ns/pid' } : {}) },
        { type: 'network', path: '/var/run/netns/cni-1' },
        { type: 'cgroup' },
        { type: 'time' },
        ...(linux.namespaces ?? []).map(({ type }) => ({ type, path: `/proc/1/ns/${type}` })),
      ],
    },
  };
  return { spec, guestRootPath };
}

for (const [name, request] of Object.entries(recorded)) {
  test(`the guest gets what upstream sent it: ${name}`, () => {
    const { spec, guestRootPath } = hostSpecOf(request);
    const before = structuredClone(spec);
    const constrained = constrainSpec(spec, { guestRootPath, seccomp: { supported: true, disabled: true } });
    assert.deepEqual(overTheWire(constrained.spec), canonical(fromRecorded(request.OCI)));
    assert.equal(constrained.sandboxPidns, request.sandbox_pidns ?? false);
    assert.deepEqual(spec, before);
  });
}

test('every field of the configuration travels', () => {
  const spec: OciSpec = {
    ociVersion: '1.1.0',
    process: {
      terminal: true,
      consoleSize: { height: 24, width: 80 },
      user: { uid: 1, gid: 2, additionalGids: [3], username: 'u', umask: 0o27 },
      args: ['a'],
      env: ['E=1'],
      cwd: '/w',
      capabilities: { bounding: ['CAP_A'], effective: ['CAP_B'], inheritable: ['CAP_C'], permitted: ['CAP_D'], ambient: ['CAP_E'] },
      rlimits: [{ type: 'RLIMIT_NOFILE', hard: 2, soft: 1 }],
      noNewPrivileges: true,
      apparmorProfile: 'p',
      oomScoreAdj: -999,
      selinuxLabel: 'l',
    },
    root: { path: '/r', readonly: true },
    hostname: 'h',
    mounts: [{ destination: '/d', type: 'bind', source: '/s', options: ['ro'] }],
    hooks: { poststop: [{ path: '/p', args: ['x'], env: ['Y=1'], timeout: 5 }], createContainer: [{ path: '/c' }] },
    annotations: { k: 'v', __proto__x: 'y' },
    linux: {
      uidMappings: [{ hostID: 1000, containerID: 5, size: 65536 }],
      gidMappings: [{ hostID: 1001, containerID: 6, size: 65536 }],
      sysctl: { 'net.core.somaxconn': '1024' },
      resources: {
        devices: [{ allow: true, type: 'c', major: 1, minor: 3, access: 'rwm' }],
        memory: { limit: 1, reservation: 2, swap: -1, kernel: 3, kernelTCP: 4, swappiness: 5, disableOOMKiller: true },
        cpu: { shares: 1, quota: -1, period: 2, realtimeRuntime: 3, realtimePeriod: 4, cpus: '0', mems: '1' },
        pids: { limit: -1 },
        blockIO: {
          weight: 1,
          leafWeight: 2,
          weightDevice: [{ major: 8, minor: 1, weight: 3, leafWeight: 4 }],
          throttleReadBpsDevice: [{ major: 8, minor: 1, rate: 5 }],
          throttleWriteBpsDevice: [{ major: 8, minor: 1, rate: 6 }],
          throttleReadIOPSDevice: [{ major: 8, minor: 1, rate: 7 }],
          throttleWriteIOPSDevice: [{ major: 8, minor: 1, rate: 8 }],
        },
        hugepageLimits: [{ pageSize: '2MB', limit: 9 }],
        network: { classID: 7, priorities: [{ name: 'eth0', priority: 1 }] },
      },
      cgroupsPath: '/a',
      namespaces: [{ type: 'mount', path: '/n' }],
      devices: [{ path: '/dev/x', type: 'c', major: 1, minor: 5, fileMode: 0o666, uid: 1, gid: 2 }],
      seccomp: {
        defaultAction: 'A',
        architectures: ['X'],
        flags: ['F'],
        syscalls: [
          { names: ['read'], action: 'B', errnoRet: 0, args: [{ index: 1, value: 2n ** 63n, valueTwo: 4, op: 'EQ' }] },
          { names: ['write'], action: 'C' },
        ],
      },
      rootfsPropagation: 'private',
      maskedPaths: ['/m'],
      readonlyPaths: ['/o'],
      mountLabel: 'ml',
    },
  };
  const wire = Spec.decode(Spec.encode(toWireSpec(spec)).finish());
  assert.equal(wire.linux?.seccomp?.syscalls[0]?.errnoRet, 0);
  assert.equal(wire.linux.seccomp.syscalls[1]?.errnoRet, undefined);
  assert.equal(wire.linux.seccomp.syscalls[0].args[0]?.value, 2n ** 63n);
  assert.equal(wire.linux.resources?.memory?.swap, -1n);
  assert.equal(wire.linux.resources.blockIo?.throttleWriteIopsDevice[0]?.rate, 8n);
  assert.deepEqual(wire.hooks?.poststop[0], { path: '/p', args: ['x'], env: ['Y=1'], timeout: 5n });
  assert.equal(wire.process?.oomScoreAdj, -999n);
  assert.deepEqual(wire.annotations, new Map([['k', 'v'], ['__proto__x', 'y']]));
  const empty = (value: unknown): string[] =>
    value !== null && typeof value === 'object' && !(value instanceof Map)
      ? Object.entries(value).flatMap(([key, field]) => (field === undefined || field === '' ? [key] : empty(field)))
      : [];
  assert.deepEqual(new Set(empty(wire)), new Set(['solaris', 'windows', 'intelRdt', 'errnoRet']));
});

test('a configuration of nothing is a message of nothing', () => {
  assert.deepEqual(canonical(toWireSpec({})), {});
});

test('unlimited, as JSON.parse rounds it, is the greatest number of the wire', () => {
  const rlimits = JSON.parse('[{"type":"RLIMIT_CORE","hard":18446744073709551615,"soft":18446744073709551615}]') as [];
  assert.equal(toWireProcess({ rlimits }).rlimits[0]?.hard, 2n ** 64n - 1n);
  const limit = JSON.parse('9223372036854775807') as number;
  assert.equal(toWireSpec({ linux: { resources: { memory: { limit } } } }).linux?.resources?.memory?.limit, 2n ** 63n - 1n);
});

test('a number that does not fit is InvalidArgument and names the field', () => {
  const wrong: OciSpec[] = [
    { process: { user: { uid: -1 } } },
    { process: { user: { uid: 2 ** 32 } } },
    { process: { user: { uid: 1.5 } } },
    { linux: { resources: { cpu: { shares: -1 } } } },
    { linux: { resources: { cpu: { quota: NaN } } } },
    { linux: { resources: { memory: { limit: 2n ** 63n } } } },
    { linux: { resources: { memory: { limit: '5' as unknown as number } } } },
  ];
  for (const spec of wrong) {
    assert.throws(() => toWireSpec(spec), (error) => isCode(error, 'InvalidArgument') && /convert (process|linux)\./.test(String(error)));
  }
});
