/** The long-lived server of one sandbox: loaded after `start` has replied. */
import { join } from 'node:path';
import type { Socket } from 'node:net';
import { serviceFromTsProto, TtrpcServer } from 'ttrpc-ts';
import { sleep, withTimeout } from '../base/deadline';
import { describeError, KataError } from '../base/errors';
import { Logger } from '../base/log';
import { TaskDefinition as TaskV2 } from '../gen/containerd/task/v2';
import { TaskDefinition as TaskV3 } from '../gen/containerd/task/v3';
import type { Sandbox } from '../virtcontainers/sandbox/types';
import { SocketFile } from './address';
import { EventPublisher } from './events/publisher';
import { chooseTransport } from './events/transports';
import { IDLE_TIMEOUT_MS, IdleWatch } from './idle';
import { openLogFifo } from './log-fifo';
import { ShimFigures } from './management/figures';
import { loadPart } from './parts';
import type { StartedServer } from './start';
import { stopLoggers } from './stdio/logger-binary';
import { observed, taskHandlers } from './task/handlers';
import { Pod } from './task/pod';
import { toWireStatus } from './task/status';
import type { Backend, ServiceHost } from './task/types';

/** The host waits 3 s for the answer to Shutdown. */
const SHUTDOWN_REPLY_MS = 2_000;
const FLUSH_EVENTS_MS = 2_000;
/** Ending a sandbox is bounded by itself; this is for the case that it is not. */
const STOP_TIMEOUT_MS = 60_000;

const PREFETCH_AFTER_MS = 5;

/** Serves until Shutdown or a signal. */
export function serve(started: StartedServer): void {
  const { args } = started;
  const sink = openLogFifo(join(started.bundle, 'log'));
  const logger = Logger.to(sink, args.debug ? 'debug' : 'info', { sandbox: started.sandboxId, pid: process.pid });
  new ShimServer(started, logger).run();
}

/** The backend, loaded by whichever call needs it first. */
function lateBackend(logger: Logger): Backend {
  let loaded: Backend | undefined;
  const backend = (): Backend => (loaded ??= loadPart<typeof import('./wiring')>('wiring').createBackend(logger));
  return {
    readBundle: (path) => backend().readBundle(path),
    loadConfig: (configPath, bundle) => backend().loadConfig(configPath, bundle),
    createSandbox: (request) => backend().createSandbox(request),
    parseProcess: (json) => backend().parseProcess(json),
    parseResources: (json) => backend().parseResources(json),
    encodeStats: (stats) => backend().encodeStats(stats),
  };
}

class ShimServer implements ServiceHost {
  readonly backend: Backend;
  readonly namespace: string;
  readonly sandboxId: string;
  readonly observer;
  private readonly events: EventPublisher;
  private readonly figures = new ShimFigures();
  private readonly ttrpc = new TtrpcServer({ mapError: toWireStatus });
  private readonly pod: Pod;
  private readonly socketFile: SocketFile;
  private readonly idle: IdleWatch;
  private closeManagement: (() => void) | undefined;
  private leaving: Promise<void> | undefined;

  constructor(
    private readonly started: StartedServer,
    readonly logger: Logger,
  ) {
    const { args, sandboxId, socketPath, ttrpcAddress } = started;
    this.namespace = args.namespace;
    this.sandboxId = sandboxId;
    this.socketFile = new SocketFile(socketPath);
    this.backend = lateBackend(logger);
    const { publishBinary, address: containerdAddress, namespace } = args;
    const transport = chooseTransport({ ttrpcAddress, publishBinary, containerdAddress, namespace, logger });
    this.events = new EventPublisher({ transport, logger });
    this.observer = this.figures.observer();
    this.pod = new Pod(this);
    this.idle = new IdleWatch({
      timeoutMs: IDLE_TIMEOUT_MS,
      isEmpty: () => this.pod.isEmpty,
      onIdle: () => {
        this.endBecause(`no task, and nobody has called for ${String(IDLE_TIMEOUT_MS / 1000)} s`, 0);
      },
    });
  }

  run(): void {
    const handlers = observed(taskHandlers(this.pod, this), this.pod, this);
    this.ttrpc.register(serviceFromTsProto(TaskV2), handlers).register(serviceFromTsProto(TaskV3), handlers);
    const { server, early } = this.started;
    server.removeAllListeners('connection');
    const take = (socket: Socket): void => {
      socket.once('close', this.idle.enter());
      this.ttrpc.handleConnection(socket);
    };
    server.on('connection', take);
    early.splice(0).forEach(take);
    server.on('error', (error) => {
      this.logger.error('the listening socket failed', { error: error.message });
    });
    this.settleProcess();
    const { args, socketPath } = this.started;
    this.logger.info('serving', { socket: socketPath, namespace: args.namespace, unknown_flags: args.unknown.join(' ') || undefined });
    // The host dials now, and its first call shall not wait for what only Create needs (which loads it if it comes first).
    setTimeout(() => {
      loadPart<typeof import('./wiring')>('wiring').prefetch();
    }, PREFETCH_AFTER_MS);
  }

