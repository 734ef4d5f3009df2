import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { contract } from './hypervisor.contract';

const guest = join(__dirname, '../../../build/guest');
const QEMU = '/usr/bin/qemu-system-x86_64';
const skip = !existsSync(QEMU) ? `${QEMU} is missing` : !existsSync(join(guest, 'initrd.img')) ? 'build/guest is missing: run make guest' : process.getuid?.() === 0 ? undefined : 'needs root';

contract({
  type: 'qemu',
  config: { path: QEMU, kernel: join(guest, 'vmlinux'), initrd: join(guest, 'initrd.img'), image: '', sharedFs: 'none', defaultMaxmemory: 2048, agentChannel: 'serial' },
  skip,
  timeoutMs: 60_000,
});
