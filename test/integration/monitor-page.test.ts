/** kata-monitor's page as a person sees it: a real Chromium, real sandboxes. */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ROOT } from '../../hack/private-containerd';
import { Chromium } from '../support/chromium';
import { CriHost } from '../support/cri/cri-host';
import { KataMonitor, until } from '../support/kata-monitor';
import { endAll } from '../support/suite';

const ALONE = `page-alone-${String(process.pid)}`;
let h: CriHost;
let monitor: KataMonitor;
let browser: Chromium;
let pod = '';

/** Text of a cell of a sandbox's row, as it is laid out; '' while there is no row. */
async function cell(id: string, head: string): Promise<string> {
  const selector = `tr[data-sandbox="${id}"] td[data-head="${head}"]`;
  return String(await browser.evaluate(`(() => { const e = document.querySelector(${JSON.stringify(selector)}); return e === null ? '' : e.innerText; })()`));
}

/** Other suites run on this machine: rows are found by their ids, never by their places. */
async function openPage(): Promise<void> {
  await browser.open(`${monitor.base}/`);
}

before(async () => {
  h = await CriHost.start('qemu');
  monitor = await KataMonitor.start(h.host.containerd.address);
  browser = await Chromium.start();
  const config = h.podConfig('shop');
  pod = await h.runPod(config);
  await h.runContainer(pod, config, 'one', ['sleep', '100000']);
  await until('the pod has its name', async () => (await monitor.get('/', 'text/html')).text.includes('kata-tests/shop'));
});

after(async () => {
  await endAll(() => browser.stop(), () => monitor.stop(), () => h.stop());
});

test('a sandbox is shown with its pod, state, VM source, size, memory, age and containers', async () => {
  await browser.look(1280, 800, 'light');
  await openPage();
  assert.match(String(await browser.evaluate('document.title')), /^Kata sandboxes on \S+$/);
  assert.match(await cell(pod, 'Sandbox'), new RegExp(`^kata-tests/shop\\n${pod.slice(0, 12)}$`));
  assert.match(await cell(pod, 'State'), /^running$/);
  assert.match(await cell(pod, 'VM from'), /^(direct|template|cache)$/);
  assert.match(await cell(pod, 'vCPUs'), /^\d+$/);
  const [, guest, resident] = /^(\d+) MiB\n(\d+) MiB resident$/.exec(await cell(pod, 'Memory')) ?? [];
  assert.ok(Number(guest) >= 512 && Number(resident) > 20 && Number(resident) < 4096, await cell(pod, 'Memory'));
  assert.match(await cell(pod, 'Age'), /^\d+[smhd]$/);
  assert.equal((await cell(pod, 'Containers')).split('\n').filter((line) => line.endsWith(' running')).length, 2);
  assert.match(String(await browser.evaluate('document.querySelector("#count").innerText')), /^\d+ sandbox(es)? \(.*\), \d+ MiB resident$/);
});

test('the phases of its start are a bar that is as wide as the start was long', async () => {
  assert.match(await cell(pod, 'Start'), /^[\d.]+ m?s: \S+ [\d.]+ m?s, \S+ [\d.]+ m?s, \S+ [\d.]+ m?s$/);
  const spans = `[...document.querySelectorAll('tr[data-sandbox="${pod}"] .phase')]`;
  const phases = (await browser.evaluate(`${spans}.map((e) => ({ title: e.title, width: e.getBoundingClientRect().width, colour: getComputedStyle(e).backgroundColor }))`)) as { title: string; width: number; colour: string }[];
  assert.ok(phases.some(({ title }) => /^create-sandbox: [\d.]+ m?s$/.test(title)), JSON.stringify(phases));
  assert.ok(phases.every(({ width, colour }) => width >= 1 && colour !== 'rgba(0, 0, 0, 0)'));
  const bar = Number(await browser.evaluate(`document.querySelector('tr[data-sandbox="${pod}"] .bar').getBoundingClientRect().width`));
  const shown = phases.reduce((sum, { width }) => sum + width, 0);
  assert.ok(shown > bar * 0.7 && shown < bar * 1.2, `${String(shown)} of ${String(bar)}`);
});

test('it can be read in light and dark, and fits wide and narrow windows', async () => {
  const folder = join(ROOT, 'build/test');
  mkdirSync(folder, { recursive: true });
  for (const colours of ['light', 'dark'] as const) {
    for (const width of [1280, 400]) {
      await browser.look(width, 800, colours);
      await openPage();
      writeFileSync(join(folder, `monitor-${colours}-${String(width)}.png`), await browser.screenshot());
      assert.ok(Number(await browser.evaluate('document.documentElement.scrollWidth')) <= width, `no scrolling sideways at ${String(width)}`);
      const [ink, paper] = (await browser.evaluate('(() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]; })()')) as [string, string];
      const light = (colour: string): number => (colour.match(/\d+/g) ?? []).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 3;
      assert.ok(Math.abs(light(ink) - light(paper)) > 150, `${ink} on ${paper}`);
      assert.equal(light(paper) > 128, colours === 'light');
      assert.match(await cell(pod, 'State'), /running$/);
    }
  }
});

test('a click on the sandbox leads to its metrics', async () => {
  await browser.look(1280, 800, 'light');
  await openPage();
  await browser.click(`tr[data-sandbox="${pod}"] a`);
  assert.equal(await browser.evaluate('location.pathname + location.search'), `/metrics?sandbox=${pod}`);
  assert.match(String(await browser.evaluate('document.body.innerText')), /kata_shim_vm_source\{source="/);
});

test('the open page shows what came and what went by itself', async () => {
  await openPage();
  assert.equal(await cell(ALONE, 'State'), '');
  await h.host.runDetached(ALONE, ['sleep', '100000']);
  // The page asks for itself again; an evaluation that meets that moment is asked again.
  const now = async (): Promise<string> => cell(ALONE, 'State').catch(() => 'between');
  await until('the new sandbox is shown', async () => (await now()) === 'running', 40);
  assert.equal(await cell(ALONE, 'Sandbox'), ALONE);
  await h.host.remove(ALONE);
  await until('it is gone', async () => (await now()) === '', 40);
  assert.match(await cell(pod, 'State'), /^running$/);
});

test('no script ran into an error, nothing failed to load, no policy was broken', () => {
  assert.deepEqual(browser.problems, []);
});
