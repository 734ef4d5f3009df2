import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { contract } from './hypervisor.contract';

const agent = join(__dirname, '../../../build/agent.cjs');
const skip = existsSync(agent) ? (process.getuid?.() === 0 ? undefined : 'needs root') : 'build/agent.cjs is missing: run make build';

contract({ type: 'mock', config: { path: process.execPath }, skip, timeoutMs: 10_000 });
