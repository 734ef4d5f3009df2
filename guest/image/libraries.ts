/** Which shared libraries programs need, told from the files themselves; nothing foreign is run. */
import { KataError } from '../../base/errors';
import { needsOf } from './elf';

/** A library or program to look at: where it came from and its bytes. */
export interface Binary {
  readonly from: string;
  readonly bytes: Buffer;
}

/**
 * All libraries that the programs need, by soname, and the loaders by path. `find` gives a library by soname or
 * `undefined`; a missing one is an error that names who wants it.
 */
export function libraryClosure(programs: readonly Binary[], find: (soname: string) => Binary | undefined): { libraries: Map<string, Binary>; interpreters: Set<string> } {
  const libraries = new Map<string, Binary>();
  const interpreters = new Set<string>();
  const queue = [...programs];
  for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
    const needs = needsOf(next.bytes, next.from);
    if (needs.interpreter !== undefined) {
      interpreters.add(needs.interpreter);
    }
    for (const soname of needs.libraries) {
      if (libraries.has(soname)) {
        continue;
      }
      const found = find(soname);
      if (found === undefined) {
        throw new KataError('NotFound', `collect libraries: "${soname}", needed by ${next.from}, is in no package of the guest`, { hint: 'add its package with scope guest to hack/debian-packages' });
      }
      libraries.set(soname, found);
      queue.push(found);
    }
  }
  return { libraries, interpreters };
}
