/** The kernel command line, by groups; a later word wins (virtcontainers-behaviour 3.5 for groups 1 to 8). */
import { parseVerity, veritySectors } from '../../config/verity';
import { hasSerialConsole, imageIsNvdimm, isMicrovm, type QemuPlan } from './plan';

function architecture(plan: QemuPlan): string[] {
  return [
    'tsc=reliable', 'no_timer_check', 'rcupdate.rcu_expedited=1', 'i8042.direct=1', 'i8042.dumbkbd=1', 'i8042.nopnp=1', 'i8042.noaux=1',
    'noreplace-smp', 'reboot=k', 'cryptomgr.notests', 'net.ifnames=0', 'pci=lastbus=0',
    ...(plan.spec.config.enableIommu ? ['intel_iommu=on', 'iommu=pt'] : []),
  ];
}

/**
 * Ours: what pays where every instruction is emulated (measured: docs/qemu.md). The TSC's rate is given because its
 * calibration against the PIT hangs a microvm on a busy host; hot-added memory goes on line by itself; a maxmem above
 * 4 GiB must not cost a bounce buffer of 64 MB.
 */
function emulation({ accelerator, tscKhz }: QemuPlan): string[] {
  if (accelerator !== 'tcg') {
    return [];
  }
  // Loops per jiffy follow from the TSC's rate and HZ=250; without, each CPU that comes up calibrates.
  const clock = tscKhz > 0 ? [`tsc_early_khz=${String(tscKhz)}`, `lpj=${String(tscKhz * 4)}`] : [];
  return [...clock, 'mitigations=off', 'audit=0', 'apparmor=0', 'init_on_alloc=0', 'swiotlb=noforce', 'memhp_default_state=online'];
}

function rootFileSystem(plan: QemuPlan): string[] {
  const { config } = plan.spec;
  if (config.image === '') {
    return [];
  }
  const type = config.rootfsType === '' ? 'ext4' : config.rootfsType;
  const nvdimm = imageIsNvdimm(plan);
  if (config.kernelVerityParams !== '') {
    return verifiedRoot(config.kernelVerityParams, nvdimm ? '/dev/pmem0p' : '/dev/vda', type);
  }
  const dax = nvdimm ? ['dax'] : [];
  const flags = { ext4: [...dax, 'data=ordered', 'errors=remount-ro'], xfs: dax, erofs: dax }[type] ?? dax;
  const rootflags = type === 'erofs' && nvdimm ? 'dax=always' : flags.join(',');
  return [`root=${nvdimm ? '/dev/pmem0p1' : '/dev/vda1'}`, ...(rootflags === '' ? [] : [`rootflags=${rootflags}`]), 'ro', `rootfstype=${type}`];
}

/** The first partition through dm-verity, its hashes in the second; made by the guest's kernel itself (CONFIG_DM_INIT). No DAX. */
function verifiedRoot(params: string, partition: string, type: string): string[] {
  const verity = parseVerity(params);
  const numbers = [verity.dataBlockSize, verity.hashBlockSize, verity.dataBlocks].map(String).join(' ');
  const target = `dm-verity,,,ro,0 ${String(veritySectors(verity))} verity 1 ${partition}1 ${partition}2 ${numbers} 0 sha256 ${verity.rootHash} ${verity.salt}`;
  const rootflags = type === 'ext4' ? ['rootflags=data=ordered,errors=remount-ro'] : [];
  return [`dm-mod.create="${target}"`, 'root=/dev/dm-0', ...rootflags, 'ro', `rootfstype=${type}`];
}

/** Tells the agent which extension images there are, and how to verify them. */
function extensions(plan: QemuPlan): string[] {
  return plan.spec.config.guestExtensionImages.map(({ name, verity_params: params = '' }) => `kata.extension.${name}.verity_params${params === '' ? '' : `=${params}`}`);
}

function verbosity(plan: QemuPlan): string[] {
  const isImage = plan.spec.config.image !== '';
  return plan.spec.debug
    ? ['debug', ...(isImage ? ['systemd.show_status=true', 'systemd.log_level=debug'] : [])]
    : ['quiet', ...(isImage ? ['systemd.show_status=false'] : [])];
}

/** The text for -append. */
export function kernelLine(plan: QemuPlan): string {
  const { spec } = plan;
  const microvmPorts = isMicrovm(plan) ? ['pcie_ports=native'] : [];
  return [
    ...architecture(plan).filter((word) => !(isMicrovm(plan) && word === 'pci=lastbus=0')),
    ...microvmPorts,
    ...emulation(plan),
    ...rootFileSystem(plan),
    ...(hasSerialConsole(plan) ? ['console=ttyS0'] : ['console=hvc0', 'console=hvc1']),
    ...verbosity(plan),
    'panic=1',
    `nr_cpus=${String(maxVcpus(plan))}`,
    ...extensions(plan),
    ...spec.kernelParams,
    ...spec.config.kernelParams.split(/\s+/).filter((word) => word !== ''),
  ].join(' ');
}

/** Most vCPUs that the VM can have. */
export function maxVcpus({ spec }: QemuPlan): number {
  return spec.config.confidentialGuest ? spec.vcpus : Math.max(spec.vcpus, spec.config.defaultMaxvcpus);
}
