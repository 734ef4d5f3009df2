/** Every key outside of [hypervisor.*]: [factory], [agent.*], [runtime], and sections of old versions. */
import type { AgentConfig, FactoryConfig, RuntimeSection } from './types';
import { defineKey, defineKeys, UINT64, type KeySpec } from './schema';

export const FACTORY_KEYS: readonly KeySpec[] = [
  defineKey('enable_template', 'boolean', '', 'new VMs are clones of one template VM; needs initrd'),
  defineKey('template_path', 'string', '', 'folder of the templates', { default: '/run/vc/vm/template' }),
  defineKey('vm_cache_number', 'integer', '', 'booted VMs that are kept ready; qemu only'),
  defineKey('vm_cache_endpoint', 'string', '', 'socket of the cache server', { default: '/var/run/kata-containers/cache.sock' }),
];

export const AGENT_KEYS: readonly KeySpec[] = [
  defineKey('enable_debug', 'boolean', '', 'agent.log=debug'),
  defineKey('enable_tracing', 'boolean', '', 'agent.trace=true', { status: 'later' }),
  defineKey('debug_console_enabled', 'boolean', '', 'root shell of the guest for `kata-runtime exec`'),
  defineKey('dial_timeout', 'integer', '', 'to reach the agent, and for its first answer; 0: 30 with KVM, 60 under TCG', { unit: 's' }),
  defineKey('kernel_modules', 'strings', '', 'modules to load in the guest: "name parameter parameter"'),
  defineKey('container_pipe_size', 'integer', '', 'size of the pipes of a container; 0: the default of the kernel', { unit: 'bytes' }),
  ...defineKeys({ since: '4.1' }, [
    defineKey('cdh_api_timeout', 'integer', '', 'agent.cdh_api_timeout', { unit: 's' }),
    defineKey('launch_process_timeout', 'integer', '', 'agent.launch_process_timeout', { unit: 's' }),
    defineKey('visible_cdi_devices', 'boolean', '', 'agent.visible_cdi_devices=true'),
  ]),
  ...defineKeys({ since: 'before 3.0', status: 'ignored', removed: 'gone before 3.0: enable_tracing alone decides' }, [
    defineKey('trace_mode', 'string', '', 'accepted, no effect'),
    defineKey('trace_type', 'string', '', 'accepted, no effect'),
  ]),
];

export const RUNTIME_KEYS: readonly KeySpec[] = [
  defineKey('enable_debug', 'boolean', '', 'log level debug'),
  defineKey('internetworking_model', 'string', '', 'how the VM joins the network of the pod', {
    default: 'tcfilter',
    choices: ['default', 'macvtap', 'tcfilter', 'none'],
    status: 'later',
    inert: ['default', 'none'],
  }),
  defineKey('disable_guest_seccomp', 'boolean', '', 'no seccomp filters in the guest'),
  defineKey('disable_new_netns', 'boolean', '', 'VMM in the network namespace of the host; needs internetworking_model = "none"'),
  defineKey('sandbox_cgroup_only', 'boolean', '', 'one host cgroup for everything of a sandbox'),
  defineKey('static_sandbox_resource_mgmt', 'boolean', '', 'size the VM before boot instead of growing it'),
  defineKey('sandbox_bind_mounts', 'strings', '', 'host paths that every sandbox sees, read-only'),
  defineKey('vfio_mode', 'string', '', 'who drives a passed device', { default: 'guest-kernel', choices: ['vfio', 'guest-kernel'], status: 'later' }),
  defineKey('disable_guest_empty_dir', 'boolean', '', 'keep emptyDir volumes on the host'),
  defineKey('experimental', 'strings', '', 'experimental features; none exists'),
  defineKey('enable_pprof', 'boolean', '', 'debug endpoints of the shim'),
  defineKey('create_container_timeout', 'integer', '', 'for creating one container', { default: 60, max: UINT64, unit: 's', since: '4.1' }),
  ...defineKeys({ status: 'later' }, [
    defineKey('enable_tracing', 'boolean', '', 'OpenTelemetry traces of the shim'),
    defineKey('jaeger_endpoint', 'string', '', 'where the traces go', { default: 'http://localhost:14268/api/traces' }),
    defineKey('jaeger_user', 'string', '', 'user name there'),
    defineKey('jaeger_password', 'string', '', 'password there'),
  ]),
  defineKey('guest_selinux_label', 'string', '', 'SELinux label of containers in the guest', {
    since: '4.1',
    status: 'refused',
    refusal: { why: 'containers would run without the label: SELinux is not supported in the guest', hint: 'set guest_selinux_label = ""' },
  }),
  defineKey('experimental_force_guest_pull', 'boolean', '', 'pull images in the guest', {
    since: '4.1',
    status: 'refused',
    refusal: { why: 'images would pass through the host all the same: pulling in the guest is not supported', hint: 'set experimental_force_guest_pull = false' },
  }),
  ...defineKeys({ status: 'later', since: '4.1' }, [
    defineKey('enable_vcpus_pinning', 'boolean', '', 'pin vCPU threads to the CPUs of the pod'),
    defineKey('emptydir_mode', 'string', '', 'where emptyDir volumes live', {
      default: 'shared-fs',
      choices: ['shared-fs', 'block-encrypted', 'block-plain'],
      refusal: { values: ['block-encrypted'], why: 'emptyDir volumes would not be encrypted: not supported', hint: 'use emptydir_mode = "shared-fs"' },
    }),
    defineKey('dan_conf', 'string', '', 'folder of directly attached networks; a sandbox that has a file there is refused', { default: '/run/kata-containers/dans' }),
    defineKey('pod_resource_api_sock', 'string', '', 'kubelet socket for cold plug'),
    defineKey('kubelet_root_dir', 'string', '', 'root folder of the kubelet', { default: '/var/lib/kubelet' }),
  ]),
];

/** Sections that only old versions have: every value is accepted and ignored, with one report. */
export const OLD_SECTIONS: Readonly<Record<string, string>> = {
  image: 'upstream 3.0.0 reads but never uses it, 4.1 dropped it',
  proxy: 'Kata 1.x; there is no proxy any more',
  shim: 'Kata 1.x; the shim has no configuration of its own any more',
  netmon: 'Kata 1.x; there is no network monitor any more',
};

type Fields<T> = Readonly<Record<keyof Omit<T, 'other'>, true>>;
const FACTORY: Fields<FactoryConfig> = { enableTemplate: true, templatePath: true, vmCacheNumber: true, vmCacheEndpoint: true };
const AGENT: Fields<AgentConfig> = {
  enableDebug: true, enableTracing: true, debugConsoleEnabled: true, dialTimeout: true, kernelModules: true, containerPipeSize: true,
};
const RUNTIME: Fields<RuntimeSection> = {
  enableDebug: true, internetworkingModel: true, disableGuestSeccomp: true, enableTracing: true, disableNewNetns: true,
  sandboxCgroupOnly: true, staticSandboxResourceMgmt: true, sandboxBindMounts: true, vfioMode: true, disableGuestEmptyDir: true,
  experimental: true, enablePprof: true, createContainerTimeout: true, danConf: true,
};
export const FACTORY_FIELDS: ReadonlySet<string> = new Set(Object.keys(FACTORY));
export const AGENT_FIELDS: ReadonlySet<string> = new Set(Object.keys(AGENT));
export const RUNTIME_FIELDS: ReadonlySet<string> = new Set(Object.keys(RUNTIME));
