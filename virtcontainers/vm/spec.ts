/** From configuration and bundle to everything that one VM is made from. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { SHARE_TAG } from '../../agent-client/storage';
import type { Logger } from '../../base/log';
import type { OciSpec } from '../../base/oci-spec';
import { containerType } from '../bundle/container-type';
import { agentKernelParams } from '../config/kernel-params';
import type { RuntimeConfig } from '../config/types';
import type { DriverCapabilities, SharedFolder, VmSpec } from '../hypervisor/types';
import { bootSize, sandboxWorkload } from '../resources/vm-sizing';

/** The folder to share, or undefined for `shared_fs = "none"` and VMMs that cannot. */
export function shareFor(config: RuntimeConfig, capabilities: DriverCapabilities, source: string): SharedFolder | undefined {
  const { sharedFs } = config.hypervisor;
  if (sharedFs === 'none' || !capabilities.fsShare) {
    return undefined;
  }
  return { kind: sharedFs === 'virtio-9p' ? 'virtio-9p' : 'virtio-fs', tag: SHARE_TAG, source };
}

/** There while the kernel of the host has SELinux on. */
const SELINUX = '/sys/fs/selinux/enforce';

/** The label that the VMM is to run with: the container's own, as the host's policy has it. */
export function vmmLabel(config: RuntimeConfig, spec: OciSpec, enabled: boolean): string | undefined {
  const label = spec.process?.selinuxLabel ?? '';
  return label === '' || config.hypervisor.disableSelinux || !enabled ? undefined : label;
}

export interface VmSpecInput {
  readonly sandboxId: string;
  readonly vmRoot: string;
  readonly config: RuntimeConfig;
  readonly spec: OciSpec;
  readonly share: SharedFolder | undefined;
  readonly netns: VmSpec['netns'];
  readonly logger: Logger;
}

export function vmSpecFor(input: VmSpecInput): VmSpec {
  const { config, spec } = input;
  const workload = sandboxWorkload(containerType(spec.annotations), spec.annotations, spec.linux?.resources);
  for (const warning of workload.warnings) {
    input.logger.warn(warning);
  }
  const { vcpus, memoryMiB } = bootSize(config, workload);
  const selinuxLabel = vmmLabel(config, spec, existsSync(SELINUX));
  return {
    ...(selinuxLabel === undefined ? {} : { selinuxLabel }),
    id: input.sandboxId,
    directory: join(input.vmRoot, input.sandboxId),
    config: config.hypervisor,
    vcpus,
    memoryMiB,
    kernelParams: agentKernelParams(config),
    share: input.share,
    devices: [],
    netns: input.netns,
    template: undefined,
    debug: config.hypervisor.enableDebug,
    logger: input.logger,
  };
}
