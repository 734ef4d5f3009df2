/** What is where: files in the VM folder, ids of devices, PCI slots. One table, read by command line, hot-plug and clean-up. */
import { join } from 'node:path';

export const AGENT_PORT = 'agent.channel.0';
export const DEBUG_CONSOLE_PORT = 'console.channel.0';
/** Device id of the agent's port: VSERPORT_CHANGE names it. */
export const AGENT_PORT_ID = 'agentport0';

export const FILES = {
  qmp: 'qmp.sock',
  console: 'console.sock',
  consoleLog: 'console.log',
  agent: 'agent.sock',
  debugConsole: 'debug-console.sock',
  virtioFs: 'vhost-fs.sock',
  pid: 'pid',
  extraMonitor: 'extra-monitor.sock',
} as const;

export function fileIn(directory: string, file: keyof typeof FILES): string {
  return join(directory, FILES[file]);
}

/**
 * Slots on pcie.0 of q35 where addresses must be the same in template and clone. 0, 1 and 1f are the machine's;
 * bridges take 2 to 6 (as upstream), root ports 10 and up.
 */
export const SLOT = { bridge: 0x02, serial: 0x07, scsi: 0x08, rng: 0x09, share: 0x0a, vsock: 0x0b, image: 0x0c, balloon: 0x0d, net: 0x0e, block: 0x14, rootPort: 0x18 } as const;

/** First slot that a hot-plugged device takes on a bridge; 0 is the bridge's own. */
export const FIRST_BRIDGE_SLOT = 1;
export const LAST_BRIDGE_SLOT = 30;

export function bridgeId(index: number): string {
  return `pci-bridge-${String(index)}`;
}

/** Id of one of `indep_iothreads`. */
export function independentIothread(index: number): string {
  return `indep_iothread_${String(index)}`;
}

/** Two hex digits, as guest PCI paths have them. */
export function hexSlot(slot: number): string {
  return slot.toString(16).padStart(2, '0');
}
