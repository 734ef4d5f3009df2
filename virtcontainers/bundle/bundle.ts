/** Reads the bundle of a container: `<bundle>/config.json`, by the OCI runtime specification. */
import { open } from 'node:fs/promises';
import { constants } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, KataError } from '../../base/errors';
import type { OciCapabilities, OciSpec } from '../../base/oci-spec';
import type { Bundle } from '../sandbox/types';
import { parseExactJson } from './json';
import { checkShape } from './shape';

const MAX_CONFIG_BYTES = 16 * 1024 * 1024;

/** Reads and checks `config.json` of a bundle. NotFound, InvalidArgument: each names the file and what is wrong in it. */
export async function readBundle(path: string): Promise<Bundle> {
  const file = join(path, 'config.json');
  return { path, spec: parseSpec(await readBounded(file), file) };
}

/** Text of a config.json to a checked spec. `process`, `root` and `linux` are there afterwards. */
export function parseSpec(text: string, file: string): OciSpec {
  let parsed: unknown;
  try {
    parsed = parseExactJson(text);
  } catch (reason) {
    const why = text.trim() === '' ? 'it is empty' : reason instanceof Error ? reason.message.slice(0, 200) : 'not JSON';
    throw new KataError('InvalidArgument', `read bundle ${file}: not valid JSON (${String(Buffer.byteLength(text))} bytes): ${why}`, {
      hint: 'was the file written whole?',
      cause: reason,
    });
  }
  const spec = checkShape(parsed, file);
  if (spec.process === undefined) {
    throw new KataError('InvalidArgument', `read bundle ${file}: process is missing`, { hint: 'a container needs a process object' });
  }
  if (spec.root?.path === undefined || spec.root.path === '') {
    throw new KataError('InvalidArgument', `read bundle ${file}: root.path is missing`, { hint: 'a container needs a root file system' });
  }
  spec.linux ??= {};
  spec.linux.resources ??= {};
  const capabilities: unknown = spec.process.capabilities;
  if (Array.isArray(capabilities)) {
    spec.process.capabilities = legacyCapabilities(capabilities as string[]);
  }
  return spec;
}

/** A plain list, as runc 1.0-rc wrote it, stands for all five sets. */
function legacyCapabilities(list: readonly string[]): OciCapabilities {
  return { bounding: [...list], effective: [...list], inheritable: [...list], permitted: [...list], ambient: [...list] };
}

async function readBounded(file: string): Promise<string> {
  try {
    // Non-blocking, so that a FIFO in place of the file cannot hold us.
    const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const info = await handle.stat();
      if (!info.isFile()) {
        throw new KataError('InvalidArgument', `read bundle ${file}: not a regular file`);
      }
      if (info.size > MAX_CONFIG_BYTES) {
        throw new KataError('InvalidArgument', `read bundle ${file}: ${String(info.size)} bytes, more than ${String(MAX_CONFIG_BYTES)}`);
      }
      const bytes = Buffer.alloc(info.size);
      let length = 0;
      while (length < bytes.length) {
        const { bytesRead } = await handle.read(bytes, length, bytes.length - length, length);
        if (bytesRead === 0) {
          break;
        }
        length += bytesRead;
      }
      return bytes.toString('utf8', 0, length);
    } finally {
      await handle.close();
    }
  } catch (reason) {
    if (reason instanceof KataError) {
      throw reason;
    }
    throw KataError.from(reason, errnoOf(reason) === 'ENOENT' ? `read bundle: file ${file} does not exist` : `read bundle ${file}`, {
      hint: 'the caller of the shim makes the bundle before it calls Create',
    });
  }
}
