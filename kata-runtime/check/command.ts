/** `kata-runtime check` (`kata-check`): can this machine run sandboxes, what is missing, what would work all the same. */
import type { Command } from 'commander';
import { describeError, KataError } from '../../base/errors';
import type { HypervisorType, RuntimeConfig } from '../../virtcontainers/config/types';
import type { CliHost } from '../host';
import type { Session } from '../session';
import type { Registrar } from '../registrar';
import { checkCapability, kvmFact, type Capability, type Finding, type KvmFact } from './capability';
import { hypervisorLines, hypervisorTable, type HypervisorRow } from './hypervisors';
import { probeAcrn, probeKvm, type ProbeResult } from './probe';
import { checkReleases, fetchOverNetwork, type Fetcher } from './releases';
import { whatWorks, type WorkingWay } from './what-works';

export interface CheckOptions {
  readonly checkVersionOnly?: boolean;
  readonly includeAllReleases?: boolean;
  /** commander's form of `--no-network-checks`: false when given. */
  readonly networkChecks?: boolean;
  readonly onlyListReleases?: boolean;
  readonly verbose?: boolean;
  readonly json?: boolean;
}

interface Verdict {
  readonly hypervisor: HypervisorType;
  readonly capability: Capability;
  readonly kvm: KvmFact;
  /** Undefined: not tried (not root, or the hypervisor needs none). */
  readonly probe: ProbeResult | undefined;
  readonly ways: readonly WorkingWay[];
  readonly hypervisors: readonly HypervisorRow[];
}

const NOT_CAPABLE = 'System is not capable of running Kata Containers';

async function networkPart(session: Session, options: CheckOptions, fetcher: Fetcher): Promise<void> {
  const { host } = session;
  if (options.networkChecks === false || (host.env['KATA_CHECK_NO_NETWORK'] ?? '') !== '') {
    return;
  }
  if (host.euid === 0) {
    host.err('kata-runtime: Not running network checks as super user\n');
    return;
  }
  const checked = await checkReleases(host, { includeAll: options.includeAllReleases === true, onlyList: options.onlyListReleases === true }, fetcher);
  if (checked.warning !== '') {
    host.err(`kata-runtime: ${checked.warning}\n`);
  }
  // With --json standard output is for the one object.
  const text = checked.lines.map((line) => `${line}\n`).join('');
  if (options.json === true && options.onlyListReleases !== true) {
    host.err(text);
  } else {
    host.out(text);
  }
}

/** The check works with a broken configuration too: it then judges for QEMU and says so. */
function configOf(session: Session): RuntimeConfig | undefined {
  try {
    return session.loadConfigUnchecked();
  } catch (reason) {
    session.host.err(`kata-runtime: ${describeError(reason)}; checking for QEMU\n`);
    return undefined;
  }
}

async function judge(session: Session): Promise<Verdict> {
  const config = configOf(session);
  const hypervisor = config?.hypervisor.type ?? 'qemu';
  const capability = await checkCapability(session.host, hypervisor, config?.hypervisor.accelerator === 'tcg');
  const wanted = session.host.euid === 0 && config?.hypervisor.accelerator !== 'tcg' ? capability.requirements.probe : 'none';
  const kvm = kvmFact(session.host, capability.cpu);
  return {
    hypervisor,
    capability,
    kvm,
    probe: wanted === 'none' ? undefined : wanted === 'kvm' ? probeKvm(session.host) : probeAcrn(session.host),
    ways: await whatWorks(session.host, kvm, config),
    hypervisors: await hypervisorTable(config),
  };
}

function findingLine(finding: Finding): string {
  const state = finding.ok ? 'found' : finding.required ? 'missing' : 'missing (not required)';
  return `${finding.kind} ${finding.name}: ${state}${finding.remedy === '' ? '' : `: ${finding.remedy}`}`;
}

function tell(host: CliHost, verdict: Verdict, verbose: boolean): void {
  const { capability, probe, kvm } = verdict;
  for (const finding of capability.findings) {
    if (verbose || (!finding.ok && (finding.required || !capability.capable))) {
      host.err(`kata-runtime: ${findingLine(finding)}\n`);
    }
  }
  if (capability.capable) {
    host.out('System is capable of running Kata Containers\n');
    if (host.euid === 0 && probe?.ok !== false) {
      host.out('System can currently create Kata Containers\n');
    }
  }
  if (verbose || !capability.capable || probe?.ok === false) {
    host.out(`KVM: ${kvm.text}\n`);
    host.out('What works here with this runtime:\n');
    for (const way of verdict.ways) {
      host.out(`  ${way.works ? '+' : '-'} ${way.name}: ${way.text}\n`);
    }
  }
  host.out(`What each hypervisor can do with this runtime (* configured; disks and NICs: hot-plugged; resize: vCPUs and memory):\n${hypervisorLines(verdict.hypervisors).map((line) => `  ${line}\n`).join('')}`);
}

function toJson(verdict: Verdict): string {
  const { capability, probe } = verdict;
  return `${JSON.stringify(
    {
      capable: capability.capable,
      canCreate: capability.capable && (probe?.ok ?? true),
      hypervisor: verdict.hypervisor,
      kvm: verdict.kvm.state,
      probe: probe === undefined ? null : { ok: probe.ok, reason: probe.reason, remedy: probe.remedy },
      findings: capability.findings,
      works: verdict.ways,
      hypervisors: verdict.hypervisors,
    },
    null,
    2,
  )}\n`;
}

/** Prints what it finds. FailedPrecondition if sandboxes cannot run here. */
export async function runCheck(session: Session, options: CheckOptions, fetcher: Fetcher = fetchOverNetwork): Promise<void> {
  if (options.verbose === true) {
    session.logger.setLevel('info');
  }
  await networkPart(session, options, fetcher);
  if (options.checkVersionOnly === true || options.onlyListReleases === true) {
    return;
  }
  const verdict = await judge(session);
  if (options.json === true) {
    session.host.out(toJson(verdict));
  } else {
    tell(session.host, verdict, options.verbose === true);
  }
  if (!verdict.capability.capable) {
    const missing = verdict.capability.findings.filter((finding) => !finding.ok && finding.required).map((finding) => finding.name);
    const way = verdict.ways.find((candidate) => candidate.works);
    throw new KataError('FailedPrecondition', `ERROR: ${NOT_CAPABLE} (missing: ${missing.join(', ')})`, {
      hint: way === undefined ? 'add what is named above' : `add what is named above; without it this would still work: ${way.name}`,
    });
  }
  if (verdict.probe?.ok === false) {
    throw new KataError('FailedPrecondition', verdict.probe.reason, { hint: verdict.probe.remedy });
  }
}

export const registerCheck: Registrar = (program: Command, run) => {
  program
    .command('check')
    .alias('kata-check')
    .description('tests if system can run Kata Containers')
    .option('--check-version-only', 'only compare the current and latest available versions')
    .option('--include-all-releases', 'do not filter out pre-release releases')
    .option('-n, --no-network-checks', 'do not run any checks using the network')
    .option('--only-list-releases', 'only list newer available releases')
    .option('-s, --strict', 'accepted for compatibility, has no effect')
    .option('-v, --verbose', 'list every check performed')
    .option('--json', 'print the findings as JSON')
    .addHelpText('after', '\nEnvironment:\n  KATA_CHECK_NO_NETWORK  set to anything: as --no-network-checks\n  KATA_RELEASE_URL       one of the two official release addresses\n\nExamples:\n  kata-runtime check --verbose --no-network-checks\n  kata-runtime check --json | jq .works')
    .action(run('check', (session, options: CheckOptions) => runCheck(session, options)));
};
