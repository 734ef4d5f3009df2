import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Logger } from '../../../base/log';
import { parseConfig } from '../../config/load';
import type { VmSpec } from '../types';
import { dumpGuestMemory } from './memory-dump';

test('a dump goes where guest_memory_dump_path says, with what is needed to read it; not where there is no room', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'kata-ts-'));
  try {
    mkdirSync(join(folder, 'sbs'));
    writeFileSync(join(folder, 'sbs/persist.json'), '{}');
    const { hypervisor: config } = parseConfig(`[hypervisor.qemu]\ninitrd = "/i"\nguest_memory_dump_path = "${folder}/crash"\nguest_memory_dump_paging = true`, '/c', { host: { cpus: 1, memoryMiB: 1024, arch: 'x64' } });
    const spec: VmSpec = { id: 'vm1', directory: folder, config, vcpus: 1, memoryMiB: 1, kernelParams: [], share: undefined, devices: [], netns: { kind: 'own' }, template: undefined, debug: false, logger: Logger.none() };
    const said: unknown[] = [];
    const qmp = { execute: (...words: unknown[]) => (said.push(words), Promise.resolve(undefined)) };
    const input = { spec, memoryMiB: 1, version: 'QEMU 7.2', stateFolder: join(folder, 'sbs'), now: new Date(Date.UTC(2026, 0, 2, 3, 4, 5, 6)) };
    const path = await dumpGuestMemory(qmp, input);
    assert.equal(path, join(folder, 'crash/vm1/vmcore-20260102030405.006.elf'));
    assert.deepEqual(said, [['dump-guest-memory', { paging: true, protocol: `file:${path}`, format: 'elf' }, 600_000]]);
    const text = (name: string): string => readFileSync(join(folder, 'crash/vm1', name), 'utf8');
    assert.equal(text('hypervisor.version'), 'QEMU 7.2\n');
    assert.equal((JSON.parse(text('hypervisor.conf')) as { guestMemoryDumpPaging: boolean }).guestMemoryDumpPaging, true);
    assert.equal(text('state/persist.json'), '{}');
    await assert.rejects(dumpGuestMemory(qmp, { ...input, memoryMiB: 2 ** 40 }), { code: 'ResourceExhausted', message: /MiB free, wanted/ });
    assert.equal(said.length, 1);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
