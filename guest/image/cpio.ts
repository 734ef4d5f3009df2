/**
 * Writes cpio archives in the "newc" format, the one that the kernel unpacks as its initial root
 * (Documentation/driver-api/early-userspace/buffer-format.rst). Same entries, same bytes: names are sorted, everything
 * belongs to root, times are zero.
 */
import { KataError } from '../../base/errors';

/** One file of the archive. `path` is relative to the root, without a leading slash. */
export type Entry =
  | { readonly kind: 'directory'; readonly path: string; readonly mode: number }
  | { readonly kind: 'file'; readonly path: string; readonly mode: number; readonly data: Buffer }
  | { readonly kind: 'symlink'; readonly path: string; readonly target: string }
  | { readonly kind: 'character-device'; readonly path: string; readonly mode: number; readonly major: number; readonly minor: number };

const TYPE_BITS = { directory: 0o040000, file: 0o100000, symlink: 0o120000, 'character-device': 0o020000 } as const;

function padding(length: number): Buffer {
  return Buffer.alloc(-length & 3);
}

function hex(value: number): string {
  return value.toString(16).toUpperCase().padStart(8, '0');
}

interface Fields {
  readonly inode: number;
  readonly mode: number;
  readonly links: number;
  readonly bytes: number;
  readonly major: number;
  readonly minor: number;
}

function header(name: string, fields: Fields): Buffer {
  const nameBytes = Buffer.from(`${name}\0`);
  const words = [fields.inode, fields.mode, 0, 0, fields.links, 0, fields.bytes, 0, 0, fields.major, fields.minor, nameBytes.length, 0];
  const bytes = Buffer.concat([Buffer.from(`070701${words.map(hex).join('')}`), nameBytes]);
  return Buffer.concat([bytes, padding(bytes.length)]);
}

function checkPath(path: string): void {
  if (path === '' || path.startsWith('/') || path.includes('\0') || path.split('/').some((part) => part === '' || part === '.' || part === '..')) {
    throw new KataError('InvalidArgument', `write cpio: bad path "${path}"`);
  }
}

/** Adds the directories that the entries' paths need and that are not among them. */
export function withParents(entries: readonly Entry[]): Entry[] {
  const known = new Map(entries.map((entry) => [entry.path, entry]));
  for (const { path } of entries) {
    const parts = path.split('/');
    for (let n = 1; n < parts.length; n++) {
      const parent = parts.slice(0, n).join('/');
      if (!known.has(parent)) {
        known.set(parent, { kind: 'directory', path: parent, mode: 0o755 });
      }
    }
  }
  return [...known.values()];
}

/** The archive's bytes, in pieces that follow each other. Throws `InvalidArgument` for a bad or repeated path. */
export function cpioOf(entries: readonly Entry[]): Buffer[] {
  const sorted = withParents(entries).sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
  if (new Set(entries.map((entry) => entry.path)).size < entries.length) {
    throw new KataError('InvalidArgument', 'write cpio: two entries have one path');
  }
  const parts: Buffer[] = [];
  sorted.forEach((entry, index) => {
    checkPath(entry.path);
    const data = entry.kind === 'file' ? entry.data : entry.kind === 'symlink' ? Buffer.from(entry.target) : Buffer.alloc(0);
    const device = entry.kind === 'character-device' ? entry : { major: 0, minor: 0 };
    parts.push(
      header(entry.path, {
        inode: index + 1,
        mode: TYPE_BITS[entry.kind] | (entry.kind === 'symlink' ? 0o777 : entry.mode),
        links: entry.kind === 'directory' ? 2 : 1,
        bytes: data.length,
        major: device.major,
        minor: device.minor,
      }),
      data,
      padding(data.length),
    );
  });
  parts.push(header('TRAILER!!!', { inode: 0, mode: 0, links: 1, bytes: 0, major: 0, minor: 0 }));
  return parts;
}
