import type { OciResources } from '../../base/oci-spec';

/** The old values with the given ones over them; what is absent stays. */
export function mergeResources(before: OciResources, change: OciResources): OciResources {
  return {
    ...before,
    ...change,
    ...(change.memory === undefined ? {} : { memory: { ...before.memory, ...change.memory } }),
    ...(change.cpu === undefined ? {} : { cpu: { ...before.cpu, ...change.cpu } }),
  };
}
