import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { MS } from '../../../base/syscalls';
import { sysctlPath } from '../sandbox/sysctl';
import { hardLimitsFrom } from '../sandbox/own-limits';
import { memoryItem } from '../system/metrics';
import { routeCommand } from '../system/network';
import { mountAt } from '../system/volume';
import { pciFolder } from './block-device';
import { numbersOf } from './devices';
import { parseMountOptions } from './mount-options';

test('options go to the kernel as flags, to the file system as text, to us as a group', () => {
  assert.deepEqual(parseMountOptions(['nosuid', 'nodev,ro', 'rw', 'rprivate', 'mode=1777', 'size=64m', 'fsgid=1000', 'defaults']), {
    flags: MS.NOSUID | MS.NODEV, propagation: MS.PRIVATE | MS.REC, data: 'mode=1777,size=64m', groupId: 1000,
  });
});

test('a PCI path is walked slot by slot', () => {
  const root = mkdtempSync(join(tmpdir(), 'pci-'));
  mkdirSync(join(root, '0000:00:02.0', '0000:01:1f.3'), { recursive: true });
  assert.equal(pciFolder('02/1f.3', root), join(root, '0000:00:02.0', '0000:01:1f.3'));
  assert.equal(pciFolder('03', root), undefined);
  assert.throws(() => pciFolder('../..', root), /not valid/);
  rmSync(root, { recursive: true });
});

test('device numbers', () => {
  assert.deepEqual(numbersOf(0xfd01), { major: 253, minor: 1 });
});

test('routes become commands, and nothing else does', () => {
  const route = { dest: '', gateway: '10.0.0.1', device: 'eth0', source: '', scope: 0, family: 0, flags: 4, mtu: 1400 } as const;
  assert.equal(routeCommand(route), 'route replace default via 10.0.0.1 dev eth0 onlink mtu 1400');
  assert.throws(() => routeCommand({ ...route, device: 'eth0\nlink del lo' }), /not valid/);
  assert.throws(() => routeCommand({ ...route, dest: '10.0.0.0/8; reboot' }), /not valid/);
});

test('sysctl names are paths below /proc/sys only', () => {
  assert.equal(sysctlPath('net.ipv4.ip_forward'), '/proc/sys/net/ipv4/ip_forward');
  assert.equal(sysctlPath('net/ipv4/conf/eth0.1/forwarding'), '/proc/sys/net/ipv4/conf/eth0.1/forwarding');
  assert.throws(() => sysctlPath('../../etc/passwd'), /not a valid name/);
});

test('hard limits of the agent; unlimited ones are absent', () => {
  const limits = hardLimitsFrom('Limit                     Soft Limit           Hard Limit           Units\nMax open files            1024                 4096                 files\nMax cpu time              unlimited            unlimited            seconds\n');
  assert.deepEqual([...limits], [['RLIMIT_NOFILE', 4096n]]);
});

test('what is mounted at a path, the last one winning, escapes undone', () => {
  const line = (path: string, type: string, device: string): string => `1 2 0:1 / ${path} rw - ${type} ${device} rw`;
  const text = [line('/a', 'tmpfs', 'none'), line('/a', 'ext4', '/dev/vda'), line('/with\\040space', 'xfs', '/dev/vdb')].join('\n');
  assert.deepEqual(mountAt('/a', text), { device: '/dev/vda', type: 'ext4' });
  assert.deepEqual(mountAt('/with space', text), { device: '/dev/vdb', type: 'xfs' });
  assert.equal(mountAt('/b', text), undefined);
});

test('names of memory figures', () => {
  assert.deepEqual(['MemTotal', 'Active(anon)', 'DirectMap4k', 'Percpu', 'KReclaimable'].map(memoryItem), ['mem_total', 'active_anon', 'direct_map_4k', 'per_cpu', 'k_reclaimable']);
});
