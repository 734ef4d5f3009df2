/** What the shim does with the configuration of a pod before anything else. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { describeError } from '../base/errors';
import { Logger } from '../base/log';
import { createBackend } from './wiring';

/** Loads a configuration as a pod with these annotations would; returns what the shim logs. */
async function load(text: string, annotations: Record<string, string> = {}): Promise<string[]> {
  const folder = mkdtempSync(join(tmpdir(), 'kata-ts-'));
  try {
    const path = join(folder, 'configuration.toml');
    writeFileSync(path, text);
    const lines: string[] = [];
    const logger = Logger.to((line) => lines.push(line));
    await createBackend(logger).loadConfig(path, { path: folder, spec: { annotations } });
    logger.debug('after the load');
    return lines;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test('enable_debug of [runtime] lets debug lines through', async () => {
  assert.ok((await load('[hypervisor.mock]\n[runtime]\nenable_debug = true\n')).some((line) => line.includes('after the load')));
  assert.ok(!(await load('[hypervisor.mock]\n')).some((line) => line.includes('after the load')));
});

test('each thing that is not honoured is said once, with key, file and line', async () => {
  const lines = await load('[hypervisor.mock]\n[runtime]\nenable_vcpus_pinning = true\nenable_tracing = true\n[image]\nprovision = "x"\n');
  const said = (words: string): number => lines.filter((line) => line.includes(words)).length;
  assert.deepEqual([said('runtime.enable_vcpus_pinning'), said('runtime.enable_tracing'), said('[image]')], [1, 1, 1]);
  assert.match(lines.join(''), /level=warning? .*configuration.toml:3\) is not supported yet/);
});

test('a refusal by configuration or annotation reaches the caller with its place', async () => {
  await assert.rejects(load('[hypervisor.mock]\n[runtime]\nexperimental_force_guest_pull = true\n'), (error) => /configuration.toml:3: runtime.experimental_force_guest_pull: true is refused/.test(describeError(error)));
  await assert.rejects(load('[hypervisor.mock]\nenable_annotations = []\n', { 'io.katacontainers.config.hypervisor.default_memory': '512' }), (error) => /is not enabled \(add "default_memory" to enable_annotations in \[hypervisor.mock\], .*configuration.toml:2\)/.test(describeError(error)) || assert.fail(describeError(error)));
});
