/** The version of a QEMU binary, asked once per (path, modification time). */
import { statSync } from 'node:fs';
import { run } from '../../../base/child';
import { KataError } from '../../../base/errors';

export interface QemuVersion {
  readonly major: number;
  readonly minor: number;
  /** The whole line, e.g. `QEMU emulator version 7.2.22 (Debian ...)`. */
  readonly text: string;
}

const MIN_MAJOR = 5;
const known = new Map<string, QemuVersion>();

/** Takes the first line of `-version` apart; FailedPrecondition if it is not QEMU's or too old. */
export function parseVersion(path: string, output: string): QemuVersion {
  const text = output.split('\n')[0]?.trim() ?? '';
  const match = /^QEMU emulator version (\d+)\.(\d+)/.exec(text);
  if (match === null) {
    throw new KataError('FailedPrecondition', `${path} is not QEMU: it calls itself ${JSON.stringify(text.slice(0, 120))}`);
  }
  const [major, minor] = [Number(match[1]), Number(match[2])];
  if (major < MIN_MAJOR) {
    throw new KataError('FailedPrecondition', `${path} is too old: ${text}`, { hint: `QEMU ${String(MIN_MAJOR)} or newer is needed` });
  }
  return { major, minor, text };
}

/** Runs `<path> -version` unless the answer is known. */
export async function qemuVersion(path: string): Promise<QemuVersion> {
  let key: string;
  try {
    key = `${path}\0${String(statSync(path).mtimeMs)}`;
  } catch (reason) {
    throw KataError.from(reason, `QEMU ${path}: not found`, { hint: 'install qemu-system-x86, or set path in [hypervisor.qemu]' });
  }
  const cached = known.get(key);
  if (cached !== undefined) {
    return cached;
  }
  const version = parseVersion(path, await run(path, ['-version'], { timeoutMs: 5000 }));
  known.set(key, version);
  return version;
}
