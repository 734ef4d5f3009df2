import { accessSync, constants, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { OciHook, OciSpec } from '../../../base/oci-spec';

const KINDS = { prestart: 'prestart', poststart: 'poststart', poststop: 'poststop' } as const;

function executablesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
      .sort()
      .map((name) => join(folder, name))
      .filter((path) => {
        accessSync(path, constants.X_OK);
        return statSync(path).isFile();
      });
  } catch {
    return [];
  }
}

/** Adds the hooks that the guest image brings in `<folder>/{prestart,poststart,poststop}`, by name in order. */
export function addGuestHooks(spec: OciSpec, folder: string): void {
  for (const kind of Object.values(KINDS)) {
    const found: OciHook[] = executablesIn(join(folder, kind)).map((path) => ({ path, args: [path.slice(path.lastIndexOf('/') + 1), kind] }));
    if (found.length > 0) {
      spec.hooks = { ...spec.hooks, [kind]: [...(spec.hooks?.[kind] ?? []), ...found] };
    }
  }
}
