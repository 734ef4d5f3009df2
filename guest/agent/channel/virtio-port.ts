import { openSync, readdirSync, readFileSync, constants } from 'node:fs';
import { sleep } from '../../../base/deadline';
import { streamFromFd } from '../../../base/fd-stream';
import { duplicate, pollOnce } from '../../../base/syscalls';
import type { SerialChannel } from './serial';

const PORTS = '/sys/class/virtio-ports';
const SCAN_MS = 5;
/** How often an unconnected port is looked at. Its own readiness cannot be waited for: it polls as hung up for ever. */
const LOOK_MS = 5;
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
  const serve = (): void => {
    const stream = streamFromFd(duplicate(fd));
    channel.attach((bytes, done) => {
      stream.write(bytes, done);
    });
    let isOver = false;
    const over = (): void => {
      if (!isOver) {
        isOver = true;
        channel.detach();
        stream.destroy();
        look();
      }
    };
    stream.on('data', (chunk: Buffer) => channel.feed(chunk));
    stream.on('end', over).on('error', over).on('close', over);
  };
  const look = (): void => {
    if ((pollOnce(fd, POLLOUT) & POLLHUP) === 0) {
      serve();
    } else {
      setTimeout(look, LOOK_MS);
    }
  };
  look();
}
