/** Starts the processes of one QEMU VM. Whatever exists afterwards is on the undo stack. */
import { closeSync, openSync, statSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import type { Child } from '../../../base/child';
import { unixListen } from '../../../base/syscalls';
import type { UndoStack } from '../../../base/undo';
import { startGuarded } from '../processes';
import type { VmSpec } from '../types';
import type { Accelerator } from './accelerator';
import { commandLine } from './command-line';
import { fileIn } from './layout';
import { InheritedFds, type AgentChannel, type QemuPlan } from './plan';
import { startVirtiofsd } from './virtiofsd';
import { randomBytes } from './vsock';

/** A process of a VM: a child, or one that was taken over. */
export type VmProcess = Pick<Child, 'pid' | 'exited' | 'exit' | 'stderr'> & { kill(signal: 'SIGKILL'): boolean };

export interface Launched {
  readonly qemu: VmProcess;
  readonly virtiofsd: VmProcess | undefined;
  /** Connecting or connected to QEMU's monitor. */
  readonly monitor: Socket;
  /** Number in QEMU of the open state file; clones only. */
  readonly stateFd: number | undefined;
}

export interface LaunchInput {
  readonly spec: VmSpec;
  readonly accelerator: Accelerator;
  readonly channel: AgentChannel;
}

function uuid(): string {
  const bytes = randomBytes(16);
  bytes.writeUInt8((bytes.readUInt8(6) & 0x0f) | 0x40, 6);
  bytes.writeUInt8((bytes.readUInt8(8) & 0x3f) | 0x80, 8);
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

/** Facts about the host that the command line needs. */
export function makePlan({ spec, accelerator, channel }: LaunchInput): QemuPlan {
  return {
    spec,
    accelerator: accelerator.kind,
    tscKhz: accelerator.tscKhz,
    disableModern: accelerator.kind === 'kvm' && accelerator.nested && !spec.config.disableNestingChecks,
    uuid: uuid(),
    channel,
    imageBytes: spec.config.image === '' ? 0 : statSync(spec.config.image).size,
    token: randomBytes(8).toString('hex'),
  };
}

/** virtiofsd and QEMU, side by side; the monitor's connection waits in the listener's queue until QEMU takes it. */
export async function launch(input: LaunchInput, undo: UndoStack): Promise<Launched> {
  const { spec, channel } = input;
  const plan = makePlan(input);
  const shares = spec.share?.kind === 'virtio-fs' && spec.template === undefined;
  const virtiofsd = shares ? await startVirtiofsd(spec.config, spec.share.source, fileIn(spec.directory, 'virtioFs'), spec.selinuxLabel) : undefined;
  if (virtiofsd !== undefined) {
    undo.push('virtiofsd', () => void virtiofsd.kill('SIGKILL'));
  }
  if (spec.template?.use === 'become') {
    // Made here so that nobody else may read a guest's memory; QEMU gives it its size.
    writeFileSync(spec.template.memoryPath, '', { mode: 0o600, flag: 'w' });
  }
  const ours: number[] = [];
  try {
    const listener = unixListen(fileIn(spec.directory, 'qmp'));
    ours.push(listener);
    const fds = new InheritedFds();
    const args = commandLine(plan, listener, fds);
    let stateFd: number | undefined;
    if (spec.template?.use === 'clone') {
      const state = openSync(spec.template.statePath, 'r');
      ours.push(state);
      stateFd = fds.add(state);
    }
    const monitor = connect(fileIn(spec.directory, 'qmp'));
    undo.push('the monitor', () => void monitor.destroy());
    monitor.on('error', () => undefined);
    const qemu = startGuarded(spec.config.path, args, spec.netns, { extraFds: fds.all, stdout: 'ignore', selinuxLabel: spec.selinuxLabel }, spec.transferable === true ? { directory: spec.directory, share: spec.share?.kind === 'virtio-9p' ? spec.share.source : undefined } : undefined);
    undo.push('QEMU', () => void qemu.kill('SIGKILL'));
    return { qemu, virtiofsd, monitor, stateFd };
  } finally {
    ours.forEach((fd) => { closeSync(fd); });
    if (channel.kind === 'vsock') {
      closeSync(channel.fd);
    }
  }
}
