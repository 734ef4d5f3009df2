import type { ContainerStats } from '../../agent-client/types';
import type { OciProcess, OciResources, OciSpec } from '../../base/oci-spec';
import type { Process, ProcessIo } from '../process/types';

export type ContainerState = 'creating' | 'created' | 'running' | 'paused' | 'stopped' | 'invalid';

/** A mount that containerd wants for the root file system (containerd.types.Mount). */
export interface RootfsMount {
  readonly type: string;
  readonly source: string;
  /** Sub-path of the rootfs, normally ''. */
  readonly target: string;
  readonly options: readonly string[];
}

export interface ContainerRequest {
  readonly id: string;
  /** Absolute; holds config.json (already parsed into `spec`) and rootfs/. */
  readonly bundle: string;
  readonly spec: OciSpec;
  /** Empty: the rootfs is there already at spec.root.path. */
  readonly rootfs: readonly RootfsMount[];
  readonly terminal: boolean;
  readonly io: ProcessIo;
}

export interface Container {
  readonly id: string;
  readonly bundle: string;
  readonly spec: OciSpec;
  readonly state: ContainerState;
  readonly init: Process;
  /** Registered execs, by exec id. */
  readonly execs: ReadonlyMap<string, Process>;

  /** Starts init. FailedPrecondition unless created. */
  start(): Promise<void>;
  /** Registers an exec; nothing runs yet. AlreadyExists for a used id, FailedPrecondition unless the container is running. */
  addExec(execId: string, spec: OciProcess, terminal: boolean, io: ProcessIo): Process;
  /** Forgets an exec, killing it if it still runs. NotFound for an unknown id. */
  removeExec(execId: string): Promise<void>;
  /** Signal to init, or to every process with `all`. A created container dies of SIGKILL/SIGTERM: its init ends with 128 + signal. NotFound ("process already finished") when stopped. */
  kill(signal: number, all: boolean): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Only the given values change. */
  update(resources: OciResources): Promise<void>;
  /** NotFound when stopped. */
  stats(): Promise<ContainerStats>;
}
