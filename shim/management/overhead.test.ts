import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Sandbox } from '../../virtcontainers/sandbox/types';
import { PodOverhead } from './overhead';

/** A sandbox whose containers count how often they are asked. */
function sandboxOf(ids: string[]): { readonly sandbox: Sandbox; asked: number } {
  const made = { asked: 0, sandbox: undefined as unknown as Sandbox };
  const stats = (): Promise<unknown> => Promise.resolve({ cpu: { totalNs: 0n }, memory: { usage: { usage: BigInt(++made.asked) } } });
  made.sandbox = {
    state: 'running',
    get containers() {
      return new Map(ids.map((id) => [id, { id, state: 'running', stats }]));
    },
  } as unknown as Sandbox;
  return made;
}

async function sampled(overhead: PodOverhead): Promise<void> {
  const before = overhead.latest;
  overhead.sample([process.pid]);
  for (let tries = 0; tries < 300 && overhead.latest === before; tries++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.notEqual(overhead.latest, before);
}

test('the first sample takes two points, later ones one, a change of containers two again', async () => {
  const ids = ['a', 'b'];
  const made = sandboxOf(ids);
  const overhead = new PodOverhead(made.sandbox);
  await sampled(overhead);
  assert.equal(made.asked, 4);
  assert.ok((overhead.latest?.memoryBytes ?? 0) > 1024 * 1024);
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  await sampled(overhead);
  assert.equal(made.asked, 6);
  ids.push('c');
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  await sampled(overhead);
  assert.equal(made.asked, 12);
});

test('scrapes that follow each other at once keep the figures of the first', async () => {
  const overhead = new PodOverhead(sandboxOf(['a']).sandbox);
  await sampled(overhead);
  const { latest } = overhead;
  overhead.sample([process.pid]);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(overhead.latest, latest);
});
