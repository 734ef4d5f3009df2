/** The configurations that upstream ships, put together from the tables of their keys: users bring them along. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseConfig } from './load';
import type { RuntimeConfig } from './types';

const HOST = { cpus: 4, memoryMiB: 16384, arch: 'x64' };
const parse = (text: string): RuntimeConfig => parseConfig(text, '/c.toml', { host: HOST });

const VM = 'default_vcpus = 1\ndefault_maxvcpus = 0\ndefault_bridges = 1\ndefault_memory = 2048\nmemory_slots = 10\ndefault_maxmemory = 0\nmemory_offset = 0\nkernel_params = ""\nenable_annotations = ["enable_iommu"]\n';
const SHARE = (args: string) =>
  `shared_fs = "virtio-fs"\nvirtio_fs_daemon = "/opt/kata/libexec/virtiofsd"\nvalid_virtio_fs_daemon_paths = ["/opt/kata/libexec/virtiofsd"]\nvirtio_fs_cache = "auto"\nvirtio_fs_cache_size = 0\nvirtio_fs_extra_args = [${args}]\n`;
const ENTROPY = 'entropy_source = "/dev/urandom"\nvalid_entropy_sources = ["/dev/urandom", "/dev/random", ""]\nguest_hook_path = ""\ndisable_selinux = false\n';
const REST = (model = 'tcfilter', fixed = false) =>
  `[factory]\n#enable_template = true\n[agent.kata]\nkernel_modules = []\n#dial_timeout = 30\n[runtime]\ninternetworking_model = "${model}"\ndisable_guest_seccomp = true\nsandbox_cgroup_only = false\nstatic_sandbox_resource_mgmt = ${String(fixed)}\nsandbox_bind_mounts = []\nvfio_mode = "guest-kernel"\ndisable_guest_empty_dir = false\nexperimental = []\n`;
const ASSETS = 'kernel = "/opt/kata/share/kata-containers/vmlinux.container"\nimage = "/opt/kata/share/kata-containers/kata-containers.img"\n';

const V3: Readonly<Record<string, string>> = {
  qemu: `[hypervisor.qemu]\npath = "/opt/kata/bin/qemu-system-x86_64"\nvalid_hypervisor_paths = ["/opt/kata/bin/qemu-system-x86_64"]\n${ASSETS}machine_type = "q35"\nfirmware = ""\nfirmware_volume = ""\nmachine_accelerators = ""\npflashes = []\ncpu_features = "pmu=off"\n${VM}${SHARE('"--thread-pool-size=1", "-o", "announce_submounts"')}disable_block_device_use = false\nblock_device_driver = "virtio-scsi"\nblock_device_aio = "io_uring"\nenable_iothreads = false\nenable_vhost_user_store = false\nvhost_user_store_path = "/var/run/kata-containers/vhost-user"\nvalid_vhost_user_store_paths = ["/var/run/kata-containers/vhost-user"]\nvalid_file_mem_backends = [""]\nmsize_9p = 8192\npcie_root_port = 0\nrx_rate_limiter_max_rate = 0\ntx_rate_limiter_max_rate = 0\n${ENTROPY}${REST()}[image]\n#service_offload = false\n`,
  clh: `[hypervisor.clh]\npath = "/opt/kata/bin/cloud-hypervisor"\nvalid_hypervisor_paths = ["/opt/kata/bin/cloud-hypervisor"]\n${ASSETS}${VM}${SHARE('"--thread-pool-size=1", "-o", "announce_submounts"')}block_device_driver = "virtio-blk"\n${ENTROPY}${['disk', 'net'].flatMap((what) => ['bw', 'ops'].flatMap((unit) => ['max_rate', 'one_time_burst'].map((rule) => `${what}_rate_limiter_${unit}_${rule} = 0\n`))).join('')}${REST()}`,
  fc: `[hypervisor.firecracker]\npath = "/opt/kata/bin/firecracker"\njailer_path = "/opt/kata/bin/jailer"\nvalid_jailer_paths = ["/opt/kata/bin/jailer"]\n${ASSETS}${VM}block_device_driver = "virtio-mmio"\nenable_iothreads = false\nrx_rate_limiter_max_rate = 0\ntx_rate_limiter_max_rate = 0\ndisable_vhost_net = true\n${ENTROPY}${REST('tcfilter', true)}`,
  acrn: `[hypervisor.acrn]\npath = "/usr/bin/acrn-dm"\nctlpath = "/usr/bin/acrnctl"\nvalid_ctlpaths = ["/usr/bin/acrnctl"]\n${ASSETS}${VM.replace('default_maxvcpus = 0', 'default_maxvcpus = 1')}block_device_driver = "virtio-blk"\n${ENTROPY}${REST('macvtap')}`,
};

const HEAD_RUNTIME = 'enable_vcpus_pinning = false\nguest_selinux_label = ""\nemptydir_mode = "shared-fs"\ncreate_container_timeout = 60\ndan_conf = "/run/kata-containers/dans"\nexperimental_force_guest_pull = false\npod_resource_api_sock = ""\nkubelet_root_dir = "/var/lib/kubelet"\nenable_debug = false\nenable_tracing = false\njaeger_endpoint = ""\njaeger_user = ""\njaeger_password = ""\ndisable_new_netns = false\nenable_pprof = false\n';
/** 4.1: all keys written out; what it removed is taken away. */
function modern(text: string, more: string): string {
  const kept = text.split('\n').filter((line) => !/^(valid_file_mem_backends|\[image\]|ctlpath|valid_ctlpaths|enable_annotations|disable_selinux|guest_hook_path|disable_guest_empty_dir)/.test(line));
  const hypervisor = `rootfs_type = "ext4"\nkernel_verity_params = ""\nhypervisor_loglevel = 1\ndisable_selinux = false\nguest_hook_path = ""\nenable_annotations = ["enable_iommu", "kernel_params", "kernel_verity_params"]\n${more}`;
  return `${kept.join('\n').replace('\n[factory]', `\n${hypervisor}[factory]`).replace('kernel_modules = []', 'kernel_modules = []\ndial_timeout = 45\ncdh_api_timeout = 50\nlaunch_process_timeout = 6\nvisible_cdi_devices = false\nenable_debug = false\nenable_tracing = false\ndebug_console_enabled = false')}${HEAD_RUNTIME}disable_guest_empty_dir = true\n`;
}
const HEAD_QEMU = 'guest_extension_images = []\nextra_monitor_socket = ""\nvirtio_fs_queue_size = 1024\nindep_iothreads = 0\nblock_device_logical_sector_size = 0\nblock_device_physical_sector_size = 0\nreclaim_guest_freed_memory = false\nvhost_user_reconnect_timeout_sec = 0\nenable_numa = false\nnuma_mapping = []\nhot_plug_vfio = "no-port"\ncold_plug_vfio = "no-port"\npcie_switch_port = 0\nconfidential_guest = false\nsev_snp_guest = false\ntdx_quote_generation_service_socket_port = 0\ndisable_guest_selinux = true\nseccompsandbox = ""\n';

