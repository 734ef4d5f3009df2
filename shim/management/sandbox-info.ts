/** /sandbox: what `kata-runtime ps` and kata-monitor show. JSON; members are only ever added. */
import { grownSize } from '../../virtcontainers/resources/vm-sizing';
import { residentBytes } from '../../virtcontainers/metrics/proc';
import type { Endpoint } from './answer';

export const sandboxInfo: Endpoint = ({ options: { sandbox } }) => {
  const { config } = sandbox;
  const containers = [...sandbox.containers.values()];
  const living = containers.filter((container) => container.state !== 'stopped' && container.state !== 'invalid');
  const size = grownSize(config, living.map((container) => ({ resources: container.spec.linux?.resources }))) ?? {
    vcpus: Math.ceil(config.hypervisor.defaultVcpus),
    memoryMiB: config.hypervisor.defaultMemory,
  };
  const info = {
    id: sandbox.id,
    state: sandbox.state,
    hypervisor: config.hypervisor.type,
    vmSource: sandbox.vmSource,
    vmFallback: sandbox.vmFallback,
    vcpus: size.vcpus,
    memoryMiB: size.memoryMiB,
    residentBytes: residentBytes(process.pid) + residentBytes(sandbox.pid),
    shimPid: process.pid,
    vmPid: sandbox.pid,
    startedAt: new Date(Date.now() - process.uptime() * 1000).toISOString(),
    configuration: config.path,
    phases: sandbox.phases.map(({ name, startMs, durationMs }) => ({ name, startMs, durationMs })),
    containers: containers.map((container) => ({ id: container.id, state: container.state, execs: container.execs.size })),
  };
  return { status: 200, body: `${JSON.stringify(info)}\n`, type: 'application/json' };
};
