import { closeSync, openSync, writeFileSync } from 'node:fs';
import type { TtrpcServer } from 'ttrpc-ts';
import { defer, sleep } from '../../../base/deadline';
import { describeError } from '../../../base/errors';
import { log } from '../console-log';
import { SerialChannel } from '../channel/serial';
import { openPort, waitForPort } from '../channel/virtio-port';
import { optionsFromCommandLine, readCommandLine, type AgentOptions } from '../options';
import { setLoopbackUp } from './loopback';
import { GuestModules, readModuleLists, virtioDevices } from './modules';
import { mountEssentials, mountRest } from './mounts';

/** Name of the virtio-serial port of the agent's channel. */
export const AGENT_PORT = 'agent.channel.0';
const PORT_WAIT_MS = 60_000;
/** How long the rest of the boot stays back for the serial port to show up. */
const SERIAL_FIRST_MS = 1000;
/** Virtio devices (network, 9p, vsock, virtio-fs) whose modules the first container needs, where the guest has them. */
const FIRST_DEVICES: readonly string[] = ['1', '9', '19', '26'];

/** Boots the guest up to the point where the agent can be called; what is left goes on in the background. */
export async function bootGuest(start: (options: AgentOptions, modules: GuestModules, ready: Promise<void>) => TtrpcServer): Promise<void> {
  const entryMs = Math.round(performance.now());
  mountEssentials();
  const options = optionsFromCommandLine(readCommandLine());
  log.setLevel(options.logLevel);
  const modules = new GuestModules(readModuleLists());
  const mountedMs = Math.round(performance.now());
  modules.loadBoot();
  const modulesMs = Math.round(performance.now());
  const ready = defer<undefined>();
  const server = start(options, modules, ready.promise);
  const serial = serveSerial(server);
  serveVsock(server, options);
  if (options.unixPath !== undefined) {
    await server.listen({ path: options.unixPath });
  }
  // The first answer comes before the rest of the modules.
  await Promise.race([serial, sleep(SERIAL_FIRST_MS)]);
  log.debug('agent can be called', { entryMs, mountedMs, modulesMs, uptimeMs: Math.round(performance.now()) });
  await finishBoot(options, modules, () => ready.resolve(undefined));
  await serial;
}

async function finishBoot(options: AgentOptions, modules: GuestModules, onModules: () => void): Promise<void> {
  bestEffort('oom score', () => writeFileSync('/proc/self/oom_score_adj', '-997'));
  mountRest();
  bestEffort('loopback', setLoopbackUp);
  const present = virtioDevices();
  await modules.forDevices(FIRST_DEVICES.filter((id) => present.includes(id)));
  log.debug('first modules are loaded', { uptimeMs: Math.round(performance.now()) });
  onModules();
  serveVsockLate?.();
  if (options.debugConsole) {
    const { serveDebugConsole } = await import('../channel/debug-console');
    serveDebugConsole(options.debugConsolePort);
  }
  log.info('guest is up', { uptimeMs: Math.round(performance.now()) });
}

/** Serves the virtio-serial port where the VM has one; it may take a moment to show up. */
async function serveSerial(server: TtrpcServer): Promise<void> {
  const path = await waitForPort(AGENT_PORT, PORT_WAIT_MS);
  if (path === undefined) {
    log.debug('no serial port for the agent');
    return;
  }
  const channel = new SerialChannel((connection) => server.handleConnection(connection));
  openPort(path, channel);
  log.info('agent serves', { port: path });
}

/** Tries vsock again: set where its modules were not loaded at first. */
let serveVsockLate: (() => void) | undefined;

/** Serves vsock where the VM has it. */
function serveVsock(server: TtrpcServer, options: AgentOptions): void {
  const listen = (): void => {
    try {
      closeSync(openSync('/dev/vsock', 'r'));
      // Loaded here: a guest with a serial channel does not need it.
      void import('../channel/vsock').then(({ listenVsock }) => listenVsock(options.vsockPort, (socket) => server.handleConnection(socket)));
      serveVsockLate = undefined;
    } catch {
      serveVsockLate ??= listen;
    }
  };
  listen();
}

function bestEffort(what: string, work: () => void): void {
  try {
    work();
  } catch (reason) {
    log.debug(`${what} not set`, { error: describeError(reason) });
  }
}
