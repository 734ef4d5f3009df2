import type * as wire from '../../../gen/agent/oci';
import type {
  OciCpu,
  OciDevice,
  OciHook,
  OciHooks,
  OciInteger,
  OciLinux,
  OciMemory,
  OciNamespace,
  OciProcess,
  OciResources,
  OciSeccomp,
  OciSpec,
  OciThrottle,
} from '../../../base/oci-spec';

/** The wire cannot tell absent from zero, so zero and empty mean absent, as the host's side has it. */
function unlessZero<T extends OciInteger>(value: T): T | undefined {
  return BigInt(value) === 0n ? undefined : value;
}

function unlessEmpty<T extends string | readonly unknown[]>(value: T): T | undefined {
  return value.length === 0 ? undefined : value;
}

/** Drops members that are undefined. */
function compact<T extends object>(value: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(value).filter(([, member]) => member !== undefined)) as T;
}

/** `undefined` for an object without members. */
function unlessBlank<T extends object>(value: T): T | undefined {
  return Object.keys(value).length === 0 ? undefined : value;
}

/** A process of the wire as config.json has it. */
export function processFromWire(process: wire.Process): OciProcess {
  const { user, capabilities, consoleSize } = process;
  return compact<OciProcess>({
    terminal: process.terminal,
    consoleSize: consoleSize === undefined || consoleSize.height === 0 ? undefined : { height: consoleSize.height, width: consoleSize.width },
    user: { uid: user?.uid ?? 0, gid: user?.gid ?? 0, additionalGids: user?.additionalGids ?? [], ...(user?.umask === undefined ? {} : { umask: user.umask }) },
    args: process.args,
    env: process.env,
    cwd: process.cwd === '' ? '/' : process.cwd,
    capabilities:
      capabilities === undefined
        ? undefined
        : {
            bounding: capabilities.bounding,
            effective: capabilities.effective,
            inheritable: capabilities.inheritable,
            permitted: capabilities.permitted,
            ambient: capabilities.ambient,
          },
    rlimits: process.rlimits.map(({ type, hard, soft }) => ({ type, hard, soft })),
    noNewPrivileges: process.noNewPrivileges,
    apparmorProfile: unlessEmpty(process.apparmorProfile),
    oomScoreAdj: process.oomScoreAdj === 0n ? undefined : Number(process.oomScoreAdj),
    selinuxLabel: unlessEmpty(process.selinuxLabel),
  });
}

function memoryFromWire(memory: wire.LinuxMemory): OciMemory {
  return compact<OciMemory>({
    limit: unlessZero(memory.limit),
    reservation: unlessZero(memory.reservation),
    swap: unlessZero(memory.swap),
    kernelTCP: unlessZero(memory.kernelTcp),
    swappiness: unlessZero(memory.swappiness),
    disableOOMKiller: memory.disableOomKiller ? true : undefined,
  });
}

function cpuFromWire(cpu: wire.LinuxCPU): OciCpu {
  return compact<OciCpu>({
    shares: unlessZero(cpu.shares),
    quota: unlessZero(cpu.quota),
    period: unlessZero(cpu.period),
    realtimeRuntime: unlessZero(cpu.realtimeRuntime),
    realtimePeriod: unlessZero(cpu.realtimePeriod),
    cpus: unlessEmpty(cpu.cpus),
    mems: unlessEmpty(cpu.mems),
  });
}

function throttlesFromWire(devices: readonly wire.LinuxThrottleDevice[]): OciThrottle[] | undefined {
  return unlessEmpty(devices.map(({ major, minor, rate }) => ({ major: Number(major), minor: Number(minor), rate })));
}

function blockIoFromWire(io: wire.LinuxBlockIO): NonNullable<OciResources['blockIO']> {
  return compact<NonNullable<OciResources['blockIO']>>({
    weight: unlessZero(io.weight),
    leafWeight: unlessZero(io.leafWeight),
    weightDevice: unlessEmpty(
      io.weightDevice.map((device) => ({
        major: Number(device.major), minor: Number(device.minor), weight: device.weight, leafWeight: device.leafWeight,
      })),
    ),
    throttleReadBpsDevice: throttlesFromWire(io.throttleReadBpsDevice),
    throttleWriteBpsDevice: throttlesFromWire(io.throttleWriteBpsDevice),
    throttleReadIOPSDevice: throttlesFromWire(io.throttleReadIopsDevice),
    throttleWriteIOPSDevice: throttlesFromWire(io.throttleWriteIopsDevice),
  });
}

/** Resource limits as config.json has them; limits that are not set are absent. */
export function resourcesFromWire(resources: wire.LinuxResources): OciResources {
  const { memory, cpu, pids, blockIo } = resources;
  return compact<OciResources>({
    devices: unlessEmpty(
      resources.devices.map((rule) =>
        compact<{ allow: boolean; type?: string; major?: number; minor?: number; access?: string }>({
          allow: rule.allow,
          type: unlessEmpty(rule.type),
          major: rule.type === '' || rule.type === 'a' ? undefined : Number(rule.major),
          minor: rule.type === '' || rule.type === 'a' ? undefined : Number(rule.minor),
          access: unlessEmpty(rule.access),
        }),
      ),
    ),
    memory: memory === undefined ? undefined : unlessBlank(memoryFromWire(memory)),
    cpu: cpu === undefined ? undefined : unlessBlank(cpuFromWire(cpu)),
    pids: pids === undefined || pids.limit === 0n ? undefined : { limit: pids.limit },
    blockIO: blockIo === undefined ? undefined : unlessBlank(blockIoFromWire(blockIo)),
    hugepageLimits: unlessEmpty(resources.hugepageLimits.map(({ pageSize, limit }) => ({ pageSize, limit }))),
  });
}

