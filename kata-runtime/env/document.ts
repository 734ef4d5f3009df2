/** The document of `env`, format 1.0.26: upstream's keys in upstream's order (cli-and-config.md section 1.5). */
import { isCode } from '../../base/errors';
import { agentKernelParams } from '../../virtcontainers/config/kernel-params';
import type { RuntimeConfig } from '../../virtcontainers/config/types';
import { checkCapability, readCpuinfo } from '../check/capability';
import { parseSemver } from '../check/semver';
import type { CliHost } from '../host';
import { OCI_VERSION, ownCommit, ownVersion, UNKNOWN } from '../version';
import { distro, guestProtections, hypervisorVersion, kernelVersion, memory, socketPath, supportsVsocks } from './host-info';
import type { EnvRecord } from './toml';

export const FORMAT_VERSION = '1.0.26';

async function hypervisorPart(host: CliHost, config: RuntimeConfig): Promise<EnvRecord> {
  const hv = config.hypervisor;
  return {
    MachineType: hv.machineType,
    Version: await hypervisorVersion(hv.path),
    Path: hv.path,
    BlockDeviceDriver: hv.blockDeviceDriver,
    EntropySource: hv.entropySource,
    SharedFS: hv.sharedFs,
    VirtioFSDaemon: hv.virtioFsDaemon,
    SocketPath: socketPath(host, hv.type, hv.path),
    Msize9p: hv.msize9p,
    MemorySlots: hv.memorySlots,
    PCIeRootPort: hv.pcieRootPort,
    HotplugVFIOOnRootBus: hv.hotplugVfioOnRootBus,
    Debug: hv.enableDebug,
  };
}

function runtimePart(config: RuntimeConfig, programPath: string): EnvRecord {
  const version = parseSemver(ownVersion());
  const numbers = version === undefined ? { Major: 0, Minor: 0, Patch: 0 } : { Major: version.major, Minor: version.minor, Patch: version.patch };
  return {
    Config: { Path: config.path },
    Path: programPath,
    Experimental: config.runtime.experimental.length === 0 ? null : config.runtime.experimental.map((name) => ({ Name: name, Description: '', ExpRelease: '' })),
    Version: { OCI: OCI_VERSION, Version: { Semver: version === undefined ? UNKNOWN : ownVersion(), Commit: ownCommit(), ...numbers } },
    Debug: config.runtime.enableDebug,
    Trace: config.runtime.enableTracing,
    DisableGuestSeccomp: config.runtime.disableGuestSeccomp,
    DisableNewNetNs: config.runtime.disableNewNetns,
    SandboxCgroupOnly: config.runtime.sandboxCgroupOnly,
  };
}

/** An unknown CPU is not capable; that is no reason not to show the rest. */
async function capable(host: CliHost, config: RuntimeConfig): Promise<boolean> {
  try {
    return (await checkCapability(host, config.hypervisor.type)).capable;
  } catch (reason) {
    if (isCode(reason, 'Unimplemented')) {
      return false;
    }
    throw reason;
  }
}

const GOARCH: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64', ppc64: 'ppc64le', s390x: 's390x', riscv64: 'riscv64' };

export async function envDocument(host: CliHost, config: RuntimeConfig, programPath: string): Promise<EnvRecord> {
  const cpu = readCpuinfo(host);
  const userParams = config.hypervisor.kernelParams.split(/\s+/).filter((word) => word !== '');
  return {
    Kernel: { Path: config.hypervisor.kernel, Parameters: [...agentKernelParams(config), ...userParams].join(' ') },
    Meta: { Version: FORMAT_VERSION },
    Image: { Path: config.hypervisor.image },
    Initrd: { Path: config.hypervisor.initrd },
    Hypervisor: await hypervisorPart(host, config),
    Runtime: runtimePart(config, programPath),
    Host: {
      AvailableGuestProtections: guestProtections(host, cpu),
      Kernel: kernelVersion(host),
      Architecture: GOARCH[host.arch] ?? host.arch,
      Distro: distro(host),
      CPU: { Vendor: cpu.vendorId === '' ? UNKNOWN : cpu.vendorId, Model: cpu.model === '' ? UNKNOWN : cpu.model, CPUs: cpu.count },
      Memory: memory(host),
      VMContainerCapable: await capable(host, config),
      SupportVSocks: supportsVsocks(host),
    },
    Agent: { Debug: config.agent.enableDebug, Trace: config.agent.enableTracing },
  };
}
