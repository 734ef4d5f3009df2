/**
 * The shim is shipped as several bundles, so that what runs before the socket listens (and before the first call is
 * answered) is small: Node reads every byte of a file before it runs the first. From sources the same names are modules.
 */

interface Parts {
  /** The task service and what it is made of. */
  readonly serve: typeof import('./serve');
  /** Sandboxes, configuration, management: needed from the first Create on. */
  readonly wiring: typeof import('./wiring');
  /** The `delete` verb with its clean-up. */
  readonly delete: typeof import('./delete');
}

/** Loads a part, once. */
export function loadPart<Name extends keyof Parts>(name: Name): Parts[Name] {
  const file = __filename.endsWith('.cjs') ? `./shim-${name}.cjs` : `./${name}`;
  // The bundler must not follow this.
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  return require(file) as Parts[Name];
}
