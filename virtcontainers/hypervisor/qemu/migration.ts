/** Saving a template and loading a clone: QEMU's migration to a file, memory shared beside it (qemu-findings 4). */
import { closeSync, openSync } from 'node:fs';
import { KataError } from '../../../base/errors';
import type { TemplateUse } from '../types';
import type { QmpClient } from './qmp/client';
import { asObject } from './qmp/shape';

const BANDWIDTH_BYTES_PER_SECOND = 100 * 1024 ** 3;

async function prepare(qmp: QmpClient): Promise<void> {
  const capabilities = ['x-ignore-shared', 'events'].map((capability) => ({ capability, state: true }));
  await qmp.execute('migrate-set-capabilities', { capabilities });
}

/** Runs `begin` and waits until QEMU says that the migration is over; a failure is known at once. */
async function migrate(qmp: QmpClient, what: string, timeoutMs: number, begin: () => Promise<unknown>): Promise<void> {
  const ended = qmp.expect('MIGRATION', ({ status }) => status === 'completed' || status === 'failed' || status === 'cancelled', {
    timeoutMs,
    onTimeout: () => new KataError('DeadlineExceeded', `${what}: not done within ${String(timeoutMs)} ms`),
  });
  ended.catch(() => undefined);
  await begin();
  const { status } = await ended;
  if (status !== 'completed') {
    const info = asObject(await qmp.execute('query-migrate'), 'query-migrate');
    const why = typeof info['error-desc'] === 'string' ? info['error-desc'] : `status ${String(status)}`;
    throw new KataError('FailedPrecondition', `${what}: ${why}`);
  }
}

/** Saves the paused VM's device state. The agent's connection must be closed at a frame boundary before. */
export async function saveTemplate(qmp: QmpClient, template: TemplateUse, timeoutMs: number): Promise<void> {
  await qmp.execute('stop');
  await prepare(qmp);
  await qmp.execute('migrate-set-parameters', { 'max-bandwidth': BANDWIDTH_BYTES_PER_SECOND });
  const fd = openSync(template.statePath, 'w', 0o600);
  try {
    await qmp.giveDescriptor('state', fd);
  } finally {
    closeSync(fd);
  }
  await migrate(qmp, 'save VM template', timeoutMs, () => qmp.execute('migrate', { uri: 'fd:state' }));
}

/** Loads the device state from an inherited descriptor; the VM is paused afterwards. A bad state ends QEMU. */
export async function loadClone(qmp: QmpClient, stateFd: number, timeoutMs: number): Promise<void> {
  await prepare(qmp);
  await migrate(qmp, 'load VM template', timeoutMs, () => qmp.execute('migrate-incoming', { uri: `fd:${String(stateFd)}` }));
}
