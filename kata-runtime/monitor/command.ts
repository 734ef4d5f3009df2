/** kata-monitor, also `kata-runtime monitor`: Prometheus endpoint and web page of a node. */
import { type as osType } from 'node:os';
import type { Server } from 'node:http';
import { KataError } from '../../base/errors';
import { Logger, type LogLevel } from '../../base/log';
import type { Registrar } from '../registrar';
import type { Session } from '../session';
import { ownCommit, ownVersion } from '../version';

export interface MonitorOptions {
  readonly listenAddress: string;
  readonly runtimeEndpoint: string;
  readonly logLevel: string;
}

/** `host:port`, `[v6]:port`, `:port`. */
export function parseListenAddress(text: string): { readonly host: string; readonly port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3] ?? -1);
  if (match === null || port > 65535) {
    throw new KataError('InvalidArgument', `parse --listen-address ${JSON.stringify(text.slice(0, 100))}: wanted host:port`);
  }
  const host = match[1] ?? match[2] ?? '';
  return { host: host === '' ? '::' : host, port };
}

/** The socket's path; a scheme is dropped, as upstream's `unix://` is. InvalidArgument for none. */
export function parseEndpoint(text: string): string {
  const path = text.replace(/^unix:(\/\/)?/, '');
  if (path === '') {
    throw new KataError('InvalidArgument', 'parse --runtime-endpoint: it is empty', { hint: 'give the CRI socket, e.g. /run/containerd/containerd.sock' });
  }
  return path;
}

const LEVELS: Readonly<Record<string, LogLevel>> = { trace: 'debug', debug: 'debug', info: 'info', warn: 'warn', warning: 'warn', error: 'error', fatal: 'error', panic: 'error' };

async function listen(server: Server, address: string): Promise<void> {
  const { host, port } = parseListenAddress(address);
  await new Promise<void>((resolve, reject) => {
    server.once('error', (reason) => reject(KataError.from(reason, `listen on ${address}`, { hint: 'is kata-monitor running already? give another --listen-address' })));
    server.listen({ host, port }, resolve);
  });
}

/** Serves until a signal. */
export async function runMonitor(session: Session, options: MonitorOptions): Promise<void> {
  const { host } = session;
  const logger = Logger.to((line) => host.err(line), LEVELS[options.logLevel] ?? 'info', { name: 'kata-monitor' });
  if (LEVELS[options.logLevel] === undefined) {
    logger.warn('unknown log level, using info', { level: options.logLevel });
  }
  const endpoint = parseEndpoint(options.runtimeEndpoint);
  // Loaded here: no other command needs them.
  const [{ OwnMetrics }, { Discovery }, { listPodSandboxes }, { monitorServer }] = await Promise.all([import('./own-metrics'), import('./discovery'), import('./cri'), import('./server')]);
  const discovery = new Discovery(host.roots.monitor, () => listPodSandboxes(endpoint), logger);
  const server = monitorServer({ host, discovery, own: new OwnMetrics(), logger });
  await listen(server, options.listenAddress);
  discovery.start();
  const bound = server.address();
  logger.info('kata-monitor listens', { address: typeof bound === 'object' && bound !== null ? `${bound.address}:${String(bound.port)}` : options.listenAddress, runtimeEndpoint: endpoint });
  await new Promise<void>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.once(signal, () => resolve());
    }
  });
  discovery.stop();
  server.close();
  server.closeAllConnections();
}

function monitorVersion(): string {
  return `kata-monitor\n Version:\t${ownVersion()}\n Node version:\t${process.version}\n Git commit:\t${ownCommit()}\n OS/Arch:\t${osType().toLowerCase()}/${process.arch}\n`;
}

export const registerMonitor: Registrar = (program, run) => {
  program
    .command('monitor')
    .description('serve metrics of all sandboxes of this node (the same as kata-monitor)')
    .argument('[version]', '"version" prints the version')
    .option('--listen-address <address>', 'where to serve', '127.0.0.1:8090')
    .option('--runtime-endpoint <socket>', 'socket of the CRI that knows the pods', '/run/containerd/containerd.sock')
    .option('--log-level <level>', 'debug, info, warn or error', 'info')
    .option('--version', 'print the version')
    .addHelpText('after', '\nEndpoints: / (web page), /metrics (?sandbox=, ?filter_family=a,b), /sandboxes, /agent-url?sandbox=, /debug/*?sandbox=')
    .action(
      run('monitor', async (session, word: string | undefined, options: MonitorOptions & { readonly version?: boolean }) => {
        if (word === 'version' || options.version === true) {
          session.host.out(monitorVersion());
        } else if (word !== undefined) {
          throw new KataError('InvalidArgument', `monitor: unknown argument ${JSON.stringify(word.slice(0, 100))}`, { hint: 'only "version" may be given' });
        } else {
          await runMonitor(session, options);
        }
      }),
    );
};
