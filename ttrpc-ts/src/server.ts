import type { Server, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { DEFAULT_MAX_QUEUED_BYTES, type ConnectionLimits } from './connection';
import { TtrpcError, type Code } from './errors';
import { MAX_MESSAGE_BYTES } from './frame';
import { ServerConnection, type ConnectionHost, type Route } from './server-connection';
import type { AnyMethod, Handlers, ServiceDefinition, StreamHandler, UnaryHandler } from './service';

/** Names that come from a peer are cut to this length in error texts. */
const MAX_NAME_IN_TEXT = 200;

/** Options of a server; all may be left out. */
export interface ServerOptions {
  /** Limit of a message in either direction; the protocol's 4 MiB. */
  readonly maxMessageBytes?: number;
  /** Unsent bytes from which on nothing more is read from a connection; 4 MiB. */
  readonly maxQueuedBytes?: number;
  /**
   * The status for an error that a handler threw and that is no `TtrpcError` (those go out as they are). Without it,
   * or when it gives undefined: `Unknown` with the error's text.
   */
  readonly mapError?: (error: unknown) => { readonly code: Code; readonly message: string } | undefined;
  /** Whether to serve a connection that `listen` accepted (peer credentials); it is destroyed otherwise. */
  readonly accept?: (socket: Socket) => boolean;
  /** Told about failures of the listening socket after `listen` has resolved. */
  readonly onListenError?: (error: Error) => void;
}

/** Where to listen: a unix socket path, or a descriptor that is bound already. */
export type ListenAddress = { readonly path: string } | { readonly fd: number };

/** Serves ttrpc services on any number of connections. */
export class TtrpcServer {
  private readonly services = new Map<string, Map<string, Route>>();
  private readonly open = new Set<ServerConnection>();
  private readonly host: ConnectionHost;
  private listener: Server | undefined;
  private nextConnectionId = 1;
  private isClosed = false;

  constructor(private readonly options: ServerOptions = {}) {
    const limits: ConnectionLimits = {
      maxMessageBytes: options.maxMessageBytes ?? MAX_MESSAGE_BYTES,
      maxQueuedBytes: options.maxQueuedBytes ?? DEFAULT_MAX_QUEUED_BYTES,
      stopsReadingWhenFull: true,
    };
    this.host = {
      limits,
      mapError: options.mapError,
      route: (service, method) => this.route(service, method),
      onClose: (connection) => this.forget(connection),
    };
  }

  /** How many connections are open. */
  get connections(): number {
    return this.open.size;
  }

  /** How many calls, on all connections, are not answered yet. */
  get activeCalls(): number {
    let count = 0;
    for (const connection of this.open) {
      count += connection.activeCalls;
    }
    return count;
  }

  /** Adds a service. Throws on a handler that no method has, or a name that is taken. */
  register<D extends ServiceDefinition>(definition: D, handlers: NoInfer<Handlers<D>>): this {
    if (this.services.has(definition.name)) {
      throw new TtrpcError('AlreadyExists', `service "${definition.name}" is registered already`);
    }
    const routes = new Map<string, Route>();
    const known = new Set<string>();
    for (const [name, method] of Object.entries(definition.methods)) {
      const small = uncapitalize(name);
      known.add(name).add(small);
      // Not only own properties: handlers may be an object of a class.
      const handler: unknown = Reflect.get(handlers, name) ?? Reflect.get(handlers, small);
      if (handler !== undefined) {
        routes.set(name, toRoute(method, handler, handlers));
      }
    }
    for (const [key, value] of Object.entries(handlers)) {
      if (typeof value === 'function' && !known.has(key)) {
        throw new TtrpcError('InvalidArgument', `service "${definition.name}" has no method "${key}"`);
      }
    }
    this.services.set(definition.name, routes);
    return this;
  }

  /** Listens; resolves once clients can connect, rejects with the system's error. */
  listen(address: ListenAddress): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.listener !== undefined || this.isClosed) {
        throw new TtrpcError('FailedPrecondition', 'server listens already, or was closed');
      }
      // Loaded here: a server of inherited connections does not need it, and `import()` would load the ESM loader.
      // eslint-disable-next-line @typescript-eslint/no-require-imports
      const net = require('node:net') as typeof import('node:net');
      const listener = net.createServer({ allowHalfOpen: false }, (socket) => {
        if (this.options.accept?.(socket) === false) {
          socket.on('error', () => undefined);
          socket.destroy();
        } else {
          this.handleConnection(socket);
        }
      });
      this.listener = listener;
      const onFailure = (error: Error): void => {
        this.listener = undefined;
        reject(error);
      };
      listener.once('error', onFailure);
      listener.listen('fd' in address ? { fd: address.fd } : { path: address.path }, () => {
        listener.off('error', onFailure);
        listener.on('error', (error) => this.options.onListenError?.(error));
        resolve();
      });
    });
  }

  /** Serves one connection, which the server owns from here on. */
  handleConnection(duplex: Duplex): void {
    if (this.isClosed) {
      duplex.on('error', () => undefined);
      duplex.destroy();
      return;
    }
    this.open.add(new ServerConnection(this.nextConnectionId++, duplex, this.host));
  }

  /**
   * Stops listening (which removes the socket's file), aborts the calls in progress, sends what is queued (for at
   * most a second) and ends every connection. A handler that wants its own answer out calls this after it returned.
   */
  async close(): Promise<void> {
    this.isClosed = true;
    const { listener } = this;
    this.listener = undefined;
    const closed = listener === undefined ? undefined : new Promise<void>((resolve) => listener.close(() => resolve()));
    await Promise.all([closed, ...[...this.open].map((connection) => connection.close())]);
  }

  private forget(connection: ServerConnection): void {
    this.open.delete(connection);
  }

  private route(service: string, method: string): Route {
    const routes = this.services.get(service);
    if (routes === undefined) {
      throw new TtrpcError('Unimplemented', `service ${cut(service)} (method ${cut(method)}): unknown service`);
    }
    const route = routes.get(method);
    if (route === undefined) {
      throw new TtrpcError('Unimplemented', `method ${cut(method)} of service ${cut(service)}: not implemented`);
    }
    return route;
  }
}

function toRoute(method: AnyMethod, handler: unknown, owner: object): Route {
  if (typeof handler !== 'function') {
    throw new TtrpcError('InvalidArgument', 'a handler has to be a function');
  }
  const bound: unknown = handler.bind(owner);
  return method.kind === 'unary'
    ? { method, handler: bound as UnaryHandler<unknown, unknown> }
    : { method, handler: bound as StreamHandler<unknown, unknown> };
}

function uncapitalize(name: string): string {
  return name.charAt(0).toLowerCase() + name.slice(1);
}

function cut(name: string): string {
  return name.length > MAX_NAME_IN_TEXT ? `${name.slice(0, MAX_NAME_IN_TEXT)}...` : name;
}
