/** One VM of QEMU, from launch to the last file removed. */
import { closeSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import type { ChildExit } from '../../../base/child';
import { describeExit } from '../../../base/child';
import { defer, timeoutSignal, withTimeout, abortError, type Deferred } from '../../../base/deadline';
import { describeError, KataError } from '../../../base/errors';
import { StateMachine } from '../../../base/state-machine';
import { UndoStack } from '../../../base/undo';
import { ConsoleLog } from '../console-log';
import { AdoptedProcess, makeLifeline, takeLifeline, waitTaken } from '../lifeline';
import { processEntry } from '../processes';
import { VM_TRANSITIONS, type VmLifeState, type VmTrigger } from '../state';
import type { AgentUrl, DriverCapabilities, HotplugControl, PauseControl, ResizeControl, SharedFolder, SnapshotControl, TransferControl, Vm, VmFacts, VmSpec, VmState } from '../types';
import { makeTransferShare, makeVmFolder, removeVmFolder } from '../vm-folder';
import { hostAccelerator, type Accelerator } from './accelerator';
import { startFailure } from './failure';
import { checkFiles } from './files-check';
import { QemuHotplug } from './hotplug';
import { launch, type Launched, type VmProcess } from './launch';
import { AGENT_PORT_ID, fileIn } from './layout';
import type { QmpClient, QmpEvent } from './qmp/client';
import { asCount, asObject, asObjects, asString } from './qmp/shape';
import { QemuResize } from './resize';
import { qemuVersion } from './version';
import { openChannel } from './vsock';

const AGENT_VSOCK_PORT = 1024;
const CHECK_TIMEOUT_MS = 5000;
const QUIT_TIMEOUT_MS = 1000;
const KILL_TIMEOUT_MS = 2000;
/** Between a sign that QEMU ends (monitor lost, virtiofsd ended) and the process reaped. */
const EXIT_GRACE_MS = 500;
const SAVE_NOT_TEMPLATE = 'save VM: it was not started to become a template';

/** After this without `timeoutMs`: the key's own default by accelerator. */
const BOOT_TIMEOUT_MS = { kvm: 10_000, tcg: 60_000 } as const;

type StartOptions = Parameters<Vm['start']>[0];

export class QemuVm implements Vm {
  readonly id: string;
  readonly exited: Promise<ChildExit>;
  readonly pause: PauseControl;
  readonly snapshot: SnapshotControl;
  readonly hotplug?: HotplugControl;
  readonly resize?: ResizeControl;
  readonly transfer?: TransferControl;
  private readonly life: StateMachine<VmLifeState, VmTrigger>;
  private readonly undo = new UndoStack();
  private readonly console: ConsoleLog;
  private readonly exit: Deferred<ChildExit> = defer();
  private readonly agentUp: Deferred<undefined> = defer();
  private readonly stopRequested = new AbortController();
  private accelerator: Accelerator | undefined;
  private url: AgentUrl;
  private launched: Launched | undefined;
  private lifelineFd = -1;
  private monitor: QmpClient | undefined;
  private shutdownReason: string | undefined;
  private processes: VmState['processes'] = [];
  private readonly hints: string[] = [];
  private stopping: Promise<void> | undefined;
  private starting: Promise<void> = Promise.resolve();

  constructor(private readonly spec: VmSpec, capabilities: DriverCapabilities) {
    this.id = spec.id;
    this.exited = this.exit.promise;
    this.life = new StateMachine(`VM "${spec.id}"`, VM_TRANSITIONS, 'created');
    this.console = new ConsoleLog(fileIn(spec.directory, 'consoleLog'));
    this.url = `serial://${fileIn(spec.directory, 'agent')}`;
    const qmp = (): QmpClient => this.qmp();
    this.pause = { pause: async () => { await qmp().execute('stop'); }, resume: async () => { await qmp().execute('cont'); } };
    this.snapshot = { save: (timeoutMs) => this.save(timeoutMs) };
    if (capabilities.blockHotplug || capabilities.netHotplug) {
      this.hotplug = new QemuHotplug(spec, qmp, (folder) => this.serveShare(folder));
    }
    if (spec.transferable === true) {
      this.transfer = { handOver: () => this.handOver(), release: (timeoutMs) => this.release(timeoutMs) };
    }
    if (capabilities.resize) {
      this.resize = new QemuResize(spec, () => hostAccelerator(spec.config.accelerator).kind, qmp);
    }
  }

  get agentUrl(): AgentUrl {
    return this.url;
  }

  /** Takes a VM over that another process has handed over; see `TransferControl`. */
  static async adopt(spec: VmSpec, capabilities: DriverCapabilities, state: VmState, signal: AbortSignal): Promise<QemuVm> {
    const vm = new QemuVm(spec, capabilities);
    vm.life.move('start');
    try {
      await vm.takeOver(state, signal);
      vm.life.tryMove('up');
      return vm;
    } catch (reason) {
      await vm.stop();
      throw reason;
    }
  }

  get pid(): number {
    const pid = this.launched?.qemu.pid;
    if (pid === undefined) {
      throw new KataError('FailedPrecondition', `VM "${this.id}": not started`);
    }
    return pid;
  }

  async start(options: StartOptions): Promise<void> {
    this.life.move('start');
    this.starting = this.startOnce(options);
    await this.starting;
  }

  stop(): Promise<void> {
    this.stopping ??= this.stopOnce();
    return this.stopping;
  }

  async check(): Promise<void> {
    if (this.launched?.qemu.exit !== undefined) {
      throw new KataError('Unavailable', `VM "${this.id}": QEMU ended with ${describeExit(this.launched.qemu.exit)}`);
    }
    const status = asString(asObject(await this.qmp().execute('query-status', undefined, CHECK_TIMEOUT_MS), 'query-status')['status'], 'status');
    if (['guest-panicked', 'internal-error', 'io-error', 'shutdown'].includes(status)) {
      throw new KataError('Unavailable', `VM "${this.id}": QEMU says ${status}`);
    }
  }

  facts(): VmFacts {
    const { qemu } = this.launched ?? {};
    const hints = [...this.hints];
    if (this.accelerator?.reason !== undefined) {
      hints.push(`no KVM: ${this.accelerator.reason}`);
    }
    if (this.shutdownReason !== undefined) {
      hints.push(`QEMU ended because of ${this.shutdownReason}`);
    }
    return {
      alive: qemu !== undefined && qemu.exit === undefined,
      exit: qemu?.exit,
      program: this.spec.config.path,
      pid: qemu?.pid,
      stderrTail: qemu?.stderr ?? '',
      consoleTail: this.console.tail,
      consolePath: this.launched === undefined ? undefined : this.console.path,
      accelerator: this.accelerator?.kind ?? 'none',
      hints,
    };
  }

  state(): VmState {
    return { type: 'qemu', id: this.id, directory: this.spec.directory, agentUrl: this.url, processes: this.processes };
  }

  async threads(): Promise<{ readonly processes: readonly number[]; readonly vcpus: readonly number[] }> {
    const cpus = asObjects(await this.qmp().execute('query-cpus-fast'), 'query-cpus-fast');
    return { processes: this.processes.map(({ pid }) => pid), vcpus: cpus.map((cpu) => asCount(cpu['thread-id'], 'thread-id')) };
  }

  private qmp(): QmpClient {
    if (this.monitor === undefined) {
      throw new KataError('FailedPrecondition', `VM "${this.id}": not started, or stopped`);
    }
    return this.monitor;
  }

  private async save(timeoutMs: number): Promise<void> {
    const { template } = this.spec;
    if (template?.use !== 'become') {
      throw new KataError('FailedPrecondition', SAVE_NOT_TEMPLATE);
    }
    const { saveTemplate } = await import('./migration');
    await saveTemplate(this.qmp(), template, timeoutMs);
  }

  private async startOnce(options: StartOptions): Promise<void> {
    const began = performance.now();
    const { config, logger } = this.spec;
    let timer: ReturnType<typeof timeoutSignal> | undefined;
    let timeoutMs = options.timeoutMs;
    try {
      checkFiles(config);
      this.accelerator = hostAccelerator(config.accelerator, (text) => { logger.warn(text); });
      timeoutMs = timeoutMs > 0 ? timeoutMs : config.bootTimeout > 0 ? config.bootTimeout * 1000 : BOOT_TIMEOUT_MS[this.accelerator.kind];
      const parent = AbortSignal.any([options.signal, this.stopRequested.signal]);
      timer = timeoutSignal(timeoutMs, () => new KataError('DeadlineExceeded', `VM "${this.id}": not up within ${String(timeoutMs)} ms`), parent);
      await this.launchAll(this.accelerator, options, timer.signal);
      await this.untilUp(timeoutMs, timer.signal);
      this.life.tryMove('up');
    } catch (reason) {
      // How it ended by itself; what comes after is our doing.
      const exit = this.launched?.qemu.exit;
      await this.afterFailedStart();
      this.life.tryMove('end');
      const timedOut = timer !== undefined && timer.signal.aborted && timer.signal.reason === reason && !options.signal.aborted && !this.stopRequested.signal.aborted;
      throw startFailure({
        id: this.id, facts: { ...this.facts(), exit }, cause: reason, shutdownReason: this.shutdownReason, timedOut,
        waitedMs: performance.now() - began, configKey: 'boot_timeout in [hypervisor.qemu]',
      });
    } finally {
      timer?.dispose();
    }
  }

  private async launchAll(accelerator: Accelerator, options: StartOptions, signal: AbortSignal): Promise<void> {
    const { spec } = this;
    await qemuVersion(spec.config.path);
    this.throwIfAborted(signal);
    makeVmFolder(spec.directory);
    this.undo.push('the VM folder', () => { removeVmFolder(spec.directory, spec.id); });
    this.undo.push('the console', () => { this.console.close(); });
    if (spec.transferable === true) {
      makeTransferShare(spec);
      const fd = makeLifeline(spec.directory);
      this.lifelineFd = fd;
      this.undo.push('the lifeline', () => { closeSync(fd); });
    }
    const channel = openChannel(spec.config.agentChannel);
    if (channel.kind === 'vsock') {
      this.url = `vsock://${String(channel.cid)}:${String(AGENT_VSOCK_PORT)}`;
    }
    const launched = await launch({ spec, accelerator, channel }, this.undo);
    this.launched = launched;
    this.watch(launched);
    const helper = launched.virtiofsd === undefined ? [] : [processEntry('virtiofsd', launched.virtiofsd)];
    this.processes = [processEntry('qemu', launched.qemu), ...helper];
    options.onLaunched(this.state());
  }

  /** The daemon of a share that comes when the VM runs already; from then on they end together. */
  private async serveShare(folder: SharedFolder): Promise<void> {
    const { launched } = this;
    if (launched === undefined || launched.virtiofsd !== undefined) {
      throw new KataError('FailedPrecondition', `add a share to VM "${this.id}": it does not run, or has one`);
    }
    const { startVirtiofsd } = await import('./virtiofsd');
    const virtiofsd = await startVirtiofsd(this.spec.config, folder.source, fileIn(this.spec.directory, 'virtioFs'), this.spec.selinuxLabel);
    this.undo.push('virtiofsd', () => void virtiofsd.kill('SIGKILL'));
    this.launched = { ...launched, virtiofsd };
    this.processes = [...this.processes, processEntry('virtiofsd', virtiofsd)];
    this.watchDaemon(launched.qemu, virtiofsd);
  }

  private async takeOver(state: VmState, signal: AbortSignal): Promise<void> {
    const { spec } = this;
    const [entry] = state.processes;
    if (entry === undefined) {
      throw new KataError('DataLoss', `take VM "${this.id}" over: its state names no process`);
    }
    const fd = takeLifeline(spec.directory);
    this.undo.push('the VM folder', () => { removeVmFolder(spec.directory, spec.id); });
    this.undo.push('the console', () => { this.console.close(); });
    this.undo.push('the lifeline', () => { closeSync(fd); });
    this.accelerator = hostAccelerator(spec.config.accelerator);
    this.url = state.agentUrl;
    const qemu = new AdoptedProcess(entry);
    const monitor = connect(fileIn(spec.directory, 'qmp'));
    this.undo.push('the monitor', () => void monitor.destroy());
    monitor.on('error', () => undefined);
    monitor.on('close', () => { qemu.look(); });
    this.launched = { qemu, virtiofsd: undefined, monitor, stateFd: undefined };
    this.processes = state.processes;
    this.watch(this.launched);
    const { QmpClient: Client } = await import('./qmp/client');
    this.monitor = await this.orExit(Client.open(monitor, { timeoutMs: CHECK_TIMEOUT_MS, logger: spec.logger, signal }), signal);
    this.monitor.listen((event) => { this.onEvent(event); });
    this.console.attach(connect(fileIn(spec.directory, 'console')));
  }

  private async handOver(): Promise<VmState> {
    this.life.require('end');
    this.qmp().close();
    this.console.close();
    return Promise.resolve(this.state());
  }

  private async release(timeoutMs: number): Promise<boolean> {
    const taken = await Promise.race([waitTaken(this.spec.directory, timeoutMs), this.exited.then(() => false)]);
    if (!taken) {
      await this.stop();
      return false;
    }
    // All that is left to undo belongs to the new owner, but for our end of the lifeline.
    this.launched = undefined;
    this.stopping = Promise.resolve();
    this.undo.release();
    closeSync(this.lifelineFd);
    return true;
  }

  /** Either of the two processes going takes the other with it: a guest without its files hangs for ever. */
  private watch({ qemu, virtiofsd }: Launched): void {
    void qemu.exited.then((exit) => {
      this.life.tryMove('end');
      this.exit.resolve(exit);
    });
    if (virtiofsd !== undefined) {
      this.watchDaemon(qemu, virtiofsd);
    }
  }

  private watchDaemon(qemu: VmProcess, virtiofsd: VmProcess): void {
    void qemu.exited.then(() => virtiofsd.kill('SIGKILL'));
    void virtiofsd.exited.then(async (exit) => {
      // It ends with a QEMU that ends too, and is through sooner: then it is not the cause.
      await this.exitSoon();
      if (qemu.exit === undefined && this.stopping === undefined && this.life.state !== 'failed') {
        this.hints.push(`virtiofsd ended with ${describeExit(exit)}: ${virtiofsd.stderr.trim().split('\n').at(-1) ?? ''}`);
        this.spec.logger.error('virtiofsd ended, so does the VM', { exit: describeExit(exit), stderr: virtiofsd.stderr.slice(-500) });
        qemu.kill('SIGKILL');
      }
    });
  }

  /** Waits for QEMU's end, not long. */
  private async exitSoon(): Promise<void> {
    await withTimeout(this.exited, EXIT_GRACE_MS, () => new KataError('DeadlineExceeded', 'exit')).catch(() => undefined);
  }

  private async untilUp(timeoutMs: number, signal: AbortSignal): Promise<void> {
    const { spec, launched } = this;
    if (launched === undefined) {
      return;
    }
    // Loaded here: it costs 6 ms, and QEMU needs longer than that to answer.
    const { QmpClient: Client } = await import('./qmp/client');
    const monitor = await this.orExit(Client.open(launched.monitor, { timeoutMs, logger: spec.logger, signal }), signal);
    this.monitor = monitor;
    this.undo.push('the monitor', () => { monitor.close(); });
    monitor.listen((event) => { this.onEvent(event); });
    this.console.attach(connect(fileIn(spec.directory, 'console')));
    if (launched.stateFd !== undefined) {
      const { loadClone } = await import('./migration');
      await this.orExit(loadClone(monitor, launched.stateFd, timeoutMs), signal);
      return;
    }
    if (this.url.startsWith('serial:')) {
      await this.orExit(this.agentUp.promise, signal);
    }
  }

  private onEvent({ event, data }: QmpEvent): void {
    if (event === 'VSERPORT_CHANGE' && data['id'] === AGENT_PORT_ID && data['open'] === true) {
      this.agentUp.resolve(undefined);
    } else if (event === 'SHUTDOWN') {
      this.shutdownReason = typeof data['reason'] === 'string' ? data['reason'] : 'unknown';
    } else if (event === 'GUEST_PANICKED') {
      this.hints.push('the guest kernel panicked');
      if (this.spec.config.guestMemoryDumpPath !== '') {
        void this.dumpAndEnd();
      }
    }
  }

  /** QEMU has paused the guest for this; whether it worked or not, the VM ends afterwards. */
  private async dumpAndEnd(): Promise<void> {
    const { spec } = this;
    try {
      const [{ dumpGuestMemory }, { text: version }] = await Promise.all([import('./memory-dump'), qemuVersion(spec.config.path)]);
      const stateFolder = join(dirname(dirname(spec.directory)), 'sbs', spec.id);
      const path = await dumpGuestMemory(this.qmp(), { spec, memoryMiB: spec.memoryMiB, version, stateFolder });
      this.hints.push(`its memory is in ${path}`);
      spec.logger.error('the guest kernel panicked, its memory is dumped', { path });
    } catch (reason) {
      spec.logger.error('the guest kernel panicked, its memory could not be dumped', { error: describeError(reason) });
    }
    this.launched?.qemu.kill('SIGKILL');
  }

  /** The promise, unless QEMU ends or the signal fires before. A lost monitor means that QEMU is going: its exit tells more. */
  private async orExit<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
    const aborted = defer<never>();
    const onAbort = (): void => { aborted.reject(abortError(signal, `start VM "${this.id}"`)); };
    if (signal.aborted) {
      onAbort();
    }
    signal.addEventListener('abort', onAbort, { once: true });
    const ended = this.exited.then((exit) => {
      throw new KataError('FailedPrecondition', `QEMU ended with ${describeExit(exit)}`);
    });
    try {
      return await Promise.race([promise, ended, aborted.promise]);
    } catch (reason) {
      if (this.monitor?.isOpen !== true && !signal.aborted) {
        await this.exitSoon();
      }
      throw reason;
    } finally {
      signal.removeEventListener('abort', onAbort);
      ended.catch(() => undefined);
    }
  }

  private throwIfAborted(signal: AbortSignal): void {
    if (signal.aborted) {
      throw abortError(signal, `start VM "${this.id}"`);
    }
  }

  /** The guest's last words may still be on their way. */
  private async afterFailedStart(): Promise<void> {
    await this.endProcesses();
    await this.undo.unwind((error) => { this.spec.logger.warn(error.message); });
  }

  private async stopOnce(): Promise<void> {
    this.stopRequested.abort(new KataError('Canceled', `VM "${this.id}": stopped while it started`));
    await this.starting.catch(() => undefined);
    this.life.tryMove('stop');
    const qemu = this.launched?.qemu;
    if (qemu !== undefined && qemu.exit === undefined && this.monitor?.isOpen === true) {
      this.monitor.execute('quit', undefined, QUIT_TIMEOUT_MS).catch(() => undefined);
      await withTimeout(qemu.exited, QUIT_TIMEOUT_MS, () => new KataError('DeadlineExceeded', 'quit')).catch(() => undefined);
    }
    await this.endProcesses();
    await this.undo.unwind((error) => { this.spec.logger.warn(error.message); });
    this.monitor = undefined;
    this.life.tryMove('gone');
  }

  private async endProcesses(): Promise<void> {
    const children = [this.launched?.qemu, this.launched?.virtiofsd].filter((child): child is VmProcess => child !== undefined);
    for (const child of children) {
      child.kill('SIGKILL');
      await withTimeout(child.exited, KILL_TIMEOUT_MS, () => new KataError('DeadlineExceeded', `pid ${String(child.pid)} still there after SIGKILL`)).catch((reason: unknown) => {
        this.spec.logger.error(String(reason));
      });
    }
  }
}
