/**
 * What is on disk of a sandbox: `<state>/<id>/persist.json`. The keys in upper camel case are upstream's (version 2,
 * virtcontainers-behaviour 1.7) and there for its readers; `KataTs` is what we ourselves need after a crash.
 */
import { KataError } from '../../base/errors';
import type { VmState } from '../hypervisor/types';
import type { HypervisorType } from '../config/types';

export const PERSIST_VERSION = 2;
const OWN_VERSION = 1;

export interface PersistedContainer {
  readonly bundle: string;
  /** Mount point of the root file system on the host; '' where we mounted none. */
  readonly rootfs: string;
  readonly state: string;
  readonly exit?: { readonly status: number; readonly at: string } | undefined;
}

/** Our own part. `freed`: everything of the sandbox is gone; only records of containers are left for their `delete`. */
export interface OwnState {
  readonly version: number;
  readonly shim: { readonly pid: number; readonly startTime: string };
  readonly vm: VmState | undefined;
  /** Folders of cgroups that we made, deepest last. */
  readonly cgroups: readonly string[];
  readonly containers: Readonly<Record<string, PersistedContainer>>;
  readonly freed: boolean;
}

export interface DocumentInput {
  readonly id: string;
  readonly state: string;
  readonly hypervisorType: HypervisorType;
  readonly agentUrl: string;
  readonly netns: string;
  readonly sandboxCgroup: string;
  readonly overheadCgroup: string;
  readonly own: Omit<OwnState, 'version'>;
}

/** The text of persist.json. */
export function formatDocument(input: DocumentInput): string {
  const processes = input.own.vm?.processes ?? [];
  return `${JSON.stringify({
    State: input.state,
    SandboxContainer: input.id,
    SandboxCgroupPath: input.sandboxCgroup,
    OverheadCgroupPath: input.overheadCgroup,
    HypervisorState: {
      Type: input.hypervisorType,
      Pid: processes[0]?.pid ?? 0,
      VirtiofsDaemonPid: processes.find((process) => process.name === 'virtiofsd')?.pid ?? 0,
    },
    AgentState: { URL: input.agentUrl },
    Network: { NetworkID: input.netns, Endpoints: [], NetworkCreated: input.netns === '' },
    Config: {
      HypervisorType: input.hypervisorType,
      ContainerConfigs: Object.entries(input.own.containers).map(([id, container]) => ({ ID: id, RootFs: container.rootfs })),
    },
    PersistVersion: PERSIST_VERSION,
    KataTs: { version: OWN_VERSION, ...input.own },
  })}\n`;
}

function record(value: unknown): Readonly<Record<string, unknown>> | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined;
}

const text = (value: unknown): string => (typeof value === 'string' ? value : '');

function parseProcesses(value: unknown): VmState['processes'] {
  return (Array.isArray(value) ? (value as unknown[]) : []).flatMap((entry) => {
    const fields = record(entry);
    const pid = fields?.['pid'];
    return typeof pid === 'number' && Number.isInteger(pid) && pid > 1
      ? [{ name: text(fields?.['name']), pid, startTime: text(fields?.['startTime']) }]
      : [];
  });
}

function parseVm(value: unknown): VmState | undefined {
  const fields = record(value);
  if (fields === undefined || text(fields['type']) === '') {
    return undefined;
  }
  return {
    // Unknown fields of a driver are kept: its `cleanup` reads its own.
    ...fields,
    type: text(fields['type']) as HypervisorType,
    id: text(fields['id']),
    directory: text(fields['directory']),
    agentUrl: text(fields['agentUrl']),
    processes: parseProcesses(fields['processes']),
  };
}

function parseContainers(value: unknown): Record<string, PersistedContainer> {
  const containers: Record<string, PersistedContainer> = {};
  for (const [id, entry] of Object.entries(record(value) ?? {})) {
    const fields = record(entry);
    const exit = record(fields?.['exit']);
    const status = exit?.['status'];
    containers[id] = {
      bundle: text(fields?.['bundle']),
      rootfs: text(fields?.['rootfs']),
      state: text(fields?.['state']),
      ...(typeof status === 'number' ? { exit: { status, at: text(exit?.['at']) } } : {}),
    };
  }
  return containers;
}

/** Reads our part. DataLoss, naming `path`, for what is not such a document. */
export function parseDocument(content: string, path: string): OwnState {
  let own: Readonly<Record<string, unknown>> | undefined;
  try {
    own = record(record(JSON.parse(content))?.['KataTs']);
  } catch (reason) {
    throw new KataError('DataLoss', `read ${path}: not JSON`, { cause: reason });
  }
  const shim = record(own?.['shim']);
  if (own === undefined || own['version'] !== OWN_VERSION || typeof shim?.['pid'] !== 'number') {
    throw new KataError('DataLoss', `read ${path}: not a sandbox of this runtime or of another version of it`);
  }
  return {
    version: OWN_VERSION,
    shim: { pid: shim['pid'], startTime: text(shim['startTime']) },
    vm: parseVm(own['vm']),
    cgroups: (Array.isArray(own['cgroups']) ? (own['cgroups'] as unknown[]) : []).filter((path) => typeof path === 'string'),
    containers: parseContainers(own['containers']),
    freed: own['freed'] === true,
  };
}