test('what upstream ships at 3.0.0 and 4.1 loads', () => {
  for (const [name, text] of Object.entries(V3)) {
    const config = parse(text);
    assert.equal(config.hypervisor.type, name === 'fc' ? 'firecracker' : name);
    assert.equal(config.runtime.disableGuestSeccomp, true);
  }
  const qemu = parse(modern(V3['qemu'] ?? '', `disable_block_device_use = true\n${HEAD_QEMU}`).replace('disable_block_device_use = false\n', ''));
  assert.deepEqual(qemu.warnings, []);
  assert.deepEqual([qemu.agent.dialTimeout, qemu.agent.other?.['cdh_api_timeout'], qemu.hypervisor.virtioFsQueueSize], [45, 50, 1024]);
  assert.equal(parse(modern(V3['clh'] ?? '', 'virtio_fs_queue_size = 1024\ndisable_image_nvdimm = true\n')).hypervisor.type, 'clh');
  assert.equal(parse(modern(V3['fc'] ?? '', '')).hypervisor.type, 'firecracker');
  assert.equal(parse(modern((V3['fc'] ?? '').replace('firecracker]', 'stratovirt]'), '').replace('enable_vcpus_pinning = false', 'enable_vcpus_pinning = true')).hypervisor.type, 'stratovirt');
  assert.equal(parse(`[hypervisor.remote]\nremote_hypervisor_socket = "/run/peerpod/hypervisor.sock"\nremote_hypervisor_timeout = 600\nshared_fs = "none"\n${VM}${REST('none')}`).hypervisor.type, 'remote');
});

test('the configuration of 3.0.0 with QEMU gives no report but for the section that is gone', () => {
  assert.deepEqual(parse(V3['qemu'] ?? '').warnings, ['[image] (/c.toml:57) is ignored: upstream 3.0.0 reads but never uses it, 4.1 dropped it']);
});

test('the confidential templates load, with a report for what is not supported yet', () => {
  for (const more of ['confidential_guest = true\nsev_snp_guest = true\nsnp_guest_policy = 196608\nmeasurement_algo = "sha512"\n', 'confidential_guest = true\ntdx_quote_generation_service_socket_port = 4050\n']) {
    const config = parse(modern(V3['qemu'] ?? '', more));
    assert.ok(config.warnings.some((warning) => warning.includes('confidential_guest')));
    assert.equal(config.hypervisor.defaultMaxvcpus, 1);
  }
});

test('our own default configuration loads without a report', () => {
  const text = readFileSync(join(__dirname, '../../hack/config/configuration-qemu.toml.in'), 'utf8').replaceAll('@PREFIX@', '/usr/local');
  const config = parse(text);
  assert.deepEqual(config.warnings, []);
  assert.equal(config.hypervisor.kernel, '/usr/local/share/kata-containers/kata-ts-vmlinux');
  assert.equal(config.hypervisor.initrd, '/usr/local/share/kata-containers/kata-ts-initrd.img');
});
