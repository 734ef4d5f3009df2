import assert from 'node:assert/strict';
import { existsSync, mkdirSync, utimesSync, writeFileSync } from 'node:fs';
import { spawn } from 'node:child_process';
import { test } from 'node:test';
import { processStartTime } from '../base/child';
import { formatDocument } from '../virtcontainers/persist/document';
import { formatAge, formatTable } from './ps';
import { withHost, type FakeHost } from './testing/fake-host';

function persist(fake: FakeHost, id: string, shimPid: number, startTime: string, change: { state?: string; freed?: boolean } = {}): void {
  const containers = { [id]: { bundle: fake.path('bundle'), rootfs: '', state: change.state ?? 'running' } };
  const own = { shim: { pid: shimPid, startTime }, vm: undefined, cgroups: [], containers, freed: change.freed === true };
  fake.write(`sbs/${id}/persist.json`, formatDocument({ id, state: 'running', hypervisorType: 'mock', agentUrl: '', netns: '', sandboxCgroup: '', overheadCgroup: '', own }));
}

const self = (): string => processStartTime(process.pid) ?? '';

/** gc looks at the real processes: as root or not, those of the machine do not name our folders. */
function realProc(fake: FakeHost): FakeHost {
  Object.assign(fake.host.roots, { proc: '/proc' });
  return fake;
}

/** Folders count as left over only when they are a minute old: the clock of the command runs ahead. */
function later(fake: FakeHost): void {
  Object.assign(fake.host, { now: () => new Date(Date.now() + 3_600_000) });
}

test('ps: running, silent, dead and broken sandboxes, and one of a shim of another version', () =>
  withHost(async (fake) => {
    persist(fake, 'alive1', process.pid, self());
    await fake.monitor('alive1', (_, response) => response.end(JSON.stringify({ state: 'running', vmSource: 'template', hypervisor: 'qemu', vcpus: 2, memoryMiB: 512, startedAt: new Date(Date.now() - 120_000).toISOString(), containers: [{ id: 'c1', state: 'running' }] })));
    persist(fake, 'silent1', process.pid, self());
    await fake.monitor('silent1', (_, response) => {
      response.writeHead(404);
      response.end();
    });
    persist(fake, 'dead1', process.pid, '1');
    fake.write('sbs/broken1/persist.json', '{');
    fake.write('sbs/not a sandbox/persist.json', '{');
    assert.equal(await fake.run('ps', '--json'), 0, fake.stderr);
    const rows = JSON.parse(fake.stdout) as { id: string; state: string }[];
    assert.deepEqual(rows.map(({ id, state }) => [id, state]), [['alive1', 'running'], ['broken1', 'unknown'], ['dead1', 'dead'], ['silent1', 'silent']]);
    assert.equal(await fake.run('ps'), 0);
    assert.match(fake.stdout, /alive1 +running +qemu +template +2 +512 MiB +2m +c1 \(running\)/);
    assert.equal(await fake.run('ps', '-q'), 0);
    assert.equal(fake.stdout, 'alive1\nbroken1\ndead1\nsilent1\n');
  }));

test('ps: a sandbox that is being made, and one that has ended, are not called silent', () =>
  withHost(async (fake) => {
    persist(fake, 'making1', process.pid, self(), { state: 'creating' });
    persist(fake, 'over1', process.pid, self(), { state: 'stopped', freed: true });
    assert.equal(await fake.run('ps'), 0);
    assert.match(fake.stdout, /^making1 +creating +- /m);
    assert.match(fake.stdout, /^over1 +stopped +- /m);
  }));

test('ages and tables', () => {
  assert.deepEqual([0, 59_000, 60_000, 7_200_000, 200_000_000].map(formatAge), ['0s', '59s', '1m', '2h', '2d']);
  assert.equal(formatTable([['A', 'BB'], ['ccc', 'd']]), 'A    BB\nccc  d\n');
});

test('gc says what it would remove, removes it, and leaves the living alone', () =>
  withHost(async (fake) => {
    realProc(fake);
    persist(fake, 'alive1', process.pid, self());
    persist(fake, 'dead1', process.pid, '1');
    mkdirSync(fake.path('vm/orphan1'), { recursive: true });
    mkdirSync(fake.path('vm/alive1'), { recursive: true });
    mkdirSync(fake.path('vm/template'), { recursive: true });
    mkdirSync(fake.path('share/orphan2/mounts'), { recursive: true });
    mkdirSync(fake.path('sbs/empty1'), { recursive: true });
    const volume = Buffer.from('/volume').toString('base64');
    fake.write(`volumes/${volume}/mountInfo.json`, '{}');
    fake.write(`volumes/${volume}/gone1`, '');
    fake.write(`volumes/${volume}/alive1`, '');
    assert.equal(await fake.run('gc'), 0, fake.stderr);
    assert.ok(existsSync(fake.path('vm/orphan1')) && existsSync(fake.path('sbs/empty1')), 'young folders may be of a sandbox in the making');
    assert.ok(!existsSync(fake.path('sbs/dead1')));
    later(fake);
    assert.equal(await fake.run('gc', '--dry-run'), 0);
    assert.deepEqual(
      fake.stdout.trim().split('\n').map((line) => line.split(':')[0]?.replace(fake.folder, '')),
      ['would remove state folder /sbs/empty1', 'would remove VM folder /vm/orphan1', 'would remove share /share/orphan2', `would remove volume note /volumes/${volume}/gone1`],
    );
    assert.equal(await fake.run('gc'), 0, fake.stderr);
    for (const gone of ['sbs/empty1', 'vm/orphan1', 'share/orphan2', `volumes/${volume}/gone1`]) {
      assert.ok(!existsSync(fake.path(gone)), gone);
    }
    for (const kept of ['sbs/alive1/persist.json', 'vm/alive1', 'vm/template', `volumes/${volume}/mountInfo.json`, `volumes/${volume}/alive1`]) {
      assert.ok(existsSync(fake.path(kept)), kept);
    }
    assert.equal(await fake.run('gc'), 0);
    assert.equal(fake.stdout, 'nothing is left over\n');
  }));

test('gc leaves a folder alone that a process names on its command line', () =>
  withHost(async (fake) => {
    realProc(fake);
    later(fake);
    mkdirSync(fake.path('vm/busy1'), { recursive: true });
    const child = spawn('sleep', ['1000', fake.path('vm/busy1/qmp.sock')], { stdio: 'ignore' });
    const holder = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)', fake.path('vm/busy1/qmp.sock')], { stdio: 'ignore' });
    try {
      await new Promise((resolve) => holder.once('spawn', resolve));
      assert.equal(await fake.run('gc', '--dry-run', '--json'), 0);
      assert.deepEqual(JSON.parse(fake.stdout), []);
    } finally {
      child.kill('SIGKILL');
      holder.kill('SIGKILL');
    }
  }));

test('a state folder whose file system time is old but whose socket is served stays', () =>
  withHost(async (fake) => {
    realProc(fake);
    later(fake);
    await fake.monitor('served1', (_, response) => response.end());
    writeFileSync(fake.path('sbs/served1/x'), '');
    utimesSync(fake.path('sbs/served1'), 0, 0);
    assert.equal(await fake.run('gc', '--dry-run'), 0);
    assert.equal(fake.stdout, 'nothing is left over\n');
  }));
