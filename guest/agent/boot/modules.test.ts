import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { GuestModules, readModuleLists, virtioDevices } from './modules';

const LISTS = {
  boot: ['/m/pci'],
  later: ['/m/overlay', '/m/fuse', '/m/virtiofs', '/m/scsi'],
  byVirtioId: new Map([['26', ['/m/fuse', '/m/virtiofs']], ['8', ['/m/scsi']]]),
};

test('each module loads once, in the order of its list, whoever asks and however often', async () => {
  const loaded: string[] = [];
  const modules = new GuestModules(LISTS, (path) => loaded.push(path));
  modules.loadBoot();
  await Promise.all([modules.forDevices(['26']), modules.forDevices(['26', '99']), modules.all(), modules.forDevices(['8'])]);
  assert.deepEqual(loaded, ['/m/pci', '/m/fuse', '/m/virtiofs', '/m/overlay', '/m/scsi']);
});

test('a device gets only its own modules', async () => {
  const loaded: string[] = [];
  await new GuestModules(LISTS, (path) => loaded.push(path)).forDevices(['26']);
  assert.deepEqual(loaded, ['/m/fuse', '/m/virtiofs']);
});

test('an image whose list does not name devices has all loaded', async () => {
  const loaded: string[] = [];
  await new GuestModules({ ...LISTS, byVirtioId: undefined }, (path) => loaded.push(path)).forDevices(['26']);
  assert.deepEqual(loaded, LISTS.later);
});

test('devices are read from sysfs and lists from their file, bad ones as empty', () => {
  const folder = mkdtempSync(join(tmpdir(), 'kata-ts-modules-'));
  try {
    for (const [name, id] of [['virtio0', '0x0003'], ['virtio1', '0x001a'], ['virtio2', '0x001a']] as const) {
      mkdirSync(join(folder, name));
      writeFileSync(join(folder, name, 'device'), `${id}\n`);
    }
    assert.deepEqual(virtioDevices(folder).sort(), ['26', '3']);
    assert.deepEqual(virtioDevices(join(folder, 'none')), []);
    writeFileSync(join(folder, 'lists'), JSON.stringify({ boot: ['/a', 1, 'b'], later: 'x', byVirtioId: { 26: ['/f'] } }));
    assert.deepEqual(readModuleLists(join(folder, 'lists')), { boot: ['/a'], later: [], byVirtioId: new Map([['26', ['/f']]]) });
    assert.deepEqual(readModuleLists(join(folder, 'none')), { boot: [], later: [], byVirtioId: undefined });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
