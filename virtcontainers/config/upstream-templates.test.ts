/** The configurations that upstream ships: users bring them along. Each loads, or is refused for the exact reason. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { describeError, isCode, type ErrorCode } from '../../base/errors';
import { loadConfig, parseConfig } from './load';
import { TEMPLATES_3_0, TEMPLATES_4_1, TEMPLATES_RUNTIME_RS, templateText, type Template } from './testing/upstream-templates';
import type { RuntimeConfig } from './types';

const HOST = { cpus: 4, memoryMiB: 16384, arch: 'x64' };
const parse = (text: string): RuntimeConfig => parseConfig(text, '/c.toml', { host: HOST });

/** Loads a template with files in place of all that it names. */
function load(template: Template): RuntimeConfig {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), 'kata-ts-')));
  try {
    const text = templateText(template, folder);
    for (const [, path = ''] of text.matchAll(/"([^"]*)"/g)) {
      if (path.startsWith(`${folder}/`)) {
        mkdirSync(dirname(path), { recursive: true });
        writeFileSync(path, 'x');
      }
    }
    const main = join(folder, 'configuration.toml');
    writeFileSync(main, text);
    return loadConfig({ configPath: main, env: {}, host: HOST, knownDaemons: [], cacheFolder: '' });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

type Outcome = { readonly reports: readonly RegExp[] } | { readonly code: ErrorCode; readonly error: RegExp };
const loads = (...reports: readonly RegExp[]): Outcome => ({ reports });
const noDriver = (name: string): Outcome => ({ code: 'Unimplemented', error: new RegExp(`configuration.toml:1: hypervisor ${name} is not supported yet \\(use one of qemu, mock`) });
const refused = (error: RegExp): Outcome => ({ code: 'InvalidArgument', error });
const confidential = refused(/configuration.toml:\d+: hypervisor.qemu.confidential_guest: true is refused: the guest would not be protected.*not supported \(remove it/);

const OUTCOMES_3_0: Readonly<Record<string, Outcome>> = {
  qemu: loads(/^\[image\] \(.*:\d+\) is ignored: upstream 3.0.0 reads but never uses it/),
  clh: noDriver('clh'),
  fc: noDriver('firecracker'),
  acrn: noDriver('acrn'),
};

const OUTCOMES_4_1: Readonly<Record<string, Outcome>> = {
  qemu: loads(),
  'qemu-coco-dev': refused(/configuration.toml:\d+: runtime.emptydir_mode: "block-encrypted" is refused: emptyDir volumes would not be encrypted/),
  'qemu-nvidia-cpu': loads(),
  'qemu-nvidia-gpu': loads(/cold_plug_vfio .* is not supported yet/, /pod_resource_api_sock .* is not supported yet/),
  'qemu-nvidia-gpu-snp': confidential,
  'qemu-nvidia-gpu-tdx': confidential,
  'qemu-se': confidential,
  'qemu-snp': confidential,
  'qemu-tdx': confidential,
  clh: noDriver('clh'),
  'clh-azure': noDriver('clh'),
  fc: noDriver('firecracker'),
  stratovirt: noDriver('stratovirt'),
  remote: noDriver('remote'),
};

function checkOutcome(name: string, template: Template, outcome: Outcome | undefined): void {
  assert.ok(outcome, name);
  if ('reports' in outcome) {
    const config = load(template);
    assert.equal(config.hypervisor.type, template.hypervisor, name);
    assert.equal(config.warnings.length, outcome.reports.length, `${name}: ${config.warnings.join('\n')}`);
    outcome.reports.forEach((report, index) => { assert.match(config.warnings[index] ?? '', report, name); });
  } else {
    assert.throws(() => load(template), (error) => (isCode(error, outcome.code) && outcome.error.test(describeError(error))) || assert.fail(`${name}: ${describeError(error)}`));
  }
}

for (const [release, templates, outcomes] of [['3.0.0', TEMPLATES_3_0, OUTCOMES_3_0], ['4.1', TEMPLATES_4_1, OUTCOMES_4_1]] as const) {
  for (const [name, template] of Object.entries(templates)) {
    test(`configuration-${name}.toml of ${release} loads, or is refused for the exact reason`, () => {
      checkOutcome(name, template, outcomes[name]);
    });
  }
}

test('every key of every shipped configuration of the Go runtime is known, typed and in range', () => {
  for (const template of [...Object.values(TEMPLATES_3_0), ...Object.values(TEMPLATES_4_1)]) {
    // What is refused for what it asks is taken back, so that all the other keys are looked at, too.
    const text = templateText(template).replace(/^(confidential_guest|sev_snp_guest) = true$/gm, '$1 = false').replace('"block-encrypted"', '"shared-fs"');
    const config = parse(template.keys['image'] === undefined && template.hypervisor === 'qemu' ? text.replace('kernel =', 'image = "/i"\nkernel =') : text);
    assert.equal(config.hypervisor.type, template.hypervisor);
    assert.equal(config.runtime.disableGuestSeccomp, true);
  }
});

test('a configuration of the Rust runtime is refused as what it is', () => {
  for (const [name, template] of Object.entries(TEMPLATES_RUNTIME_RS)) {
    assert.throws(() => load(template), (error) => (isCode(error, 'InvalidArgument') && /configuration.toml:\d+: runtime.hypervisor_name: this is a configuration of the Rust runtime/.test(describeError(error))) || assert.fail(`${name}: ${describeError(error)}`));
  }
});

test('values of the 4.1 configuration reach their fields', () => {
  const { agent, hypervisor, runtime } = parse(templateText(TEMPLATES_4_1['qemu'] ?? assert.fail()));
  assert.deepEqual([agent.dialTimeout, agent.other?.['cdh_api_timeout'], hypervisor.virtioFsQueueSize, hypervisor.disableBlockDeviceUse], [45, 50, 1024, true]);
  assert.deepEqual([runtime.disableGuestEmptyDir, runtime.createContainerTimeout, hypervisor.enableAnnotations], [true, 60, ['enable_iommu', 'kernel_params', 'kernel_verity_params']]);
});

test('our own default configuration loads without a report', () => {
  const text = readFileSync(join(__dirname, '../../hack/config/configuration-qemu.toml.in'), 'utf8').replaceAll('@PREFIX@', '/usr/local');
  const config = parse(text);
  assert.deepEqual(config.warnings, []);
  assert.equal(config.hypervisor.kernel, '/usr/local/share/kata-containers/kata-ts-vmlinux');
  assert.equal(config.hypervisor.initrd, '/usr/local/share/kata-containers/kata-ts-initrd.img');
});
