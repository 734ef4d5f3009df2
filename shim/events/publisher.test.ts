import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { serviceFromTsProto, TtrpcError, TtrpcServer } from 'ttrpc-ts';
import { defer } from '../../base/deadline';
import { describeError } from '../../base/errors';
import { Logger } from '../../base/log';
import { EventsDefinition, type ForwardRequest } from '../../gen/containerd/events/forward';
import { TaskExit } from '../../gen/containerd/events/task';
import { Any } from '../../gen/google/protobuf/any';
import { taskEvent } from './event';
import { EventPublisher, type DatedEvent, type EventTransport } from './publisher';
import { chooseTransport, ForwardTransport, LogTransport, PublishBinaryTransport } from './transports';

let folder: string;
let lines: string[];
const logger = Logger.to((line) => lines.push(line), 'debug');

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'kata-ts-events-'));
  lines = [];
});

afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

/** A host that keeps what it is told. */
class EventsHost {
  readonly seen: ForwardRequest[] = [];
  readonly namespaces: (string | undefined)[] = [];
  refuse = 0;
  private server: TtrpcServer | undefined;

  constructor(readonly path: string) {}

  async listen(): Promise<void> {
    this.server = new TtrpcServer().register(serviceFromTsProto(EventsDefinition), {
      forward: (request, context) => {
        if (this.refuse > 0) {
          this.refuse--;
          throw new TtrpcError('Unavailable', 'not now');
        }
        this.seen.push(request);
        this.namespaces.push(context.metadata.get('containerd-namespace-ttrpc'));
        return {};
      },
    });
    await this.server.listen({ path: this.path });
  }

  async close(): Promise<void> {
    await this.server?.close();
  }

  get topics(): string[] {
    return this.seen.map(({ envelope }) => envelope?.topic ?? '');
  }
}

test('events arrive whole and in order', async () => {
  const host = new EventsHost(join(folder, 's'));
  await host.listen();
  const publisher = new EventPublisher({ transport: new ForwardTransport(host.path, 'ns1'), logger });
  const at = new Date(1_700_000_000_123);
  publisher.publish(taskEvent.start('box', 7));
  publisher.publish(taskEvent.exit({ containerId: 'box', id: 'e1', pid: 7, status: 3, at }));
  publisher.publish(taskEvent.delete({ containerId: 'box', pid: 7, status: 3, at }));
  await publisher.flush(5_000);
  assert.deepEqual(host.topics, ['/tasks/start', '/tasks/exit', '/tasks/delete']);
  assert.deepEqual(host.namespaces, ['ns1', 'ns1', 'ns1']);
  const envelope = host.seen[1]?.envelope;
  assert.equal(envelope?.namespace, 'ns1');
  assert.ok((envelope.timestamp?.seconds ?? 0n) > 0n);
  assert.equal(envelope.event?.typeUrl, 'containerd.events.TaskExit');
  const exit = TaskExit.decode(envelope.event.value);
  assert.deepEqual([exit.id, exit.exitStatus, exit.exitedAt], ['e1', 3, { seconds: 1_700_000_000n, nanos: 123_000_000 }]);
  publisher.close();
  await host.close();
});

test('events survive a host that restarts, in order', async () => {
  const host = new EventsHost(join(folder, 's'));
  const publisher = new EventPublisher({ transport: new ForwardTransport(host.path, 'ns'), logger, retryDelayMs: 20 });
  publisher.publish(taskEvent.paused('a'));
  publisher.publish(taskEvent.resumed('a'));
  await new Promise((resolve) => setTimeout(resolve, 10));
  await host.listen();
  await publisher.flush(5_000);
  assert.deepEqual(host.topics, ['/tasks/paused', '/tasks/resumed']);
  await host.close();
  await host.listen();
  host.refuse = 2;
  publisher.publish(taskEvent.oom('a'));
  await publisher.flush(5_000);
  assert.deepEqual(host.topics.slice(2), ['/tasks/oom']);
  publisher.close();
  await host.close();
});

/** Keeps events; fails for as long as it is told to. */
class FakeTransport implements EventTransport {
  readonly sent: string[] = [];
  tries = 0;
  gate: Promise<unknown> = Promise.resolve();
  isBroken = false;

  async send(event: DatedEvent): Promise<void> {
    this.tries++;
    await this.gate;
    if (this.isBroken) {
      throw new TtrpcError('Unavailable', 'broken');
    }
    this.sent.push(event.topic);
  }

  close(): void {
    // Nothing is held.
  }
}