function seccompFromWire(seccomp: wire.LinuxSeccomp): OciSeccomp | undefined {
  if (seccomp.defaultAction === '') {
    return undefined;
  }
  return compact<OciSeccomp>({
    defaultAction: seccomp.defaultAction,
    architectures: unlessEmpty(seccomp.architectures),
    flags: unlessEmpty(seccomp.flags),
    syscalls: seccomp.syscalls.map((call) =>
      compact<NonNullable<OciSeccomp['syscalls']>[number]>({
        names: call.names,
        action: call.action,
        errnoRet: call.errnoRet,
        args: unlessEmpty(call.args.map(({ index, value, valueTwo, op }) => ({ index: Number(index), value, valueTwo, op }))),
      }),
    ),
  });
}

function devicesFromWire(devices: readonly wire.LinuxDevice[]): OciDevice[] {
  return devices.map((device) => ({
    path: device.path,
    type: device.type === '' ? 'c' : device.type,
    major: Number(device.major),
    minor: Number(device.minor),
    fileMode: device.fileMode === 0 ? 0o660 : device.fileMode,
    uid: device.uid,
    gid: device.gid,
  }));
}

/** Names of namespaces differ between the two forms in nothing but the mount namespace of some writers. */
function namespacesFromWire(namespaces: readonly wire.LinuxNamespace[]): OciNamespace[] {
  return namespaces.map(({ type, path }) => compact<OciNamespace>({ type: type === 'mnt' ? 'mount' : type, path: unlessEmpty(path) }));
}

function linuxFromWire(linux: wire.Linux): OciLinux {
  const mappings = (list: readonly wire.LinuxIDMapping[]): OciLinux['uidMappings'] =>
    unlessEmpty(list.map(({ hostId, containerId, size }) => ({ hostID: hostId, containerID: containerId, size })));
  return compact<OciLinux>({
    uidMappings: mappings(linux.uidMappings),
    gidMappings: mappings(linux.gidMappings),
    sysctl: linux.sysctl.size === 0 ? undefined : Object.fromEntries(linux.sysctl),
    resources: linux.resources === undefined ? undefined : resourcesFromWire(linux.resources),
    cgroupsPath: unlessEmpty(linux.cgroupsPath),
    namespaces: namespacesFromWire(linux.namespaces),
    devices: unlessEmpty(devicesFromWire(linux.devices)),
    seccomp: linux.seccomp === undefined ? undefined : seccompFromWire(linux.seccomp),
    rootfsPropagation: unlessEmpty(linux.rootfsPropagation),
    maskedPaths: unlessEmpty(linux.maskedPaths),
    readonlyPaths: unlessEmpty(linux.readonlyPaths),
    mountLabel: unlessEmpty(linux.mountLabel),
  });
}

function hookListFromWire(hooks: readonly wire.Hook[]): OciHook[] | undefined {
  return unlessEmpty(
    hooks.map((hook) =>
      compact<OciHook>({
        path: hook.path, args: unlessEmpty(hook.args), env: unlessEmpty(hook.env), timeout: hook.timeout > 0n ? Number(hook.timeout) : undefined,
      }),
    ),
  );
}

function hooksFromWire(hooks: wire.Hooks): OciHooks {
  return compact<OciHooks>({
    prestart: hookListFromWire(hooks.prestart),
    createRuntime: hookListFromWire(hooks.createRuntime),
    createContainer: hookListFromWire(hooks.createContainer),
    startContainer: hookListFromWire(hooks.startContainer),
    poststart: hookListFromWire(hooks.poststart),
    poststop: hookListFromWire(hooks.poststop),
  });
}

/** The specification that came over the wire as config.json has it. */
export function specFromWire(spec: wire.Spec): OciSpec {
  return compact<OciSpec>({
    // The version of what is written here, not of what the host's client wrote: crun refuses versions newer than itself.
    ociVersion: '1.0.2',
    process: spec.process === undefined ? undefined : processFromWire(spec.process),
    root: spec.root === undefined ? undefined : { path: spec.root.path, readonly: spec.root.readonly },
    hostname: unlessEmpty(spec.hostname),
    mounts: spec.mounts.map((mount) =>
      compact<NonNullable<OciSpec['mounts']>[number]>({
        destination: mount.destination, type: unlessEmpty(mount.type), source: unlessEmpty(mount.source), options: unlessEmpty(mount.options),
      }),
    ),
    hooks: spec.hooks === undefined ? undefined : unlessBlank(hooksFromWire(spec.hooks)),
    annotations: spec.annotations.size === 0 ? undefined : Object.fromEntries(spec.annotations),
    linux: spec.linux === undefined ? undefined : linuxFromWire(spec.linux),
  });
}
