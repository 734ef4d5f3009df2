import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeHost, withHost } from '../testing/fake-host';
import { Session } from '../session';
import { checkCapability, kvmFact } from './capability';
import { runCheck } from './command';
import { parseCpuinfo } from './cpuinfo';
import { checkReleases, newestMessage, parseReleases, releaseUrl, type Fetcher } from './releases';
import { requirementsFor } from './requirements';
import { compareSemver, parseSemver } from './semver';

const LATER = 'https://api.github.com/repos/kata-containers/kata-containers/releases';
const DOWNLOAD = 'https://github.com/kata-containers/kata-containers/releases/download';
const release = (tag: string, more: object = {}): object => ({ tag_name: tag, name: tag, created_at: '2026-01-01T00:00:00Z', prerelease: false, assets: [{ browser_download_url: `${DOWNLOAD}/${tag}/x.tar.xz` }], ...more });
const never: Fetcher = () => Promise.reject(new Error('must not be asked'));

function cpu(vendor: string, flags: string): ReturnType<typeof parseCpuinfo> {
  return parseCpuinfo(`processor : 0\nvendor_id : ${vendor}\nflags : ${flags}\n\nprocessor : 1\n`);
}

test('what is needed follows hypervisor, architecture and vendor', () => {
  const intel = cpu('GenuineIntel', 'vmx hypervisor');
  const names = (type: Parameters<typeof requirementsFor>[2], info = intel, arch = 'x64'): string => {
    const { flags, modules, probe } = requirementsFor(arch, info, type);
    return `${flags.join(' ')} | ${modules.map((module) => `${module.name}${module.required ? '!' : ''}`).join(' ')} | ${probe}`;
  };
  for (const type of ['qemu', 'clh', 'firecracker', 'dragonball'] as const) {
    assert.equal(names(type), 'vmx lm sse4_1 | kvm! kvm_intel! vhost! vhost_net! vhost_vsock | kvm');
  }
  assert.equal(names('acrn'), 'lm sse4_1 | vhm_dev vhost vhost_net | acrn');
  assert.equal(names('mock'), 'vmx lm sse4_1 |  | none');
  assert.equal(names('remote'), ' |  | none');
  assert.equal(names('acrn', cpu('AuthenticAMD', '')), 'svm lm sse4_1 | kvm! kvm_amd! vhost! vhost_net! vhost_vsock | kvm');
  assert.equal(names('qemu', parseCpuinfo('CPU implementer : 0x41\nCPU architecture: 8\n'), 'arm64'), ' | kvm! vhost! vhost_net! vhost_vsock | kvm');
  assert.throws(() => names('qemu', cpu('Other', '')), /Unknown CPU Type/);
});

test('flags are whole words of the first CPU', () => {
  const info = cpu('GenuineIntel', 'vmxx lm sse4_1 hypervisor');
  assert.equal(info.flags?.has('vmx'), false);
  assert.equal(info.onVmm, true);
  assert.equal(info.count, 2);
  assert.equal(parseCpuinfo('').flags, undefined);
});

test('missing flags and required modules make the host incapable; each is named with its remedy', () =>
  withHost(async (fake) => {
    fake.write('proc/cpuinfo', 'vendor_id : GenuineIntel\nflags : lm sse4_1 hypervisor\n');
    fake.modules('kvm', 'kvm_intel', 'vhost');
    const { capable, findings } = await checkCapability(fake.host, 'qemu');
    assert.equal(capable, false);
    const missing = findings.filter((finding) => !finding.ok);
    assert.deepEqual(missing.map(({ name, required }) => [name, required]), [['vmx', true], ['vhost_net', true], ['vhost_vsock', false]]);
    assert.ok(missing.every((finding) => finding.remedy !== ''));
    assert.equal(await fake.run('--config', fake.config(), 'check'), 1);
    assert.match(fake.stderr, /cpu flag vmx: missing: Intel VT-x/);
    assert.match(fake.stderr, /ERROR: System is not capable of running Kata Containers \(missing: vmx, vhost_net\)/);
    assert.match(fake.stdout, /qemu with TCG/);
  }));

