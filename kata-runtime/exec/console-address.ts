/** Where the debug console of a guest is, from where its agent is. */
import { dirname, join } from 'node:path';
import { parseAgentUrl, type AgentEndpoint } from '../../agent-client/endpoint';

export const DEFAULT_DEBUG_PORT = 1026;
/** Host socket of the virtio-serial port `console.channel.0`, beside the agent's. */
const SERIAL_CONSOLE_SOCKET = 'debug-console.sock';

/** InvalidArgument for a URL that is none. */
export function consoleEndpoint(agentUrl: string, port: number): AgentEndpoint {
  const agent = parseAgentUrl(agentUrl);
  switch (agent.kind) {
    case 'vsock':
    case 'hvsock':
      return { ...agent, port };
    case 'serial':
    case 'unix':
      return { kind: 'unix', path: join(dirname(agent.path), SERIAL_CONSOLE_SOCKET) };
  }
}
