/**
 * OCI runtime configuration (config.json of the bundle) to the agent's message. Absent numbers become zero: the wire
 * has no presence there. Parts for other platforms and fields that the wire does not know are left out. The JSON comes
 * from a client: numbers are checked, and InvalidArgument names the field where one does not fit.
 */
import type {
  OciDevice,
  OciHook,
  OciHooks,
  OciIdMapping,
  OciLinux,
  OciProcess,
  OciSeccomp,
  OciSpec,
} from '../base/oci-spec';
import type { Hook, Hooks, Linux, LinuxDevice, LinuxIDMapping, LinuxSeccomp, Process, Spec } from '../gen/agent/oci';
import { toWireResources } from './oci-resources';
import { i64, u32, u64 } from './wire-number';

export { toWireResources } from './oci-resources';

/** The whole configuration. */
export function toWireSpec(spec: OciSpec): Spec {
  return {
    version: spec.ociVersion ?? '',
    process: spec.process === undefined ? undefined : toWireProcess(spec.process),
    root: spec.root === undefined ? undefined : { path: spec.root.path, readonly: spec.root.readonly ?? false },
    hostname: spec.hostname ?? '',
    mounts: (spec.mounts ?? []).map(({ destination, source, type, options }) => ({
      destination,
      source: source ?? '',
      type: type ?? '',
      options: options ?? [],
    })),
    hooks: spec.hooks === undefined ? undefined : toHooks(spec.hooks),
    annotations: new Map(Object.entries(spec.annotations ?? {})),
    linux: spec.linux === undefined ? undefined : toLinux(spec.linux),
    solaris: undefined,
    windows: undefined,
  };
}

/** One process: of the container or of an exec. Everything that the client asked for is passed on. */
export function toWireProcess(process: OciProcess): Process {
  const { consoleSize, user, capabilities } = process;
  return {
    terminal: process.terminal ?? false,
    consoleSize:
      consoleSize === undefined
        ? undefined
        : {
            height: u32(consoleSize.height, 'process.consoleSize.height'),
            width: u32(consoleSize.width, 'process.consoleSize.width'),
          },
    user: {
      uid: u32(user?.uid, 'process.user.uid'),
      gid: u32(user?.gid, 'process.user.gid'),
      additionalGids: (user?.additionalGids ?? []).map((gid) => u32(gid, 'process.user.additionalGids')),
      username: user?.username ?? '',
      ...(user?.umask === undefined ? {} : { umask: u32(user.umask, 'process.user.umask') }),
    },
    args: process.args ?? [],
    env: process.env ?? [],
    cwd: process.cwd ?? '',
    capabilities:
      capabilities === undefined
        ? undefined
        : {
            bounding: capabilities.bounding ?? [],
            effective: capabilities.effective ?? [],
            inheritable: capabilities.inheritable ?? [],
            permitted: capabilities.permitted ?? [],
            ambient: capabilities.ambient ?? [],
          },
    rlimits: (process.rlimits ?? []).map(({ type, hard, soft }) => ({
      type,
      hard: u64(hard, 'process.rlimits.hard'),
      soft: u64(soft, 'process.rlimits.soft'),
    })),
    noNewPrivileges: process.noNewPrivileges ?? false,
    apparmorProfile: process.apparmorProfile ?? '',
    oomScoreAdj: i64(process.oomScoreAdj, 'process.oomScoreAdj'),
    selinuxLabel: process.selinuxLabel ?? '',
  };
}

function toHooks(hooks: OciHooks): Hooks {
  const list = (some: readonly OciHook[] | undefined): Hook[] => (some ?? []).map(toHook);
  return {
    prestart: list(hooks.prestart),
    poststart: list(hooks.poststart),
    poststop: list(hooks.poststop),
    createRuntime: list(hooks.createRuntime),
    createContainer: list(hooks.createContainer),
    startContainer: list(hooks.startContainer),
  };
}

function toHook({ path, args, env, timeout }: OciHook): Hook {
  return { path, args: args ?? [], env: env ?? [], timeout: i64(timeout, 'hooks.timeout') };
}

function toLinux(linux: OciLinux): Linux {
  return {
    uidMappings: (linux.uidMappings ?? []).map(toIdMapping),
    gidMappings: (linux.gidMappings ?? []).map(toIdMapping),
    sysctl: new Map(Object.entries(linux.sysctl ?? {})),
    resources: linux.resources === undefined ? undefined : toWireResources(linux.resources),
    cgroupsPath: linux.cgroupsPath ?? '',
    namespaces: (linux.namespaces ?? []).map(({ type, path }) => ({ type, path: path ?? '' })),
    devices: (linux.devices ?? []).map(toDevice),
    seccomp: linux.seccomp === undefined ? undefined : toSeccomp(linux.seccomp),
    rootfsPropagation: linux.rootfsPropagation ?? '',
    maskedPaths: linux.maskedPaths ?? [],
    readonlyPaths: linux.readonlyPaths ?? [],
    mountLabel: linux.mountLabel ?? '',
    intelRdt: undefined,
  };
}

function toIdMapping({ hostID, containerID, size }: OciIdMapping): LinuxIDMapping {
  return {
    hostId: u32(hostID, 'linux.uidMappings.hostID'),
    containerId: u32(containerID, 'linux.uidMappings.containerID'),
    size: u32(size, 'linux.uidMappings.size'),
  };
}

function toDevice({ path, type, major, minor, fileMode, uid, gid }: OciDevice): LinuxDevice {
  return {
    path,
    type,
    major: i64(major, 'linux.devices.major'),
    minor: i64(minor, 'linux.devices.minor'),
    fileMode: u32(fileMode, 'linux.devices.fileMode'),
    uid: u32(uid, 'linux.devices.uid'),
    gid: u32(gid, 'linux.devices.gid'),
  };
}

function toSeccomp(seccomp: OciSeccomp): LinuxSeccomp {
  return {
    defaultAction: seccomp.defaultAction,
    architectures: seccomp.architectures ?? [],
    flags: seccomp.flags ?? [],
    syscalls: (seccomp.syscalls ?? []).map(({ names, action, errnoRet, args }) => ({
      names,
      action,
      errnoRet: errnoRet === undefined ? undefined : u32(errnoRet, 'linux.seccomp.syscalls.errnoRet'),
      args: (args ?? []).map(({ index, value, valueTwo, op }) => ({
        index: u64(index, 'linux.seccomp.syscalls.args.index'),
        value: u64(value, 'linux.seccomp.syscalls.args.value'),
        valueTwo: u64(valueTwo, 'linux.seccomp.syscalls.args.valueTwo'),
        op,
      })),
    })),
  };
}
