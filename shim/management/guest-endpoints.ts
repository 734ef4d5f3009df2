/** Endpoints that ask the guest: its packet filter, its policy. */
import { isCode, KataError } from '../../base/errors';
import { requireGuest, type Answer, type Endpoint } from './answer';

const RAW = 'text/plain; charset=utf-8';

export function getIptables(v6: boolean): Endpoint {
  return async ({ options }): Promise<Answer> => {
    requireGuest(options.sandbox);
    return { status: 200, body: await options.sandbox.agent.getIpTables(v6), type: RAW };
  };
}

/** What iptables-restore refuses is the caller's mistake. */
export function setIptables(v6: boolean): Endpoint {
  return async ({ options, body }): Promise<Answer> => {
    requireGuest(options.sandbox);
    try {
      await options.sandbox.agent.setIpTables(v6, body);
    } catch (reason) {
      const guests = (['Unavailable', 'DeadlineExceeded', 'Unimplemented', 'Canceled'] as const).some((code) => isCode(reason, code));
      throw guests ? reason : new KataError('InvalidArgument', 'the guest refuses the rules', { cause: reason });
    }
    return { status: 200, body: '' };
  };
}

/** Rego text; agents without a policy answer Unimplemented, hence 501. */
export const setPolicy: Endpoint = async ({ options, body }) => {
  requireGuest(options.sandbox);
  await options.sandbox.agent.setPolicy(body.toString('utf8'));
  return { status: 200, body: '' };
};

export const agentUrl: Endpoint = ({ options }) => ({ status: 200, body: options.sandbox.agent.url });
