/** Kernel parameters that the configuration of runtime and agent asks for; the driver's come before, the user's after. */
import type { RuntimeConfig } from './types';

/** Port of the debug console in the guest, on vsock. */
export const DEBUG_CONSOLE_PORT = 1026;

/** In upstream's order; computed after annotations, so that they reach the guest (upstream computes them before). */
export function agentKernelParams(config: RuntimeConfig): string[] {
  const { agent, hypervisor } = config;
  const params: string[] = [];
  if (hypervisor.image !== '') {
    params.push('systemd.unit=kata-containers.target', 'systemd.mask=systemd-networkd.service', 'systemd.mask=systemd-networkd.socket');
  }
  if (hypervisor.blockDeviceDriver === 'virtio-scsi') {
    params.push('scsi_mod.scan=none');
  }
  if (agent.enableDebug) {
    params.push('agent.log=debug');
  }
  if (agent.enableTracing) {
    params.push('agent.trace=true');
  }
  if (agent.containerPipeSize > 0) {
    params.push(`agent.container_pipe_size=${String(agent.containerPipeSize)}`);
  }
  if (agent.debugConsoleEnabled) {
    params.push('agent.debug_console', `agent.debug_console_vport=${String(DEBUG_CONSOLE_PORT)}`);
  }
  for (const key of ['cdh_api_timeout', 'launch_process_timeout']) {
    const seconds = agent.other?.[key];
    if (typeof seconds === 'number' && seconds > 0) {
      params.push(`agent.${key}=${String(seconds)}`);
    }
  }
  if (agent.other?.['visible_cdi_devices'] === true) {
    params.push('agent.visible_cdi_devices=true');
  }
  return params;
}
