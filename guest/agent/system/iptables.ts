import { KataError } from '../../../base/errors';
import { mustRun } from '../process/tool';

const TIMEOUT_MS = 30_000;
const MAX_BYTES = 1024 * 1024;

/** The rules as iptables-save prints them. */
export async function getIptables(isIpv6: boolean): Promise<Uint8Array> {
  return Buffer.from(await mustRun(isIpv6 ? 'ip6tables-save' : 'iptables-save', [], { timeoutMs: TIMEOUT_MS }));
}

/** Replaces the rules; answers with the rules afterwards. */
export async function setIptables(isIpv6: boolean, rules: Uint8Array): Promise<Uint8Array> {
  if (rules.length > MAX_BYTES) {
    throw new KataError('InvalidArgument', `set iptables: ${String(rules.length)} bytes of rules, more than ${String(MAX_BYTES)}`);
  }
  await mustRun(isIpv6 ? 'ip6tables-restore' : 'iptables-restore', ['--wait', '10'], { timeoutMs: TIMEOUT_MS, input: rules });
  return getIptables(isIpv6);
}
