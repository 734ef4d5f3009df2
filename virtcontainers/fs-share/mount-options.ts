/** fstab-style options, as containerd gives them, to mount(2)'s flags and data. */
import { KataError } from '../../base/errors';
import { sortMountWords } from '../../base/mount-options';

export interface MountFlags {
  readonly flags: number;
  /** Change of propagation after the mount; 0: none. */
  readonly propagation: number;
  readonly data: readonly string[];
}

/** Values with commas (SELinux contexts) must be quoted in the kernel's data string. */
function quoted(option: string): string {
  const [key, ...rest] = option.split('=');
  const value = rest.join('=');
  const isContext = ['context', 'fscontext', 'defcontext', 'rootcontext'].includes(key ?? '');
  return isContext && value.includes(',') && !value.startsWith('"') ? `${key ?? ''}="${value}"` : option;
}

/** Later options win. Unimplemented for options that would be done wrongly by ignoring them. */
export function parseMountOptions(options: readonly string[]): MountFlags {
  for (const option of options) {
    if (option.startsWith('uidmap=') || option.startsWith('gidmap=')) {
      throw new KataError('Unimplemented', `mount option "${option.slice(0, 60)}": id-mapped mounts are not supported`);
    }
    if (option.includes('{{')) {
      throw new KataError('Unimplemented', `mount option "${option.slice(0, 60)}": templates are not supported`);
    }
  }
  const { flags, propagation, rest } = sortMountWords(options);
  const data = rest.filter((option) => option !== '' && !option.startsWith('X-containerd.') && !option.startsWith('io.katacontainers.'));
  return { flags, propagation, data: data.map(quoted) };
}

/** The longest folder, ending before a `/`, that all paths lie under; '' where there is none worth using. */
function commonFolder(paths: readonly string[]): string {
  let common = (paths[0] ?? '').split('/').slice(0, -1);
  for (const path of paths.slice(1)) {
    const parts = path.split('/');
    const at = common.findIndex((part, index) => part !== parts[index]);
    common = at < 0 ? common : common.slice(0, at);
  }
  return common.length < 2 ? '' : common.join('/');
}

/** mount(2) takes at most one page of data, its closing zero included. */
const MAX_DATA_BYTES = 4095;

/**
 * The data string, and the folder to be in while mounting: many overlay layers fit only as relative paths.
 * ResourceExhausted if they do not even so.
 */
export function fitOverlayData(data: readonly string[]): { readonly data: string; readonly cwd: string | undefined } {
  const plain = data.join(',');
  if (Buffer.byteLength(plain) <= MAX_DATA_BYTES) {
    return { data: plain, cwd: undefined };
  }
  const lower = data.find((option) => option.startsWith('lowerdir=')) ?? '';
  const layers = lower.slice('lowerdir='.length).split(':');
  const cwd = layers.every((layer) => layer.startsWith('/')) ? commonFolder(layers) : '';
  const relative = layers.map((layer) => layer.slice(cwd.length + 1)).join(':');
  const short = data.map((option) => (option === lower ? `lowerdir=${relative}` : option)).join(',');
  if (cwd === '' || Buffer.byteLength(short) > MAX_DATA_BYTES) {
    throw new KataError('ResourceExhausted', `mount the root file system: ${String(layers.length)} layers make options longer than ${String(MAX_DATA_BYTES)} bytes`, {
      hint: 'build the image with fewer layers',
    });
  }
  return { data: short, cwd };
}
