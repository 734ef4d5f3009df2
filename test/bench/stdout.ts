/** Bulk output of a container, read from its FIFO, against a raw virtio-serial port of the same QEMU. */
import { connect } from 'node:net';
import { join } from 'node:path';
import type { ShimDriver } from '../support/shim-driver';
import { FloorVm, programsOf } from './floor-vm';
import { GuestShell } from './guest-shell';
import { BenchPods } from './pods';
import { row, type Row } from './row';

const MIB = 64;
const BYTES = MIB * 1024 * 1024;
const SAMPLES = 3;
const TIMEOUT_MS = 120_000;
const PORT = 'bench.channel.0';

function megabytesPerSecond(ms: number): number {
  return BYTES / 1e6 / (ms / 1000);
}

/** From the first byte to the last, as for the raw channel. */
async function throughShim(driver: ShimDriver, execId: string): Promise<number> {
  const value = Buffer.from(JSON.stringify({ args: ['head', '-c', String(BYTES), '/dev/zero'], cwd: '/', env: ['PATH=/bin:/usr/bin'], user: { uid: 0, gid: 0 } }));
  const { client, id } = driver;
  const stdout = driver.output(execId);
  try {
    await client.call('Exec', { id, execId, stdout: stdout.path, spec: { typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/Process', value } });
    const over = client.call('Wait', { id, execId });
    await client.call('Start', { id, execId });
    await over;
    await client.call('Delete', { id, execId });
    await stdout.ended;
    if (stdout.bytes !== BYTES) {
      throw new Error(`${String(stdout.bytes)} of ${String(BYTES)} bytes came`);
    }
    return megabytesPerSecond(stdout.lastMs - stdout.firstMs);
  } finally {
    stdout.close();
  }
}

/** The bare VM with one more port, and the command that fills it. */
class RawChannel {
  private constructor(
    private readonly vm: FloorVm,
    private readonly shell: GuestShell,
  ) {}

  static async open(shimPid: number): Promise<RawChannel> {
    const programs = programsOf(shimPid);
    const extra = (folder: string): string[] => ['-chardev', `socket,id=charbench0,path=${join(folder, 'bench.sock')},server=on,wait=off`, '-device', `virtserialport,bus=serial0.0,nr=3,chardev=charbench0,id=benchport0,name=${PORT}`];
    const vm = await FloorVm.start(programs, { extra });
    try {
      return new RawChannel(vm, await GuestShell.open(join(vm.folder, 'debug-console.sock')));
    } catch (reason) {
      await vm.end();
      throw reason;
    }
  }

  async measure(): Promise<number> {
    const socket = connect(join(this.vm.folder, 'bench.sock'));
    let bytes = 0;
    let firstMs = 0;
    let lastMs = 0;
    const over = new Promise<void>((resolve, reject) => {
      socket.on('error', reject);
      socket.on('data', (chunk: Buffer) => {
        lastMs = performance.now();
        firstMs = bytes === 0 ? lastMs : firstMs;
        bytes += chunk.length;
        if (bytes >= BYTES) {
          resolve();
        }
      });
    });
    try {
      const port = `/dev/$(grep -lx ${PORT} /sys/class/virtio-ports/*/name | cut -d/ -f5)`;
      await this.shell.run(`head -c ${String(BYTES)} /dev/zero > ${port}`, TIMEOUT_MS);
      await over;
      return megabytesPerSecond(lastMs - firstMs);
    } finally {
      socket.destroy();
    }
  }

  async close(): Promise<void> {
    this.shell.close();
    await this.vm.end();
  }
}

export async function stdoutRows(): Promise<Row[]> {
  const pods = await BenchPods.open({ 'agent.kata': { debug_console_enabled: 'true' } });
  const driver = await pods.pod().catch((reason: unknown) => {
    pods.close();
    throw reason;
  });
  try {
    const channel = await RawChannel.open(driver.pid);
    try {
      const raw: number[] = [];
      const shim: number[] = [];
      for (let n = 0; n < SAMPLES; n++) {
        raw.push(await channel.measure());
        shim.push(await throughShim(driver, `out${String(n)}`));
      }
      return [
        row({ id: 'raw-channel', what: `yardstick: ${String(MIB)} MiB through a virtio-serial port`, unit: 'MB/s', samples: raw }),
        row({ id: 'stdout', what: `${String(MIB)} MiB of stdout, read from the FIFO`, unit: 'MB/s', samples: shim, yardstick: raw, budget: 0.5 }),
      ];
    } finally {
      await channel.close();
    }
  } finally {
    await driver.end();
    pods.close();
  }
}