test('a host with everything is capable; a broken configuration does not matter', () =>
  withHost(async (fake) => {
    fake.modules('kvm', 'kvm_intel', 'vhost', 'vhost_net');
    fake.write('sys/module/kvm_intel/parameters/unrestricted_guest', 'Y\n');
    assert.equal(await fake.run('--config', fake.config(), 'kata-check'), 0, fake.stderr);
    assert.match(fake.stdout, /^System is capable of running Kata Containers\nWhat each hypervisor can do/);
    assert.equal(await fake.run('--config', fake.write('broken.toml', '['), 'check'), 0);
    assert.match(fake.stderr, /checking for QEMU/);
    assert.equal(await fake.run('--config', fake.config(), 'check', '--json'), 0);
    assert.equal((JSON.parse(fake.stdout) as { capable: boolean }).capable, true);
    assert.equal(await fake.run('--config', fake.config(), 'check', '--verbose'), 0);
    assert.match(fake.stderr, /kernel module vhost_vsock: missing \(not required\)/);
  }));

test('bare metal without unrestricted guest is refused, on a VMM it is tolerated', () =>
  withHost(async (fake) => {
    fake.modules('kvm', 'kvm_intel', 'vhost', 'vhost_net');
    fake.write('sys/module/kvm_intel/parameters/unrestricted_guest', 'N\n');
    assert.equal((await checkCapability(fake.host, 'qemu')).capable, false);
    fake.write('proc/cpuinfo', 'vendor_id : GenuineIntel\nflags : vmx lm sse4_1 hypervisor\n');
    assert.equal((await checkCapability(fake.host, 'qemu')).capable, true);
  }));

test('accelerator = "tcg" needs no hardware virtualization', () =>
  withHost(async (fake) => {
    fake.write('proc/cpuinfo', 'vendor_id : GenuineIntel\nflags : lm sse4_1 hypervisor\n');
    assert.equal(await fake.run('--config', fake.config('accelerator = "tcg"\n'), 'check'), 0, fake.stderr);
  }));

test('a KVM that only opens is told from a usable one', () => {
  const fake = new FakeHost();
  try {
    assert.equal(kvmFact(fake.host, cpu('GenuineIntel', 'vmx')).state, 'absent');
    fake.write('dev/kvm', '');
    assert.equal(kvmFact(fake.host, cpu('GenuineIntel', 'lm')).state, 'opens-only');
    assert.equal(kvmFact(fake.host, cpu('AuthenticAMD', 'svm')).state, 'usable');
  } finally {
    void fake.close();
  }
});

test('the release address is one of the two official ones', () => {
  assert.equal(releaseUrl('3.0.0', {}), LATER);
  assert.equal(releaseUrl('1.12.0', {}), 'https://api.github.com/repos/kata-containers/runtime/releases');
  assert.equal(releaseUrl('3.0.0', { KATA_RELEASE_URL: 'https://api.github.com/repos/kata-containers/runtime/releases' }), 'https://api.github.com/repos/kata-containers/runtime/releases');
  assert.throws(() => releaseUrl('3.0.0', { KATA_RELEASE_URL: 'https://example.com/releases' }), /Release URL .* is not valid/);
  assert.throws(() => releaseUrl('0.1.0', {}), /invalid major/);
  assert.throws(() => releaseUrl('three', {}), /BUG/);
});

test('releases: malformed ones and foreign downloads are left out, pre-releases unless wanted, oldest first', () => {
  const text = JSON.stringify([release('3.2.0'), release('3.10.0'), release('3.11.0-rc0'), release('4.0.0', { prerelease: true }), release('x'), release('5.0.0', { assets: [] }), release('6.0.0', { assets: [{ browser_download_url: 'https://example.com/x' }] }), release('7.0.0', { name: '' }), 1, null]);
  assert.deepEqual(parseReleases(text, false).map(({ version }) => version), ['3.2.0', '3.10.0']);
  assert.deepEqual(parseReleases(text, true).map(({ version }) => version), ['3.2.0', '3.10.0', '3.11.0-rc0', '4.0.0']);
});

test('what is newer is named by kind', () => {
  const say = (own: string, ...tags: string[]): string => newestMessage(own, parseReleases(JSON.stringify(tags.map((tag) => release(tag))), true)).split(' available')[0] ?? '';
  assert.equal(say('3.0.0'), 'No releases');
  assert.equal(say('3.0.0', '2.9.9', '3.0.0'), 'No newer release');
  assert.equal(say('3.0.0', '4.1.0'), 'Newer major release');
  assert.equal(say('3.0.0', '3.1.0-rc1'), 'Newer minor pre-release release');
  assert.equal(say('3.0.0', '3.0.1'), 'Newer patch release');
  assert.equal(say('3.0.0-rc0', '3.0.0-rc1'), 'Newer pre-release release');
  assert.equal(say('3.0.0-rc0', '3.0.0'), 'Newer major release');
});