test('an event is tried six times, then lost with a word in the log, and the next one goes on', async () => {
  const transport = new FakeTransport();
  transport.isBroken = true;
  const publisher = new EventPublisher({ transport, logger, retryDelayMs: 1 });
  publisher.publish(taskEvent.oom('a'));
  await publisher.flush(5_000);
  assert.equal(transport.tries, 6);
  assert.match(lines.join(''), /event lost.*topic=\/tasks\/oom/);
  transport.isBroken = false;
  publisher.publish(taskEvent.paused('a'));
  await publisher.flush(5_000);
  assert.deepEqual(transport.sent, ['/tasks/paused']);
});

test('a queue that is full drops with a word in the log; flush is bounded', async () => {
  const transport = new FakeTransport();
  const gate = defer<undefined>();
  transport.gate = gate.promise;
  const publisher = new EventPublisher({ transport, logger });
  for (let n = 0; n < 2050; n++) {
    publisher.publish(taskEvent.oom('a'));
  }
  await publisher.flush(10);
  assert.equal(transport.sent.length, 0);
  assert.equal(lines.filter((line) => line.includes('event dropped')).length, 2);
  gate.resolve(undefined);
  await publisher.flush(5_000);
  assert.equal(transport.sent.length, 2048);
});

test('the publish program gets topic, namespace and the event on standard input', async () => {
  const program = join(folder, 'publish');
  writeFileSync(program, `#!/bin/sh\necho "$*" >${folder}/args\ncat >${folder}/event\n`);
  chmodSync(program, 0o755);
  const publisher = new EventPublisher({ transport: new PublishBinaryTransport(program, '/run/c.sock', 'ns'), logger });
  publisher.publish(taskEvent.start('box', 7));
  await publisher.flush(5_000);
  assert.equal(readFileSync(join(folder, 'args'), 'utf8'), '--address /run/c.sock publish --topic /tasks/start --namespace ns\n');
  assert.equal(Any.decode(readFileSync(join(folder, 'event'))).typeUrl, 'containerd.events.TaskStart');
});

test('the way is chosen by what the host offers', () => {
  const facts = { ttrpcAddress: '', publishBinary: '', containerdAddress: '', namespace: 'ns', logger };
  assert.ok(chooseTransport({ ...facts, ttrpcAddress: '/run/x' }) instanceof ForwardTransport);
  assert.ok(chooseTransport({ ...facts, publishBinary: '/usr/bin/containerd', containerdAddress: '/run/c.sock' }) instanceof PublishBinaryTransport);
  assert.ok(chooseTransport({ ...facts, publishBinary: '/usr/bin/crio' }) instanceof LogTransport);
});

test('a host that takes an event and never answers costs the time-out; the next try is on a new connection', async () => {
  const path = join(folder, 's');
  const mute = createServer((socket) => socket.on('error', () => undefined).resume());
  await new Promise<void>((resolve) => mute.listen(path, resolve));
  let connections = 0;
  mute.on('connection', () => connections++);
  const transport = new ForwardTransport(`unix://${path}`, 'ns');
  const began = Date.now();
  const event = { ...taskEvent.oom('a'), at: new Date() };
  for (let n = 0; n < 2; n++) {
    await assert.rejects(transport.send(event, 50), (reason) => /no answer within 50 ms/.test(describeError(reason)));
  }
  assert.ok(Date.now() - began < 4_000);
  assert.equal(connections, 2);
  transport.close();
  await new Promise((resolve) => mute.close(resolve));
});

test('retries come at growing distances; after close nothing is tried any more', async () => {
  const transport = new FakeTransport();
  transport.isBroken = true;
  const publisher = new EventPublisher({ transport, logger, retryDelayMs: 20 });
  const began = Date.now();
  publisher.publish(taskEvent.oom('a'));
  await publisher.flush(5_000);
  assert.ok(Date.now() - began >= 20 + 40 + 60 + 80 + 100 - 10, `${String(Date.now() - began)} ms`);
  const late = new EventPublisher({ transport, logger, retryDelayMs: 10 });
  const before = transport.tries;
  late.publish(taskEvent.oom('b'));
  late.publish(taskEvent.oom('c'));
  await new Promise((resolve) => setImmediate(resolve));
  late.close();
  await late.flush(5_000);
  const tried = transport.tries;
  await new Promise((resolve) => setTimeout(resolve, 60));
  assert.deepEqual([tried - before, transport.tries - tried], [1, 0]);
});
