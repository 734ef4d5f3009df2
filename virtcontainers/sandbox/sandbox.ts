/**
 * Makes sandboxes: the VM boots while the host's side is prepared, then guest and first container are set up. What was
 * acquired is given back on every failure. Phases: state, netns, share, queue, [factory | vm-launch, vm-boot, agent-connect]
 * beside {rootfs, cgroup}, then create-sandbox, hooks, create-container.
 */
import { processStartTime } from '../../base/child';
import { codeOf, describeError, isCode, KataError } from '../../base/errors';
import { checkId } from '../../base/ids';
import { UndoStack } from '../../base/undo';
import { dnsLinesOf, shmSizeOf } from '../bundle/guest-view';
import { SandboxCgroups } from '../cgroup/cgroup';
import { prepareContainer, type PrepareContext, type PreparedContainer } from '../container/prepare';
import { sharePaths } from '../fs-share/paths';
import { FsShare } from '../fs-share/share';
import type { SharedFolder, Vm, VmState } from '../hypervisor/types';
import { runHooks } from '../network/hooks';
import { openNetns, refuseDirectNetwork, type SandboxNetns } from '../network/netns';
import type { OwnState, PersistedContainer } from '../persist/document';
import { SandboxStore } from '../persist/store';
import { shareFor, vmSpecFor } from '../vm/spec';
import { dialTimeoutMs } from '../vm/time-outs';
import { bootVm, type BootedVm } from './boot';
import { DEFAULT_DEPS, type SandboxDeps } from './deps';
import { failureReport } from './failure-report';
import { setUpGuest } from './guest-setup';
import { GuestSandbox } from './guest-sandbox';
import { GuestLink } from './link';
import { Phases } from './phases';
import { enterStartGate } from './start-gate';
import type { Sandbox, SandboxRequest } from './types';

/** What is known of a sandbox in the making, for the state on disk and for reports. */
class Draft {
  vm: Vm | undefined;
  vmState: VmState | undefined;
  cgroups: SandboxCgroups | undefined;
  sandbox: GuestSandbox | undefined;

  constructor(
    private readonly request: SandboxRequest,
    private readonly store: SandboxStore,
    private readonly netns: () => string,
  ) {}

  /** Writes the state as it is now. */
  save(): void {
    const { request } = this;
    this.store.save({
      id: request.id,
      state: this.sandbox?.state ?? 'creating',
      hypervisorType: request.config.hypervisor.type,
      agentUrl: this.vmState?.agentUrl ?? '',
      netns: this.netns(),
      sandboxCgroup: this.cgroups?.sandboxPath ?? '',
      overheadCgroup: this.cgroups?.overheadPath ?? '',
      own: {
        shim: { pid: process.pid, startTime: processStartTime(process.pid) ?? '' },
        vm: this.vmState,
        cgroups: this.cgroups?.folders ?? [],
        containers: this.containers(),
        freed: false,
      },
    });
  }

  private containers(): OwnState['containers'] {
    const { container } = this.request;
    if (this.sandbox === undefined || this.sandbox.state === 'creating') {
      const rootfs = container.rootfs.length > 0 ? `${container.bundle}/rootfs` : '';
      return { [container.id]: { bundle: container.bundle, rootfs, state: 'creating' } };
    }
    const entries = [...this.sandbox.guestContainers.values()].map((one): [string, PersistedContainer] => [
      one.id,
      {
        bundle: one.bundle,
        rootfs: one.rootfsMount,
        state: one.state,
        exit: one.init.exit === undefined ? undefined : { status: one.init.exit.status, at: one.init.exit.at.toISOString() },
      },
    ]);
    return Object.fromEntries(entries);
  }

  /** Adds what runs to the cgroups, as soon as both are there. */
  joinCgroups(warn: (error: KataError) => void): void {
    if (this.cgroups === undefined || this.vmState === undefined) {
      return;
    }
    const failure = this.cgroups.addVmm(this.vmState.processes.map(({ pid }) => pid));
    if (failure !== undefined) {
      warn(failure);
    }
  }
}

/** Takes the state folder; clears what a dead owner left in it. AlreadyExists if the owner lives. */
async function takeStore(undo: UndoStack, request: SandboxRequest, deps: SandboxDeps): Promise<SandboxStore> {
  const store = new SandboxStore(deps.roots.state, request.id);
  if (!store.create()) {
    const { clearDeadSandbox } = await import('./cleanup');
    await clearDeadSandbox(store, request.id, request.logger, deps);
    if (!store.create()) {
      throw new KataError('AlreadyExists', `create sandbox "${request.id}": ${store.folder} is in use`);
    }
  }
  undo.push(`state folder ${store.folder}`, () => {
    store.remove();
  });
  return store;
}