  publish: ServiceHost['publish'] = (event) => {
    this.events.publish(event);
  };

  onRpc(method: string, durationMs: number): void {
    this.figures.rpc(method, durationMs);
    this.logger.debug('rpc', { method, ms: durationMs.toFixed(1) });
  }

  onSandbox(sandbox: Sandbox, bundle: string): void {
    this.logger.info('sandbox created', { vm: sandbox.vmSource, fallback: sandbox.vmFallback, vmm_pid: sandbox.pid, phases: sandbox.phases.map((p) => `${p.name}=${p.durationMs.toFixed(0)}ms`).join(',') });
    setImmediate(() => {
      this.closeManagement = loadPart<typeof import('./wiring')>('wiring').startManagement({ sandbox, bundle, figures: this.figures, logger: this.logger });
    });
  }

  /** Takes no more callers, ends the sandbox; leaves once the answer is out. Callers that come twice join. */
  async shutDown(stopSandbox: () => Promise<void>): Promise<void> {
    this.refuseCallers();
    const gone = withTimeout(stopSandbox(), STOP_TIMEOUT_MS, () => new KataError('DeadlineExceeded', 'the sandbox did not end'));
    this.leaving ??= (async () => {
      await gone.catch((reason: unknown) => {
        this.logger.error('leaving a sandbox behind', { error: describeError(reason) });
      });
      // The answer to the caller goes out in this turn.
      await sleep(1);
      await this.leave(0);
    })();
    await Promise.race([gone.catch(() => undefined), sleep(SHUTDOWN_REPLY_MS)]);
  }

  private refuseCallers(): void {
    this.idle.stop();
    this.socketFile.remove();
    this.started.server.close();
  }

  private async leave(status: number): Promise<void> {
    this.closeManagement?.();
    await this.events.flush(FLUSH_EVENTS_MS);
    await this.ttrpc.close();
    this.events.close();
    stopLoggers();
    this.logger.info('leaving', { status });
    process.exit(status);
  }

  /** Working directory, signals, last resorts. */
  private settleProcess(): void {
    // The host removes the bundle; a process whose working directory is gone cannot start others.
    process.chdir('/');
    for (const signal of ['SIGPIPE', 'SIGHUP'] as const) {
      process.on(signal, () => undefined);
    }
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.on(signal, () => {
        this.endBecause(`signal ${signal}`, 0);
      });
    }
    // Without a listener Node would open its debugger.
    process.on('SIGUSR1', () => {
      this.dump();
    });
    process.on('unhandledRejection', (reason) => {
      this.endBecause(`unhandled rejection: ${describeError(reason)}`, 1, reason);
    });
    process.on('uncaughtException', (reason) => {
      this.endBecause(`uncaught exception: ${describeError(reason)}`, 1, reason);
    });
    if ((process.env['SCHED_CORE'] ?? '') !== '') {
      this.ownSchedulingCookie();
    }
  }

  private ownSchedulingCookie(): void {
    try {
      // eslint-disable-next-line @typescript-eslint/no-require-imports -- the native part, only where asked for
      const { createCoreSchedulingCookie } = require('../base/syscalls') as typeof import('../base/syscalls');
      createCoreSchedulingCookie();
    } catch (reason) {
      this.logger.warn('core scheduling is not possible here', { error: describeError(reason) });
    }
  }

  private endBecause(why: string, status: number, reason?: unknown): void {
    this.logger[status === 0 ? 'info' : 'error']('ending', { why, stack: reason instanceof Error ? reason.stack : undefined });
    this.leaving ??= (async () => {
      this.refuseCallers();
      await withTimeout(this.pod.stop(), STOP_TIMEOUT_MS, () => new KataError('DeadlineExceeded', 'the sandbox did not end')).catch(() => undefined);
      await this.leave(status);
    })();
  }

  private dump(): void {
    const { rss, heapUsed } = process.memoryUsage();
    const resources = new Map<string, number>();
    for (const name of process.getActiveResourcesInfo()) {
      resources.set(name, (resources.get(name) ?? 0) + 1);
    }
    this.logger.info('diagnostic dump', {
      rss,
      heap: heapUsed,
      connections: this.ttrpc.connections,
      calls: this.ttrpc.activeCalls,
      resources: [...resources].map(([name, count]) => `${name}:${String(count)}`).join(','),
      tasks: this.pod.describe(),
    });
  }
}
