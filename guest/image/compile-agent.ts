/** Compiles the agent with the guest's Node.js, so that the guest does not have to. */
import { spawnSync } from 'node:child_process';
import { KataError } from '../../base/errors';
import { AGENT_PATH, wrapModule } from './agent-script';

/**
 * Every function is compiled: with code on demand the guest would compile again what its first calls need. The
 * flags go back to their defaults before the code is taken, because V8 refuses code that was made under other flags.
 */
const COMPILER = `
const { readFileSync, writeSync } = require('node:fs');
const { setFlagsFromString } = require('node:v8');
const { Script } = require('node:vm');
const source = readFileSync(0, 'latin1');
setFlagsFromString('--no-lazy');
const script = new Script(source, { filename: process.argv[1] });
setFlagsFromString('--lazy');
setFlagsFromString('--hash-seed=0');
const code = script.createCachedData();
for (let done = 0; done < code.length; ) done += writeSync(1, code, done);
`;

/** A fixed seed: same agent, same bytes. */
const SEED = '--hash-seed=1';

/** V8's compiled code for the agent's bundle. It holds for one version of Node.js only; another one compiles anew. */
export function compileAgent(node: string, agent: Buffer): Buffer {
  const done = spawnSync(node, [SEED, '-e', COMPILER, AGENT_PATH], { input: Buffer.from(wrapModule(agent.toString('latin1')), 'latin1'), env: {}, maxBuffer: 64 << 20, timeout: 60_000 });
  if (done.status !== 0 || done.stdout.length === 0) {
    throw KataError.from(done.error ?? new Error(done.stderr.toString().trim()), 'compile the agent');
  }
  return done.stdout;
}
