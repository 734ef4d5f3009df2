import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Host } from '../support/host';
import { hostForSuite } from '../support/suite';

let host: Host;

hostForSuite((started) => {
  host = started;
});

const sandbox = (id: string): string[] => ['--annotation', 'io.kubernetes.cri.container-type=sandbox', '--annotation', `io.kubernetes.cri.sandbox-id=${id}`];
const member = (id: string): string[] => ['--annotation', 'io.kubernetes.cri.container-type=container', '--annotation', `io.kubernetes.cri.sandbox-id=${id}`];

test('two containers of a pod share one virtual machine; one is restarted under a new id; the pod ends with its sandbox', async () => {
  await host.runDetached('pod', ['sleep', '100000'], { args: sandbox('pod') });
  await host.runDetached('app1', ['sleep', '100000'], { args: member('pod') });
  await host.runDetached('app2', ['sleep', '100000'], { args: member('pod') });
  const boot = async (id: string): Promise<string> => (await host.exec(id, ['cat', '/proc/sys/kernel/random/boot_id'])).stdout;
  const id = await boot('pod');
  assert.match(id, /^[0-9a-f-]{36}\n$/);
  assert.deepEqual([await boot('app1'), await boot('app2')], [id, id]);
  assert.equal(host.shimPid('pod') > 0, true);

  await host.remove('app1');
  assert.equal(await host.status('app1'), undefined);
  assert.equal(await host.status('app2'), 'RUNNING');
  await host.runDetached('app1-again', ['sh', '-c', 'echo restarted; sleep 100000'], { args: member('pod') });
  assert.equal(await boot('app1-again'), id);

  assert.equal((await host.run('job', ['sh', '-c', 'exit 5'], { args: member('pod') })).code, 5);
  for (const container of ['app1-again', 'app2', 'pod']) {
    await host.remove(container);
  }
});

test('a container for a pod that is not there is refused with a clear word', async () => {
  const done = await host.run('orphan', ['true'], { args: member('no-such-pod') });
  assert.notEqual(done.code, 0);
  assert.match(done.stderr, /no-such-pod/);
});
