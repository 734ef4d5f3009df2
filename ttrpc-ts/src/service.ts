import type { CallContext, ServerStream } from './call';

/** Turns messages into bytes and back. `decode` throws on malformed bytes. */
export interface Codec<T> {
  encode(message: T): Uint8Array;
  decode(bytes: Uint8Array): T;
}

/** One request, one response. */
export interface UnaryMethod<Req, Res> {
  readonly kind: 'unary';
  readonly request: Codec<Req>;
  readonly response: Codec<Res>;
}

/** Several requests, several responses, or both. */
export interface StreamMethod<Req, Res> {
  readonly kind: 'stream';
  readonly clientStreams: boolean;
  readonly serverStreams: boolean;
  readonly request: Codec<Req>;
  readonly response: Codec<Res>;
}

/** A method of any message types. */
export type AnyMethod = UnaryMethod<unknown, unknown> | StreamMethod<unknown, unknown>;

/** A service: its full wire name (`containerd.task.v2.Task`) and its methods by wire name (`Create`). */
export interface ServiceDefinition {
  readonly name: string;
  readonly methods: Readonly<Record<string, AnyMethod>>;
}

/** Answers a unary call. Throws `TtrpcError` (or what the server's `mapError` knows) to answer with an error. */
export type UnaryHandler<Req, Res> = (request: Req, context: CallContext) => Promise<Res> | Res;

/** Serves a streaming call; the stream ends when the promise settles. */
export type StreamHandler<Req, Res> = (stream: ServerStream<Req, Res>, context: CallContext) => Promise<void>;

/** The handler that a method needs. */
export type HandlerOf<M> =
  M extends UnaryMethod<infer Req, infer Res>
    ? UnaryHandler<Req, Res>
    : M extends StreamMethod<infer Req, infer Res>
      ? StreamHandler<Req, Res>
      : never;

/**
 * Handlers of a service, keyed by wire name (`CloseIO`) or with a small first letter (`closeIO`). Methods left out
 * are answered with Unimplemented.
 */
export type Handlers<D extends ServiceDefinition> = {
  readonly [K in keyof D['methods'] & string as K | Uncapitalize<K>]?: HandlerOf<D['methods'][K]>;
};

/** What is used of a message type that ts-proto generates. */
export interface TsProtoMessage<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(input: Uint8Array): T;
}

/** What is used of a method in ts-proto's generic definitions. */
export interface TsProtoMethod {
  readonly name: string;
  readonly requestType: TsProtoMessage<unknown>;
  readonly requestStream: boolean;
  readonly responseType: TsProtoMessage<unknown>;
  readonly responseStream: boolean;
}

/** What is used of a service in ts-proto's generic definitions (`outputServices=generic-definitions`). */
export interface TsProtoService {
  readonly fullName: string;
  readonly methods: Readonly<Record<string, TsProtoMethod>>;
}

type MessageOf<P> = P extends TsProtoMessage<infer T> ? T : never;

/** The method that a ts-proto method stands for, typed. */
export type MethodFromTsProto<M extends TsProtoMethod> = M extends {
  readonly requestStream: false;
  readonly responseStream: false;
}
  ? UnaryMethod<MessageOf<M['requestType']>, MessageOf<M['responseType']>>
  : StreamMethod<MessageOf<M['requestType']>, MessageOf<M['responseType']>>;

/** The service that a ts-proto definition stands for, typed by wire names. */
export interface ServiceFromTsProto<D extends TsProtoService> {
  readonly name: D['fullName'];
  readonly methods: {
    readonly [K in keyof D['methods'] as D['methods'][K]['name']]: MethodFromTsProto<D['methods'][K]>;
  };
}

/** A codec around a message type of ts-proto. */
export function codecFromTsProto<T>(type: TsProtoMessage<T>): Codec<T> {
  return {
    encode: (message) => type.encode(message).finish(),
    decode: (bytes) => type.decode(bytes),
  };
}

function methodFromTsProto(method: TsProtoMethod): AnyMethod {
  const request = codecFromTsProto(method.requestType);
  const response = codecFromTsProto(method.responseType);
  return method.requestStream || method.responseStream
    ? { kind: 'stream', clientStreams: method.requestStream, serverStreams: method.responseStream, request, response }
    : { kind: 'unary', request, response };
}

/** Turns a service of ts-proto (`outputServices=generic-definitions`) into a definition. */
export function serviceFromTsProto<const D extends TsProtoService>(definition: D): ServiceFromTsProto<D> {
  const methods: Record<string, AnyMethod> = {};
  for (const method of Object.values(definition.methods)) {
    methods[method.name] = methodFromTsProto(method);
  }
  // The mapped type cannot be built key by key in a way that the compiler follows.
  return { name: definition.fullName, methods } as ServiceFromTsProto<D>;
}
