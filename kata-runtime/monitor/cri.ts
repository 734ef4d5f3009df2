/** The little of CRI that kata-monitor needs: ListPodSandbox, gRPC over HTTP/2 on the runtime's unix socket. */
import { connect as connectHttp2, constants } from 'node:http2';
import { connect as connectSocket } from 'node:net';
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';
import { KataError } from '../../base/errors';

export interface PodLabels {
  readonly uid: string;
  readonly name: string;
  readonly namespace: string;
}

/** Newest first; containerd 1.6 has both, later ones only v1. */
const SERVICES: readonly string[] = ['runtime.v1.RuntimeService', 'runtime.v1alpha2.RuntimeService'];
const MAX_REPLY_BYTES = 16 * 1024 * 1024;
const GRPC_UNIMPLEMENTED = '12';

/** `ListPodSandboxRequest{filter: {state: {state: SANDBOX_READY}}}`: READY is 0, so the filter is an empty value in an empty message. */
const LIST_READY = Buffer.from([0x0a, 0x02, 0x12, 0x00]);

function readMetadata(reader: BinaryReader, length: number): PodLabels {
  const end = reader.pos + length;
  const fields = ['', '', ''];
  while (reader.pos < end) {
    const [field, wire] = reader.tag();
    if (field >= 1 && field <= 3 && wire === WireType.LengthDelimited) {
      // 1 name, 2 uid, 3 namespace
      fields[field - 1] = reader.string();
    } else {
      reader.skip(wire);
    }
  }
  return { name: fields[0] ?? '', uid: fields[1] ?? '', namespace: fields[2] ?? '' };
}

/** ListPodSandboxResponse: `items = 1` of `id = 1`, `metadata = 2`. DataLoss for what is none. */
export function decodeSandboxes(bytes: Uint8Array): Map<string, PodLabels> {
  const found = new Map<string, PodLabels>();
  try {
    const reader = new BinaryReader(bytes);
    while (reader.pos < reader.len) {
      const [field, wire] = reader.tag();
      if (field !== 1 || wire !== WireType.LengthDelimited) {
        reader.skip(wire);
        continue;
      }
      const end = reader.uint32() + reader.pos;
      let id = '';
      let labels: PodLabels = { uid: '', name: '', namespace: '' };
      while (reader.pos < end) {
        const [inner, innerWire] = reader.tag();
        if (inner === 1 && innerWire === WireType.LengthDelimited) {
          id = reader.string();
        } else if (inner === 2 && innerWire === WireType.LengthDelimited) {
          labels = readMetadata(reader, reader.uint32());
        } else {
          reader.skip(innerWire);
        }
      }
      found.set(id, labels);
    }
  } catch (reason) {
    throw new KataError('DataLoss', 'list pod sandboxes: the answer of the CRI cannot be read', { cause: reason });
  }
  return found;
}

interface UnaryReply {
  readonly grpcStatus: string;
  readonly message: string;
  readonly body: Buffer;
}

async function unary(socketPath: string, path: string, payload: Uint8Array, timeoutMs: number): Promise<UnaryReply> {
  return new Promise((resolve, reject) => {
    const session = connectHttp2('http://localhost', { createConnection: () => connectSocket(socketPath) });
    const settle = (work: () => void): void => {
      clearTimeout(timer);
      session.destroy();
      work();
    };
    const fail = (reason: Error): void => settle(() => reject(KataError.from(reason, `ask the CRI at ${socketPath}`)));
    const timer = setTimeout(() => fail(new KataError('DeadlineExceeded', `no answer within ${String(timeoutMs)} ms`)), timeoutMs);
    session.on('error', fail);
    const stream = session.request({ [constants.HTTP2_HEADER_METHOD]: 'POST', [constants.HTTP2_HEADER_PATH]: path, 'content-type': 'application/grpc', te: 'trailers' });
    const parts: Buffer[] = [];
    let length = 0;
    let status = '';
    let message = '';
    const note = (headers: Readonly<Record<string, unknown>>): void => {
      const given = headers['grpc-status'];
      if (typeof given === 'string' || typeof given === 'number') {
        status = String(given);
        message = typeof headers['grpc-message'] === 'string' ? headers['grpc-message'] : '';
      }
    };
    stream.on('response', note);
    stream.on('trailers', note);
    stream.on('error', fail);
    stream.on('data', (chunk: Buffer) => {
      length += chunk.length;
      if (length > MAX_REPLY_BYTES) {
        fail(new KataError('ResourceExhausted', `the answer is larger than ${String(MAX_REPLY_BYTES)} bytes`));
      } else {
        parts.push(chunk);
      }
    });
    stream.on('end', () => settle(() => resolve({ grpcStatus: status, message, body: Buffer.concat(parts) })));
    const frame = Buffer.alloc(5);
    frame.writeUInt32BE(payload.length, 1);
    stream.end(Buffer.concat([frame, payload]));
  });
}

/** Ready pod sandboxes by id. Unavailable and the like where the CRI does not answer. */
export async function listPodSandboxes(socketPath: string, timeoutMs = 3_000): Promise<Map<string, PodLabels>> {
  let refused = '';
  for (const service of SERVICES) {
    const reply = await unary(socketPath, `/${service}/ListPodSandbox`, LIST_READY, timeoutMs);
    if (reply.grpcStatus === '0' || (reply.grpcStatus === '' && reply.body.length >= 5)) {
      return decodeSandboxes(reply.body.subarray(5));
    }
    refused = `${reply.grpcStatus} ${reply.message}`.trim();
    if (reply.grpcStatus !== GRPC_UNIMPLEMENTED) {
      break;
    }
  }
  throw new KataError('Unavailable', `list pod sandboxes at ${socketPath}: the CRI answers ${refused === '' ? 'nothing' : refused}`, { hint: 'its CRI plugin may be off; sandboxes are shown without the names of their pods' });
}
