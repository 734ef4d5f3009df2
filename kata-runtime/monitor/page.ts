/** The page at `/`: the sandboxes of this node for a person. Plain HTML, no script; it asks for itself again every 10 s. */
import { formatAge } from '../ps';
import type { LiveSandbox } from '../sandboxes';
import type { PodLabels } from './cri';
import { STYLE } from './page-style';

export interface PageRow {
  readonly id: string;
  readonly pod: PodLabels | undefined;
  /** Undefined: the shim did not answer. */
  readonly live: LiveSandbox | undefined;
}

type Phase = NonNullable<LiveSandbox['phases']>[number];

const MIB = 1024 * 1024;
const SHORT_ID = 12;
const LONGEST = 3;
/** Phases of a start in the order of their colours (see page-style); others are grey. */
const COLOURED: readonly string[] = ['vm-boot', 'vm-launch', 'agent-connect', 'create-sandbox', 'create-container', 'factory', 'netns', 'rootfs'];

export function escapeHtml(text: string): string {
  const entities: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
  return text.replace(/[&<>"']/g, (char) => entities[char] ?? char);
}

function short(id: string): string {
  return /^[0-9a-f]{64}$/.test(id) ? id.slice(0, SHORT_ID) : id;
}

function duration(milliseconds: number): string {
  return milliseconds < 1000 ? `${String(Math.round(milliseconds))} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

/** When each phase began and how long it took, as a bar; the longest ones in words, all in its title. */
function phaseBar(phases: readonly Phase[]): string {
  let cursor = 0;
  const placed = phases.map((phase) => {
    const startMs = phase.startMs ?? cursor;
    cursor = startMs + phase.durationMs;
    return { ...phase, startMs };
  });
  const end = Math.max(1, ...placed.map((phase) => phase.startMs + phase.durationMs));
  const parts = placed.map(({ name, startMs, durationMs }) => {
    const colour = COLOURED.includes(name) ? ` p${String(COLOURED.indexOf(name))}` : '';
    const place = `left:${((startMs / end) * 100).toFixed(2)}%;width:${((durationMs / end) * 100).toFixed(2)}%`;
    return `<span class="phase${colour}" title="${escapeHtml(`${name}: ${duration(durationMs)}`)}" style="${place}"></span>`;
  });
  const byLength = [...placed].sort((a, b) => b.durationMs - a.durationMs);
  const words = byLength.slice(0, LONGEST).map(({ name, durationMs }) => `<span class="phase-name">${escapeHtml(`${name} ${duration(durationMs)}`)}</span>`);
  const all = placed.map(({ name, durationMs }) => `${name} ${duration(durationMs)}`).join('\n');
  return `<div class="bar" role="img" aria-label="${escapeHtml(all)}" title="${escapeHtml(all)}">${parts.join('')}</div><small><b>${escapeHtml(duration(end))}</b>: ${words.join(', ')}</small>`;
}

function nameCell({ id, pod }: PageRow): string {
  const link = `<a href="/metrics?sandbox=${encodeURIComponent(id)}" title="${escapeHtml(id)}: its metrics"><code>${escapeHtml(short(id))}</code></a>`;
  return pod === undefined ? link : `<b class="pod">${escapeHtml(`${pod.namespace}/${pod.name}`)}</b><br>${link}`;
}

function memoryCell(live: LiveSandbox | undefined): string {
  const given = live?.memoryMiB === undefined ? '' : `<span class="nowrap">${escapeHtml(String(live.memoryMiB))} MiB</span>`;
  const used = live?.residentBytes === undefined ? '' : `<small class="nowrap">${String(Math.round(live.residentBytes / MIB))} MiB resident</small>`;
  return [given, used].filter((part) => part !== '').join('<br>');
}

/** Where it should have come from the factory and did not, the reason too. */
function sourceCell(live: LiveSandbox | undefined): string {
  const fallback = live?.vmFallback === undefined ? '' : `<br><small>instead: ${escapeHtml(live.vmFallback)}</small>`;
  return `${escapeHtml(live?.vmSource ?? '')}${fallback}`;
}

function containersCell(containers: NonNullable<LiveSandbox['containers']>): string {
  return containers.map(({ id, state }) => `<span class="nowrap" title="${escapeHtml(id)}"><code>${escapeHtml(short(id))}</code> ${escapeHtml(state)}</span>`).join('<br>');
}

function rowHtml(row: PageRow, now: Date): string {
  const { live } = row;
  const state = live?.state ?? '';
  const cells: readonly (readonly [head: string, html: string])[] = [
    ['Sandbox', nameCell(row)],
    ['State', live === undefined ? '<span class="state silent">no answer</span>' : `<span class="state state-${escapeHtml(state)}">${escapeHtml(state)}</span>`],
    ['VM from', sourceCell(live)],
    ['vCPUs', live?.vcpus === undefined ? '' : escapeHtml(String(live.vcpus))],
    ['Memory', memoryCell(live)],
    ['Age', live?.startedAt === undefined ? '' : escapeHtml(formatAge(now.getTime() - Date.parse(live.startedAt)))],
    ['Containers', containersCell(live?.containers ?? [])],
    ['Start', live?.phases === undefined || live.phases.length === 0 ? '' : phaseBar(live.phases)],
  ];
  return `<tr data-sandbox="${escapeHtml(row.id)}">${cells.map(([head, html]) => `<td data-head="${head}">${html}</td>`).join('')}</tr>`;
}

/** The whole node in one line. */
function summary(rows: readonly PageRow[]): string {
  const sources = new Map<string, number>();
  for (const { live } of rows) {
    const source = live?.vmSource ?? 'not answering';
    sources.set(source, (sources.get(source) ?? 0) + 1);
  }
  const from = [...sources].sort(([a], [b]) => (a < b ? -1 : 1)).map(([source, count]) => `${String(count)} ${source}`).join(', ');
  const resident = rows.reduce((sum, { live }) => sum + (live?.residentBytes ?? 0), 0);
  const counted = `${String(rows.length)} sandbox${rows.length === 1 ? '' : 'es'}`;
  return rows.length === 0 ? counted : `${counted} (${escapeHtml(from)}), ${String(Math.round(resident / MIB))} MiB resident`;
}

const HEADS: readonly (readonly [head: string, title: string])[] = [
  ['Sandbox', 'Pod by namespace and name where the CRI knows it, and the id'],
  ['State', 'State of the sandbox'],
  ['VM from', 'direct: booted; template: cloned from the template; cache: from the VM cache'],
  ['vCPUs', 'vCPUs of the VM'],
  ['Memory', 'Memory of the guest; resident: what VMM and shim hold on the host'],
  ['Age', 'Since its shim started'],
  ['Containers', 'Containers of the sandbox with their states'],
  ['Start', 'Phases of the start of the sandbox'],
];

export function renderPage(hostname: string, rows: readonly PageRow[], now: Date): string {
  const table = `<table id="sandboxes"><thead><tr>${HEADS.map(([head, title]) => `<th title="${title}">${head}</th>`).join('')}</tr></thead>
<tbody>${rows.map((row) => rowHtml(row, now)).join('\n')}</tbody></table>`;
  return `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="10"><link rel="icon" href="data:,">
<title>Kata sandboxes on ${escapeHtml(hostname)}</title><style>${STYLE}</style></head><body>
<h1>Kata sandboxes on ${escapeHtml(hostname)}</h1>
<p id="count">${summary(rows)}</p>
${rows.length === 0 ? '<p id="none">No sandbox runs on this node. One that starts is here within seconds.</p>' : table}
<p class="foot">As of <time datetime="${now.toISOString()}">${now.toISOString().slice(0, 19).replace('T', ' ')} UTC</time>, again every 10 s. For machines: <a href="/metrics">/metrics</a> (?sandbox=, ?filter_family=), <a href="/sandboxes">/sandboxes</a>, /agent-url?sandbox=, /debug/vars?sandbox=, /debug/pprof/?sandbox=</p>
</body></html>
`;
}
