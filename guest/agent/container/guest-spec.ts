import type { OciProcess, OciSpec } from '../../../base/oci-spec';
import { KataError } from '../../../base/errors';

/** What the guest decides about a container's specification. */
export interface GuestChoices {
  /** Path of the pid namespace to join; absent: a new one. */
  readonly pidNamespacePath: string | undefined;
  /** Below each hierarchy's root. */
  readonly cgroupsPath: string;
  /** The lowest oom score and highest rlimits that this agent may set; absent: anything. */
  readonly limits: ProcessLimits | undefined;
}

/** What an agent without all privileges (the mock's) may give to a process. */
export interface ProcessLimits {
  readonly oomScoreAdj: number;
  /** Hard limits by OCI type (`RLIMIT_NOFILE`); absent: unlimited. */
  readonly hardLimits: ReadonlyMap<string, bigint>;
}

/** Keeps a process within what the agent itself may set, since the OCI runtime would refuse to start it. */
export function clampProcess(process: OciProcess, limits: ProcessLimits | undefined): OciProcess {
  const clamped = { ...process };
  // AppArmor is the guest's own affair: profiles of the host are not loaded there.
  delete clamped.apparmorProfile;
  if (limits === undefined) {
    return clamped;
  }
  if (clamped.oomScoreAdj !== undefined && clamped.oomScoreAdj < limits.oomScoreAdj) {
    clamped.oomScoreAdj = limits.oomScoreAdj;
  }
  clamped.rlimits = (clamped.rlimits ?? []).map((limit) => {
    const most = limits.hardLimits.get(limit.type);
    return most === undefined
      ? limit
      : { type: limit.type, hard: min(BigInt(limit.hard), most), soft: min(BigInt(limit.soft), most) };
  });
  return clamped;
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

/**
 * The specification as the guest's OCI runtime gets it. All containers of a sandbox share the guest's own network,
 * IPC and UTS namespaces (the VM is the sandbox's boundary), so these entries go; the host name is the guest's;
 * sysctls are written by the agent, since the runtime refuses those of a namespace that it does not make.
 */
export function adaptSpec(spec: OciSpec, choices: GuestChoices): { readonly spec: OciSpec; readonly sysctls: Readonly<Record<string, string>> } {
  if (spec.root === undefined || spec.root.path === '' || spec.process === undefined || (spec.process.args ?? []).length === 0) {
    throw new KataError('InvalidArgument', 'create container: the specification has no root path or no process arguments');
  }
  const linux = { ...spec.linux };
  const sysctls = linux.sysctl ?? {};
  delete linux.sysctl;
  const shared = new Set(['network', 'ipc', 'uts', 'pid']);
  const namespaces = (linux.namespaces ?? []).filter(({ type }) => !shared.has(type));
  namespaces.push(choices.pidNamespacePath === undefined ? { type: 'pid' } : { type: 'pid', path: choices.pidNamespacePath });
  if (!namespaces.some(({ type }) => type === 'mount')) {
    namespaces.push({ type: 'mount' });
  }
  const adapted: OciSpec = {
    ...spec,
    process: clampProcess(spec.process, choices.limits),
    linux: { ...linux, namespaces, cgroupsPath: choices.cgroupsPath },
  };
  delete adapted.hostname;
  return { spec: adapted, sysctls };
}

/**
 * The cgroup path below the hierarchy's root for what the host sent: `slice:prefix:name` of systemd, a plain path, or
 * nothing.
 */
export function cgroupPathOf(wanted: string | undefined, containerId: string, parent: string): string {
  const systemd = /^([^:/]*):([^:/]*):([^:/]+)$/.exec(wanted ?? '');
  const plain = systemd === null ? (wanted ?? '') : [systemd[1], systemd[2], systemd[3]].filter((part) => part !== undefined && part !== '').join('/');
  const parts = [...parent.split('/'), ...plain.split('/')].filter((part) => part !== '' && part !== '.' && part !== '..');
  const own = plain === '' ? [...parts, containerId] : parts;
  return `/${own.join('/')}`;
}
