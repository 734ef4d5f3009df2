/** The task service on a real socket, over a fake guest, with its events kept. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { serviceFromTsProto, TtrpcClient, TtrpcError, TtrpcServer, type UnaryMethod } from 'ttrpc-ts';
import { KataError } from '../../base/errors';
import { Logger } from '../../base/log';
import type { OciSpec } from '../../base/oci-spec';
import { TaskDefinition as TaskV2 } from '../../gen/containerd/task/v2';
import { TaskDefinition as TaskV3 } from '../../gen/containerd/task/v3';
import * as events from '../../gen/containerd/events/task';
import type { RuntimeConfig } from '../../virtcontainers/config/types';
import type { TaskEvent } from '../events/event';
import { observed, taskHandlers } from '../task/handlers';
import { Pod } from '../task/pod';
import { metricsOf } from '../task/stats';
import { toWireStatus } from '../task/status';
import type { ServiceHost } from '../task/types';
import { FakeGuest, FakeSandbox, type FakeContainer } from './fake-guest';

const service = serviceFromTsProto(TaskV2);
type Methods = (typeof service)['methods'];
type RequestOf<M> = M extends UnaryMethod<infer Req, unknown> ? Req : never;
type ResponseOf<M> = M extends { readonly kind: 'unary'; readonly response: { decode(bytes: Uint8Array): infer Res } } ? Res : never;

/** The specification of an exec, as hosts send it. */
export const PROCESS = { typeUrl: 'types.containerd.io/opencontainers/runtime-spec/1/Process', value: Buffer.from('{"args":["true"]}') };

/** For assert.rejects: the answer was an error with this code, and a message like `pattern`. */
export function withCode(code: string, pattern = /./): (reason: unknown) => boolean {
  return (reason) => {
    assert.ok(reason instanceof TtrpcError);
    assert.equal(reason.code, code, reason.message);
    assert.match(reason.message, pattern);
    return true;
  };
}

export class TaskHarness {
  readonly folder = mkdtempSync(join(tmpdir(), 'kata-ts-task-'));
  readonly guest = new FakeGuest();
  readonly events: TaskEvent[] = [];
  readonly pod: Pod;
  sandbox: FakeSandbox | undefined;
  shutDowns = 0;
  configPath: string | undefined;
  specs = new Map<string, OciSpec>();
  createError: KataError | undefined;
  /** Create lasts until its caller goes away. */
  createHangs = false;
  /** Until resolved, Create does not finish. */
  createGate: Promise<unknown> = Promise.resolve();
  private readonly server = new TtrpcServer({ mapError: toWireStatus });
  private readonly clients: TtrpcClient[] = [];

  constructor() {
    const host: ServiceHost = {
      namespace: 'test',
      sandboxId: 'box',
      logger: Logger.none(),
      observer: {},
      publish: (event) => this.events.push(event),
      onSandbox: () => undefined,
      onRpc: () => undefined,
      shutDown: async (stop) => {
        this.shutDowns++;
        await stop();
      },
      backend: {
        readBundle: async (path) => Promise.resolve({ path, spec: this.specs.get(path) ?? {} }),
        loadConfig: async (configPath) => {
          this.configPath = configPath;
          return Promise.resolve({} as RuntimeConfig);
        },
        createSandbox: async (request) => {
          if (this.createError !== undefined) {
            throw this.createError;
          }
          if (this.createHangs) {
            await new Promise((resolve) => request.signal.addEventListener('abort', resolve));
            throw new KataError('Canceled', 'the caller is gone');
          }
          await this.createGate;
          this.sandbox = new FakeSandbox(request, this.guest);
          return this.sandbox;
        },
        parseProcess: (json) => JSON.parse(json) as object,
        parseResources: (json) => JSON.parse(json) as object,
        encodeStats: (stats) => metricsOf(stats, 'v2'),
      },
    };
    this.pod = new Pod(host);
    const handlers = observed(taskHandlers(this.pod, host), this.pod, host);
    this.server.register(serviceFromTsProto(TaskV2), handlers).register(serviceFromTsProto(TaskV3), handlers);
  }

  async listen(): Promise<this> {
    await this.server.listen({ path: join(this.folder, 'sock') });
    return this;
  }

  client(): TtrpcClient {
    const client = new TtrpcClient(connect(join(this.folder, 'sock')));
    this.clients.push(client);
    return client;
  }

  private main: TtrpcClient | undefined;

  async call<N extends keyof Methods>(name: N, request: Partial<RequestOf<Methods[N]>>, serviceName = 'containerd.task.v2.Task'): Promise<ResponseOf<Methods[N]>> {
    this.main ??= this.client();
    const definition = Object.values(TaskV2.methods).find((method) => method.name === name);
    const codecs = service.methods[name] as unknown as UnaryMethod<unknown, ResponseOf<Methods[N]>>;
    const message: unknown = definition?.requestType.fromPartial(request);
    return this.main.call(serviceName, name, codecs, message, { timeoutMs: 20_000 });
  }

  /** A container with its bundle; the first is the sandbox's. */
  async create(id: string, request: Partial<RequestOf<Methods['Create']>> = {}, annotations: Record<string, string> = {}): Promise<FakeContainer> {
    const bundle = join(this.folder, id);
    mkdirSync(bundle, { recursive: true });
    this.specs.set(bundle, { annotations });
    await this.call('Create', { id, bundle, ...request });
    const container = this.sandbox?.containers.get(id);
    if (container === undefined) {
      throw new KataError('Internal', `no container ${id}`);
    }
    return container;
  }

  /** Topics and who they are about, e.g. `exit box/e1 3`. */
  get told(): string[] {
    return this.events.map(({ topic, value }) => {
      const name = topic.replace('/tasks/', '');
      if (name === 'exit') {
        const exit = events.TaskExit.decode(value);
        return `exit ${exit.containerId}/${exit.id} ${String(exit.exitStatus)}`;
      }
      if (name.startsWith('exec')) {
        return `${name} ${events.TaskExecAdded.decode(value).execId}`;
      }
      return `${name} ${events.TaskStart.decode(value).containerId}`;
    });
  }

  /** Cuts the connection of `call`. */
  disconnect(): void {
    this.main?.close();
    this.main = undefined;
  }

  /** Waits, at most 5 s, until something that the server does has happened. */
  async until(happened: () => boolean): Promise<void> {
    for (const end = Date.now() + 5000; !happened(); ) {
      if (Date.now() > end) {
        throw new KataError('DeadlineExceeded', 'it did not happen');
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  async close(): Promise<void> {
    for (const client of this.clients) {
      client.close();
    }
    await this.server.close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
