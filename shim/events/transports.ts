/** The ways by which events reach the host. */
import { connect } from 'node:net';
import { codecFromTsProto, TtrpcClient } from 'ttrpc-ts';
import { run } from '../../base/child';
import { withTimeout } from '../../base/deadline';
import { KataError } from '../../base/errors';
import type { Logger } from '../../base/log';
import { ForwardRequest } from '../../gen/containerd/events/forward';
import { Any } from '../../gen/google/protobuf/any';
import { Empty } from '../../gen/google/protobuf/empty';
import { timestampOf } from './event';
import type { DatedEvent, EventTransport } from './publisher';

const SERVICE = 'containerd.services.events.ttrpc.v1.Events';
const CODECS = { request: codecFromTsProto(ForwardRequest), response: codecFromTsProto(Empty) };

/** ttrpc `Forward` to containerd; dials anew when the connection is gone. */
export class ForwardTransport implements EventTransport {
  private client: TtrpcClient | undefined;

  /** `address` is a path, with or without `unix://`. */
  constructor(
    private readonly address: string,
    private readonly namespace: string,
  ) {}

  async send(event: DatedEvent, timeoutMs: number): Promise<void> {
    const client = this.client ?? (await this.dial(timeoutMs));
    const request = {
      envelope: { timestamp: timestampOf(event.at), namespace: this.namespace, topic: event.topic, event: { typeUrl: event.typeUrl, value: event.value } },
    };
    const metadata = { 'containerd-namespace-ttrpc': this.namespace };
    try {
      await client.call(SERVICE, 'Forward', CODECS, request, { timeoutMs, metadata });
    } catch (reason) {
      this.close();
      throw KataError.from(reason, `forward ${event.topic} to ${this.address}`);
    }
  }

  close(): void {
    this.client?.close();
    this.client = undefined;
  }

  private async dial(timeoutMs: number): Promise<TtrpcClient> {
    const socket = connect(this.address.replace(/^unix:\/\//, ''));
    const connected = new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    try {
      await withTimeout(connected, timeoutMs, () => new KataError('DeadlineExceeded', 'no answer'));
    } catch (reason) {
      socket.destroy();
      throw KataError.from(reason, `dial ${this.address} for events`);
    }
    socket.unref();
    const client = new TtrpcClient(socket, {
      onClose: () => {
        if (this.client === client) {
          this.client = undefined;
        }
      },
    });
    this.client = client;
    return client;
  }
}

/** Runs the host's publish program once per event. */
export class PublishBinaryTransport implements EventTransport {
  constructor(
    private readonly program: string,
    private readonly containerdAddress: string,
    private readonly namespace: string,
  ) {}

  async send(event: DatedEvent, timeoutMs: number): Promise<void> {
    const args = ['--address', this.containerdAddress, 'publish', '--topic', event.topic, '--namespace', this.namespace];
    const input = Any.encode({ typeUrl: event.typeUrl, value: event.value }).finish();
    await run(this.program, args, { input, stdout: 'ignore', timeoutMs, cwd: '/' });
  }

  close(): void {
    // Nothing is kept between two events.
  }
}

/** For hosts that take no events (cri-o): they are in the log. */
export class LogTransport implements EventTransport {
  constructor(private readonly logger: Logger) {}

  async send(event: DatedEvent): Promise<void> {
    this.logger.info('event', { topic: event.topic });
    await Promise.resolve();
  }

  close(): void {
    // Nothing is held.
  }
}

export interface TransportFacts {
  readonly ttrpcAddress: string;
  readonly publishBinary: string;
  readonly containerdAddress: string;
  readonly namespace: string;
  readonly logger: Logger;
}

/** ttrpc where the host offers it, else its publish program, else the log. */
export function chooseTransport(facts: TransportFacts): EventTransport {
  if (facts.ttrpcAddress !== '') {
    return new ForwardTransport(facts.ttrpcAddress, facts.namespace);
  }
  // Without an address this is cri-o, whose publish program does nothing.
  if (facts.publishBinary !== '' && facts.containerdAddress !== '') {
    return new PublishBinaryTransport(facts.publishBinary, facts.containerdAddress, facts.namespace);
  }
  return new LogTransport(facts.logger);
}
