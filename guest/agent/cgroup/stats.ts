import { readFileSync } from 'node:fs';
import type { CgroupStats, NetworkStats, StatsContainerResponse } from '../../../gen/agent/stats';
import { isUnified, type Cgroup } from './cgroup';
import { statsV1 } from './stats-v1';
import { statsV2 } from './stats-v2';

/** Figures of one container, and those of the pod's network. */
export function statsOf(cgroup: Cgroup): StatsContainerResponse {
  const cgroupStats: CgroupStats = isUnified() ? statsV2((file) => cgroup.read('', file)) : statsV1((controller, file) => cgroup.read(controller, file));
  return { cgroupStats, networkStats: networkStatsFrom(readFileSync('/proc/net/dev', 'latin1')) };
}

/** Figures per interface from the text of /proc/net/dev. */
export function networkStatsFrom(text: string): NetworkStats[] {
  return text.split('\n').flatMap((line) => {
    const match = /^\s*([^:\s]+):\s*(.*)$/.exec(line);
    if (match?.[1] === undefined || match[2] === undefined) {
      return [];
    }
    const values = match[2].trim().split(/\s+/).map((word) => BigInt(/^\d+$/.test(word) ? word : 0));
    const at = (index: number): bigint => values[index] ?? 0n;
    return [{
      name: match[1],
      rxBytes: at(0), rxPackets: at(1), rxErrors: at(2), rxDropped: at(3),
      txBytes: at(8), txPackets: at(9), txErrors: at(10), txDropped: at(11),
    }];
  });
}
