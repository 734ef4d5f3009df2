/**
 * The shim is shipped as several bundles, so that what runs before the socket listens (and before the first call is
 * answered) is small: Node reads every byte of a file before it runs the first. From sources the same names are modules.
 */

import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Script } from 'node:vm';

/** `serve`: the task service. `wiring`: sandboxes and configuration, from the first Create on. `delete`: that verb with its clean-up. */
export type PartName = 'serve' | 'wiring' | 'delete';

const loaded = new Map<PartName, unknown>();

/** Loads a part, once. The caller names its type, `loadPart<typeof import('./serve')>('serve')`, so that this file depends on none. */
export function loadPart<Part>(name: PartName): Part {
  if (!loaded.has(name)) {
    loaded.set(name, __filename.endsWith('.cjs') ? loadBundle(join(__dirname, `shim-${name}.cjs`)) : loadSource(`./${name}`));
  }
  return loaded.get(name) as Part;
}

function loadSource(file: string): unknown {
  // The bundler must not follow this.
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  return require(file);
}

/**
 * Loads a bundle with the compiled code that the build left beside it (`<bundle>.cache`, hack/code-cache.ts), which takes a
 * third of the time. Another version of Node rejects the cache by itself and compiles.
 */
function loadBundle(file: string): unknown {
  let cachedData: Buffer;
  try {
    cachedData = readFileSync(`${file}.cache`);
  } catch {
    return loadSource(file);
  }
  // Only now: what answers before the socket listens must not pay for these.
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  const vm = require('node:vm') as typeof import('node:vm');
  const script = new vm.Script(wrapSource(readFileSync(file, 'utf8')), { filename: file, cachedData });
  return runBundle(script, file);
}

/** The function that Node makes of a CommonJS file. */
export function wrapSource(source: string): string {
  return `(function (exports, require, module, __filename, __dirname) {${source}\n})`;
}

/** Runs a wrapped bundle; returns its exports. */
export function runBundle(script: Script, file: string): unknown {
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  const { createRequire } = require('node:module') as typeof import('node:module');
  const module = { exports: {} };
  const wrapped = script.runInThisContext() as (exports: object, load: NodeJS.Require, module: object, file: string, folder: string) => void;
  wrapped(module.exports, createRequire(file), module, file, dirname(file));
  return module.exports;
}
