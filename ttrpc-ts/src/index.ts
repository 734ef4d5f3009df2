export { type CallContext, type ServerStream } from './call';
export { TtrpcClient, type CallOptions, type ClientOptions, type Codecs } from './client';
export { type ClientStream } from './client-stream';
export { codeFromNumber, codeToNumber, TtrpcError, type Code, type StatusDetail, type TtrpcErrorOptions } from './errors';
export { encodeFrame, Flag, FrameDecoder, FrameType, HEADER_BYTES, MAX_MESSAGE_BYTES, type Frame } from './frame';
export { Metadata, type MetadataInit } from './metadata';
export { TtrpcServer, type ListenAddress, type ServerOptions } from './server';
export {
  codecFromTsProto,
  serviceFromTsProto,
  type AnyMethod,
  type Codec,
  type HandlerOf,
  type Handlers,
  type MethodFromTsProto,
  type ServiceDefinition,
  type ServiceFromTsProto,
  type StreamHandler,
  type StreamMethod,
  type TsProtoMessage,
  type TsProtoMethod,
  type TsProtoService,
  type UnaryHandler,
  type UnaryMethod,
} from './service';
