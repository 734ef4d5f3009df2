/** One text from facts about a sandbox that failed: what a user sees in `docker run` and `kubectl describe pod`. */
import { describeExit } from '../../base/child';
import { describeError } from '../../base/errors';
import { dyingLine, spokenLines } from '../hypervisor/console-text';
import type { VmFacts } from '../hypervisor/types';

export interface FailureFacts {
  readonly sandboxId: string;
  /** What was going on, e.g. `boot`, `connect to the agent`, `run`. */
  readonly doing: string;
  /** Undefined: there was no VM yet. */
  readonly vm: VmFacts | undefined;
  /** What was waited for, if time ran out on it. */
  readonly waited?: { readonly address: string; readonly ms: number; readonly configKey: string } | undefined;
  readonly cause?: unknown;
}

const MAX_LINES = 6;
const MAX_LINE = 240;

/** The last lines of a text that say something, without control characters, and the last panic if it is not among them. */
function lastLines(text: string): string[] {
  const lines = spokenLines(text);
  const panic = dyingLine(lines.slice(0, -MAX_LINES));
  const shown = panic === undefined ? lines.slice(-MAX_LINES) : [panic, '...', ...lines.slice(2 - MAX_LINES)];
  return shown.map((line) => (line.length > MAX_LINE ? `${line.slice(0, MAX_LINE)}...` : line));
}

function section(title: string, text: string): string[] {
  const lines = lastLines(text);
  return lines.length === 0 ? [] : [`${title}:`, ...lines.map((line) => `  ${line}`)];
}

function vmLine(vm: VmFacts): string {
  const who = `${vm.program}${vm.pid === undefined ? '' : ` (pid ${String(vm.pid)}, accelerator ${vm.accelerator})`}`;
  if (vm.alive) {
    return `${who} is still running`;
  }
  return vm.exit === undefined ? `${who} never ran` : `${who} ended with ${describeExit(vm.exit)}`;
}

/** Composes the report. Pure; every line states a fact, nothing is guessed. */
export function failureReport(facts: FailureFacts): string {
  const { vm, waited } = facts;
  const lines = [`sandbox "${facts.sandboxId}" failed (${facts.doing})`];
  if (facts.cause !== undefined) {
    lines.push(`cause: ${describeError(facts.cause)}`);
  }
  if (waited !== undefined) {
    lines.push(`waited ${(waited.ms / 1000).toFixed(1)} s for ${waited.address} (configuration key ${waited.configKey})`);
  }
  if (vm === undefined) {
    return lines.join('\n');
  }
  lines.push(`virtual machine: ${vmLine(vm)}`);
  lines.push(...section('its last messages', vm.stderrTail));
  const where = vm.consolePath === undefined ? '' : ` (${vm.consolePath})`;
  lines.push(...section(`last lines of the guest console${where}`, vm.consoleTail));
  lines.push(...vm.hints.map((hint) => `hint: ${hint}`));
  return lines.join('\n');
}
