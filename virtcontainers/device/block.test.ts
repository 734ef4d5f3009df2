import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { defer } from '../../base/deadline';
import { KataError } from '../../base/errors';
import { UndoStack } from '../../base/undo';
import type { BlockDevice, GuestBlockAddress, Vm } from '../hypervisor/types';
import { BlockDevices } from './block';

/** A VM that only takes block devices, one file each, and notes what is asked of it. */
class BlockVm {
  readonly calls: string[] = [];
  readonly plugged = new Map<string, string>();
  removal: Promise<void> = Promise.resolve();
  failure: KataError | undefined;
  readonly vm = {
    facts: () => ({ alive: true }),
    hotplug: {
      addBlock: (device: BlockDevice): Promise<GuestBlockAddress> => this.add(device),
      removeBlock: async (id: string): Promise<void> => {
        this.calls.push('remove');
        await this.removal;
        this.plugged.delete(id);
      },
    },
  } as unknown as Vm;

  private add(device: BlockDevice): Promise<GuestBlockAddress> {
    this.calls.push('add');
    if (this.failure !== undefined) {
      return Promise.reject(this.failure);
    }
    assert.ok(![...this.plugged.values()].includes(device.path), 'a VMM takes a device once');
    this.plugged.set(device.id, device.path);
    return Promise.resolve({ kind: 'scsi', target: 0, lun: this.plugged.size - 1 });
  }
}

async function withDisk(work: (disk: string, box: BlockVm, blocks: BlockDevices, folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'kata-block-'));
  try {
    const [disk, box] = [join(folder, 'disk.img'), new BlockVm()];
    writeFileSync(disk, '');
    await work(disk, box, new BlockDevices(box.vm), folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

test('a device of two containers is plugged in once, by whatever name, and unplugged with the last', () =>
  withDisk(async (disk, box, blocks, folder) => {
    const link = join(folder, 'link');
    symlinkSync(disk, link);
    const [first, second] = [new UndoStack(), new UndoStack()];
    const addresses = await Promise.all([blocks.attach(first, disk, false), blocks.attach(second, link, true)]);
    assert.deepEqual(addresses[0], addresses[1]);
    assert.deepEqual(await first.unwind(), []);
    assert.deepEqual(box.calls, ['add']);
    assert.deepEqual(await second.unwind(), []);
    assert.deepEqual(box.calls, ['add', 'remove']);
    await blocks.attach(first, disk, false);
    assert.deepEqual(box.calls, ['add', 'remove', 'add']);
  }));

test('who comes while the device is being unplugged waits, and has it plugged in again', () =>
  withDisk(async (disk, box, blocks) => {
    const gate = defer<undefined>();
    box.removal = gate.promise;
    const undo = new UndoStack();
    await blocks.attach(undo, disk, false);
    const leaving = undo.unwind();
    const again = blocks.attach(new UndoStack(), disk, false);
    assert.deepEqual(box.calls, ['add', 'remove']);
    gate.resolve(undefined);
    await Promise.all([leaving, again]);
    assert.deepEqual(box.calls, ['add', 'remove', 'add']);
  }));

test('a device that is plugged in read-only is not given to a container that writes', () =>
  withDisk(async (disk, _box, blocks) => {
    await blocks.attach(new UndoStack(), disk, true);
    await assert.rejects(blocks.attach(new UndoStack(), disk, false), /uses it read-only/);
  }));

test('a failure to plug in is forgotten, for all who waited', () =>
  withDisk(async (disk, box, blocks) => {
    box.failure = new KataError('Internal', 'no slot');
    const stacks = [new UndoStack(), new UndoStack()];
    const results = await Promise.allSettled(stacks.map((undo) => blocks.attach(undo, disk, false)));
    assert.deepEqual(results.map(({ status }) => status), ['rejected', 'rejected']);
    box.failure = undefined;
    const undo = new UndoStack();
    await blocks.attach(undo, disk, false);
    await Promise.all(stacks.map((stack) => stack.unwind()));
    assert.deepEqual(box.calls, ['add', 'add'], 'what failed is not unplugged');
    await undo.unwind();
    assert.deepEqual(box.calls, ['add', 'add', 'remove']);
  }));
