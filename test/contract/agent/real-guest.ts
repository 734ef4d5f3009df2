import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { TtrpcClient } from 'ttrpc-ts';
import { encodePreamble, PreambleScanner } from '../../../base/serial-preamble';
import { AgentClient } from './mock-agent';

const GUEST = process.env['KATA_TEST_GUEST'] ?? join(__dirname, '..', '..', '..', 'build', 'guest');
const BOOT_TIMEOUT_MS = 120_000;
const PARAMETERS =
  'quiet cryptomgr.notests tsc=reliable no_timer_check rcupdate.rcu_expedited=1 mitigations=off audit=0 apparmor=0 init_on_alloc=0 rodata=off i8042.noaux i8042.nokbd console=ttyS0 agent.log=debug memhp_default_state=online agent.debug_console';

/** Why a real guest cannot be had here; undefined if it can. */
export function missingGuest(): string | undefined {
  if (!existsSync('/usr/bin/qemu-system-x86_64')) {
    return 'needs qemu-system-x86_64';
  }
  if (!['/usr/sbin', '/sbin'].some((folder) => existsSync(join(folder, 'mkfs.ext4')))) {
    return 'needs mkfs.ext4 (e2fsprogs)';
  }
  return existsSync(join(GUEST, 'initrd.img')) ? undefined : 'needs build/guest (make guest)';
}

/** The host's end of the serial channel: sends the preamble, drops all before the echo, then is a plain stream. */
export async function openSerial(socket: Socket): Promise<Duplex> {
  const nonce = randomBytes(16);
  const scanner = new PreambleScanner('guest');
  const duplex = new Duplex({
    read: () => undefined,
    write: (chunk: Buffer, _encoding, done) => void socket.write(chunk, () => done()),
  });
  const echoed = new Promise<void>((resolve) => {
    let isOpen = false;
    socket.on('data', (chunk) => {
      for (const event of scanner.push(chunk)) {
        if (event.kind === 'preamble') {
          isOpen ||= event.nonce.equals(nonce);
          if (isOpen) {
            resolve();
          }
        } else if (isOpen) {
          duplex.push(Buffer.from(event.bytes));
        }
      }
    });
  });
  socket.write(encodePreamble('host', nonce));
  await echoed;
  return duplex;
}

/** A disk with an ext4 that does not fill it. */
function diskFor(folder: string): string {
  const path = join(folder, 'disk');
  writeFileSync(path, '');
  truncateSync(path, 32 * 1024 * 1024);
  execFileSync('mkfs.ext4', ['-q', path, '16m'], { env: { PATH: '/usr/sbin:/sbin:/usr/bin:/bin' } });
  return path;
}

/** The embedded guest in a real QEMU without KVM. */
export class RealGuest {
  private constructor(
    readonly folder: string,
    private readonly child: ChildProcess,
  ) {}

  static async start(share: string): Promise<RealGuest> {
    const folder = mkdtempSync(join(tmpdir(), 'kata-guest-'));
    const child = spawn(
      'qemu-system-x86_64',
      [
        '-M', 'q35', '-accel', 'tcg,thread=multi', '-cpu', 'max,la57=off', '-m', '1024,slots=2,maxmem=2G', '-smp', '1,maxcpus=2', '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot',
        '-kernel', join(GUEST, 'vmlinux'), '-initrd', join(GUEST, 'initrd.img'), '-append', PARAMETERS, '-serial', `file:${join(folder, 'console')}`,
        '-device', 'virtio-serial-pci,id=vser0', '-chardev', `socket,id=ch0,server=on,wait=off,path=${join(folder, 'agent.sock')}`, '-device', 'virtserialport,chardev=ch0,name=agent.channel.0,id=vport0',
        '-chardev', `socket,id=ch1,server=on,wait=off,path=${join(folder, 'console.sock')}`, '-device', 'virtserialport,chardev=ch1,name=console.channel.0,id=vport1',
        '-fsdev', `local,id=fs0,path=${share},security_model=none,multidevs=remap`, '-device', 'virtio-9p-pci,fsdev=fs0,mount_tag=kataShared',
        '-blockdev', `raw,node-name=d0,file.driver=file,file.filename=${diskFor(folder)}`, '-device', 'virtio-blk-pci,drive=d0,addr=0x10',
        '-netdev', 'hubport,id=n0,hubid=0', '-device', 'virtio-net-pci,netdev=n0,mac=52:54:00:12:34:56,romfile=',
      ],
      { stdio: ['ignore', 'ignore', 'inherit'] },
    );
    const guest = new RealGuest(folder, child);
    while (!existsSync(join(folder, 'agent.sock'))) {
      await sleep(5);
    }
    return guest;
  }

  get console(): string {
    return readFileSync(join(this.folder, 'console'), 'utf8');
  }

  /** A client over the serial channel; waits for the guest to boot. */
  async connect(): Promise<AgentClient> {
    const socket = connect(join(this.folder, 'agent.sock'));
    await once(socket, 'connect');
    const endsMs = performance.now() + BOOT_TIMEOUT_MS;
    // A guest that has not opened its port yet drops what was sent: the preamble is sent until it is echoed.
    for (;;) {
      const duplex = await Promise.race([openSerial(socket), sleep(250, undefined)]);
      if (performance.now() > endsMs) {
        throw new Error(`no agent: ${this.console}`);
      }
      if (duplex !== undefined) {
        return new AgentClient(new TtrpcClient(duplex), socket);
      }
      socket.removeAllListeners('data');
    }
  }

  async stop(): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      const ended = once(this.child, 'exit');
      this.child.kill('SIGKILL');
      await ended;
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}
