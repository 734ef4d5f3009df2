/**
 * The guest agent: PID 1 of the embedded guest, or (`--mock`) a host process that stands for a guest. Order matters,
 * since a guest under emulation is slow: mounts and the modules that the channel needs, the server, then the rest.
 */
import { describeError } from '../../base/errors';
import { becomeSubreaper } from '../../base/syscalls';
import { log } from './console-log';
import { optionsFromArguments, readCommandLine, type AgentOptions } from './options';
import { reaper } from './process/reaper';
import { Sandbox } from './sandbox/sandbox';
import { makeServer } from './service';

const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** The end of PID 1 is the end of the guest: whatever goes wrong is said, and the agent lives on. */
function neverExit(): void {
  process.on('uncaughtException', (error) => {
    log.error('uncaught error', { error: describeError(error), stack: error.stack?.slice(0, 1000) });
  });
  process.on('unhandledRejection', (reason) => {
    log.error('unhandled rejection', { error: describeError(reason) });
  });
  ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGPIPE'].forEach((signal) => process.on(signal, () => undefined));
  // Keeps the event loop alive whatever the channels do.
  setInterval(() => undefined, 0x7fffffff);
}

async function runMock(options: AgentOptions): Promise<void> {
  const { prepareMock } = await import('./boot/mock');
  prepareMock(options.sharePath);
  if (process.pid !== 1) {
    becomeSubreaper();
  }
  reaper.start();
  const server = makeServer(new Sandbox(options));
  if (options.unixPath === undefined) {
    log.error('argument --listen unix:///path is missing');
    process.exit(2);
  }
  await server.listen({ path: options.unixPath });
  log.info('agent serves', { address: options.unixPath });
  const stop = (): void => void server.close().finally(() => process.exit(0));
  process.once('SIGTERM', stop).once('SIGINT', stop);
}

async function runGuest(): Promise<void> {
  neverExit();
  const { bootGuest } = await import('./boot/guest');
  await bootGuest((options, modules, ready) => {
    reaper.start();
    const sandbox = new Sandbox(options);
    sandbox.ready = ready;
    sandbox.modules = modules;
    return makeServer(sandbox);
  });
}

async function main(): Promise<void> {
  process.env['PATH'] ??= DEFAULT_PATH;
  const args = process.argv.slice(2);
  // The kernel hands words of its command line that it does not know to PID 1: they mean nothing here.
  if (process.pid === 1 && !args.includes('--mock')) {
    await runGuest();
    return;
  }
  const options = optionsFromArguments(args, readCommandLine());
  log.setLevel(options.logLevel);
  await runMock(options);
}

main().catch((reason: unknown) => {
  log.error('agent cannot start', { error: describeError(reason) });
  if (process.pid !== 1 || process.argv.includes('--mock')) {
    process.exit(1);
  }
});
