/** A private containerd with its CRI plugin on, the runtime handler `kata`, and pods on a CNI network of their own. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { PodSandboxConfig } from '../../../gen/cri/sandbox-config';
import type { ContainerConfig, ContainerStatus, DeepPartial } from '../../../gen/cri/runtime';
import { makeBusyboxImage } from '../../../hack/busybox-image';
import { ROOT, unpackDebian } from '../../../hack/private-containerd';
import { Host, IMAGE, RUNTIME, type HypervisorName } from '../host';
import { CriClient } from './cri-client';

export const HANDLER = 'kata';
const PAUSE_IMAGE = 'docker.io/library/pause:kata-ts';
const NAMESPACE = 'k8s.io';
/** Conditions that a kubelet waits for; others are advice. */
const READINESS: readonly string[] = ['RuntimeReady', 'NetworkReady'];

/** A /24 of 10.88-10.95 by process id: runs beside each other do not meet. */
function subnet(): string {
  return `10.${String(88 + ((process.pid >> 8) & 7))}.${String(process.pid & 255)}.0/24`;
}

function criConfig(folder: string): string {
  const cni = unpackDebian('cni', ['containernetworking-plugins']);
  const confDir = join(folder, 'net.d');
  mkdirSync(confDir, { recursive: true });
  writeFileSync(
    join(confDir, '10-kata-ts.conflist'),
    JSON.stringify({
      cniVersion: '0.4.0',
      name: `kata-ts-${String(process.pid)}`,
      plugins: [{ type: 'ptp', ipMasq: false, ipam: { type: 'host-local', dataDir: join(folder, 'ipam'), ranges: [[{ subnet: subnet() }]], routes: [{ dst: '0.0.0.0/0' }] } }],
    }),
  );
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  return [
    `[${cri}]`,
    `  sandbox_image = "${PAUSE_IMAGE}"`,
    // Test machines may lack CAP_SYS_RESOURCE.
    '  restrict_oom_score_adj = true',
    '  stream_server_address = "127.0.0.1"',
    '  stream_server_port = "0"',
    `[${cri}.cni]`,
    `  bin_dir = "${join(cni, 'usr/lib/cni')}"`,
    `  conf_dir = "${confDir}"`,
    `[${cri}.containerd]`,
    `  default_runtime_name = "${HANDLER}"`,
    `[${cri}.containerd.runtimes.${HANDLER}]`,
    `  runtime_type = "${RUNTIME}"`,
    '  privileged_without_host_devices = true',
    '  pod_annotations = ["io.katacontainers.*"]',
    '  container_annotations = ["io.katacontainers.*"]',
  ].join('\n');
}

export class CriHost {
  private readonly pods = new Set<string>();

  private constructor(
    readonly host: Host,
    readonly cri: CriClient,
    /** Pod logs, CNI configuration and addresses. */
    readonly folder: string,
  ) {}

  /** `binaries`: another containerd than Debian 12's. */
  static async start(hypervisor: HypervisorName, binaries?: string): Promise<CriHost> {
    const folder = mkdtempSync(join(tmpdir(), 'kata-ts-cri-'));
    const host = await Host.start(hypervisor, { hypervisor: { enable_annotations: '["default_vcpus"]' } }, { criConfig: criConfig(folder), ...(binaries === undefined ? {} : { binaries }) });
    const created = new CriHost(host, new CriClient(host.containerd.address), folder);
    try {
      await created.importImages();
      await created.untilReady();
    } catch (reason) {
      await created.stop();
      throw reason;
    }
    return created;
  }

  private async importImages(): Promise<void> {
    const pause = join(ROOT, 'build/pause.tar');
    makeBusyboxImage(pause, { name: PAUSE_IMAGE, command: ['tail', '-f', '/dev/null'] });
    for (const image of [pause, join(ROOT, 'build/busybox.tar')]) {
      const imported = await this.host.ctr(['-n', NAMESPACE, 'images', 'import', image]);
      if (imported.code !== 0) {
        throw new Error(`import failed: ${imported.stderr}`);
      }
    }
  }

