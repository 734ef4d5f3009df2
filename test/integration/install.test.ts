/** hack/install.sh, which `make install` and `make uninstall` run: a pod outlives the installation of another version. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { appendFileSync, copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ROOT, runCommand } from '../../hack/private-containerd';
import { Host, IMAGE, RUNTIME } from '../support/host';
import { leftOf } from '../support/leaks';

let scratch: string;
let tree: string;

/** A source tree that can be changed: what install.sh reads. */
before(() => {
  scratch = mkdtempSync(join(tmpdir(), 'kata-ts-install-'));
  tree = join(scratch, 'tree');
  mkdirSync(join(tree, 'build'), { recursive: true });
  cpSync(join(ROOT, 'hack'), join(tree, 'hack'), { recursive: true });
  cpSync(join(ROOT, 'docs'), join(tree, 'docs'), { recursive: true });
  for (const name of readdirSync(join(ROOT, 'build'))) {
    const from = join(ROOT, 'build', name);
    if (/\.(cjs|cache|node)$/.test(name)) {
      copyFileSync(from, join(tree, 'build', name));
    } else {
      symlinkSync(from, join(tree, 'build', name));
    }
  }
});

after(() => {
  rmSync(scratch, { recursive: true, force: true });
});

function install(action: 'install' | 'uninstall', dest: string, prefix: string): string {
  return execFileSync('sh', ['-c', '"$0" "$@" 2>&1', join(tree, 'hack/install.sh'), action, dest, prefix], { encoding: 'utf8' });
}

const filesBelow = (folder: string): string[] => (existsSync(folder) ? readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => !entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name)) : []);

test('DESTDIR takes everything below the prefix, the files speak of the prefix alone, and uninstall leaves no file', () => {
  const dest = join(scratch, 'dest');
  install('install', dest, '/usr/local');
  const base = join(dest, 'usr/local');
  for (const path of ['bin/containerd-shim-kata-v2', 'bin/kata-runtime', 'share/kata-containers/kata-ts-vmlinux', 'share/kata-containers/kata-ts-initrd.img', 'lib/kata-ts/shim.cjs']) {
    assert.ok(existsSync(join(base, path)), path);
  }
  const config = readFileSync(join(base, 'share/defaults/kata-containers/configuration.toml'), 'utf8');
  assert.match(config, /"\/usr\/local\/share\/kata-containers\/kata-ts-vmlinux"/);
  assert.doesNotMatch(config, new RegExp(dest));
  appendFileSync(join(base, 'share/defaults/kata-containers/configuration.toml'), '# mine\n');
  assert.match(install('install', dest, '/usr/local'), /was edited and is kept/);
  assert.match(readFileSync(join(base, 'share/defaults/kata-containers/configuration.toml'), 'utf8'), /# mine\n$/);
  assert.match(install('uninstall', dest, '/usr/local'), /it was edited/);
  assert.deepEqual(filesBelow(dest), [join(base, 'share/defaults/kata-containers/configuration.toml')]);
});

test('a pod of an installed version runs on over the installation of the next, new ones use that; uninstall leaves nothing', async () => {
  const prefix = join(scratch, 'prefix');
  const [old, young] = [`old${String(process.pid)}`, `young${String(process.pid)}`];
  install('install', '', prefix);
  const first = readlinkSync(join(prefix, 'lib/kata-ts'));
  const env = { KATA_CONF_FILE: join(prefix, 'share/defaults/kata-containers/configuration.toml') };
  const host = await Host.start('qemu', {}, { shimFolder: join(prefix, 'bin'), env });
  try {
    await host.runDetached(old, ['sleep', '100000']);
    appendFileSync(join(tree, 'build/shim.cjs'), '\n// another version\n');
    assert.match(install('install', '', prefix), new RegExp(`kept .*${first}: running pods use it`));
    assert.notEqual(readlinkSync(join(prefix, 'lib/kata-ts')), first);
    assert.equal((await host.exec(old, ['echo', 'still here'])).stdout, 'still here\n');

    const shown = await runCommand(join(prefix, 'bin/containerd-shim-kata-v2'), ['-v']);
    assert.equal(shown.code, 0, shown.stderr);
    const mock = host.config('mock', `[hypervisor.mock]\npath = "${process.execPath}"\n`);
    const done = await host.ctr(['run', '--rm', '--runtime', RUNTIME, '--runtime-config-path', mock, IMAGE, young, 'echo', 'new']);
    assert.equal(done.code, 0, done.stderr);

    await host.remove(old);
    assert.deepEqual(await leftOf([old, young]), []);
  } finally {
    await host.stop();
  }
  install('install', '', prefix);
  assert.ok(!existsSync(join(prefix, 'lib', first)), 'the version that nobody uses any more is removed');
  install('uninstall', '', prefix);
  assert.deepEqual(filesBelow(prefix), []);
});
