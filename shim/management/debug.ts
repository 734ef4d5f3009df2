/** /debug/*: only with `enable_pprof`. Names are those of Go's pprof; the content is Node's (CPU profiles open in any DevTools). */
/* eslint-disable @typescript-eslint/no-require-imports -- loaded late on purpose */
import { KataError } from '../../base/errors';
import { sleep } from '../../base/deadline';
import type { Answer, Endpoint } from './answer';

const MAX_PROFILE_SECONDS = 60;

const vars: Endpoint = () => ({
  status: 200,
  type: 'application/json',
  body: `${JSON.stringify({ cmdline: process.argv, memstats: process.memoryUsage(), uptimeSeconds: process.uptime(), versions: process.versions, resourceUsage: process.resourceUsage(), activeResources: process.getActiveResourcesInfo() }, null, 2)}\n`,
});

const index: Endpoint = () => ({
  status: 200,
  body: 'cmdline\nprofile?seconds=30  CPU profile (.cpuprofile of V8)\nheap                statistics of the heap\n',
});

const cmdline: Endpoint = () => ({ status: 200, body: process.argv.join('\0') });

const heap: Endpoint = () => {
  const v8 = require('node:v8') as typeof import('node:v8');
  return { status: 200, type: 'application/json', body: `${JSON.stringify({ statistics: v8.getHeapStatistics(), spaces: v8.getHeapSpaceStatistics() }, null, 2)}\n` };
};

let profiling = false;

async function profileFor(seconds: number): Promise<Answer> {
  const { Session } = require('node:inspector/promises') as typeof import('node:inspector/promises');
  const session = new Session();
  session.connect();
  try {
    await session.post('Profiler.enable');
    await session.post('Profiler.start');
    await sleep(seconds * 1000);
    const { profile } = await session.post('Profiler.stop');
    return { status: 200, type: 'application/json', headers: { 'Content-Disposition': 'attachment; filename="profile.cpuprofile"' }, body: JSON.stringify(profile) };
  } finally {
    session.disconnect();
  }
}

const profile: Endpoint = async ({ query }) => {
  const seconds = Number(query.get('seconds') ?? 30);
  if (!(seconds > 0 && seconds <= MAX_PROFILE_SECONDS)) {
    throw new KataError('InvalidArgument', `seconds: wanted a number up to ${String(MAX_PROFILE_SECONDS)}`);
  }
  if (profiling) {
    throw new KataError('FailedPrecondition', 'a profile is being taken already');
  }
  profiling = true;
  try {
    return await profileFor(seconds);
  } finally {
    profiling = false;
  }
};

const none: Endpoint = () => ({ status: 501, body: 'this runtime has no such profile\n' });

const PPROF: Readonly<Record<string, Endpoint>> = { '': index, cmdline, profile, heap, symbol: none, trace: none };

/** The endpoint of a path below /debug/; undefined for an unknown one. */
export function debugEndpoint(path: string): Endpoint | undefined {
  if (path === '/debug/vars') {
    return vars;
  }
  const name = path.startsWith('/debug/pprof/') ? path.slice('/debug/pprof/'.length) : undefined;
  return name !== undefined && Object.hasOwn(PPROF, name) ? PPROF[name] : undefined;
}
