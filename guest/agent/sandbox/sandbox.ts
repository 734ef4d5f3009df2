import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { CreateContainerRequest, CreateSandboxRequest, ExecProcessRequest, Storage } from '../../../gen/agent/agent';
import { describeError, KataError } from '../../../base/errors';
import { checkId } from '../../../base/ids';
import type { OciSpec } from '../../../base/oci-spec';
import { setHostname } from '../../../base/syscalls';
import { UndoStack } from '../../../base/undo';
import { GUEST_RUN, GUEST_SHARE } from '../boot/mock';
import type { GuestModules } from '../boot/modules';
import { log } from '../console-log';
import { Container } from '../container/container';
import { adaptSpec, cgroupPathOf, clampProcess } from '../container/guest-spec';
import { processFromWire, specFromWire } from '../container/spec';
import type { AgentOptions } from '../options';
import { Storages } from '../storage/storages';
import { OomWatcher } from '../cgroup/oom';
import { ownLimits } from './own-limits';
import { applySysctls } from './sysctl';

const MAX_HOSTNAME = 64;

/** What a storage driver needs of the kernel: a virtio device's modules, nothing (''), or, if not named here, anything. */
const VIRTIO_ID_OF_DRIVER: Readonly<Record<string, string | undefined>> = { 'virtio-fs': '26', '9p': '9', ephemeral: '', local: '', bind: '', 'watchable-bind': '' };

/** What runs in this guest: one sandbox, its storages, its containers. Lives as long as the agent; connections come and go. */
export class Sandbox {
  readonly storages: Storages;
  readonly oom = new OomWatcher();
  /** Resolves when the guest has its mounts and the modules of its first devices: the first answers do not need them. */
  ready: Promise<void> = Promise.resolve();
  /** Loads what else is needed; a mock has none. */
  modules: GuestModules | undefined;
  private readonly containers = new Map<string, Container>();
  /** Ids whose creation is under way. */
  private readonly pending = new Set<string>();
  private readonly undo = new UndoStack();
  private hookFolder: string | undefined;
  private firstId: string | undefined;

  constructor(private readonly options: AgentOptions) {
    this.storages = new Storages({
      mockSharePath: options.mode === 'mock' ? GUEST_SHARE : undefined,
      hotplugTimeoutMs: options.hotplugTimeoutMs,
    });
  }

  /** How long to wait for a device, in milliseconds. */
  get hotplugTimeoutMs(): number {
    return this.options.hotplugTimeoutMs;
  }

  get isMock(): boolean {
    return this.options.mode === 'mock';
  }

  /** Sets the guest up for its pod. */
  async create(request: CreateSandboxRequest): Promise<void> {
    await this.modulesFor(request.storages);
    if (request.hostname !== '') {
      setHostname(request.hostname.slice(0, MAX_HOSTNAME));
    }
    if (!this.isMock) {
      writeMachineId();
    }
    if (request.kernelModules.length > 0 && !this.isMock) {
      const { loadNamedModules } = await import('../boot/modules');
      await loadNamedModules(request.kernelModules);
    }
    if (request.guestHookPath !== '') {
      this.hookFolder = request.guestHookPath;
    }
    const undo = new UndoStack();
    try {
      await this.storages.addAll(request.storages, undo);
    } catch (reason) {
      await undo.unwind();
      throw reason;
    }
    undo.moveTo(this.undo);
    this.writeDns(request.dns);
  }

  /** Ends everything. The agent answers on. */
  async destroy(): Promise<void> {
    await Promise.all([...this.containers.keys()].map((id) => this.removeContainer(id)));
    await this.undo.unwind((error) => log.warn(describeError(error)));
    this.storages.releaseAll();
    if (!this.isMock) {
      const { runTool } = await import('../process/tool');
      await runTool('sync', [], { timeoutMs: 10_000 });
    }
  }

  /** The container with this id. */
  container(id: string): Container {
    const container = this.containers.get(id);
    if (container === undefined) {
      throw new KataError('NotFound', `container "${id.slice(0, 128)}" does not exist`);
    }
    return container;
  }

  /** All containers, oldest first. */
  list(): Container[] {
    return [...this.containers.values()];
  }

