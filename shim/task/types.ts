/** What the task service needs of the rest; wiring.ts provides it, tests fake it. */
import type { ContainerStats } from '../../agent-client/types';
import type { Logger } from '../../base/log';
import type { OciProcess, OciResources } from '../../base/oci-spec';
import type { RuntimeConfig } from '../../virtcontainers/config/types';
import type { Bundle, Sandbox, SandboxObserver, SandboxRequest } from '../../virtcontainers/sandbox/types';
import type { Any } from '../../gen/google/protobuf/any';
import type { TaskEvent } from '../events/event';

export interface Backend {
  /** Reads and checks `<path>/config.json`. */
  readBundle(path: string): Promise<Bundle>;
  /** The configuration for this sandbox: file, drop-ins, annotations. */
  loadConfig(configPath: string | undefined, bundle: Bundle): Promise<RuntimeConfig>;
  createSandbox(request: Omit<SandboxRequest, 'factory'>): Promise<Sandbox>;
  /** JSON of an exec's process to a checked one. */
  parseProcess(json: string): OciProcess;
  /** JSON of an update's resources to checked ones. */
  parseResources(json: string): OciResources;
  /** Figures as the Metrics message that this host's collectors expect. */
  encodeStats(stats: ContainerStats): Any;
}

export interface ServiceHost {
  readonly backend: Backend;
  readonly namespace: string;
  /** The id that this shim was started for. */
  readonly sandboxId: string;
  readonly logger: Logger;
  readonly observer: Omit<SandboxObserver, 'onOom'>;
  publish(event: TaskEvent): void;
  /** The sandbox exists now: what depends on it (management) may start. */
  onSandbox(sandbox: Sandbox, bundle: string): void;
  /** How long an RPC took, for the metrics. */
  onRpc(method: string, durationMs: number): void;
  /** The last task is gone and the host wants the shim to go; called once. Resolves when nothing but the process is left. */
  shutDown(stopSandbox: () => Promise<void>): Promise<void>;
}
