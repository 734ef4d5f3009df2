/**
 * /init of the guest, PID 1: leaves the kernel's first root and becomes the agent, in the same process. Bundled to
 * /usr/lib/kata-ts/init.cjs; the kernel runs it through its `#!` line.
 */
import { changeRoot, mount, MS } from '../../base/syscalls';

/** Where the agent lies in the guest, beside this file; the `require` is done at run time, not by the bundler. */
const AGENT = './agent.cjs';

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

leaveFirstRoot();
// eslint-disable-next-line @typescript-eslint/no-require-imports -- the agent must load after the root has changed
require(AGENT);
