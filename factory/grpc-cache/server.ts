/**
 * The VM cache server: hands VMs of a stock out over gRPC. A VM always has an owner that it ends with, however that ends:
 * this server, then both for a moment, then who took it (`TransferControl`).
 */
import { chmodSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Server, ServerUnaryCall,  sendUnaryData, ServiceDefinition, UntypedServiceImplementation } from '@grpc/grpc-js';
import { describeError, codeOf, KataError, type ErrorCode } from '../../base/errors';
import { defer } from '../../base/deadline';
import type { Logger } from '../../base/log';
import type { CacheFactory } from '../cache/cache';
import { CONFIG_KEY, configKey, encodeConfig, encodeStatus, encodeVm, RPC, type Empty, type GrpcVM, type Rpc } from './wire';

/** Upstream waits this long after Quit, so that the answer is out. */
const QUIT_DELAY_MS = 1000;
const TAKE_TIMEOUT_MS = 10_000;

export interface CacheServerOptions {
  readonly endpoint: string;
  /** Owned: closed with the server. */
  readonly cache: CacheFactory;
  readonly logger: Logger;
  readonly quitDelayMs?: number;
  /** How long a client may take to take over what it was given. */
  readonly takeTimeoutMs?: number;
}

/** Loaded here only: it costs 97 ms. */
function grpc(): typeof import('@grpc/grpc-js') {
  // eslint-disable-next-line @typescript-eslint/no-require-imports
  return require('@grpc/grpc-js') as typeof import('@grpc/grpc-js');
}

/** Our codes are gRPC's, spelt otherwise: `NotFound` is `NOT_FOUND`, `Canceled` is `CANCELLED`. */
function statusOf(code: ErrorCode): import('@grpc/grpc-js').status {
  const { status } = grpc();
  const name = code === 'Canceled' ? 'CANCELLED' : code.replace(/(?<=[a-z])[A-Z]/g, '_$&').toUpperCase();
  return status[name as keyof typeof status];
}

function definitionOf<Req, Res>(rpc: Rpc<Req, Res>): ServiceDefinition[string] {
  return {
    path: rpc.path,
    requestStream: false,
    responseStream: false,
    requestSerialize: (value: Req) => Buffer.from(rpc.request.encode(value).finish()),
    requestDeserialize: (bytes: Buffer) => rpc.request.decode(bytes),
    responseSerialize: (value: Res) => Buffer.from(rpc.response.encode(value).finish()),
    responseDeserialize: (bytes: Buffer) => rpc.response.decode(bytes),
  } as ServiceDefinition[string];
}

export class CacheServer {
  /** Resolves when somebody asked it to quit. */
  readonly quit = defer<undefined>();

  private readonly handing = new Set<Promise<void>>();

  private constructor(
    private readonly server: Server,
    private readonly options: CacheServerOptions,
  ) {}

  /** AlreadyExists where a server answers; a socket that a dead one left is removed. */
  static checkEndpoint(endpoint: string): Promise<void> {
    return checkEndpoint(endpoint);
  }

  /** Listens (0600). AlreadyExists where another server does. */
  static async start(options: CacheServerOptions): Promise<CacheServer> {
    const { endpoint } = options;
    await checkEndpoint(endpoint);
    const { Server, ServerCredentials } = grpc();
    const server = new Server();
    const self = new CacheServer(server, options);
    const methods = Object.fromEntries(Object.entries(RPC).map(([name, rpc]) => [name, definitionOf(rpc as Rpc<unknown, unknown>)]));
    server.addService(methods, self.handlers());
    mkdirSync(dirname(endpoint), { recursive: true, mode: 0o755 });
    await new Promise<void>((resolve, reject) => {
      server.bindAsync(`unix:${endpoint}`, ServerCredentials.createInsecure(), (error) => {
        if (error === null) {
          resolve();
        } else {
          reject(KataError.from(error, `listen on ${endpoint}`));
        }
      });
    });
    chmodSync(endpoint, 0o600);
    return self;
  }

  /** Ends the service and every VM in stock. What was handed over lives on. */
  async stop(): Promise<void> {
    this.server.forceShutdown();
    rmSync(this.options.endpoint, { force: true });
    await this.options.cache.close();
    await Promise.all(this.handing);
  }

  private handlers(): UntypedServiceImplementation {
    const { cache } = this.options;
    const config = encodeConfig(cache.config);
    const key = configKey(cache.config);
    return {
      Config: this.answer(() => config),
      GetBaseVM: this.answer(({ metadata }) => {
        const [wanted = key] = metadata.get(CONFIG_KEY);
        if (wanted !== key) {
          throw new KataError('FailedPrecondition', 'get a virtual machine from the cache: its server was started with another configuration, or VMM, kernel or initrd were replaced since', { hint: 'run kata-runtime factory destroy, then init' });
        }
        return this.handOver();
      }),
      Status: this.answer(() => encodeStatus(process.pid, cache.stock())),
      Quit: this.answer((): Empty => {
        setTimeout(() => { this.quit.resolve(undefined); }, this.options.quitDelayMs ?? QUIT_DELAY_MS);
        return {};
      }),
    };
  }

  private answer<Res>(work: (call: ServerUnaryCall<unknown, Res>) => Res | Promise<Res>): (call: ServerUnaryCall<unknown, Res>, done: sendUnaryData<Res>) => void {
    return (call, done) => {
      void (async () => work(call))().then(
        (value) => { done(null, value); },
        (reason: unknown) => { done({ code: statusOf(codeOf(reason)), details: describeError(reason) }); },
      );
    };
  }

  private async handOver(): Promise<GrpcVM> {
    const { cache, logger } = this.options;
    const made = await cache.getBaseVm();
    const { vm } = made;
    try {
      if (vm.transfer === undefined) {
        throw new KataError('Unimplemented', `hand virtual machine "${vm.id}" over: its hypervisor cannot`);
      }
      const pid = vm.pid;
      const message = encodeVm(made, pid, await vm.transfer.handOver());
      const taken = vm.transfer.release(this.options.takeTimeoutMs ?? TAKE_TIMEOUT_MS).then(
        (ok) => { logger.info(ok ? 'a virtual machine was handed over' : 'nobody took the virtual machine: it is ended', { vm: vm.id }); },
        (reason: unknown) => { logger.warn('handing a virtual machine over failed', { vm: vm.id, error: describeError(reason) }); },
      );
      this.handing.add(taken);
      void taken.finally(() => this.handing.delete(taken));
      return message;
    } catch (reason) {
      await vm.stop();
      throw reason;
    }
  }
}

async function checkEndpoint(endpoint: string): Promise<void> {
  if (!existsSync(endpoint)) {
    return;
  }
  const { connect } = await import('node:net');
  const served = await new Promise<boolean>((resolve) => {
    const socket = connect(endpoint);
    socket.on('connect', () => { socket.destroy(); resolve(true); });
    socket.on('error', () => { resolve(false); });
  });
  if (served) {
    throw new KataError('AlreadyExists', `${endpoint} already exist.  Please stop running VMCache server and remove ${endpoint}`);
  }
  rmSync(endpoint, { force: true });
}

