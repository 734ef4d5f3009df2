import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';
import { promisify } from 'node:util';

const run = promisify(execFile);
const SOURCE = join(__dirname, 'go');
const CACHE = resolve(__dirname, '../../../.cache/ttrpc-interop');
const GOPATH_OF_DEBIAN = '/usr/share/gocode';

/** The two generations of Go's ttrpc that hosts and guests have. */
export const versions = ['1.1', '1.2'] as const;
export type Version = (typeof versions)[number];

/** Why Go peers cannot be built here; undefined when they can. */
export async function missingGo(): Promise<string | undefined> {
  try {
    await run('go', ['version']);
    return undefined;
  } catch {
    return 'the go command is missing: install golang-go to test against the Go implementation';
  }
}

/** Builds the Go peer, or takes it from the cache; returns the program's path. */
export async function buildPeer(version: Version): Promise<string> {
  const hash = createHash('sha256').update(version).update(process.arch);
  for (const name of readdirSync(SOURCE).sort()) {
    hash.update(name).update(readFileSync(join(SOURCE, name)));
  }
  const target = join(CACHE, `peer-${version}-${hash.digest('hex').slice(0, 16)}`);
  if (existsSync(target)) {
    return target;
  }
  mkdirSync(CACHE, { recursive: true });
  const building = `${target}.${process.pid}`;
  if (version === '1.1') {
    if (!existsSync(join(GOPATH_OF_DEBIAN, 'src/github.com/containerd/ttrpc'))) {
      throw new Error('ttrpc 1.1 for Go is missing: install golang-github-containerd-ttrpc-dev');
    }
    const env = { ...process.env, GO111MODULE: 'off', GOPATH: GOPATH_OF_DEBIAN };
    await run('go', ['build', '-tags', 'ttrpc11', '-o', building, '.'], { cwd: SOURCE, env });
  } else {
    await run('go', ['build', '-mod=readonly', '-o', building, '.'], { cwd: SOURCE });
  }
  renameSync(building, target);
  return target;
}

/** A path for a socket in a folder that goes away with the test. */
export function socketPath(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'ttrpc-interop-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, 's');
}

/** Starts the Go server on a socket; it ends with the test. */
export async function startGoServer(t: TestContext, program: string, path: string): Promise<void> {
  const child: ChildProcess = spawn(program, ['serve', path], { stdio: ['pipe', 'pipe', 'inherit'] });
  const exited = new Promise((settle) => child.once('exit', settle));
  t.after(async () => {
    child.stdin?.end();
    await exited;
  });
  if (child.stdout === null) {
    throw new Error('no stdout');
  }
  const ready = new Promise<void>((settle) => createInterface({ input: child.stdout ?? process.stdin }).once('line', () => settle()));
  await Promise.race([ready, exited.then(() => Promise.reject(new Error('the Go server ended before it listened')))]);
}

/** Runs the Go client's checks against a socket; returns its lines. */
export async function runGoClient(program: string, path: string): Promise<string[]> {
  const { stdout } = await run(program, ['call', path], { timeout: 60_000 }).catch((error: unknown) => {
    const { stdout: out, stderr } = error as { stdout: string; stderr: string };
    throw new Error(`Go client failed:\n${out}${stderr}`);
  });
  return stdout.trim().split('\n');
}
