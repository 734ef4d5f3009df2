import { openSync, readdirSync, readFileSync, constants } from 'node:fs';
import type { Socket } from 'node:net';
import { sleep } from '../../../base/deadline';
import { streamFromFd } from '../../../base/fd-stream';
import { duplicate, pollOnce } from '../../../base/syscalls';
import type { SerialChannel } from './serial';

const PORTS = '/sys/class/virtio-ports';
const SCAN_MS = 5;
/** How often an unconnected port is looked at. Its own readiness cannot be waited for: it polls as hung up for ever. */
const LOOK_MS = 5;
/**
 * So long must the host be away before its connection is forgotten. The end that we read may be an old one: where a VM
 * was saved right behind it, a clone is told of it when the new host's first bytes are here already. A host that really
 * comes back begins with a preamble, which ends the connection before.
 */
const GONE_MS = 100;
const POLLOUT = 4;
const POLLHUP = 16;

/** The node of the port with this name, if the guest has it. */
export function findPort(name: string, root = PORTS): string | undefined {
  try {
    const found = readdirSync(root).find((entry) => readFileSync(`${root}/${entry}/name`, 'utf8').trim() === name);
    return found === undefined ? undefined : `/dev/${found}`;
  } catch {
    return undefined;
  }
}

/** Waits for a port to show up. */
export async function waitForPort(name: string, timeoutMs: number): Promise<string | undefined> {
  const endsMs = performance.now() + timeoutMs;
  while (performance.now() < endsMs) {
    const path = findPort(name);
    if (path !== undefined) {
      return path;
    }
    await sleep(SCAN_MS);
  }
  return undefined;
}

/**
 * Opens the port, which tells the host that the agent is up, and feeds the channel for ever. A port can be opened once
 * only, so each presence of the host reads through a duplicate.
 */
export function openPort(path: string, channel: SerialChannel): void {
  const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  /** Of a presence that ended, while it may go on. */
  let last: Socket | undefined;
  const serve = (): void => {
    const stream = streamFromFd(duplicate(fd));
    channel.attach((bytes, done) => {
      stream.write(bytes, done);
    });
    last?.destroySoon();
    last = undefined;
    let isOver = false;
    const over = (): void => {
      if (!isOver) {
        isOver = true;
        last = stream;
        look(performance.now());
      }
    };
    stream.on('data', (chunk: Buffer) => channel.feed(chunk));
    stream.on('end', over).on('error', over).on('close', over);
  };
  const look = (sinceMs: number): void => {
    if ((pollOnce(fd, POLLOUT) & POLLHUP) === 0) {
      serve();
      return;
    }
    if (last !== undefined && performance.now() - sinceMs > GONE_MS) {
      channel.detach();
      last.destroy();
      last = undefined;
    }
    setTimeout(look, LOOK_MS, sinceMs);
  };
  look(performance.now());
}
