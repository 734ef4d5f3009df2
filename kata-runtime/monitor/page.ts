/** The page at `/`: the sandboxes of this node for a person. Plain HTML, no script; it asks for itself again every 10 s. */
import type { LiveSandbox } from '../sandboxes';
import { formatAge } from '../ps';
import type { PodLabels } from './cri';

export interface PageRow {
  readonly id: string;
  readonly pod: PodLabels | undefined;
  /** Undefined: the shim did not answer. */
  readonly live: LiveSandbox | undefined;
  /** Resident memory of VMM and shim in bytes; undefined if not known. */
  readonly memoryBytes: number | undefined;
}

export function escapeHtml(text: string): string {
  const entities: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
  return text.replace(/[&<>"']/g, (char) => entities[char] ?? char);
}

const STYLE = `body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#1b1f24;background:#fff}
h1{font-size:1.4rem}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.4rem .8rem;border-bottom:1px solid #d5dae0;vertical-align:top}
th{font-weight:600;background:#f5f7f9}td.id{font-family:ui-monospace,monospace;max-width:22ch;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.bar{display:flex;height:.9rem;min-width:14rem;border-radius:3px;overflow:hidden}.bar span{display:block}.state-running{color:#1a7f37}.silent{color:#b42318}
@media (prefers-color-scheme:dark){body{background:#14171a;color:#e6e8ea}th{background:#1e2327}th,td{border-color:#343a40}}`;

const COLOURS: readonly string[] = ['#4c78a8', '#f58518', '#54a24b', '#e45756', '#72b7b2', '#b279a2', '#eeca3b', '#9d755d'];

/** The phases of a start, each as wide as its share of their sum. */
function phaseBar(phases: NonNullable<LiveSandbox['phases']>): string {
  const total = phases.reduce((sum, phase) => sum + phase.durationMs, 0);
  const parts = phases
    .filter((phase) => phase.durationMs > 0)
    .map((phase, index) => {
      const title = `${phase.name}: ${String(Math.round(phase.durationMs))} ms`;
      return `<span title="${escapeHtml(title)}" style="width:${((phase.durationMs / total) * 100).toFixed(1)}%;background:${COLOURS[index % COLOURS.length] ?? ''}"></span>`;
    });
  const longest = [...phases].sort((a, b) => b.durationMs - a.durationMs).slice(0, 3).map((phase) => `${phase.name} ${String(Math.round(phase.durationMs))} ms`).join(', ');
  return `<div class="bar">${parts.join('')}</div><small>${escapeHtml(longest)}</small>`;
}

function rowHtml(row: PageRow, now: Date): string {
  const { live, pod } = row;
  const id = encodeURIComponent(row.id);
  const cells = [
    `<td class="id" title="${escapeHtml(row.id)}"><a href="/metrics?sandbox=${id}">${escapeHtml(row.id)}</a></td>`,
    `<td>${pod === undefined ? '' : escapeHtml(`${pod.namespace}/${pod.name}`)}</td>`,
    live === undefined ? '<td class="silent">no answer</td>' : `<td class="state-${escapeHtml(live.state ?? '')}">${escapeHtml(live.state ?? '')}</td>`,
    `<td>${escapeHtml(live?.vmSource ?? '')}</td>`,
    `<td>${live?.vcpus === undefined ? '' : escapeHtml(String(live.vcpus))}</td>`,
    `<td>${live?.memoryMiB === undefined ? '' : `${escapeHtml(String(live.memoryMiB))} MiB`}${row.memoryBytes === undefined ? '' : `<br><small>${String(Math.round(row.memoryBytes / 1048576))} MiB resident</small>`}</td>`,
    `<td>${live?.startedAt === undefined ? '' : escapeHtml(formatAge(now.getTime() - Date.parse(live.startedAt)))}</td>`,
    `<td>${(live?.containers ?? []).map((container) => `${escapeHtml(container.id.slice(0, 24))} (${escapeHtml(container.state)})`).join('<br>')}</td>`,
    `<td>${live?.phases === undefined ? '' : phaseBar(live.phases)}</td>`,
  ];
  return `<tr>${cells.join('')}</tr>`;
}

export function renderPage(hostname: string, rows: readonly PageRow[], now: Date): string {
  const heads = ['Sandbox', 'Pod', 'State', 'VM from', 'vCPUs', 'Memory', 'Age', 'Containers', 'Phases of the start'];
  return `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="10">
<title>Kata sandboxes on ${escapeHtml(hostname)}</title><style>${STYLE}</style></head><body>
<h1>Kata sandboxes on ${escapeHtml(hostname)}</h1>
<p id="count">${String(rows.length)} sandbox${rows.length === 1 ? '' : 'es'}, ${escapeHtml(now.toISOString())}</p>
<table id="sandboxes"><thead><tr>${heads.map((head) => `<th>${head}</th>`).join('')}</tr></thead>
<tbody>${rows.map((row) => rowHtml(row, now)).join('\n')}</tbody></table>
<p>Endpoints: <a href="/metrics">/metrics</a> (?sandbox=, ?filter_family=), <a href="/sandboxes">/sandboxes</a>, /agent-url?sandbox=, /debug/vars?sandbox=, /debug/pprof/?sandbox=</p>
</body></html>
`;
}
