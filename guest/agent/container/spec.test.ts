import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LinuxResources, Process, Spec } from '../../../gen/agent/oci';
import { explainRuntimeError } from './crun';
import { adaptSpec, cgroupPathOf, clampProcess } from './guest-spec';
import { toJson } from './json';
import { processFromWire, resourcesFromWire, specFromWire } from './spec';

test('numbers beyond 2^53 reach config.json exactly', () => {
  assert.equal(toJson({ hard: 18446744073709551615n, absent: undefined, list: [1, 'a'], map: new Map([['k', 'v']]) }), '{"hard":18446744073709551615,"list":[1,"a"],"map":{"k":"v"}}');
});

test('limits that are zero on the wire are absent', () => {
  const resources = LinuxResources.create({
    memory: { limit: 0n, reservation: 0n, swap: 0n, kernel: 0n, kernelTcp: 0n, swappiness: 0n, disableOomKiller: false },
    cpu: { shares: 1024n, quota: -1n, period: 0n, realtimeRuntime: 0n, realtimePeriod: 0n, cpus: '', mems: '' },
  });
  assert.deepEqual(resourcesFromWire(resources), { cpu: { shares: 1024n, quota: -1n } });
});

test('a process keeps rlimits, capabilities and the terminal\'s size', () => {
  const process = processFromWire(
    Process.create({
      terminal: true,
      consoleSize: { height: 24, width: 80 },
      args: ['sh'],
      rlimits: [{ type: 'RLIMIT_NOFILE', hard: 18446744073709551615n, soft: 1024n }],
      capabilities: { bounding: ['CAP_KILL'], effective: [], inheritable: [], permitted: [], ambient: [] },
    }),
  );
  assert.deepEqual(process.consoleSize, { height: 24, width: 80 });
  assert.deepEqual(process.rlimits, [{ type: 'RLIMIT_NOFILE', hard: 18446744073709551615n, soft: 1024n }]);
  assert.deepEqual(process.capabilities?.bounding, ['CAP_KILL']);
  assert.equal(process.cwd, '/');
});

const spec = specFromWire(
  Spec.create({
    version: '1.1.0',
    hostname: 'pod',
    process: Process.create({ args: ['sh'], apparmorProfile: 'docker-default' }),
    root: { path: '/rootfs', readonly: true },
    linux: {
      namespaces: [{ type: 'mount', path: '' }, { type: 'uts', path: '' }, { type: 'ipc', path: '' }, { type: 'network', path: '/x' }],
      sysctl: new Map([['net.ipv4.ip_unprivileged_port_start', '0']]),
    },
  }),
);

test('a container shares the guest\'s namespaces but has its own pid and mount namespace', () => {
  const adapted = adaptSpec(spec, { pidNamespacePath: undefined, cgroupsPath: '/a/b', limits: undefined });
  assert.deepEqual(adapted.spec.linux?.namespaces, [{ type: 'mount' }, { type: 'pid' }]);
  assert.equal(adapted.spec.hostname, undefined);
  assert.equal(adapted.spec.linux.cgroupsPath, '/a/b');
  assert.equal(adapted.spec.process?.apparmorProfile, undefined);
  assert.deepEqual(adapted.sysctls, { 'net.ipv4.ip_unprivileged_port_start': '0' });
  assert.equal(adapted.spec.linux.sysctl, undefined);
});

test('a shared pid namespace is joined by path', () => {
  const adapted = adaptSpec(spec, { pidNamespacePath: '/proc/7/ns/pid', cgroupsPath: '/a', limits: undefined });
  assert.deepEqual(adapted.spec.linux?.namespaces?.at(-1), { type: 'pid', path: '/proc/7/ns/pid' });
});

test('a specification without root or arguments is refused', () => {
  assert.throws(() => adaptSpec({}, { pidNamespacePath: undefined, cgroupsPath: '/', limits: undefined }), /no root path/);
});

test('an agent with few privileges lowers what it may not give', () => {
  const limits = { oomScoreAdj: 0, hardLimits: new Map([['RLIMIT_NOFILE', 4096n]]) };
  const clamped = clampProcess({ oomScoreAdj: -998, rlimits: [{ type: 'RLIMIT_NOFILE', hard: 1048576n, soft: 1024n }, { type: 'RLIMIT_CORE', hard: 5n, soft: 5n }] }, limits);
  assert.equal(clamped.oomScoreAdj, 0);
  assert.deepEqual(clamped.rlimits, [{ type: 'RLIMIT_NOFILE', hard: 4096n, soft: 1024n }, { type: 'RLIMIT_CORE', hard: 5n, soft: 5n }]);
});

test('cgroup paths: plain, of systemd, none, and never upwards', () => {
  assert.equal(cgroupPathOf('/docker/abc', 'abc', ''), '/docker/abc');
  assert.equal(cgroupPathOf('kubepods.slice:cri-containerd:abc', 'abc', ''), '/kubepods.slice/cri-containerd/abc');
  assert.equal(cgroupPathOf('', 'abc', '/mock'), '/mock/abc');
  assert.equal(cgroupPathOf('/../../evil', 'abc', ''), '/evil');
});

test('the runtime\'s words become those that Docker tells exit codes by', () => {
  const explain = (text: string, program: string): string[] => {
    const error = explainRuntimeError(text, 'create container "c"', program);
    return [error.code, error.message];
  };
  assert.deepEqual(explain('executable file `nope` not found in $PATH: No such file or directory', 'nope'), [
    'NotFound', 'create container "c": exec: "nope": executable file not found: executable file not found in $PATH',
  ]);
  assert.equal(explain('open executable: Permission denied', '/x')[0], 'PermissionDenied');
  assert.match(explain('open executable: Operation not permitted', '/tmp')[1] ?? '', /is a directory: permission denied/);
  assert.deepEqual(explain('mount `x` to `y`: No such device', 'sh'), ['Internal', 'create container "c": mount `x` to `y`: No such device']);
});
