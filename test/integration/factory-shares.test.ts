/** Clones with every kind of share, and with block devices as root file systems, through containerd. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { FactoryHost, factoryOverrides } from '../support/factory';
import { factoryLeftovers } from '../support/factory-leaks';
import { configText, IMAGE, RUNTIME } from '../support/host';
import { TasksClient } from '../support/tasks-client';

const MINE = 'share-';
const SHARES = ['none', 'virtio-9p', 'virtio-fs'] as const;
type Share = (typeof SHARES)[number];

let factory: FactoryHost;
let work: string;
const loops: string[] = [];

before(async () => {
  factory = await FactoryHost.start();
  work = mkdtempSync(join(tmpdir(), 'kata-shares-'));
  const rootfs = join(work, 'rootfs');
  mkdirSync(rootfs);
  const mounted = await factory.host.ctr(['images', 'mount', IMAGE, rootfs]);
  assert.equal(mounted.code, 0, mounted.stderr);
  for (const share of SHARES) {
    const image = join(work, `${share}.img`);
    execFileSync('truncate', ['-s', '32M', image]);
    execFileSync('mkfs.ext4', ['-q', '-d', rootfs, image]);
    loops.push(execFileSync('losetup', ['-f', '--show', image], { encoding: 'utf8' }).trim());
  }
  await factory.host.ctr(['images', 'unmount', '--rm', rootfs]);
});

afterEach(async () => {
  const templates = factory.report().templates.map(({ key }) => key);
  assert.deepEqual(await factoryLeftovers(factory.folder, { ids: [MINE], templates }), []);
});

after(async () => {
  for (const device of loops) {
    execFileSync('losetup', ['-d', device]);
  }
  rmSync(work, { recursive: true, force: true });
  await factory.stop();
  assert.deepEqual(await factoryLeftovers(factory.folder, { ids: [MINE] }), []);
});

function configOf(share: Share): string {
  return factory.host.config(share, configText('qemu', factoryOverrides(factory.folder, { sharedFs: share })));
}

/** The lines of the shim of a sandbox. */
function linesOf(id: string): string[] {
  return factory.host.containerd.log.split('\n').filter((line) => line.includes(`sandbox=${id} `));
}

function assertCloned(id: string): void {
  const created = linesOf(id).find((line) => line.includes('msg="sandbox created"'));
  assert.match(created ?? '', /\bvm=template\b/);
}

for (const share of SHARES) {
  test(`a block device is the root file system of a clone with shared_fs = "${share}"`, async () => {
    const id = `${MINE}block-${share}`;
    const device = loops[SHARES.indexOf(share)] ?? '';
    const made = await factory.host.ctr(['containers', 'create', '--runtime', RUNTIME, '--runtime-config-path', configOf(share), IMAGE, id, 'sleep', '1000']);
    assert.equal(made.code, 0, made.stderr);
    const tasks = await TasksClient.connect(factory.host.containerd.address);
    try {
      await tasks.create(id, `mount -t ext4 ${device} /target -o rw`);
      await tasks.start(id);
    } finally {
      tasks.close();
    }
    assertCloned(id);
    const said = await factory.host.exec(id, ['sh', '-c', `echo ${share} > /written && sync && grep " / " /proc/mounts`]);
    assert.match(said.stdout, /^\/dev\/(vd|sd)[a-z]+ \/ ext4 rw/, said.stderr);
    await factory.host.remove(id);
    assert.equal(execFileSync('debugfs', ['-R', 'cat /written', device], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }), `${share}\n`);
  });
}

for (const share of ['virtio-9p', 'virtio-fs'] as const) {
  test(`a clone shares folders and files by ${share}`, async () => {
    const id = `${MINE}folder-${share}`;
    const file = join(work, `file-${share}`);
    writeFileSync(file, 'from the host\n');
    const done = await factory.host.run(id, ['sh', '-c', 'cat /file; echo from the guest >> /file; grep " / " /proc/mounts'], {
      args: ['--runtime-config-path', configOf(share), '--mount', `type=bind,src=${file},dst=/file,options=rbind:rw`],
    });
    assert.match(done.stdout, new RegExp(`^from the host\n\\S+ / ${share === 'virtio-9p' ? '9p' : 'virtiofs'} `), done.stderr);
    assert.equal(execFileSync('cat', [file], { encoding: 'utf8' }), 'from the host\nfrom the guest\n');
    assertCloned(id);
    const costs = linesOf(id).filter((line) => line.includes("each sandbox gets a copy of the template's memory"));
    assert.equal(costs.length, share === 'virtio-fs' ? 1 : 0);
    for (const line of costs) {
      assert.match(line, /virtio-9p.*none.*block device/);
    }
  });
}

test('with shared_fs = "none" files are copied into a clone', async () => {
  const id = `${MINE}copied`;
  const file = join(work, 'file-copied');
  writeFileSync(file, 'copied\n');
  const done = await factory.host.run(id, ['cat', '/file'], { args: ['--runtime-config-path', configOf('none'), '--mount', `type=bind,src=${file},dst=/file,options=rbind:ro`] });
  assert.equal(done.stdout, 'copied\n', done.stderr);
  assertCloned(id);
});
