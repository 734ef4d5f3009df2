/**
 * How the agent's bundle becomes a script, said once for the image builder, which makes the compiled code, and for
 * init, which runs it: V8 takes compiled code only for exactly the same source.
 */

/** Path of the agent in the guest; also the name of the script in stack traces. */
export const AGENT_PATH = '/usr/lib/kata-ts/agent.cjs';
/** Path of the compiled code in the guest. */
export const CODE_PATH = '/usr/lib/kata-ts/agent.code';

/** The function that Node.js would make of a CommonJS module. One line more would put line numbers out of step. */
export function wrapModule(source: string): string {
  return `(function (exports, require, module, __filename, __dirname) {${source}\n})`;
}
