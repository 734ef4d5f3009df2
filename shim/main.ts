/** Entry of the shim: one verb per run. Loads only what the verb needs. */
import { writeSync } from 'node:fs';
import { describeError } from '../base/errors';
import { parseArgs, type ShimArgs } from './args';
import { loadPart } from './parts';
import { start } from './start';

/* eslint-disable @typescript-eslint/no-require-imports -- each verb loads its own part */

async function runVerb(args: ShimArgs): Promise<void> {
  if (args.version) {
    const { versionText } = require('./info') as typeof import('./info');
    writeSync(1, versionText(process.argv[1] ?? ''));
  } else if (args.info) {
    const { writeInfo } = require('./info') as typeof import('./info');
    await writeInfo();
  } else if (args.action === 'delete') {
    await loadPart<typeof import('./delete')>('delete').deleteVerb(args);
  } else if (args.action === 'start' || args.action === 'serve') {
    const started = await start(args);
    if (started === undefined) {
      process.exit(0);
    } else {
      // After containerd has read the reply; it dials while this loads.
      setImmediate(() => {
        loadPart<typeof import('./serve')>('serve').serve(started);
      });
    }
  } else {
    throw new Error(args.action === '' ? 'no action: one of start, delete, -info, -v is wanted' : `unknown action ${JSON.stringify(args.action)}`);
  }
}

// containerd takes everything on standard error for the reply of `start`.
process.removeAllListeners('warning');
process.on('warning', () => undefined);
for (const name of Object.keys(process.env)) {
  if (name.startsWith('NODE_') || name.startsWith('MALLOC_')) {
    // eslint-disable-next-line @typescript-eslint/no-dynamic-delete
    delete process.env[name];
  }
}

let replyFd: number | undefined;
try {
  const args = parseArgs(process.argv.slice(2));
  replyFd = args.replyFd;
  runVerb(args).catch(fail);
} catch (reason) {
  fail(reason);
}

function fail(reason: unknown): void {
  try {
    writeSync(replyFd ?? 2, `io.containerd.kata.v2: ${describeError(reason)}\n`);
  } finally {
    process.exit(1);
  }
}
