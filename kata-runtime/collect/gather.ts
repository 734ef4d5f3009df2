/** The files of a bug report. Each is gathered by itself: what cannot be had is said in its place. */
import { closeSync, openSync, readdirSync, readSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { run } from '../../base/child';
import { describeError } from '../../base/errors';
import { checkCapability, kvmFact, readCpuinfo } from '../check/capability';
import { whatWorks } from '../check/what-works';
import { envDocument } from '../env/document';
import { formatSources, sourcedValues } from '../env/sources';
import { formatGoJson } from '../env/toml';
import { templatePathOf } from '../gc/command';
import { findLeftovers } from '../gc/leftovers';
import { sandboxRows } from '../ps';
import { sandboxIds } from '../sandboxes';
import type { Session } from '../session';
import { askMonitor } from '../shim-monitor';
import { versionText } from '../version';
import { redact } from './redact';

export interface ReportFile {
  readonly name: string;
  readonly text: string;
}

const MAX_FILE_BYTES = 1024 * 1024;
const TOOL_TIMEOUT_MS = 10_000;

/** The end of a file, at most 1 MiB. */
function tail(path: string): string {
  const size = statSync(path).size;
  const fd = openSync(path, 'r');
  try {
    // Size 0: /proc says so of everything.
    const length = size === 0 ? MAX_FILE_BYTES : Math.min(size, MAX_FILE_BYTES);
    const buffer = Buffer.alloc(length);
    let at = 0;
    for (let got = -1; got !== 0 && at < length; at += got) {
      got = readSync(fd, buffer, at, length - at, size > length ? size - length + at : size === 0 ? null : at);
    }
    return buffer.toString('utf8', 0, at);
  } finally {
    closeSync(fd);
  }
}

async function tool(file: string, args: readonly string[]): Promise<string> {
  return run(file, args, { timeoutMs: TOOL_TIMEOUT_MS });
}

type Source = readonly [name: string, make: () => Promise<string> | string];

function hostSources(session: Session): Source[] {
  const { proc } = session.host.roots;
  return [
    ['host/cpuinfo.txt', () => tail(join(proc, 'cpuinfo')).split(/\n\s*\n/)[0] ?? ''],
    ['host/meminfo.txt', () => tail(join(proc, 'meminfo'))],
    ['host/version.txt', () => tail(join(proc, 'version'))],
    ['host/mounts.txt', () => tail(join(proc, 'self/mountinfo'))],
    ['host/modules.txt', () => tail(join(proc, 'modules'))],
    ['host/cgroups.txt', () => tail(join(proc, 'cgroups'))],
    ['host/containerd-journal.txt', async () => (await tool('journalctl', ['-u', 'containerd', '-n', '3000', '--no-pager'])).split('\n').filter((line) => /kata|shim/i.test(line)).join('\n')],
    ['host/dmesg.txt', async () => (await tool('dmesg', [])).split('\n').slice(-300).join('\n')],
  ];
}

function runtimeSources(session: Session): Source[] {
  const { host } = session;
  return [
    ['version.txt', () => versionText()],
    ['env.json', async () => formatGoJson(await envDocument(host, session.loadConfigUnchecked(), process.argv[1] ?? ''))],
    ['env-sources.txt', () => formatSources(sourcedValues(session.loadConfigUnchecked()))],
    [
      'check.json',
      async () => {
        const config = session.loadConfigUnchecked();
        const capability = await checkCapability(host, config.hypervisor.type);
        const kvm = kvmFact(host, readCpuinfo(host));
        return JSON.stringify({ capable: capability.capable, findings: capability.findings, kvm, works: await whatWorks(host, kvm, config) }, null, 2);
      },
    ],
    ['configuration-problems.txt', () => (session.loadConfig(), 'none')],
    ['ps.json', async () => JSON.stringify(await sandboxRows(host), null, 2)],
    ['gc-dry-run.txt', async () => (await findLeftovers(host, session.logger, templatePathOf(session))).map((leftover) => `${leftover.kind} ${leftover.path}: ${leftover.why}`).join('\n')],
  ];
}

function configSources(session: Session): Source[] {
  const config = ((): { path: string; dropIns: readonly string[] } | undefined => {
    try {
      return session.loadConfigUnchecked();
    } catch {
      return undefined;
    }
  })();
  const files = config === undefined ? [] : [config.path, ...config.dropIns];
  return files.map((path): Source => [`configuration${path}`, () => tail(path)]);
}

const LOG_NAME = /\.(log|json|txt)$/;

function sandboxSources(session: Session): Source[] {
  const { roots } = session.host;
  return sandboxIds(roots.state).flatMap((id) => {
    const files = [join(roots.state, id), join(roots.vm, id)].flatMap((folder) => {
      try {
        return readdirSync(folder).filter((name) => LOG_NAME.test(name)).map((name) => join(folder, name));
      } catch {
        return [];
      }
    });
    return [
      ...files.map((path): Source => [`sandboxes/${id}/${dirname(path) === join(roots.vm, id) ? 'vm-' : ''}${path.slice(path.lastIndexOf('/') + 1)}`, () => tail(path)]),
      [`sandboxes/${id}/metrics.txt`, async () => (await askMonitor(roots.monitor, id, { method: 'GET', path: '/metrics' })).body.toString('utf8')] as Source,
    ];
  });
}

/** Everything, redacted. Never throws for a single part. */
export async function gather(session: Session): Promise<ReportFile[]> {
  const files: ReportFile[] = [];
  for (const [name, make] of [...runtimeSources(session), ...configSources(session), ...sandboxSources(session), ...hostSources(session)]) {
    let text: string;
    try {
      text = await make();
    } catch (reason) {
      text = `not to be had: ${describeError(reason)}\n`;
    }
    files.push({ name, text: redact(text.slice(-MAX_FILE_BYTES)) });
  }
  return files;
}
