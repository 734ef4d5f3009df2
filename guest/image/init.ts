/**
 * /init of the guest, PID 1: leaves the kernel's first root and becomes the agent, in the same process. Bundled to
 * /usr/lib/kata-ts/init.cjs; the kernel runs it through its `#!` line.
 */
import { readFileSync, writeSync } from 'node:fs';
import { Script } from 'node:vm';
import { changeRoot, mount, MS } from '../../base/syscalls';
import { AGENT_PATH, CODE_PATH, wrapModule } from './agent-script';

/**
 * The kernel's first root is no mount that pivot_root(2) can leave, and OCI runtimes pivot. Moving a bind mount of
 * it over it gives a root that can be left, with the same files.
 */
function leaveFirstRoot(): void {
  const target = '/newroot';
  mount('/', target, '', MS.BIND);
  process.chdir(target);
  mount('.', '/', '', MS.MOVE);
  changeRoot('.');
  process.chdir('/');
}

type ModuleFunction = (exports: object, require: NodeJS.Require, module: { exports: object }, filename: string, dirname: string) => void;

/** Runs the agent from code that the image builder compiled: compiling takes 0.15 s where the processor is emulated. */
function becomeAgent(): void {
  // latin1: the bundler writes ASCII only, and V8 keeps such text without looking at it.
  const script = new Script(wrapModule(readFileSync(AGENT_PATH, 'latin1')), { filename: AGENT_PATH, cachedData: readFileSync(CODE_PATH) });
  if (script.cachedDataRejected === true) {
    writeSync(1, 'init: the compiled agent is not of this Node.js or processor, it is compiled again\n');
  }
  const module = { exports: {} };
  (script.runInThisContext() as ModuleFunction)(module.exports, require, module, AGENT_PATH, __dirname);
}

leaveFirstRoot();
becomeAgent();
