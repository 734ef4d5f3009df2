import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Script } from 'node:vm';
import { AGENT_PATH, wrapModule } from './agent-script';
import { compileAgent } from './compile-agent';

const AGENT = Buffer.from("'use strict';\nfunction used(a) { return { twice: a * 2, key: [a] }; }\nmodule.exports = { used, other: () => used(4) };\n");

test('the same agent gives the same code, and V8 takes it for the wrapped source', () => {
  const code = compileAgent(process.execPath, AGENT);
  assert.ok(code.equals(compileAgent(process.execPath, AGENT)));
  const script = new Script(wrapModule(AGENT.toString()), { filename: AGENT_PATH, cachedData: code });
  assert.equal(script.cachedDataRejected, false);
  const module = { exports: {} as { other?: () => unknown } };
  (script.runInThisContext() as (exports: object, require: unknown, module: object) => void)(module.exports, undefined, module);
  assert.deepEqual(module.exports.other?.(), { twice: 8, key: [4] });
});

test('an agent that does not compile is told with its error', () => {
  assert.throws(() => compileAgent(process.execPath, Buffer.from('const = 1')), /compile the agent/);
});
