/**
 * QMP's wire (one JSON object per line) as a reader and a writer for vscode-jsonrpc. QMP is no JSON-RPC: `execute`
 * becomes a request, `return`/`error` a response, an event the notification `event`; greeting and descriptors
 * (SCM_RIGHTS) have no counterpart there and are handled here. Follows docs/interop/qmp-spec of QEMU.
 */
import type { Socket } from 'node:net';
import { AbstractMessageReader, AbstractMessageWriter, type DataCallback, type Disposable, type Message } from 'vscode-jsonrpc/node';
import { KataError } from '../../../../base/errors';
import { sleep } from '../../../../base/deadline';
import { errnoError, errnoName, sendDescriptors } from '../../../../base/syscalls';
import { asObject, type Shape } from './shape';

/** Longest line taken, in bytes: QEMU's own answers stay far below (3 MB for the largest schema). */
export const MAX_LINE_BYTES = 16 * 1024 * 1024;
const SEND_RETRY_MS = 5;
const SEND_RETRIES = 400;

/** Cuts a byte stream into lines, copying each byte at most twice; ResourceExhausted above the limit. */
export class LineSplitter {
  private parts: Buffer[] = [];
  private held = 0;

  constructor(private readonly maxBytes = MAX_LINE_BYTES) {}

  push(chunk: Buffer): string[] {
    const lines: string[] = [];
    let from = 0;
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, from)) {
      const line = Buffer.concat([...this.parts, chunk.subarray(from, at)]).toString('utf8').trim();
      this.parts = [];
      this.held = 0;
      from = at + 1;
      if (line !== '') {
        lines.push(line);
      }
    }
    if (from < chunk.length) {
      this.parts.push(chunk.subarray(from));
      this.held += chunk.length - from;
      if (this.held > this.maxBytes) {
        throw new KataError('ResourceExhausted', `qmp: a line is longer than ${String(this.maxBytes)} bytes`);
      }
    }
    return lines;
  }
}

/** Turns what QEMU says into messages of JSON-RPC. The greeting goes to `onGreeting`. */
export class QmpReader extends AbstractMessageReader {
  private readonly lines = new LineSplitter();

  constructor(
    private readonly socket: Socket,
    private readonly onGreeting: (greeting: Shape) => void,
    private readonly onBroken: (reason: KataError) => void,
  ) {
    super();
  }

  override listen(callback: DataCallback): Disposable {
    const onData = (chunk: Buffer): void => {
      try {
        for (const line of this.lines.push(chunk)) {
          this.take(line, callback);
        }
      } catch (reason) {
        this.onBroken(KataError.from(reason, 'qmp: cannot read what QEMU says'));
      }
    };
    this.socket.on('data', onData);
    return { dispose: () => this.socket.off('data', onData) };
  }

  private take(line: string, callback: DataCallback): void {
    let parsed: unknown;
    try {
      parsed = JSON.parse(line);
    } catch (reason) {
      throw new KataError('DataLoss', `qmp: no JSON: ${JSON.stringify(line.slice(0, 80))}`, { cause: reason });
    }
    const message = asObject(parsed, 'qmp message');
    if (message['QMP'] !== undefined) {
      this.onGreeting(asObject(message['QMP'], 'qmp greeting'));
      return;
    }
    if (typeof message['event'] === 'string') {
      const params = { event: message['event'], data: typeof message['data'] === 'object' ? message['data'] : {} };
      callback({ jsonrpc: '2.0', method: 'event', params } as Message);
      return;
    }
    const id = message['id'];
    if (typeof id !== 'number') {
      throw new KataError('DataLoss', `qmp: an answer to no command: ${line.slice(0, 200)}`);
    }
    if (message['error'] === undefined) {
      // JSON-RPC knows no absent result.
      callback({ jsonrpc: '2.0', id, result: message['return'] ?? null } as Message);
      return;
    }
    const error = asObject(message['error'], 'qmp error');
    callback({ jsonrpc: '2.0', id, error: { code: -32000, message: String(error['desc']), data: String(error['class']) } } as Message);
  }
}

interface Request extends Message {
  readonly id?: number;
  readonly method?: string;
  readonly params?: unknown;
}

/** Writes requests as QMP commands, in order, each with the descriptors that were put up for it. */
export class QmpWriter extends AbstractMessageWriter {
  private chain: Promise<void> = Promise.resolve();
  private readonly descriptors = new Map<string, number>();

  constructor(private readonly socket: Socket) {
    super();
  }

  /** The next `getfd` of this name carries the descriptor, which must stay open until it is answered. */
  attach(name: string, fd: number): void {
    this.descriptors.set(name, fd);
  }

  write(message: Message): Promise<void> {
    const { id, method, params } = message as Request;
    if (id === undefined || method === undefined || method.startsWith('$/')) {
      // Cancellation and tracing of JSON-RPC: QMP has no such thing.
      return Promise.resolve();
    }
    const line = Buffer.from(`${JSON.stringify({ execute: method, ...(params === undefined ? {} : { arguments: params }), id })}\n`);
    const name = method === 'getfd' && typeof params === 'object' && params !== null && 'fdname' in params ? String(params.fdname) : '';
    const fd = this.descriptors.get(name);
    this.descriptors.delete(name);
    const work = this.chain.then(() => (fd === undefined ? this.plain(line) : this.withDescriptor(line, fd)));
    this.chain = work.catch(() => undefined);
    return work;
  }

  end(): void {
    this.socket.end();
  }

  private async plain(line: Uint8Array): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.socket.write(line, (error) => {
        if (error) {
          reject(error);
        } else {
          resolve();
        }
      });
    });
  }

  /** Everything before is in the kernel already (each write is awaited), so the descriptor travels with its own line. */
  private async withDescriptor(line: Buffer, fd: number): Promise<void> {
    for (let tries = 0; tries < SEND_RETRIES; tries++) {
      const handle = (this.socket as unknown as { readonly _handle: { readonly fd: number } | null })._handle;
      if (handle === null || this.socket.destroyed) {
        break;
      }
      const sent = sendDescriptors(handle.fd, line, [fd]);
      if (sent > 0) {
        return sent < line.length ? this.plain(line.subarray(sent)) : undefined;
      }
      if (!['EAGAIN', 'EINTR'].includes(errnoName(sent))) {
        throw KataError.from(errnoError(sent, 'sendmsg'), 'qmp: send a descriptor');
      }
      await sleep(SEND_RETRY_MS);
    }
    throw new KataError('Unavailable', 'qmp: send a descriptor: the connection does not take it');
  }
}
