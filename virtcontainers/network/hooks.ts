/** OCI hooks of the host: prestart, createRuntime, poststart, poststop (shim-behaviour 4.9). */
import { closeSync, openSync } from 'node:fs';
import { Child, describeExit, type StartOptions } from '../../base/child';
import { withTimeout } from '../../base/deadline';
import { KataError } from '../../base/errors';
import type { OciHook } from '../../base/oci-spec';
import { inNetns } from '../../base/syscalls';

/** What a hook reads on its standard input. */
export interface HookState {
  readonly id: string;
  readonly status: 'creating' | 'created' | 'running' | 'stopped';
  /** Of the VMM: its network namespace is the container's. */
  readonly pid: number;
  readonly bundle: string;
  readonly annotations: Readonly<Record<string, string>>;
}

/** A hook without a time-out of its own gets this. */
const DEFAULT_TIMEOUT_MS = 30_000;

/** Starts a program in the network namespace of process `netnsOf`, or here. Its args begin with its own name, as OCI has it. */
function startHook(hook: OciHook, options: StartOptions, netnsOf: number | undefined): Child {
  const [argv0, ...args] = hook.args ?? [];
  const start = (): Child => Child.start(hook.path, args, argv0 === undefined ? options : { ...options, argv0 });
  if (netnsOf === undefined) {
    return start();
  }
  const netns = openSync(`/proc/${String(netnsOf)}/ns/net`, 'r');
  try {
    return inNetns(netns, start);
  } finally {
    closeSync(netns);
  }
}

async function runHook(kind: string, hook: OciHook, state: HookState, netnsOf: number | undefined): Promise<void> {
  const timeoutMs = hook.timeout === undefined || hook.timeout <= 0 ? DEFAULT_TIMEOUT_MS : hook.timeout * 1000;
  const env = hook.env === undefined ? undefined : Object.fromEntries(hook.env.map((entry) => splitEnv(entry)));
  const input = JSON.stringify({ ociVersion: '1.0.2', ...state });
  const child = startHook(hook, { input, ...(env === undefined ? {} : { env }) }, netnsOf);
  try {
    const exit = await withTimeout(child.exited, timeoutMs, () => new KataError('DeadlineExceeded', `${kind} hook ${hook.path}: no end within ${timeoutMs} ms; killed`));
    if (exit.code !== 0) {
      throw new KataError('Unknown', `${kind} hook ${hook.path}: ${describeExit(exit)}: ${child.stderr.trim().slice(-2000) || 'no message'}`);
    }
  } catch (reason) {
    child.kill('SIGKILL');
    throw reason;
  }
}

function splitEnv(entry: string): [string, string] {
  const at = entry.indexOf('=');
  return at < 0 ? [entry, ''] : [entry.slice(0, at), entry.slice(at + 1)];
}

/** Runs hooks one after the other; the first failure ends it and names the hook. `netnsOf`: run in this process's network namespace. */
export async function runHooks(kind: string, hooks: readonly OciHook[] | undefined, state: HookState, netnsOf?: number): Promise<void> {
  for (const hook of hooks ?? []) {
    await runHook(kind, hook, state, netnsOf);
  }
}
