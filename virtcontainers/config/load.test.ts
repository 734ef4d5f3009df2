import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { describeError, isCode } from '../../base/errors';
import { agentKernelParams } from './kernel-params';
import { loadConfig, parseConfig, type LoadOptions } from './load';

const HOST = { cpus: 4, memoryMiB: 8192, arch: 'x64' };

interface Place {
  readonly folder: string;
  readonly main: string;
  readonly load: (options?: Partial<LoadOptions>) => ReturnType<typeof loadConfig>;
  /** Writes a file below the folder and returns its path. */
  readonly put: (name: string, text: string) => string;
  readonly table: string;
}

/** A folder with QEMU, kernel, initrd and virtiofsd as files, and a configuration that names them. */
function inPlace(run: (place: Place) => void): void {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), 'kata-ts-')));
  try {
    const put = (name: string, text: string): string => {
      const path = join(folder, name);
      mkdirSync(join(path, '..'), { recursive: true });
      writeFileSync(path, text);
      return path;
    };
    const table = `[hypervisor.qemu]\npath = "${put('qemu', 'x')}"\nkernel = "${put('vmlinux', 'x')}"\ninitrd = "${put('initrd', 'x')}"\nvirtio_fs_daemon = "${put('virtiofsd', 'x')}"\n`;
    const main = put('configuration.toml', table);
    run({ folder, main, put, table, load: (options = {}) => loadConfig({ env: {}, searchPaths: [main], host: HOST, knownDaemons: [], ...options }) });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const fails = (run: () => unknown, code: 'NotFound' | 'InvalidArgument', pattern: RegExp): void =>
  assert.throws(run, (error) => (isCode(error, code) && pattern.test(describeError(error))) || assert.fail(describeError(error)));

test('the option wins over KATA_CONF_FILE, which wins over the search paths; what is named must exist', () =>
  inPlace(({ load, put, table, main, folder }) => {
    const option = put('a/option.toml', `${table}default_memory = 300`);
    const env = { KATA_CONF_FILE: put('b/env.toml', `${table}default_memory = 400`) };
    assert.equal(load({ configPath: option, env }).hypervisor.defaultMemory, 300);
    assert.equal(load({ env }).hypervisor.defaultMemory, 400);
    assert.equal(load({ env: { KATA_CONF_FILE: '' }, configPath: '' }).path, main);
    assert.equal(load({ searchPaths: [join(folder, 'none'), main] }).path, main);
    fails(() => load({ configPath: join(folder, 'gone.toml'), env }), 'NotFound', /gone.toml does not exist.*named by the runtime options/);
    fails(() => load({ env: { KATA_CONF_FILE: join(folder, 'gone.toml') } }), 'NotFound', /named by KATA_CONF_FILE/);
    fails(() => load({ searchPaths: [join(folder, 'x'), join(folder, 'y')] }), 'NotFound', /Cannot find usable config file \(.*x, .*y\).*copy configuration-qemu.toml/);
  }));

test('a symbolic link is followed, and drop-ins are those beside its target', () =>
  inPlace(({ load, put, main, folder }) => {
    mkdirSync(join(folder, 'etc/config.d'), { recursive: true });
    put('etc/config.d/wrong.toml', 'not toml at all');
    symlinkSync(main, join(folder, 'etc/link.toml'));
    put('config.d/10.toml', '[hypervisor.qemu]\ndefault_memory = 512');
    const config = load({ configPath: join(folder, 'etc/link.toml') });
    assert.deepEqual([config.path, config.dropIns, config.hypervisor.defaultMemory], [main, [join(folder, 'config.d/10.toml')], 512]);
  }));

test('drop-ins apply in byte order, whatever their names; keys merge, lists are replaced', () =>
  inPlace(({ load, put, main, table }) => {
    put('configuration.toml', `${table}virtio_fs_extra_args = ["a", "b"]\nmemory_slots = 3\n[runtime]\nenable_debug = true`);
    put('config.d/10-b', '[hypervisor.qemu]\ndefault_memory = 300\nvirtio_fs_extra_args = ["c"]');
    put('config.d/9-a.toml', '[hypervisor.qemu]\ndefault_memory = 400\n[runtime]\nsandbox_cgroup_only = true');
    put('config.d/Z.bak', '[hypervisor.qemu]\nmsize_9p = 4096');
    put('config.d/a.toml', '[hypervisor.qemu]\nmsize_9p = 16384\n[agent.kata]\ndial_timeout = 7');
    const config = load();
    const hv = config.hypervisor;
    assert.deepEqual(config.dropIns.map((path) => path.split('/').pop()), ['10-b', '9-a.toml', 'Z.bak', 'a.toml']);
    assert.deepEqual([hv.defaultMemory, hv.msize9p, hv.memorySlots, hv.virtioFsExtraArgs], [400, 16384, 3, ['c']]);
    assert.deepEqual([config.runtime.enableDebug, config.runtime.sandboxCgroupOnly, config.agent.dialTimeout], [true, true, 7]);
    assert.match(config.sources.get('hypervisor.qemu.default_memory') ?? '', /config.d\/9-a.toml:2$/);
    assert.equal(config.sources.get('hypervisor.qemu.memory_slots'), `${main}:7`);
  }));

test('a drop-in can unset the image, and cannot bring a second hypervisor, an unknown key or a folder', () =>
  inPlace(({ load, put, table, folder }) => {
    put('configuration.toml', `${table}image = "/x"`);
    fails(() => load(), 'InvalidArgument', /image and initrd are both set.*a drop-in unsets/);
    const dropIn = put('config.d/a', '[hypervisor.qemu]\nimage = ""');
    assert.equal(load().hypervisor.image, '');
    put('config.d/a', '[hypervisor.clh]\nimage = ""');
    fails(() => load(), 'InvalidArgument', /more than one hypervisor/);
    put('config.d/a', '[runtime]\nenable_debg = true');
    fails(() => load(), 'InvalidArgument', new RegExp(`${dropIn}:2: unknown key "enable_debg" in \\[runtime\\].*enable_debug`));
    rmSync(dropIn);
    mkdirSync(join(folder, 'config.d/sub'));
    fails(() => load(), 'InvalidArgument', /sub: not a regular file.*config.d/);
  }));

test('files that are missing, empty, folders or not absolute are named with their key', () =>
  inPlace(({ load, put, folder, table }) => {
    const gone = join(folder, 'gone');
    for (const key of ['path', 'kernel', 'firmware', 'firmware_volume', 'initrd', 'jailer_path']) {
      const without = table.split('\n').filter((line) => !line.startsWith(`${key} =`)).join('\n');
      put('configuration.toml', `${without}${key} = "${gone}"`);
      fails(() => load(), 'InvalidArgument', new RegExp(`configuration.toml:\\d+: hypervisor.qemu.${key}: file ${gone} does not exist .*correct ${key}`));
    }
    put('configuration.toml', `${table}pflashes = ["${gone}"]`);
    fails(() => load(), 'InvalidArgument', /pflashes: file/);
    put('configuration.toml', `${table}guest_extension_images = [{ name = "a", path = "${gone}" }]`);
    fails(() => load(), 'InvalidArgument', /guest_extension_images: file/);
    put('configuration.toml', `${table}file_mem_backend = "${gone}"`);
    fails(() => load(), 'InvalidArgument', /file_mem_backend: file .* does not exist/);
    put('configuration.toml', `${table}file_mem_backend = "${join(folder, 'kernel')}"`.replace('/kernel"', '/vmlinux"'));
    fails(() => load(), 'InvalidArgument', /vmlinux is not a folder/);
    put('configuration.toml', `${table}firmware = "relative"`);
    fails(() => load(), 'InvalidArgument', /not an absolute path/);
    put('configuration.toml', `${table}firmware = "${folder}"`);
    fails(() => load(), 'InvalidArgument', /is a folder/);
    put('configuration.toml', table);
    put('initrd', '');
    fails(() => load(), 'InvalidArgument', /initrd is empty/);
  }));

test('an initrd as large as the memory is refused, an image is told', () =>
  inPlace(({ load, put, folder, table }) => {
    truncateSync(join(folder, 'initrd'), 256 * 1048576);
    put('configuration.toml', `${table}default_memory = 256`);
    fails(() => load(), 'InvalidArgument', /256 MiB, the VM only 256 MiB of memory \(raise default_memory\)/);
    put('configuration.toml', `${table}default_memory = 256`.replace('initrd =', 'image ='));
    assert.match(load().warnings.join('\n'), /hypervisor.qemu.image: .* 256 MiB/);
  }));

test('virtio-fs needs a daemon: the named one, else a known one, else the error tells what else works', () =>
  inPlace(({ load, put, table, folder }) => {
    const without = table.replace(/virtio_fs_daemon.*\n/, '');
    put('configuration.toml', without);
    fails(() => load(), 'InvalidArgument', /cannot enable virtio-fs without daemon path in configuration file .*virtio-9p/);
    const known = put('known', 'x');
    assert.equal(load({ knownDaemons: ['/none', known] }).hypervisor.virtioFsDaemon, known);
    put('configuration.toml', `${without}virtio_fs_daemon = "${folder}/gone"`);
    fails(() => load({ knownDaemons: [known] }), 'InvalidArgument', new RegExp(`gone does not exist \\(set virtio_fs_daemon = "${known}"\\)`));
    for (const fs of ['none', 'virtio-9p']) {
      put('configuration.toml', `${without}shared_fs = "${fs}"`);
      assert.equal(load().hypervisor.sharedFs, fs);
    }
  }));

test('bind mounts must exist and have names of their own', () =>
  inPlace(({ load, put, table }) => {
    const [a, b] = [put('one/x', ''), put('two/x', '')];
    put('configuration.toml', `${table}[runtime]\nsandbox_bind_mounts = ["${a}", "${b}"]`);
    fails(() => load(), 'InvalidArgument', /two sources are named "x"/);
    put('configuration.toml', `${table}[runtime]\nsandbox_bind_mounts = ["${a}", "/gone/y"]`);
    fails(() => load(), 'InvalidArgument', /sandbox_bind_mounts: file \/gone\/y does not exist/);
  }));

test('a file that is too large or binary is refused', () =>
  inPlace(({ load, main, put }) => {
    truncateSync(main, 2 * 1048576);
    fails(() => load(), 'InvalidArgument', /2097152 bytes, more than 1048576/);
    put('configuration.toml', '\0\u0001\u0002');
    fails(() => load(), 'InvalidArgument', /not a text file/);
  }));

test('mock has no assets to look for; a VMM without a driver is refused before its files are looked for', () =>
  inPlace(({ load, put }) => {
    put('configuration.toml', '[hypervisor.mock]\n');
    assert.equal(load().hypervisor.type, 'mock');
    put('configuration.toml', '[hypervisor.remote]\n');
    assert.throws(() => load(), (error) => (isCode(error, 'Unimplemented') && /configuration.toml:1: hypervisor remote is not supported yet \(use one of qemu, mock/.test(describeError(error))) || assert.fail(describeError(error)));
    assert.equal(load({ checkFiles: false }).hypervisor.other['remote_hypervisor_timeout'], 600);
  }));

test('kernel parameters of runtime and agent come in the order of upstream', () => {
  const parse = (text: string) => parseConfig(text, '/c.toml', { host: HOST });
  assert.deepEqual(agentKernelParams(parse('[hypervisor.qemu]\ninitrd = "/i"\nblock_device_driver = "virtio-blk"')), []);
  const all = parse('[hypervisor.qemu]\nimage = "/i"\n[agent.kata]\nenable_debug = true\nenable_tracing = true\ndebug_console_enabled = true\ncdh_api_timeout = 50\nlaunch_process_timeout = 6\nvisible_cdi_devices = true\ncontainer_pipe_size = 4096');
  assert.equal(
    agentKernelParams(all).join(' '),
    'systemd.unit=kata-containers.target systemd.mask=systemd-networkd.service systemd.mask=systemd-networkd.socket scsi_mod.scan=none agent.log=debug agent.trace=true agent.container_pipe_size=4096 agent.debug_console agent.debug_console_vport=1026 agent.cdh_api_timeout=50 agent.launch_process_timeout=6 agent.visible_cdi_devices=true',
  );
});
