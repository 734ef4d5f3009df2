/** CRI as a kubelet calls it: gRPC on the runtime's socket. */
import { Client, credentials, type ServiceError } from '@grpc/grpc-js';
import { RuntimeServiceDefinition, type DeepPartial, type MessageFns } from '../../../gen/cri/runtime';

const METHODS = RuntimeServiceDefinition.methods;
const DEADLINE_MS = 180_000;

type Methods = typeof METHODS;
type RequestOf<M extends keyof Methods> = Methods[M]['requestType'] extends MessageFns<infer T> ? T : never;
type ReplyOf<M extends keyof Methods> = Methods[M]['responseType'] extends MessageFns<infer T> ? T : never;

interface Method<Req, Res> {
  readonly name: string;
  readonly requestType: MessageFns<Req>;
  readonly responseType: MessageFns<Res>;
}

function methodOf<M extends keyof Methods>(method: M): Method<RequestOf<M>, ReplyOf<M>> {
  const found: unknown = METHODS[method];
  return found as Method<RequestOf<M>, ReplyOf<M>>;
}

export class CriClient {
  private readonly client: Client;

  constructor(socketPath: string) {
    this.client = new Client(`unix:${socketPath}`, credentials.createInsecure());
  }

  /** One call; rejects with grpc-js's error, which has the code and the text of the runtime. */
  async call<M extends keyof Methods>(method: M, request: DeepPartial<RequestOf<M>>): Promise<ReplyOf<M>> {
    const { name, requestType, responseType } = methodOf(method);
    return new Promise((resolve, reject) => {
      this.client.makeUnaryRequest<RequestOf<M>, ReplyOf<M>>(
        `/${RuntimeServiceDefinition.fullName}/${name}`,
        (message) => Buffer.from(requestType.encode(message).finish()),
        (bytes) => responseType.decode(bytes),
        requestType.fromPartial(request),
        { deadline: Date.now() + DEADLINE_MS },
        (error: ServiceError | null, reply) => {
          if (error === null && reply !== undefined) {
            resolve(reply);
          } else {
            reject(error ?? new Error('no reply'));
          }
        },
      );
    });
  }

  close(): void {
    this.client.close();
  }
}
