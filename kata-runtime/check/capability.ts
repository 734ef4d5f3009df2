/** Can this host run sandboxes with the configured hypervisor? Findings first, then the verdict. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { KataError } from '../../base/errors';
import type { HypervisorType } from '../../virtcontainers/config/types';
import type { CliHost } from '../host';
import { parseCpuinfo, type CpuInfo } from './cpuinfo';
import { deviceObstacle, moduleParameter, moduleThere } from './probe';
import { FLAG_REMEDIES, requirementsFor, type ModuleNeed, type Requirements } from './requirements';

/** One thing that was looked at. */
export interface Finding {
  readonly kind: 'cpu flag' | 'kernel module' | 'module parameter' | 'cpu';
  readonly name: string;
  readonly ok: boolean;
  /** False: the lack does not make the host incapable. */
  readonly required: boolean;
  /** What to do; '' when ok. */
  readonly remedy: string;
}

export interface Capability {
  readonly capable: boolean;
  readonly findings: readonly Finding[];
  readonly cpu: CpuInfo;
  readonly requirements: Requirements;
}

/** KVM by fact: it opens *and* the CPU has what it takes. Some machines have a /dev/kvm on which no guest runs. */
export interface KvmFact {
  readonly state: 'usable' | 'opens-only' | 'absent';
  readonly text: string;
}

export function readCpuinfo(host: CliHost): CpuInfo {
  const path = join(host.roots.proc, 'cpuinfo');
  try {
    return parseCpuinfo(readFileSync(path, 'utf8'));
  } catch (reason) {
    throw KataError.from(reason, `read ${path}`);
  }
}

export function kvmFact(host: CliHost, cpu: CpuInfo): KvmFact {
  const obstacle = deviceObstacle(host, 'kvm');
  if (obstacle !== '') {
    return { state: 'absent', text: `/dev/kvm cannot be opened: ${obstacle}` };
  }
  if (host.arch === 'x64' && cpu.flags?.has('vmx') !== true && cpu.flags?.has('svm') !== true) {
    return { state: 'opens-only', text: '/dev/kvm opens, but the CPU has neither vmx nor svm: guests would crawl or die on it' };
  }
  return { state: 'usable', text: '/dev/kvm opens and the CPU has hardware virtualization' };
}

function checkFlags(cpu: CpuInfo, flags: readonly string[], arch: string): Finding[] {
  if (cpu.flags === undefined) {
    return arch === 'x64' && flags.length > 0
      ? [{ kind: 'cpu', name: 'Cannot find CPU flags', ok: false, required: true, remedy: '/proc/cpuinfo has no flags line: mount a real /proc' }]
      : [];
  }
  const present = cpu.flags;
  return flags.map((name): Finding => {
    const ok = present.has(name);
    return { kind: 'cpu flag', name, ok, required: true, remedy: ok ? '' : (FLAG_REMEDIES[name] ?? 'use another CPU') };
  });
}

async function checkModule(host: CliHost, need: ModuleNeed, cpu: CpuInfo): Promise<Finding[]> {
  const ok = await moduleThere(host, need.name);
  const findings: Finding[] = [
    { kind: 'kernel module', name: need.name, ok, required: need.required, remedy: ok ? '' : `modprobe ${need.name}${host.euid === 0 ? ' fails: install a kernel that has it' : ' (as root)'}` },
  ];
  for (const [parameter, wanted] of ok ? Object.entries(need.parameters ?? {}) : []) {
    const value = moduleParameter(host, need.name, parameter);
    const tolerated = parameter === 'nested' || (parameter === 'unrestricted_guest' && cpu.onVmm);
    findings.push({
      kind: 'module parameter',
      name: `${need.name}.${parameter}=${wanted}`,
      ok: value === wanted,
      required: !tolerated && value !== undefined,
      remedy: value === wanted ? '' : `it is ${value ?? 'not readable'}: set it in /etc/modprobe.d and load ${need.name} again, or use a newer CPU`,
    });
  }
  return findings;
}

/**
 * Looks at CPU flags and kernel modules (as root, missing ones are loaded). With `software` nothing that only serves
 * hardware virtualization is required.
 */
export async function checkCapability(host: CliHost, hypervisor: HypervisorType, software = false): Promise<Capability> {
  const cpu = readCpuinfo(host);
  const requirements = requirementsFor(host.arch, cpu, hypervisor);
  const findings = checkFlags(cpu, requirements.flags, host.arch);
  for (const module of requirements.modules) {
    findings.push(...(await checkModule(host, module, cpu)));
  }
  const judged = software ? findings.map((finding) => (['lm', 'sse4_1'].includes(finding.name) ? finding : { ...finding, required: false })) : findings;
  return { capable: judged.every((finding) => finding.ok || !finding.required), findings: judged, cpu, requirements };
}
