/** What an integration suite over one host begins and ends with. */
import assert from 'node:assert/strict';
import { after, afterEach, before } from 'node:test';
import { Host, type ConfigOverrides } from './host';
import { leakedSince, takeInventory, type Inventory } from './leaks';

export interface SuiteOptions {
  readonly overrides?: ConfigOverrides;
  /** Checks for leaks after every test too, so that the test that leaked is named; no pod outlives a test then. */
  readonly checkEach?: boolean;
}

/** Starts a host over QEMU for the suite, gives it to `ready`, and stops it at the end; then nothing may be left. */
export function hostForSuite(ready: (host: Host) => Promise<void> | void, options: SuiteOptions = {}): void {
  let clean: Inventory;
  let withHost: Inventory;
  let host: Host | undefined;

  before(async () => {
    clean = takeInventory();
    host = await Host.start('qemu', options.overrides);
    withHost = takeInventory();
    await ready(host);
  });

  if (options.checkEach === true) {
    afterEach(async () => {
      assert.deepEqual(await leakedSince(withHost), []);
    });
  }

  after(async () => {
    await host?.stop();
    assert.deepEqual(await leakedSince(clean), []);
  });
}

/** Ends what a file began, step by step; a step that fails stops none of the others, and fails the file. */
export async function endAll(...steps: readonly (() => unknown)[]): Promise<void> {
  const failures: unknown[] = [];
  for (const step of steps) {
    try {
      await step();
    } catch (reason) {
      failures.push(reason);
    }
  }
  if (failures.length > 0) {
    throw failures.length === 1 ? failures[0] : new AggregateError(failures, failures.map(String).join('\n'));
  }
}