  private async untilReady(): Promise<void> {
    for (let tries = 0; ; tries++) {
      const missing = await this.cri.call('status', {}).then(
        ({ status }) => (status?.conditions ?? []).filter(({ type, status: met }) => READINESS.includes(type) && !met).map((condition) => `${condition.type}: ${condition.message}`),
        (reason: unknown) => [String(reason)],
      );
      if (missing.length === 0) {
        return;
      }
      if (tries === 100) {
        throw new Error(`the CRI is not ready: ${missing.join(', ')}\n${this.host.containerd.log.slice(-4000)}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  podConfig(name: string, more: DeepPartial<PodSandboxConfig> = {}): DeepPartial<PodSandboxConfig> {
    return {
      metadata: { name, uid: `uid-of-${name}`, namespace: 'kata-tests', attempt: 0 },
      hostname: name,
      logDirectory: join(this.folder, 'logs', name),
      labels: new Map([['app', name]]),
      linux: { cgroupParent: `/kata-ts-${String(process.pid)}` },
      ...more,
    };
  }

  /** RunPodSandbox with our handler; the id. */
  async runPod(config: DeepPartial<PodSandboxConfig>): Promise<string> {
    mkdirSync(config.logDirectory ?? '', { recursive: true });
    const { podSandboxId } = await this.cri.call('runPodSandbox', { config, runtimeHandler: HANDLER });
    this.pods.add(podSandboxId);
    return podSandboxId;
  }

  /** CreateContainer and StartContainer; the id. */
  async runContainer(podSandboxId: string, sandboxConfig: DeepPartial<PodSandboxConfig>, name: string, command: readonly string[], more: DeepPartial<ContainerConfig> = {}): Promise<string> {
    const config: DeepPartial<ContainerConfig> = { metadata: { name, attempt: 0 }, image: { image: IMAGE }, command: [...command], logPath: `${name}.log`, ...more };
    const { containerId } = await this.cri.call('createContainer', { podSandboxId, config, sandboxConfig });
    await this.cri.call('startContainer', { containerId });
    return containerId;
  }

  /** Exit code and output. */
  async exec(containerId: string, ...cmd: string[]): Promise<readonly [code: number, stdout: string, stderr: string]> {
    const done = await this.cri.call('execSync', { containerId, cmd, timeout: 60n });
    return [done.exitCode, Buffer.from(done.stdout).toString(), Buffer.from(done.stderr).toString()];
  }

  async status(containerId: string): Promise<ContainerStatus> {
    const { status } = await this.cri.call('containerStatus', { containerId });
    if (status === undefined) {
      throw new Error(`no status of ${containerId}`);
    }
    return status;
  }

  /** The status once the container has ended. */
  async ended(containerId: string): Promise<ContainerStatus> {
    for (let tries = 0; tries < 600; tries++) {
      const status = await this.status(containerId);
      if (status.state === 2) {
        return status;
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(`${containerId} did not end`);
  }

  /** What the kubelet reads: lines of `<time> <stream> F <text>`. */
  logOf(pod: string, container: string): string {
    return readFileSync(join(this.folder, 'logs', pod, `${container}.log`), 'utf8');
  }

  /** containerd killed and started again. */
  async restartContainerd(): Promise<void> {
    await this.host.containerd.restart('SIGKILL');
    await this.untilReady();
  }

  async removePod(podSandboxId: string): Promise<void> {
    await this.cri.call('stopPodSandbox', { podSandboxId });
    await this.cri.call('removePodSandbox', { podSandboxId });
    this.pods.delete(podSandboxId);
  }

  /** Removes the pods that are left, since only the CRI gives back their network, and everything else. */
  async stop(): Promise<void> {
    for (const id of this.pods) {
      await this.removePod(id).catch(() => undefined);
    }
    this.cri.close();
    await this.host.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
