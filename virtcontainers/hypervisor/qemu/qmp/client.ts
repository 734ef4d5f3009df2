/** The QMP client: commands with deadlines, many in flight, typed events. Loaded while QEMU itself starts. */
import type { Socket } from 'node:net';
import { createMessageConnection, ResponseError, type MessageConnection } from 'vscode-jsonrpc/node';
import { defer, withTimeout, type Deferred } from '../../../../base/deadline';
import { KataError, type ErrorCode } from '../../../../base/errors';
import type { Logger } from '../../../../base/log';
import { asObject, type Shape } from './shape';
import { QmpReader, QmpWriter } from './transport';

/** Events that we act on; others are logged at debug level only. */
export type QmpEventName =
  | 'SHUTDOWN'
  | 'RESET'
  | 'STOP'
  | 'RESUME'
  | 'VSERPORT_CHANGE'
  | 'DEVICE_DELETED'
  | 'DEVICE_UNPLUG_GUEST_ERROR'
  | 'MIGRATION'
  | 'GUEST_PANICKED';

export interface QmpEvent {
  readonly event: string;
  readonly data: Shape;
}

export type QmpListener = (event: QmpEvent) => void;

const DEFAULT_TIMEOUT_MS = 5000;

const CODE_OF_CLASS: Readonly<Record<string, ErrorCode>> = {
  CommandNotFound: 'Unimplemented',
  DeviceNotFound: 'NotFound',
  DeviceNotActive: 'FailedPrecondition',
  KVMMissingCap: 'FailedPrecondition',
};

export class QmpClient {
  /** Resolves with the reason when the connection is over, whoever ended it. Never rejects. */
  readonly closed: Promise<KataError>;
  private readonly connection: MessageConnection;
  private readonly writer: QmpWriter;
  private readonly greeting: Deferred<Shape> = defer();
  private readonly ended: Deferred<KataError> = defer();
  private readonly listeners = new Set<QmpListener>();
  private failure: KataError | undefined;

  private constructor(
    private readonly socket: Socket,
    private readonly logger: Logger,
  ) {
    this.closed = this.ended.promise;
    this.writer = new QmpWriter(socket);
    const reader = new QmpReader(socket, (greeting) => { this.greeting.resolve(greeting); }, (reason) => { this.fail(reason); });
    this.connection = createMessageConnection(reader, this.writer, { error: () => undefined, warn: () => undefined, info: () => undefined, log: () => undefined });
    this.connection.onNotification('event', (params: QmpEvent) => { this.dispatch(params); });
    socket.on('error', (reason) => { this.fail(KataError.from(reason, `qmp: connection broken: ${reason.message}`)); });
    socket.on('close', () => { this.fail(new KataError('Unavailable', 'qmp: QEMU closed the connection')); });
    socket.on('end', () => { this.fail(new KataError('Unavailable', 'qmp: QEMU closed the connection')); });
    this.connection.listen();
  }

  /** Takes over a connected (or connecting) socket, waits for the greeting and negotiates. Owns the socket, also on failure. */
  static async open(socket: Socket, options: { readonly timeoutMs: number; readonly logger: Logger; readonly signal?: AbortSignal }): Promise<QmpClient> {
    const client = new QmpClient(socket, options.logger);
    try {
      const greeting = await withTimeout(
        Promise.race([client.greeting.promise, client.closed]),
        options.timeoutMs,
        () => new KataError('DeadlineExceeded', `qmp: no greeting within ${String(options.timeoutMs)} ms`),
        options.signal,
      );
      if (greeting instanceof KataError) {
        throw greeting;
      }
      await client.execute('qmp_capabilities', undefined, options.timeoutMs);
      return client;
    } catch (reason) {
      client.fail(KataError.from(reason, 'qmp: not opened'));
      throw reason;
    }
  }

  private get whyClosed(): KataError | undefined {
    return this.failure;
  }

  get isOpen(): boolean {
    return this.failure === undefined;
  }

  /** Runs a command. QEMU's refusal, a lost connection and no answer in time are errors that name the command. */
  async execute(command: string, args?: object, timeoutMs = DEFAULT_TIMEOUT_MS): Promise<unknown> {
    if (this.failure !== undefined) {
      throw KataError.from(this.failure, `qmp ${command}: connection lost`);
    }
    this.logger.debug('qmp', { command });
    const request = args === undefined ? this.connection.sendRequest<unknown>(command) : this.connection.sendRequest<unknown>(command, args);
    try {
      return await withTimeout(request, timeoutMs, () => new KataError('DeadlineExceeded', `qmp ${command}: no answer within ${String(timeoutMs)} ms`));
    } catch (reason) {
      if (reason instanceof ResponseError && typeof reason.data === 'string') {
        throw new KataError(CODE_OF_CLASS[reason.data] ?? 'Unknown', `qmp ${command}: ${reason.message}`);
      }
      throw reason instanceof KataError ? reason : KataError.from(this.whyClosed ?? reason, `qmp ${command}: connection lost`);
    }
  }

  /** Hands a descriptor to QEMU under a name (`getfd`); the caller keeps its own. */
  async giveDescriptor(name: string, fd: number): Promise<void> {
    this.writer.attach(name, fd);
    await this.execute('getfd', { fdname: name });
  }

  /** Hears every event until the returned function is called. */
  listen(listener: QmpListener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /**
   * Waits for an event. Register before the command that causes it: `const deleted = expect(...); await execute(...)`.
   * Rejects with `onTimeout()`, the abort reason, or Unavailable when the connection ends.
   */
  async expect(
    name: QmpEventName,
    matches: (data: Shape) => boolean,
    options: { readonly timeoutMs: number; readonly onTimeout: () => KataError; readonly signal?: AbortSignal },
  ): Promise<Shape> {
    const found = defer<Shape>();
    const stop = this.listen(({ event, data }) => {
      if (event === name && matches(data)) {
        found.resolve(data);
      }
    });
    try {
      const result = await withTimeout(Promise.race([found.promise, this.closed]), options.timeoutMs, options.onTimeout, options.signal);
      if (result instanceof KataError) {
        throw result;
      }
      return result;
    } finally {
      stop();
    }
  }

  /** Ends the connection; commands in flight fail. */
  close(): void {
    this.fail(new KataError('Canceled', 'qmp: connection closed by us'));
  }

  private dispatch(params: QmpEvent): void {
    this.logger.debug('qmp event', { event: params.event, data: JSON.stringify(params.data).slice(0, 500) });
    const data = asObject(params.data, 'qmp event');
    for (const listener of [...this.listeners]) {
      listener({ event: params.event, data });
    }
  }

  private fail(reason: KataError): void {
    if (this.failure !== undefined) {
      return;
    }
    this.failure = reason;
    this.ended.resolve(reason);
    this.connection.dispose();
    this.socket.destroy();
  }
}
