import { KataError } from '../base/errors';
import type { OciLinux, OciNamespace, OciProcess, OciResources, OciSpec } from '../base/oci-spec';

/** What the guest and the configuration allow. */
export interface ConstrainOptions {
  /** Root file system as the guest sees it. */
  readonly guestRootPath: string;
  /** The agent's `supports_seccomp`, and `disable_guest_seccomp` of the configuration. */
  readonly seccomp: { readonly supported: boolean; readonly disabled: boolean };
  /**
   * Set where the guest enforces SELinux (`disable_guest_selinux = false`): labels are kept, with this type
   * (`container_t` unless configured). Otherwise labels are dropped: they are of the host's policy.
   */
  readonly selinux?: { readonly type: string };
  /** `plain` (3.0): systemd's `slice:prefix:name` becomes `/prefix/name`. `as-is` (4.x): passed through. */
  readonly cgroupsPath?: 'plain' | 'as-is';
  /** `vfio_mode = "guest-kernel"`: devices below /dev/vfio are bound to drivers in the guest, the nodes are not wanted. */
  readonly vfioGuestKernel?: boolean;
}

/** What goes to the agent. */
export interface ConstrainedSpec {
  readonly spec: OciSpec;
  /** The container shares the pid namespace of the pod. */
  readonly sandboxPidns: boolean;
}

/** Annotations that are for the VM's start only, and may be large. */
const HOST_ONLY_ANNOTATIONS = ['io.katacontainers.config.agent.policy', 'io.katacontainers.config.hypervisor.cc_init_data'];

/**
 * Takes out of a configuration what is the host's business or cannot hold in the guest: hooks, host cgroup knobs, host
 * CPU numbers, host labels, namespace paths. Mounts are left alone: the caller has replaced their sources. Pure: the
 * given configuration is not changed, unchanged parts are shared. FailedPrecondition if seccomp is wanted and the guest
 * has none.
 */
export function constrainSpec(spec: OciSpec, options: ConstrainOptions): ConstrainedSpec {
  const out: OciSpec = { ...without(spec, 'hooks'), root: { ...spec.root, path: options.guestRootPath } };
  if (spec.process !== undefined) {
    out.process = constrainProcess(spec.process, options);
  }
  if (spec.annotations !== undefined) {
    out.annotations = constrainAnnotations(spec.annotations);
  }
  if (spec.linux !== undefined) {
    out.linux = constrainLinux(spec.linux, options);
  }
  const pid = spec.linux?.namespaces?.find(({ type }) => type === 'pid');
  return { spec: out, sandboxPidns: pid?.path !== undefined && pid.path !== '' };
}

/** The process of an exec: only its SELinux label is touched. */
export function constrainProcess(process: OciProcess, options: Pick<ConstrainOptions, 'selinux'>): OciProcess {
  const { selinuxLabel, ...rest } = process;
  return options.selinux === undefined || selinuxLabel === undefined || selinuxLabel === ''
    ? rest
    : { ...rest, selinuxLabel: withType(selinuxLabel, options.selinux.type) };
}

/** Limits that hold in the guest: memory, CPU shares and quota, huge pages. CPU numbers are the host's. */
export function constrainResources(resources: OciResources): OciResources {
  const out = without(resources, 'devices', 'pids', 'blockIO', 'network');
  return out.cpu === undefined ? out : { ...out, cpu: without(out.cpu, 'cpus', 'mems') };
}

/** `slice:prefix:name` of systemd's cgroup driver as a plain path; other forms as they are. */
export function plainCgroupsPath(path: string): string {
  const parts = path.split(':');
  const [, prefix, name] = parts;
  return parts.length === 3 && prefix !== undefined && name !== undefined ? `/${prefix}/${name}` : path;
}

function constrainAnnotations(annotations: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(annotations).filter(([key]) => !HOST_ONLY_ANNOTATIONS.includes(key)));
}

function constrainLinux(linux: OciLinux, options: ConstrainOptions): OciLinux {
  const { seccomp, mountLabel, resources, cgroupsPath, namespaces, devices } = linux;
  const out: OciLinux = without(linux, 'seccomp', 'mountLabel', 'resources', 'cgroupsPath', 'namespaces', 'devices');
  if (resources !== undefined) {
    out.resources = constrainResources(resources);
  }
  if (cgroupsPath !== undefined) {
    out.cgroupsPath = options.cgroupsPath === 'as-is' ? cgroupsPath : plainCgroupsPath(cgroupsPath);
  }
  if (namespaces !== undefined) {
    out.namespaces = constrainNamespaces(namespaces);
  }
  if (devices !== undefined) {
    const dropped = options.vfioGuestKernel === true;
    out.devices = devices.filter(({ path, type }) => !(dropped && type === 'c' && path.startsWith('/dev/vfio/')));
  }
  if (mountLabel !== undefined && mountLabel !== '' && options.selinux !== undefined) {
    out.mountLabel = withType(mountLabel, options.selinux.type);
  }
  if (seccomp !== undefined && !options.seccomp.disabled) {
    if (!options.seccomp.supported) {
      throw new KataError('FailedPrecondition', 'constrain the container: it has a seccomp profile, the guest has no seccomp', {
        hint: 'set disable_guest_seccomp = true, or use a guest kernel and agent with seccomp',
      });
    }
    out.seccomp = seccomp;
  }
  return out;
}

/** The VM has its own network and cgroup hierarchy; the pid namespace is the agent's choice; host paths mean nothing. */
function constrainNamespaces(namespaces: readonly OciNamespace[]): OciNamespace[] {
  return namespaces
    .filter(({ type }) => !['network', 'cgroup', 'time', 'pid'].includes(type))
    .map(({ type }) => ({ type }));
}

function without<T extends object, K extends keyof T & string>(value: T, ...keys: readonly K[]): Omit<T, K> {
  const dropped: readonly string[] = keys;
  return Object.fromEntries(Object.entries(value).filter(([key]) => !dropped.includes(key))) as Omit<T, K>;
}

function withType(label: string, type: string): string {
  const parts = label.split(':');
  if (parts.length < 3) {
    throw new KataError('InvalidArgument', `constrain the container: SELinux label ${JSON.stringify(label)} has no type`);
  }
  return [...parts.slice(0, 2), type, ...parts.slice(3)].join(':');
}