  /** Makes a container; its init waits. */
  async createContainer(request: CreateContainerRequest): Promise<void> {
    const id = checkId(request.containerId, 'container');
    if (this.containers.has(id) || this.pending.has(id)) {
      throw new KataError('AlreadyExists', `create container "${id}": it exists already`);
    }
    if (request.oci === undefined) {
      throw new KataError('InvalidArgument', `create container "${id}": no specification`);
    }
    this.pending.add(id);
    const undo = new UndoStack();
    try {
      await this.modulesFor(request.storages, request.devices.length > 0);
      await this.storages.addAll(request.storages, undo);
      const spec = await this.prepareSpec(id, request);
      const bundle = join(GUEST_RUN, ['shared', 'sandbox'].includes(id) ? `${id}.bundle` : id);
      const container = await Container.create({ id, bundle, spec, pipeSizeBytes: this.options.pipeSizeBytes, undo });
      this.firstId ??= id;
      this.containers.set(id, container);
      this.oom.add(container);
    } catch (reason) {
      await undo.unwind((error) => log.warn(describeError(error), { container: id }));
      throw reason;
    } finally {
      this.pending.delete(id);
    }
  }

  /** Kills and removes a container; nothing happens where there is none. */
  async removeContainer(id: string): Promise<void> {
    const container = this.containers.get(id);
    if (container === undefined) {
      return;
    }
    this.containers.delete(id);
    this.oom.remove(container);
    if (this.containers.size === 0) {
      // Whatever comes next is the first of a pod again: what a template's guest ran before it was saved does not count.
      this.firstId = undefined;
    }
    await container.remove();
  }

  /** Starts a further process in a container. */
  async exec(request: ExecProcessRequest): Promise<void> {
    const container = this.container(request.containerId);
    if (request.process === undefined || request.process.args.length === 0) {
      throw new KataError('InvalidArgument', `exec in container "${container.id}": no process`);
    }
    const process = processFromWire(request.process);
    await container.exec(checkId(request.execId, 'exec'), clampProcess(process, this.limits()));
  }

  /** Waits until the guest can mount these. */
  private async modulesFor(storages: readonly Storage[], hasDevices = false): Promise<void> {
    await this.ready;
    const ids = storages.map(({ driver }) => VIRTIO_ID_OF_DRIVER[driver]);
    if (hasDevices || ids.includes(undefined)) {
      await this.modules?.all();
    } else {
      await this.modules?.forDevices(ids.filter((id): id is string => id !== undefined && id !== ''));
    }
  }

  private limits(): ReturnType<typeof ownLimits> | undefined {
    return this.isMock ? ownLimits() : undefined;
  }

  private async prepareSpec(id: string, request: CreateContainerRequest): Promise<OciSpec> {
    const wanted = request.oci === undefined ? {} : specFromWire(request.oci);
    if (request.devices.length > 0 && !this.isMock) {
      const { resolveDevices } = await import('../storage/devices');
      await resolveDevices(request.devices, wanted, this.options.hotplugTimeoutMs);
    }
    const { spec, sysctls } = adaptSpec(wanted, {
      pidNamespacePath: request.sandboxPidns ? await this.sharedPidNamespace() : undefined,
      cgroupsPath: this.uniqueCgroupPath(wanted.linux?.cgroupsPath, id),
      limits: this.limits(),
    });
    applySysctls(sysctls);
    if (this.hookFolder !== undefined) {
      const { addGuestHooks } = await import('../container/guest-hooks');
      addGuestHooks(spec, this.hookFolder);
    }
    return spec;
  }

  /** Two containers never share a cgroup: it would be killed, paused and counted as one. */
  private uniqueCgroupPath(wanted: string | undefined, id: string): string {
    const parent = this.isMock ? this.options.cgroupParent : '';
    const path = cgroupPathOf(wanted, id, parent);
    const isTaken = this.list().some(({ cgroup }) => cgroup.path === path || cgroup.path.startsWith(`${path}/`) || path.startsWith(`${cgroup.path}/`));
    return isTaken ? cgroupPathOf(undefined, id, parent) : path;
  }

  /** The pid namespace of the pod: that of its first container while it runs, else of a process that only holds one. */
  private async sharedPidNamespace(): Promise<string> {
    const first = this.firstId === undefined ? undefined : this.containers.get(this.firstId);
    if (first !== undefined && first.init.exitStatus === undefined) {
      return `/proc/${String(first.init.pid)}/ns/pid`;
    }
    const { holdPidNamespace } = await import('./pid-namespace');
    return holdPidNamespace(this.undo);
  }

  private writeDns(lines: readonly string[]): void {
    if (lines.length === 0 || this.isMock) {
      return;
    }
    mkdirSync('/etc', { recursive: true });
    writeFileSync('/etc/resolv.conf', `${lines.join('\n').trimEnd()}\n`);
    chmodSync('/etc/resolv.conf', 0o644);
  }
}

/** Clones of one template must not share it. From the kernel: our own random generator was cloned with us. */
function writeMachineId(): void {
  const id = readFileSync('/proc/sys/kernel/random/uuid', 'latin1').replaceAll('-', '').trim();
  mkdirSync('/etc', { recursive: true });
  writeFileSync('/etc/machine-id', `${id}\n`, { mode: 0o444 });
}
