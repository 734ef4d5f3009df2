import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { Host} from '../support/host';
import { configText, type ConfigOverrides } from '../support/host';
import { hostForSuite } from '../support/suite';

let host: Host;
let scratch: string;

hostForSuite((started) => {
  scratch = mkdtempSync(join(tmpdir(), 'kata-ts-bad-'));
  host = started;
}, { checkEach: true });

after(() => {
  rmSync(scratch, { recursive: true, force: true });
});

/** Runs with another configuration file; returns the error text. The run must fail within `limitMs`. */
async function failWith(id: string, config: string, limitMs = 30_000, args: readonly string[] = []): Promise<string> {
  const path = host.config(id, config);
  const started = Date.now();
  const done = await host.run(id, ['true'], { args: ['--runtime-config-path', path, ...args] });
  const tookMs = Date.now() - started;
  assert.notEqual(done.code, 0, 'the run must fail');
  assert.ok(tookMs < limitMs, `took ${String(tookMs)} ms`);
  await host.ctr(['containers', 'rm', id]);
  return done.stderr;
}

const withHypervisor = (values: Readonly<Record<string, string>>): string => configText('qemu', { hypervisor: values } satisfies ConfigOverrides);

test('a configuration value of the wrong type names file, key and what is wanted', async () => {
  const text = await failWith('wrongtype', withHypervisor({ default_memory: '"much"' }));
  assert.match(text, /default_memory/);
  assert.match(text, /configuration\.toml/);
});

test('an unknown key of the configuration is named', async () => {
  assert.match(await failWith('unknownkey', withHypervisor({ default_memroy: '512' })), /default_memroy/);
});

test('two hypervisors in one configuration are refused', async () => {
  const text = await failWith('twohv', `${configText('qemu')}\n[hypervisor.clh]\npath = "/usr/bin/cloud-hypervisor"\n`);
  assert.match(text, /two|more than one|both/);
  assert.match(text, /clh/);
});

test('a configuration file that is cut off is refused with file and line', async () => {
  const text = await failWith('cutoff', configText('qemu').slice(0, 40));
  assert.match(text, /configuration\.toml/);
});

test('a kernel that does not exist is named with its key', async () => {
  const text = await failWith('nokernel', withHypervisor({ kernel: '"/no/such/vmlinux"' }));
  assert.match(text, /\/no\/such\/vmlinux/);
  assert.match(text, /kernel/);
});

test('an initrd that does not exist is named with its key', async () => {
  const text = await failWith('noinitrd', withHypervisor({ initrd: '"/no/such/initrd"' }));
  assert.match(text, /\/no\/such\/initrd/);
});

test('a kernel that is no kernel fails with what QEMU said', async () => {
  const path = join(scratch, 'text-kernel');
  writeFileSync(path, 'this is no kernel\n'.repeat(100));
  const text = await failWith('badkernel', withHypervisor({ kernel: `"${path}"`, boot_timeout: '6' }));
  assert.match(text, /qemu|boot_timeout/i);
});

test('an initrd that is cut off: the kernel panics and the error shows its last words', async () => {
  const path = join(scratch, 'half-initrd');
  writeFileSync(path, readFileSync(join(__dirname, '../../build/guest/initrd.img')));
  truncateSync(path, 1_000_000);
  const text = await failWith('badinitrd', withHypervisor({ initrd: `"${path}"`, boot_timeout: '15' }), 40_000);
  assert.match(text, /panic|boot_timeout|console/i);
});

test('a guest without an agent fails within its deadline and names the key', async () => {
  const folder = join(scratch, 'no-agent');
  mkdirSync(join(folder, 'bin'), { recursive: true });
  execFileSync('cp', ['/bin/busybox', join(folder, 'bin/busybox')]);
  writeFileSync(join(folder, 'init'), '#!/bin/busybox sh\nwhile :; do /bin/busybox sleep 100; done\n', { mode: 0o755 });
  const initrd = join(scratch, 'no-agent.img');
  execFileSync('sh', ['-c', `cd ${folder} && find . | cpio -o -H newc --quiet > ${initrd}`]);
  const text = await failWith('noagent', withHypervisor({ initrd: `"${initrd}"`, boot_timeout: '6' }), 30_000);
  assert.match(text, /boot_timeout|dial_timeout/);
});

test('a hypervisor binary that is not there is named with its key', async () => {
  assert.match(await failWith('noqemu', withHypervisor({ path: '"/no/such/qemu"' })), /\/no\/such\/qemu/);
});

test('a KVM that only opens is refused when it is asked for, with the remedy', async () => {
  const usable = /\b(vmx|svm)\b/.test(readFileSync('/proc/cpuinfo', 'utf8'));
  if (usable) {
    return;
  }
  assert.match(await failWith('nokvm', withHypervisor({ accelerator: '"kvm"' })), /kvm/i);
});

test('an annotation that is not enabled is refused with the key to change', async () => {
  const text = await failWith('annotation', configText('qemu'), 30_000, ['--annotation', 'io.katacontainers.config.hypervisor.default_vcpus=2']);
  assert.match(text, /default_vcpus/);
  assert.match(text, /enable_annotations/);
});

test('an annotation with a wrong value is refused and named', async () => {
  const text = await failWith('annovalue', withHypervisor({ enable_annotations: '["default_vcpus"]' }), 30_000, [
    '--annotation',
    'io.katacontainers.config.hypervisor.default_vcpus=many',
  ]);
  assert.match(text, /default_vcpus/);
  assert.match(text, /many/);
});

test('an unknown container type is refused and named', async () => {
  const text = await failWith('ctype', configText('qemu'), 30_000, ['--annotation', 'io.kubernetes.cri.container-type=spaceship']);
  assert.match(text, /spaceship/);
});

test('a rootfs that is not there is named', async () => {
  const done = await host.ctr(['run', '--rm', '--runtime', 'io.containerd.kata.v2', '--rootfs', join(scratch, 'no-rootfs'), 'norootfs', 'true']);
  assert.notEqual(done.code, 0);
  assert.match(done.stderr, /no-rootfs/);
  await host.ctr(['containers', 'rm', 'norootfs']);
});

test('garbage on the socket of a shim harms nobody', async () => {
  await host.runDetached('garbage', ['sleep', '100000']);
  const address = readFileSync(join(host.containerd.bundle('garbage'), 'address'), 'utf8').replace('unix://', '');
  for (const bytes of [Buffer.from('GET / HTTP/1.0\r\n\r\n'), Buffer.alloc(4096, 0xff), Buffer.from([0, 0, 0, 5, 0, 0, 0, 1, 1, 0, 9, 9, 9, 9, 9]), Buffer.alloc(3)]) {
    await new Promise<void>((resolve) => {
      const socket = connect(address, () => {
        socket.write(bytes, () => setTimeout(() => socket.destroy(), 50));
      });
      socket.on('error', () => undefined);
      socket.on('close', () => resolve());
    });
  }
  assert.equal((await host.exec('garbage', ['echo', 'unharmed'])).stdout, 'unharmed\n');
  await host.remove('garbage');
});
