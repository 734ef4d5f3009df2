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
  let sealed: Buffer;
  try {
    sealed = readFileSync(`${file}.cache`);
  } catch {
    return loadSource(file);
  }
  const source = readFileSync(file);
  const cachedData = openCache(sealed, source);
  if (cachedData === undefined) {
    return loadSource(file);
  }
  // Only now: what answers before the socket listens must not pay for these.
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  const vm = require('node:vm') as typeof import('node:vm');
  const script = new vm.Script(wrapSource(source.toString('utf8')), { filename: file, cachedData });
  return runBundle(script, file);
}

/** Lengths of code and source, 32 bits each; behind them V8 finds the code aligned. */
const HEAD_BYTES = 8;

/** Compiled code as it is stored: with the bundle that it was made of. */
export function sealCache(code: Buffer, source: Buffer): Buffer {
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt32LE(code.length, 0);
  head.writeUInt32LE(source.length, 4);
  return Buffer.concat([head, code, source]);
}

/**
 * The compiled code of exactly this source; undefined if it was made of another. V8 itself compares only the length of
 * the source, and would run old code for a new bundle of the same size. Comparing the bytes takes 0.1 ms; loading Node's
 * checksums would take 4.
 */
export function openCache(sealed: Buffer, source: Buffer): Buffer | undefined {
  if (sealed.length < HEAD_BYTES) {
    return undefined;
  }
  const codeEnd = HEAD_BYTES + sealed.readUInt32LE(0);
  const isOurs = sealed.readUInt32LE(4) === source.length && sealed.length === codeEnd + source.length && source.equals(sealed.subarray(codeEnd));
  return isOurs ? sealed.subarray(HEAD_BYTES, codeEnd) : undefined;
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
