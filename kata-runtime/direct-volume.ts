/** `kata-runtime direct-volume add|remove|stats|resize`: block devices that a guest mounts by itself. */
import { KataError } from '../base/errors';
import { addVolume, readVolume, removeVolume } from '../virtcontainers/volume/direct-volume';
import type { Registrar } from './registrar';
import type { Session } from './session';
import { askMonitorOk } from './shim-monitor';

const MAX_SIZE = 2n ** 63n - 1n;

interface Target {
  readonly device: string;
  readonly sandboxId: string;
}

/** The device of a volume and the sandbox that uses it. Of several notes the newest live one cannot be told: the first by name, as upstream. */
function targetOf(session: Session, volumePath: string): Target {
  const { info, sandboxes } = readVolume(session.host.roots.directVolumes, volumePath);
  const [sandboxId] = sandboxes;
  if (sandboxId === undefined) {
    throw new KataError('FailedPrecondition', `no sandbox found for ${volumePath}`, { hint: 'start the pod that mounts the volume first' });
  }
  return { device: info.device, sandboxId };
}

export async function runVolumeStats(session: Session, volumePath: string): Promise<void> {
  const { device, sandboxId } = targetOf(session, volumePath);
  const reply = await askMonitorOk(session.host.roots.monitor, sandboxId, { method: 'GET', path: `/direct-volume/stats?path=${encodeURIComponent(device)}` });
  session.host.out(`${reply.body.toString('utf8').trimEnd()}\n`);
}

/** Decimal bytes; `stats` of a file system above 2^53 must not be rounded, nor its size. */
export function parseSize(text: string): bigint {
  const size = /^\d{1,19}$/.test(text) ? BigInt(text) : -1n;
  if (size <= 0n || size > MAX_SIZE) {
    throw new KataError('InvalidArgument', `parse --size ${JSON.stringify(text.slice(0, 40))}: wanted a number of bytes, 1 to ${String(MAX_SIZE)}`);
  }
  return size;
}

export async function runVolumeResize(session: Session, volumePath: string, sizeText: string): Promise<void> {
  const size = parseSize(sizeText);
  const { device, sandboxId } = targetOf(session, volumePath);
  // By hand: JSON.stringify knows no 64-bit integers.
  const body = `{"VolumePath":${JSON.stringify(device)},"Size":${String(size)}}`;
  await askMonitorOk(session.host.roots.monitor, sandboxId, { method: 'POST', path: '/direct-volume/resize', body, contentType: 'application/json' });
}

interface VolumeOptions {
  readonly volumePath: string;
}

export const registerDirectVolume: Registrar = (program, run) => {
  const group = program.command('direct-volume').description('directly assign a volume to Kata Containers to manage');
  const path = ['--volume-path <path>', 'the target volume path the volume is published to'] as const;
  group
    .command('add')
    .description('add a direct assigned block volume device to the Kata Containers runtime')
    .requiredOption(...path)
    .requiredOption('--mount-info <json>', 'the mount info JSON string')
    .addHelpText('after', `\nExamples:\n  kata-runtime direct-volume add --volume-path /kubelet/x --mount-info '{"volume-type":"block","device":"/dev/loop0","fstype":"ext4"}'`)
    .action(run('direct-volume', (session, options: VolumeOptions & { readonly mountInfo: string }) => addVolume(session.host.roots.directVolumes, options.volumePath, options.mountInfo)));
  group
    .command('remove')
    .description('remove a direct assigned block volume device from the Kata Containers runtime')
    .requiredOption(...path)
    .action(run('direct-volume', (session, options: VolumeOptions) => removeVolume(session.host.roots.directVolumes, options.volumePath)));
  group
    .command('stats')
    .description('get the filesystem stat of a direct assigned volume')
    .requiredOption(...path)
    .action(run('direct-volume', (session, options: VolumeOptions) => runVolumeStats(session, options.volumePath)));
  group
    .command('resize')
    .description('resize a direct assigned block volume')
    .requiredOption(...path)
    .requiredOption('--size <bytes>', 'the new size in bytes')
    .addHelpText('after', '\nThe device on the host must have the new size already; the guest then sees it and grows the file system while it is mounted.')
    .action(run('direct-volume', (session, options: VolumeOptions & { readonly size: string }) => runVolumeResize(session, options.volumePath, options.size)));
};
