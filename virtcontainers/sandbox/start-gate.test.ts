import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { KataError } from '../../base/errors';
import { Logger } from '../../base/log';
import { enterStartGate, type GateOptions } from './start-gate';

const FAR_MS = 60_000;

interface Gate {
  readonly options: GateOptions;
  readonly said: string[];
}

function inGate(work: (gate: Gate) => Promise<void>): () => Promise<void> {
  return async () => {
    const root = mkdtempSync(join(tmpdir(), 'kata-ts-gate-'));
    const said: string[] = [];
    const logger = Logger.to((line) => { said.push(line); });
    // The gate's own timers keep no process alive; a test does.
    const awake = setInterval(() => undefined, 1000);
    try {
      await work({ options: { folder: join(root, 'starts'), logger, signal: new AbortController().signal, slots: 2, holdMs: FAR_MS, waitMs: FAR_MS }, said });
    } finally {
      clearInterval(awake);
      rmSync(root, { recursive: true, force: true });
    }
  };
}

/** What a promise is after all that can happen at once has happened: a wait polls, so a moment more. */
async function isWaiting(promise: Promise<unknown>): Promise<boolean> {
  const later = new Promise((resolve) => setTimeout(resolve, 100, 'later'));
  return (await Promise.race([promise, later])) === 'later';
}

test('as many start at once as there are slots; the next one waits until one is done', inGate(async ({ options }) => {
  const first = await enterStartGate(options);
  const second = await enterStartGate(options);
  const third = enterStartGate(options);
  assert.equal(await isWaiting(third), true);
  first();
  (await third)();
  second();
  assert.deepEqual(readdirSync(options.folder), [], 'no slot is left');
}));

test('a slot is given back once, however often its start ends', inGate(async ({ options }) => {
  const first = await enterStartGate(options);
  first();
  const [second, third] = [await enterStartGate(options), await enterStartGate(options)];
  first();
  const fourth = enterStartGate(options);
  assert.equal(await isWaiting(fourth), true);
  second();
  third();
  (await fourth)();
}));

test('a start that hangs gives its slot back after a time', inGate(async ({ options }) => {
  await enterStartGate({ ...options, slots: 1, holdMs: 20 });
  (await enterStartGate({ ...options, slots: 1 }))();
}));

test('who has waited long enough starts anyway, and says so', inGate(async ({ options, said }) => {
  const first = await enterStartGate({ ...options, slots: 1 });
  const second = await enterStartGate({ ...options, slots: 1, waitMs: 50 });
  assert.match(said.join(''), /no longer waits/);
  second();
  const third = enterStartGate({ ...options, slots: 1 });
  assert.equal(await isWaiting(third), true, 'the slot is still the first one\'s');
  first();
  (await third)();
}));

test('a sandbox that is deleted while it waits ends at once, with the reason', inGate(async ({ options }) => {
  const first = await enterStartGate({ ...options, slots: 1 });
  const canceled = new AbortController();
  const second = enterStartGate({ ...options, slots: 1, signal: canceled.signal });
  canceled.abort(new KataError('Canceled', 'deleted'));
  await assert.rejects(second, { message: 'deleted' });
  first();
}));

test('a process that is killed gives its slot back', inGate(async ({ options }) => {
  mkdirSync(options.folder);
  const holder = spawn('flock', ['--exclusive', '--no-fork', join(options.folder, '0'), 'sh', '-c', 'echo held; exec sleep 1000'], { stdio: ['ignore', 'pipe', 'ignore'] });
  try {
    await new Promise((resolve) => holder.stdout.once('data', resolve));
    const next = enterStartGate({ ...options, slots: 1 });
    assert.equal(await isWaiting(next), true);
    holder.kill('SIGKILL');
    (await next)();
  } finally {
    holder.kill('SIGKILL');
  }
}));

test('where there can be no locks nobody waits', inGate(async ({ options, said }) => {
  writeFileSync(options.folder, 'not a folder');
  (await enterStartGate(options))();
  assert.match(said.join(''), /not queued/);
  assert.equal(existsSync(options.folder), true);
}));
