/**
 * What a container is and which sandbox it belongs to, by the annotations that containerd (cri), cri-o and dockershim
 * set. Also used on the start path, before anything listens: this file imports nothing but errors.
 */
import { KataError } from '../../base/errors';

/** `single_container`: a pod of its own, not told to be part of one. */
export type ContainerType = 'single_container' | 'pod_sandbox' | 'pod_container';

type Annotations = Readonly<Record<string, string>>;

/** The first key that is present decides. */
const TYPE_KEYS: readonly string[] = ['io.kubernetes.cri.container-type', 'io.kubernetes.cri-o.ContainerType', 'io.kubernetes.docker.type'];
const SANDBOX_KEYS: readonly string[] = ['io.kubernetes.cri.sandbox-id', 'io.kubernetes.cri-o.SandboxID', 'io.kubernetes.sandbox.id'];

/** InvalidArgument for a value that is none of `sandbox`, `podsandbox`, `container`. */
export function containerType(annotations: Annotations | undefined): ContainerType {
  for (const key of TYPE_KEYS) {
    const value = ownValue(annotations, key);
    if (value === undefined) {
      continue;
    }
    if (value === 'sandbox' || value === 'podsandbox') {
      return 'pod_sandbox';
    }
    if (value === 'container') {
      return 'pod_container';
    }
    throw new KataError('InvalidArgument', `annotation ${key}: Unknown container type ${JSON.stringify(value)}`, { hint: 'known are sandbox, podsandbox and container' });
  }
  return 'single_container';
}

/** The id of the sandbox that the container belongs to: its own unless it is a pod's container. Not checked to be a good id. */
export function sandboxIdOf(spec: { readonly annotations?: Annotations }, containerId: string): string {
  if (containerType(spec.annotations) !== 'pod_container') {
    return containerId;
  }
  for (const key of SANDBOX_KEYS) {
    const value = ownValue(spec.annotations, key);
    if (value !== undefined && value !== '') {
      return value;
    }
  }
  throw new KataError('InvalidArgument', `container "${containerId}": Could not find sandbox ID`, { hint: `its config.json needs one of the annotations ${SANDBOX_KEYS.join(', ')}` });
}

function ownValue(annotations: Annotations | undefined, key: string): string | undefined {
  return annotations !== undefined && Object.hasOwn(annotations, key) ? annotations[key] : undefined;
}