interface HostSide {
  readonly share: FsShare;
  readonly folder: SharedFolder | undefined;
  readonly netns: SandboxNetns;
  readonly prepare: PrepareContext;
}

/** What the VM needs to be there before it starts. */
async function prepareHost(undo: UndoStack, request: SandboxRequest, deps: SandboxDeps, phases: Phases): Promise<HostSide> {
  const { config, container } = request;
  refuseDirectNetwork(config.runtime.danConf, request.id);
  const netns = await phases.time('netns', () => openNetns(undo, container.spec, config.runtime.disableNewNetns));
  const driver = await phases.time('driver', () => deps.driverFor(config.hypervisor.type));
  const capabilities = driver.capabilities(config.hypervisor);
  const paths = sharePaths(deps.roots.share, request.id);
  const folder = shareFor(config, capabilities, paths.shared);
  const share = new FsShare(paths, folder !== undefined, deps.mounts);
  await phases.time('share', () => {
    share.prepare(undo, config.runtime.sandboxBindMounts);
  });
  const prepare: PrepareContext = {
    sandboxId: request.id,
    share,
    mounts: deps.mounts,
    shmSizeBytes: await shmSizeOf(container.spec),
    disableGuestEmptyDir: config.runtime.disableGuestEmptyDir,
    blockCapable: capabilities.blockHotplug && !config.hypervisor.disableBlockDeviceUse,
  };
  return { share, folder, netns, prepare };
}

/** Makes the cgroups; without the right to, the sandbox does without. Their removal is on the undo stack already. */
function makeCgroups(request: SandboxRequest, deps: SandboxDeps): SandboxCgroups | undefined {
  try {
    const path = request.container.spec.linux?.cgroupsPath ?? '';
    return SandboxCgroups.create(deps.roots.cgroup, request.id, path, request.config.runtime.sandboxCgroupOnly);
  } catch (reason) {
    request.logger.warn('no cgroup for the sandbox', { error: describeError(reason) });
    return undefined;
  }
}

/** A failure that the guest's loss or silence explains gets the whole report; others stand for themselves. */
async function explain(request: SandboxRequest, draft: Draft, link: GuestLink, reason: unknown): Promise<unknown> {
  if (link.alive && isCode(reason, 'Unavailable')) {
    await link.vmEnd();
  }
  if (!link.alive && isCode(link.reason(), 'Canceled')) {
    return link.reason();
  }
  const silent = link.alive && (isCode(reason, 'DeadlineExceeded') || isCode(reason, 'Unavailable'));
  const reported = reason instanceof KataError && reason.message.startsWith('sandbox "');
  if (draft.vm === undefined || draft.vmState === undefined || reported || (link.alive && !silent)) {
    return reason;
  }
  const cause = link.alive ? reason : link.reason();
  return new KataError(codeOf(cause), failureReport({ sandboxId: request.id, doing: 'create', vm: draft.vm.facts(), cause }), { cause });
}

async function setUp(undo: UndoStack, request: SandboxRequest, deps: SandboxDeps, draft: Draft, link: GuestLink, side: HostSide, phases: Phases): Promise<GuestSandbox> {
  const { config, container, logger } = request;
  // Below the virtual machine: a group with processes in it cannot be removed.
  undo.push('cgroups', async () => {
    await draft.cgroups?.remove();
  });
  const containerUndo = new UndoStack();
  undo.push(`container "${container.id}"`, async () => {
    await containerUndo.unwind();
  });
  const warn = (error: KataError): void => {
    logger.warn('the virtual machine is not in its cgroup', { error: describeError(error) });
  };
  const vmUndo = new UndoStack();
  undo.push('the virtual machine', async () => {
    await vmUndo.unwind();
  });
  const spec = vmSpecFor({ sandboxId: request.id, vmRoot: deps.roots.vm, config, spec: container.spec, share: side.folder, netns: side.netns.forVm, logger });
  const booting = bootVm(vmUndo, {
    request, deps, spec, link, phases,
    onVm: (vm) => {
      draft.vm = vm;
    },
    onLaunched: (state) => {
      draft.vmState = state;
      draft.joinCgroups(warn);
      try {
        draft.save();
      } catch (reason) {
        link.lose(KataError.from(reason, `save the state of sandbox "${request.id}": ${describeError(reason)}`));
      }
    },
  });
  const preparing = (async (): Promise<readonly [PreparedContainer, readonly string[]]> => {
    if (request.factory?.bringsShare === true) {
      const { share } = await booting;
      if (share !== undefined) {
        side.share.moveInto(undo, share, config.runtime.sandboxBindMounts);
      }
    }
    const prepared = await phases.time('rootfs', () => prepareContainer(containerUndo, side.prepare, container));
    draft.cgroups = await phases.time('cgroup', () => makeCgroups(request, deps));
    draft.joinCgroups(warn);
    draft.save();
    return [prepared, await dnsLinesOf(container.spec)];
  })();
  const [booted, [prepared, dns]] = await both(booting, preparing, link);
  const sandbox = await finish(request, draft, link, side, phases, undo, booted, dns);
  await phases.time('create-container', () => sandbox.open(container, containerUndo, prepared));
  void joinVcpus(draft, booted.vm, warn);
  return sandbox;
}

