/** Which kernel modules the guest has, by purpose. Dependencies are added by `modules.ts`. */

/** Without these the agent is not reachable: PCI and MMIO transport, and the serial channel. */
export const BOOT_MODULES: readonly string[] = ['virtio_pci', 'virtio_mmio', 'virtio_console'];

/** By virtio device id (virtio specification, section 5): what drives that device, and what uses it. */
export const MODULES_BY_VIRTIO_ID: Readonly<Record<string, readonly string[]>> = {
  '1': ['virtio_net'],
  '2': ['virtio_blk'],
  '4': ['virtio_rng'],
  '5': ['virtio_balloon'],
  '8': ['virtio_scsi', 'sd_mod'],
  '9': ['9pnet_virtio', '9p'],
  '19': ['vmw_vsock_virtio_transport'],
  '24': ['virtio_mem'],
  '26': ['virtiofs'],
  '27': ['virtio_pmem', 'nd_pmem'],
};

/** Loaded once the agent answers, in this order: all that a hot-plugged device or a container may use at once. */
export const LATER_MODULES: readonly string[] = [
  'overlay', 'vmw_vsock_virtio_transport', 'virtio_net', 'virtio_blk', 'virtio_rng', '9pnet_virtio', '9p', 'virtiofs', 'ext4', 'virtio_scsi', 'sd_mod',
];

/** In the image, compressed, loaded by the kernel's own request or by `modprobe`. */
export const ON_DEMAND_MODULES: readonly string[] = [
  // devices
  'virtio_balloon', 'virtio_mem', 'virtio_pmem', 'nfit', 'nd_pmem', 'nd_btt', 'loop', 'dm_mod', 'dm_verity', 'vfio_pci', 'nvme',
  // file systems
  'xfs', 'erofs', 'squashfs', 'isofs', 'crc32c_generic', 'crc32c_intel',
  // networks: links that containers make, and what a pod's rules use
  'dummy', 'veth', 'bridge', 'macvlan', 'ipvlan', 'vxlan', 'tun', '8021q', 'br_netfilter', 'vsock_loopback', 'sch_ingress', 'sch_netem', 'sch_tbf',
  'iptable_filter', 'iptable_nat', 'iptable_mangle', 'iptable_raw', 'ip6table_filter', 'ip6table_nat', 'ip6table_mangle', 'ip6table_raw',
  'ipt_REJECT', 'ip6t_REJECT', 'xt_MASQUERADE', 'xt_REDIRECT', 'xt_TPROXY', 'xt_NFLOG', 'xt_LOG', 'xt_CT', 'xt_TCPMSS', 'xt_addrtype',
  'xt_comment', 'xt_connmark', 'xt_conntrack', 'xt_hashlimit', 'xt_limit', 'xt_mark', 'xt_multiport', 'xt_nat', 'xt_owner', 'xt_physdev', 'xt_recent',
  'xt_set', 'xt_socket', 'xt_state', 'xt_statistic', 'xt_tcpudp', 'ip_set', 'ip_set_hash_ip', 'ip_set_hash_net', 'ip_vs', 'ip_vs_rr',
  'nf_tables', 'nft_compat', 'nft_chain_nat', 'nft_ct', 'nft_masq', 'nft_nat', 'nft_redir', 'nft_reject_inet', 'nft_limit', 'nft_log', 'nft_hash', 'nft_fib_inet',
];
