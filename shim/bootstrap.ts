/** What containerd puts on the standard input of `start`: nothing, an Any with runtime options, or BootstrapParams. */
import { BootstrapParams } from '../gen/containerd/bootstrap/bootstrap';
import { Any } from '../gen/google/protobuf/any';

export type StartInput =
  | { readonly kind: 'none' }
  | { readonly kind: 'options'; readonly options: Any }
  | { readonly kind: 'bootstrap'; readonly params: BootstrapParams };

/**
 * Tells the forms apart. Each parses as the other, so the values decide: BootstrapParams (containerd 2.3 and later)
 * repeats the id and the namespace of the command line. Bytes that are neither count as nothing.
 */
export function parseStartInput(bytes: Uint8Array, id: string, namespace: string): StartInput {
  if (bytes.length === 0) {
    return { kind: 'none' };
  }
  const params = attempt(() => BootstrapParams.decode(bytes));
  if (params !== undefined && params.instanceId === id && params.namespace === namespace) {
    return { kind: 'bootstrap', params };
  }
  const options = attempt(() => Any.decode(bytes));
  return options === undefined || options.typeUrl === '' ? { kind: 'none' } : { kind: 'options', options };
}

function attempt<T>(decode: () => T): T | undefined {
  try {
    return decode();
  } catch {
    return undefined;
  }
}
