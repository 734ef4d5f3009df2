/** Real QEMU takes what the keys of the configuration put on its command line: each is started, stopped before its guest runs, and asked. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Logger } from '../../../base/log';
import { parseConfig } from '../../../virtcontainers/config/load';
import { commandLine } from '../../../virtcontainers/hypervisor/qemu/command-line';
import { InheritedFds } from '../../../virtcontainers/hypervisor/qemu/plan';

const QEMU = '/usr/bin/qemu-system-x86_64';
const TIMEOUT_MS = 30_000;

/** Ends QEMU through its own monitor on stdin; -S keeps the guest from running. Resolves with stderr and the exit code. */
function askQemu(args: readonly string[]): Promise<{ readonly code: number; readonly text: string; readonly devices: string }> {
  return new Promise((resolve) => {
    const child = execFile(QEMU, [...args], { timeout: TIMEOUT_MS, killSignal: 'SIGKILL' }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : typeof error.code === 'number' ? error.code : -1, text: stderr, devices: stdout });
    });
    // What is still to be written when QEMU ends is lost: it is told to end when the last answer is here.
    let seen = '';
    child.stdout?.on('data', (chunk: string) => {
      seen = (seen + chunk).slice(-200);
      if (/^\d+\.\d+\.\d+/m.test(seen)) {
        seen = '';
        child.stdin?.end('quit\n');
      }
    });
    child.stdin?.on('error', () => undefined);
    child.stdin?.write('info qtree\ninfo iothreads\ninfo memdev\ninfo version\n');
  });
}

describe('QEMU and the keys', { skip: existsSync(QEMU) ? false : `${QEMU} is missing` }, () => {
  let folder = '';
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'kata-keys-'));
    for (const name of ['kernel', 'initrd', 'disk', 'extension', 'flash']) {
      writeFileSync(join(folder, name), '');
      truncateSync(join(folder, name), 1024 * 1024);
    }
    mkdirSync(join(folder, 'share'));
    mkdirSync(join(folder, 'memory'));
  });
  after(() => { rmSync(folder, { recursive: true, force: true }); });

  /** The arguments for these lines, the monitor on stdin instead of our socket, and no guest. */
  function argsOf(lines: string): string[] {
    const text = `[hypervisor.qemu]\ninitrd = "${folder}/initrd"\nshared_fs = "virtio-9p"\nblock_device_aio = "threads"\n${lines}`.replaceAll('@', folder);
    const { hypervisor: config } = parseConfig(text, '/c.toml', { host: { cpus: 4, memoryMiB: 4096, arch: 'x64' } });
    const args = commandLine(
      {
        spec: {
          id: 'k1', directory: folder, config, vcpus: 1, memoryMiB: 256, kernelParams: [], share: { kind: 'virtio-9p', tag: 'kataShared', source: join(folder, 'share') },
          devices: [{ kind: 'block', id: 'disk0', path: join(folder, 'disk'), readOnly: false }], netns: { kind: 'own' }, template: undefined, debug: config.enableDebug, logger: Logger.none(),
        },
        accelerator: 'tcg', tscKhz: 0, disableModern: false, uuid: '00000000-0000-4000-8000-000000000000', channel: { kind: 'serial' }, imageBytes: 0, token: 'token',
      },
      20,
      new InheritedFds(),
    );
    const without = (option: string, words: string[]): string[] => words.filter((word, index) => word !== option && words[index - 1] !== option);
    return [...without('-kernel', without('-initrd', without('-append', without('-qmp', args)))), '-S', '-monitor', 'stdio'];
  }

  const KEYS: Readonly<Record<string, readonly [lines: string, sign: RegExp]>> = {
    machine_accelerators: ['machine_accelerators = "hpet=off"', /bus: main-system-bus(?![\s\S]*dev: hpet)/],
    cpu_features: ['cpu_features = "pmu=off"', /dev: /],
    seccompsandbox: ['seccompsandbox = "on,obsolete=deny,spawn=deny,resourcecontrol=deny"', /dev: /],
    pflashes: ['pflashes = ["@/flash"]', /cfi\.pflash01/],
    default_bridges: ['default_bridges = 3', /id "pci-bridge-2"/],
    memory_offset: ['memory_slots = 5\nmemory_offset = 128', /dev: /],
    enable_mem_prealloc: ['enable_mem_prealloc = true', /prealloc: true/],
    file_mem_backend: ['file_mem_backend = "@/memory"', /share: true/],
    reclaim_guest_freed_memory: ['reclaim_guest_freed_memory = true', /free-page-reporting = true/],
    block_device_cache: ['block_device_cache_set = true\nblock_device_cache_direct = false\nblock_device_cache_noflush = true', /id "virtio-disk0"/],
    sector_sizes: ['block_device_logical_sector_size = 4096\nblock_device_physical_sector_size = 8192', /logical_block_size = 4096[\s\S]*physical_block_size = 8192/],
    enable_iothreads: ['enable_iothreads = true', /iothread-token/],
    indep_iothreads: ['indep_iothreads = 2', /indep_iothread_1/],
    guest_extension_images: ['guest_extension_images = [{ name = "gpu", path = "@/extension" }]', /drive = "extension-gpu"/],
    use_legacy_serial: ['use_legacy_serial = true', /isa-serial/],
    extra_monitor_socket: ['enable_debug = true\nextra_monitor_socket = "qmp-pretty"', /dev: /],
    enable_iommu: ['enable_iommu = true', /dev: intel-iommu/],
    pcie_root_port: ['pcie_root_port = 16', /id "rp15"/],
    guest_memory_dump_path: ['guest_memory_dump_path = "@"', /dev: pvpanic/],
    entropy_source: ['entropy_source = "/dev/random"', /dev: virtio-rng-pci/],
  };
  for (const [key, [lines, sign]] of Object.entries(KEYS)) {
    it(`takes ${key}`, async () => {
      const { code, text, devices } = await askQemu(argsOf(lines));
      assert.equal(code, 0, text);
      assert.match(devices, sign);
      assert.doesNotMatch(text, /error|invalid|not (found|supported)/i);
    });
  }
});
