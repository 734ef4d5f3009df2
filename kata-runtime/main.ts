/** Entry of the operator's command. */
import { realHost } from './host';
import { runCli } from './program';

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  // `kata-runtime metrics x | head`: the reader has had enough.
  process.exit(error.code === 'EPIPE' ? 0 : 1);
});

void runCli(process.argv.slice(2), realHost()).then((code) => {
  process.exitCode = code;
});
