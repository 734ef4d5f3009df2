/**
 * Kernel modules: which ones the guest gets, in which order they load, and the tables from which busybox modprobe
 * loads the rest when the kernel asks for it. Pure: a module is known by its name and its `.modinfo` text.
 */
import { KataError } from '../../base/errors';

/** One module file of the kernel package. */
export interface Module {
  /** As in `depends=`: with underscores. */
  readonly name: string;
  /** Below /lib/modules/<release>/, e.g. `kernel/fs/fuse/fuse.ko`. */
  readonly path: string;
  readonly depends: readonly string[];
  readonly aliases: readonly string[];
}

/** `virtio-rng.ko` -> `virtio_rng`. */
export function moduleName(path: string): string {
  return (path.split('/').at(-1) ?? '').replace(/\.ko(\.(xz|zst|gz))?$/, '').replaceAll('-', '_');
}

/** The values of `key=` in a module's bytes; its `.modinfo` section is a run of NUL-terminated `key=value`. */
export function modinfoValues(bytes: Buffer, key: string): string[] {
  const values: string[] = [];
  const wanted = Buffer.from(`\0${key}=`);
  for (let at = bytes.indexOf(wanted); at >= 0; at = bytes.indexOf(wanted, at + 1)) {
    const start = at + wanted.length;
    const end = bytes.indexOf(0, start);
    if (end >= 0 && end - start < 4096) {
      values.push(bytes.toString('latin1', start, end));
    }
  }
  return values;
}

/** Reads what matters from a module's bytes. Throws `InvalidArgument` where they are no module. */
export function parseModule(path: string, bytes: Buffer): Module {
  const depends = modinfoValues(bytes, 'depends');
  if (depends.length === 0) {
    throw new KataError('InvalidArgument', `read kernel module "${path}": no depends= in it`);
  }
  return {
    name: moduleName(path),
    path,
    depends: depends.flatMap((list) => list.split(',')).filter((name) => name !== '').map((name) => name.replaceAll('-', '_')),
    aliases: [...new Set(modinfoValues(bytes, 'alias'))].sort(),
  };
}

/** What a module wants besides `depends=`: soft dependencies without which it does not work. */
const ALSO_WANTED: Readonly<Record<string, readonly string[]>> = {
  ext4: ['crc32c_generic'],
  xfs: ['crc32c_generic'],
  erofs: ['crc32c_generic'],
};

/** The wanted modules and all that they depend on, each behind what it depends on. `find` may read files. */
export function loadOrder(wanted: readonly string[], find: (name: string) => Module | undefined): Module[] {
  const order: Module[] = [];
  const state = new Map<string, 'open' | 'done'>();
  const visit = (name: string, by: string): void => {
    if (state.get(name) === 'done') {
      return;
    }
    if (state.get(name) === 'open') {
      throw new KataError('InvalidArgument', `order kernel modules: "${name}" depends on itself through ${by}`);
    }
    const module = find(name);
    if (module === undefined) {
      throw new KataError('NotFound', `order kernel modules: "${name}", wanted by ${by}, is not in the kernel package`);
    }
    state.set(name, 'open');
    for (const next of [...module.depends, ...(ALSO_WANTED[name] ?? [])]) {
      visit(next, `"${name}"`);
    }
    state.set(name, 'done');
    order.push(module);
  };
  wanted.forEach((name) => visit(name, 'the guest'));
  return order;
}

/** `modules.dep`: one line per module, its dependencies last to load first, as kmod's depmod writes it. */
export function modulesDep(modules: readonly Module[], find: (name: string) => Module | undefined): string {
  return modules
    .map((module) => {
      const before = loadOrder([module.name], find).slice(0, -1).reverse();
      return `${module.path}:${before.map((each) => ` ${each.path}`).join('')}\n`;
    })
    .sort()
    .join('');
}

/** `modules.alias`: `alias <pattern> <module>` lines. */
export function modulesAlias(modules: readonly Module[]): string {
  return modules
    .flatMap((module) => module.aliases.map((alias) => `alias ${alias} ${module.name}\n`))
    .sort()
    .join('');
}