test('network checks: never as root, rate limit is a warning, list and stop', async () => {
  const reply = (status: number, text: string): Fetcher => () => Promise.resolve({ status, text });
  await withHost(async (fake) => {
    const options = { includeAll: false, onlyList: true };
    assert.deepEqual((await checkReleases(fake.host, options, reply(200, JSON.stringify([release('3.2.0')])))).lines, [`3.2.0;2026-01-01T00:00:00Z;${DOWNLOAD}/3.2.0/x.tar.xz`]);
    assert.match((await checkReleases(fake.host, options, reply(403, 'API rate limit exceeded for'))).warning, /limit/);
    await assert.rejects(checkReleases(fake.host, options, reply(500, '')), /answered 500/);
    await assert.rejects(checkReleases({ ...fake.host, euid: 0 }, options, never), /No network checks allowed running as super user/);
    const session = new Session({ ...fake.host, env: {} }, { log: '/dev/null', logFormat: 'text', rootless: '' }, 'check');
    await runCheck(session, { checkVersionOnly: true }, reply(200, JSON.stringify([release('3.2.0')])));
    assert.match(fake.stdout, /Newer minor release available: 3\.2\.0/);
  });
  await withHost(
    async (fake) => {
      assert.equal(await fake.run('check', '--check-version-only'), 0);
      assert.equal(fake.stderr, 'kata-runtime: Not running network checks as super user\n');
      assert.equal(await fake.run('check', '--check-version-only', '-n'), 0);
      assert.equal(fake.stderr, '');
    },
    { euid: 0, env: {} },
  );
});

test('SemVer orders as its specification says', () => {
  const order = ['1.0.0-alpha', '1.0.0-alpha.1', '1.0.0-alpha.beta', '1.0.0-beta', '1.0.0-beta.2', '1.0.0-beta.11', '1.0.0-rc.1', '1.0.0', '1.0.1', '1.1.0', '2.0.0'];
  for (const [index, text] of order.entries()) {
    for (const [other, otherText] of order.entries()) {
      const [a, b] = [parseSemver(text), parseSemver(otherText)];
      assert.ok(a !== undefined && b !== undefined);
      assert.equal(Math.sign(compareSemver(a, b)), Math.sign(index - other), `${text} ${otherText}`);
    }
  }
  assert.equal(parseSemver('v1.0.0'), undefined);
  assert.equal(parseSemver('01.0.0'), undefined);
});

test('each hypervisor is shown with what its driver can do, the others with what they lack', () =>
  withHost(async (fake) => {
    fake.modules('kvm', 'kvm_intel', 'vhost', 'vhost_net');
    fake.write('sys/module/kvm_intel/parameters/unrestricted_guest', 'Y\n');
    assert.equal(await fake.run('--config', fake.config('machine_type = "microvm"\n'), 'check'), 0, fake.stderr);
    const row = (name: string): string[] => (fake.stdout.split('\n').find((line) => line.includes(` ${name} `)) ?? '').trim().split(/\s+/);
    assert.deepEqual(row('qemu (q35)'), ['qemu', '(q35)', 'yes', 'yes', 'yes', 'yes', 'yes']);
    assert.deepEqual(row('qemu (microvm)'), ['*', 'qemu', '(microvm)', '-', '-', 'yes', 'yes', '-']);
    assert.deepEqual(row('mock'), ['mock', '-', '-', 'yes', '-', '-']);
    for (const name of ['firecracker', 'dragonball', 'stratovirt', 'acrn', 'remote']) {
      assert.match(fake.stdout, new RegExp(`\\b${name}\\b`));
    }
    assert.equal(await fake.run('--config', fake.config(), 'check', '--json'), 0);
    const { hypervisors } = JSON.parse(fake.stdout) as { hypervisors: { name: string; configured: boolean; can?: object; lacks: string }[] };
    assert.deepEqual(hypervisors.filter(({ configured }) => configured).map(({ name }) => name), ['qemu (q35)']);
    assert.ok(hypervisors.every(({ can, lacks }) => (can === undefined) === (lacks !== '')));
  }));
