import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parse } from 'smol-toml';
import { withHost } from '../testing/fake-host';
import { formatGoJson, formatToml } from './toml';

/** Upstream's keys at format 1.0.26, in order (cli-and-config.md section 1.5). */
const KEYS = {
  Kernel: ['Path', 'Parameters'],
  Meta: ['Version'],
  Image: ['Path'],
  Initrd: ['Path'],
  Hypervisor: ['MachineType', 'Version', 'Path', 'BlockDeviceDriver', 'EntropySource', 'SharedFS', 'VirtioFSDaemon', 'SocketPath', 'Msize9p', 'MemorySlots', 'PCIeRootPort', 'HotplugVFIOOnRootBus', 'Debug'],
  Runtime: ['Config', 'Path', 'Experimental', 'Version', 'Debug', 'Trace', 'DisableGuestSeccomp', 'DisableNewNetNs', 'SandboxCgroupOnly'],
  Host: ['AvailableGuestProtections', 'Kernel', 'Architecture', 'Distro', 'CPU', 'Memory', 'VMContainerCapable', 'SupportVSocks'],
  Agent: ['Debug', 'Trace'],
};

test('JSON has upstream\'s key set in upstream\'s order', () =>
  withHost(async (fake) => {
    assert.equal(await fake.run('--config', fake.config('[agent.kata]\nenable_debug = true\n'), 'env', '--json'), 0, fake.stderr);
    const document = JSON.parse(fake.stdout) as Record<string, Record<string, unknown>>;
    assert.deepEqual(Object.fromEntries(Object.entries(document).map(([key, value]) => [key, Object.keys(value)])), KEYS);
    assert.deepEqual(document['Meta'], { Version: '1.0.26' });
    const shown = document['Host'] ?? {};
    assert.deepEqual(shown['Distro'], { Name: 'Test OS', Version: '12' });
    assert.deepEqual(shown['CPU'], { Vendor: 'GenuineIntel', Model: 'Test CPU', CPUs: 2 });
    assert.deepEqual(shown['Memory'], { Total: 1000, Free: 500, Available: 700 });
    assert.equal(shown['Kernel'], '6.1.0-test');
    assert.equal(shown['AvailableGuestProtections'], null);
    assert.equal(document['Hypervisor']?.['SocketPath'], '<<unknown>>', 'not root');
    assert.match(String(document['Kernel']?.['Parameters']), /agent\.log=debug/);
    assert.deepEqual(Object.keys(document['Runtime']?.['Version'] as object), ['OCI', 'Version']);
  }));

test('TOML says the same, without the empty lists', () =>
  withHost(async (fake) => {
    const config = fake.config();
    assert.equal(await fake.run('--config', config, 'env', '--json'), 0);
    const json = JSON.parse(fake.stdout) as Record<string, Record<string, unknown>>;
    assert.equal(await fake.run('--config', config, 'kata-env'), 0);
    const toml = parse(fake.stdout) as unknown as Record<string, Record<string, unknown>>;
    delete json['Runtime']?.['Experimental'];
    delete json['Host']?.['AvailableGuestProtections'];
    assert.deepEqual(JSON.parse(JSON.stringify(toml)), json);
    assert.match(fake.stdout, /^\[Kernel\]\n {2}Path = /);
    assert.match(fake.stdout, /\n {2}\[Runtime\.Config\]\n {4}Path = /);
    assert.match(fake.stdout, /\n {4}\[Runtime\.Version\.Version\]\n {6}Semver = /);
  }));

test('a missing asset is told, the settings are shown all the same', () =>
  withHost(async (fake) => {
    assert.equal(await fake.run('--config', fake.config(), 'env'), 0);
    assert.match(fake.stderr, /warning: .*nonexistent\/vmlinux does not exist/);
  }));

test('--sources tells default, file and drop-in with the line', () =>
  withHost(async (fake) => {
    const config = fake.config();
    const dropIn = fake.write('config.d/10-mine', '[hypervisor.qemu]\ndefault_memory = 4096\n');
    assert.equal(await fake.run('--config', config, 'env', '--sources'), 0, fake.stderr);
    const line = (key: string): string => fake.stdout.split('\n').find((text) => text.startsWith(key)) ?? '';
    assert.match(line('hypervisor.qemu.kernel ='), /"\/nonexistent\/vmlinux" +# file .*configuration\.toml:3$/);
    assert.ok(line('hypervisor.qemu.default_memory').endsWith(`# drop-in ${dropIn}:2`), line('hypervisor.qemu.default_memory'));
    assert.match(line('runtime.internetworking_model'), /# default$/);
    assert.equal(await fake.run('--config', config, 'env', '--sources', '--json'), 0);
    const { values } = JSON.parse(fake.stdout) as { values: { key: string; kind: string }[] };
    assert.equal(values.find(({ key }) => key === 'factory.template_path')?.kind, 'default');
  }));

test('--sources --bundle tells the annotation that a sandbox changed a value with', () =>
  withHost(async (fake) => {
    const config = fake.config('enable_annotations = ["default_vcpus"]\n');
    const bundle = fake.path('bundle');
    const name = 'io.katacontainers.config.hypervisor.default_memory';
    fake.write('bundle/config.json', JSON.stringify({ ociVersion: '1.0.2', process: { args: ['sh'], cwd: '/' }, root: { path: 'rootfs' }, annotations: { [name]: '3072' } }));
    assert.equal(await fake.run('--config', config, 'env', '--sources', '--bundle', bundle), 1);
    assert.match(fake.stderr, /default_memory/, 'not enabled');
    const open = fake.config('enable_annotations = [".*"]\n');
    assert.equal(await fake.run('--config', open, 'env', '--sources', '--bundle', bundle), 0, fake.stderr);
    assert.match(fake.stdout, /^hypervisor\.qemu\.default_memory = 3072 +# annotation io\.katacontainers\.config\.hypervisor\.default_memory$/m);
    assert.equal(await fake.run('--config', open, 'env', '--bundle', fake.path('none')), 1);
    assert.match(fake.stderr, /none/);
  }));

test('TOML strings survive every control character, JSON escapes what Go escapes', () => {
  const hostile = '"\\\n\t\u0001\u007f é <&>\u2028';
  assert.equal((parse(formatToml({ A: { B: hostile } })) as { A: { B: string } }).A.B, hostile);
  assert.match(formatGoJson({ a: '<&>\u2028' }), /\\u003c\\u0026\\u003e\\u2028/);
});
