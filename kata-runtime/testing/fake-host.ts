/** A machine made of folders and text, for tests of commands. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { CliHost } from '../host';
import { runCli } from '../program';

export const INTEL = `processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Test CPU
flags\t\t: fpu vmx lm sse4_1

processor\t: 1
vendor_id\t: GenuineIntel
`;

export class FakeHost {
  readonly folder = mkdtempSync(join(tmpdir(), 'kata-cli-test-'));
  stdout = '';
  stderr = '';
  readonly host: CliHost;
  private readonly closers: (() => Promise<void>)[] = [];

  constructor(change: Partial<Pick<CliHost, 'env' | 'euid' | 'arch'>> = {}) {
    const at = (name: string): string => join(this.folder, name);
    this.host = {
      out: (text) => {
        this.stdout += text;
      },
      err: (text) => {
        this.stderr += text;
      },
      env: { KATA_CHECK_NO_NETWORK: '1' },
      euid: 1000,
      arch: 'x64',
      hostname: 'node1',
      now: () => new Date(),
      ...change,
      roots: {
        state: at('sbs'),
        vm: at('vm'),
        share: at('share'),
        starts: at('starts'),
        cgroup: at('cgroup'),
        monitor: [at('sbs'), at('kata')],
        directVolumes: at('volumes'),
        proc: at('proc'),
        sys: at('sys'),
        dev: at('dev'),
        osRelease: [at('etc/os-release')],
      },
    };
    this.write('proc/cpuinfo', INTEL);
    this.write('proc/version', 'Linux version 6.1.0-test (builder)\n');
    this.write('proc/meminfo', 'MemTotal: 1000 kB\nMemFree: 500 kB\nMemAvailable: 700 kB\n');
    this.write('proc/stat', 'btime 1700000000\n');
    this.write('etc/os-release', 'NAME="Test OS"\nVERSION_ID="12"\n');
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  write(name: string, text: string): string {
    const path = this.path(name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
    return path;
  }

  /** A configuration that is right but for the files that it names. */
  config(more = ''): string {
    return this.write('configuration.toml', `[hypervisor.qemu]\npath = "/bin/true"\nkernel = "/nonexistent/vmlinux"\ninitrd = "/nonexistent/initrd"\nshared_fs = "virtio-9p"\n${more}`);
  }

  modules(...names: string[]): void {
    for (const name of names) {
      mkdirSync(this.path(`sys/module/${name}`), { recursive: true });
    }
  }

  /** Serves a shim-monitor for a sandbox until `close`. */
  async monitor(id: string, listener: RequestListener): Promise<void> {
    const server = createServer(listener);
    mkdirSync(this.path(`sbs/${id}`), { recursive: true });
    await new Promise<void>((resolve) => server.listen(this.path(`sbs/${id}/shim-monitor.sock`), resolve));
    this.closers.push(
      () =>
        new Promise((resolve) => {
          server.close(() => resolve());
          server.closeAllConnections();
        }),
    );
  }

  /** Runs one command line; output is in `stdout` and `stderr` of this run alone. */
  async run(...args: string[]): Promise<number> {
    this.stdout = '';
    this.stderr = '';
    return runCli(args, this.host);
  }

  async close(): Promise<void> {
    for (const close of this.closers) {
      await close();
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Runs `work` with a machine that is gone afterwards. */
export async function withHost(work: (fake: FakeHost) => Promise<void>, change: ConstructorParameters<typeof FakeHost>[0] = {}): Promise<void> {
  const fake = new FakeHost(change);
  try {
    await work(fake);
  } finally {
    await fake.close();
  }
}
