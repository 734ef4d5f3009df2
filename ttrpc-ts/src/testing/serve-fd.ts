import { TtrpcServer } from '../server';
import { echoService } from './echo';

/** Serves echo on descriptor 3, as a process that inherited its socket; says so on stdout. */
async function main(): Promise<void> {
  await new TtrpcServer().register(echoService, { echo: (request) => request }).listen({ fd: 3 });
  process.stdout.write('ready\n');
}

void main();
