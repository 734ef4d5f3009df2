import { readFileSync } from 'node:fs';
import type { ProcessLimits } from '../container/guest-spec';

const TYPES: Readonly<Record<string, string>> = {
  'Max cpu time': 'RLIMIT_CPU', 'Max file size': 'RLIMIT_FSIZE', 'Max data size': 'RLIMIT_DATA', 'Max stack size': 'RLIMIT_STACK',
  'Max core file size': 'RLIMIT_CORE', 'Max resident set': 'RLIMIT_RSS', 'Max processes': 'RLIMIT_NPROC', 'Max open files': 'RLIMIT_NOFILE',
  'Max locked memory': 'RLIMIT_MEMLOCK', 'Max address space': 'RLIMIT_AS', 'Max file locks': 'RLIMIT_LOCKS',
  'Max pending signals': 'RLIMIT_SIGPENDING', 'Max msgqueue size': 'RLIMIT_MSGQUEUE', 'Max nice priority': 'RLIMIT_NICE',
  'Max realtime priority': 'RLIMIT_RTPRIO', 'Max realtime timeout': 'RLIMIT_RTTIME',
};

const CAP_SYS_RESOURCE = 24n;

/** Hard limits from the text of /proc/PID/limits; unlimited ones are absent. */
export function hardLimitsFrom(text: string): Map<string, bigint> {
  const limits = new Map<string, bigint>();
  for (const line of text.split('\n')) {
    const match = /^(Max .*?)\s{2,}(\S+)\s+(\S+)/.exec(line);
    const type = TYPES[match?.[1] ?? ''];
    const hard = match?.[3];
    if (type !== undefined && hard !== undefined && /^\d+$/.test(hard)) {
      limits.set(type, BigInt(hard));
    }
  }
  return limits;
}

let known: ProcessLimits | 'none' | undefined;

/** What this agent may give to a process; undefined if it may give anything. */
export function ownLimits(): ProcessLimits | undefined {
  if (known === undefined) {
    const mask = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1] ?? '0';
    const mayRaise = ((BigInt(`0x${mask}`) >> CAP_SYS_RESOURCE) & 1n) === 1n;
    known = mayRaise
      ? 'none'
      : {
          oomScoreAdj: Number(readFileSync('/proc/self/oom_score_adj', 'latin1')),
          hardLimits: hardLimitsFrom(readFileSync('/proc/self/limits', 'latin1')),
        };
  }
  return known === 'none' ? undefined : known;
}
