import type { AgentChannel } from './channel';
import { containerCalls } from './containers';
import { networkCalls } from './network';
import { processCalls } from './processes';
import { healthCalls, sandboxCalls } from './sandbox';
import type { AgentClient } from './types';

/** The typed client over a channel: the calls by theme, put together. */
export function agentClientOver(channel: AgentChannel): AgentClient {
  return {
    url: channel.url,
    closed: channel.closed,
    ...healthCalls(channel),
    ...sandboxCalls(channel),
    ...containerCalls(channel),
    ...processCalls(channel),
    ...networkCalls(channel),
    markDead: (reason) => {
      channel.markDead(reason);
    },
    close: () => {
      channel.close();
    },
  };
}
