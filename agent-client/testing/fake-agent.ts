/** An agent for tests: real ttrpc over a real unix socket in a folder of its own. */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { serviceFromTsProto, TtrpcServer, type Handlers } from 'ttrpc-ts';
import { AgentServiceDefinition } from '../../gen/agent/agent';
import { HealthDefinition } from '../../gen/agent/health';

const agentService = serviceFromTsProto(AgentServiceDefinition);
const healthService = serviceFromTsProto(HealthDefinition);

/** Handlers of the agent service; what is left out is answered with Unimplemented. */
export type AgentHandlers = Handlers<typeof agentService>;

/** Something that listens on `path`; `close` ends it and removes its folder. */
export interface FakeListener {
  readonly path: string;
  readonly url: string;
  readonly close: () => Promise<void>;
}

/** A well-behaved agent with these handlers. */
export async function startFakeAgent(
  handlers: AgentHandlers,
  health: Handlers<typeof healthService> = {},
): Promise<FakeListener & { readonly server: TtrpcServer }> {
  const folder = await mkdtemp(join(tmpdir(), 'fake-agent-'));
  const path = join(folder, 'agent.sock');
  const server = new TtrpcServer().register(agentService, handlers).register(healthService, health);
  await server.listen({ path });
  const close = async (): Promise<void> => {
    await server.close();
    await rm(folder, { recursive: true, force: true });
  };
  return { path, url: `unix://${path}`, server, close };
}

/** A peer that does with each connection whatever the test wants: nonsense, cut frames, nothing. */
export async function startRawPeer(onConnection: (socket: Socket) => void): Promise<FakeListener> {
  const folder = await mkdtemp(join(tmpdir(), 'raw-peer-'));
  const path = join(folder, 'peer.sock');
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => undefined);
    onConnection(socket);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const close = async (): Promise<void> => {
    for (const socket of sockets) {
      socket.destroy();
    }
    await new Promise((resolve) => server.close(resolve));
    await rm(folder, { recursive: true, force: true });
  };
  return { path, url: `unix://${path}`, close };
}
