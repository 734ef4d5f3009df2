/**
 * The shim is shipped as several bundles, so that what runs before the socket listens (and before the first call is
 * answered) is small: Node reads every byte of a file before it runs the first. From sources the same names are modules.
 */

/** `serve`: the task service. `wiring`: sandboxes and configuration, from the first Create on. `delete`: that verb with its clean-up. */
export type PartName = 'serve' | 'wiring' | 'delete';

/** Loads a part, once. The caller names its type, `loadPart<typeof import('./serve')>('serve')`, so that this file depends on none. */
export function loadPart<Part>(name: PartName): Part {
  const file = __filename.endsWith('.cjs') ? `./shim-${name}.cjs` : `./${name}`;
  // The bundler must not follow this.
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  return require(file) as Part;
}