/** Puts the vCPU threads into the sandbox's cgroup. Not waited for: nothing depends on it. */
async function joinVcpus(draft: Draft, vm: Vm, warn: (error: KataError) => void): Promise<void> {
  if (draft.cgroups?.holdsVcpus !== true) {
    return;
  }
  try {
    const failure = draft.cgroups.addVcpus((await vm.threads()).vcpus);
    if (failure !== undefined) {
      warn(failure);
    }
  } catch (reason) {
    warn(KataError.from(reason, `find the vCPU threads: ${describeError(reason)}`));
  }
}

/** Waits for both; a failure of the host's side ends the boot at once. The first failure is the one that counts. */
async function both<A, B>(booting: Promise<A>, preparing: Promise<B>, link: GuestLink): Promise<[A, B]> {
  let first: { readonly reason: unknown } | undefined;
  const note = (reason: unknown): never => {
    first ??= { reason };
    throw reason;
  };
  const prepared = preparing.catch((reason: unknown) => {
    link.lose(KataError.from(reason, describeError(reason)));
    return note(reason);
  });
  const [a, b] = await Promise.allSettled([booting.catch(note), prepared]);
  if (a.status === 'fulfilled' && b.status === 'fulfilled') {
    return [a.value, b.value];
  }
  throw first?.reason;
}

async function finish(request: SandboxRequest, draft: Draft, link: GuestLink, side: HostSide, phases: Phases, undo: UndoStack, booted: BootedVm, dns: readonly string[]): Promise<GuestSandbox> {
  const { config, container, logger, observer } = request;
  const { hooks } = container.spec;
  if ((hooks?.prestart?.length ?? 0) + (hooks?.createRuntime?.length ?? 0) > 0) {
    const state = { id: container.id, status: 'creating', pid: booted.vm.pid, bundle: container.bundle, annotations: container.spec.annotations ?? {} } as const;
    await phases.time('hooks', async () => {
      await runHooks('prestart', hooks?.prestart, state);
      await runHooks('createRuntime', hooks?.createRuntime, state);
    });
  }
  const details = await phases.time('create-sandbox', () =>
    setUpGuest(booted.agent, request, { share: side.folder, shmSizeBytes: side.prepare.shmSizeBytes, dns, answerTimeoutMs: dialTimeoutMs(booted.vm, config.agent.dialTimeout), known: booted.source !== 'direct' }),
  );
  const sandbox = new GuestSandbox({
    id: request.id, config, logger, observer, link, phases, undo,
    vm: booted.vm,
    agent: booted.agent,
    vmSource: booted.source,
    vmFallback: booted.fallback,
    prepare: side.prepare,
    seccompSupported: details.supportsSeccomp,
    memoryBlockBytes: details.memoryBlockSizeBytes,
    save: () => {
      draft.save();
    },
  });
  draft.sandbox = sandbox;
  return sandbox;
}

/** Boots (or gets) the VM and creates the first container in it. `deps` is for tests. */
export async function createSandbox(request: SandboxRequest, deps: SandboxDeps = DEFAULT_DEPS): Promise<Sandbox> {
  checkId(request.id, 'sandbox');
  checkId(request.container.id, 'container');
  const phases = new Phases(request.observer, request.logger);
  const link = new GuestLink(request.signal);
  let draft: Draft | undefined;
  const undo = new UndoStack();
  try {
    if (!link.alive) {
      throw link.reason();
    }
    const store = await phases.time('state', () => takeStore(undo, request, deps));
    let netns = '';
    draft = new Draft(request, store, () => netns);
    draft.save();
    const side = await prepareHost(undo, request, deps, phases);
    netns = side.netns.path;
    const leave = await phases.time('queue', () => enterStartGate({ folder: deps.roots.starts, logger: request.logger, signal: link.signal }));
    try {
      return await setUp(undo, request, deps, draft, link, side, phases);
    } finally {
      leave();
    }
  } catch (reason) {
    const explained = draft === undefined ? reason : await explain(request, draft, link, reason);
    link.expectEnd();
    link.detach();
    await undo.unwind((error) => {
      request.logger.warn('not undone wholly', { sandbox: request.id, error: describeError(error) });
    });
    throw explained;
  }
}
