/** /metrics: gathers what is rendered. The guest is asked with a limit of time; without its answer the rest is shown. */
import { join } from 'node:path';
import { withTimeout } from '../../base/deadline';
import { describeError, isCode, KataError } from '../../base/errors';
import { procFigures } from '../../virtcontainers/metrics/proc';
import { SandboxStore } from '../../virtcontainers/persist/store';
import { Counters, type Counts } from '../../factory/counters';
import type { Answer, Asked, ManagementOptions } from './answer';
import { renderMetrics } from './metrics';
import { overheadOf } from './overhead';

const AGENT_TIMEOUT_MS = 5_000;
/**
 * The shim is in the host's network namespace, which has an interface for every pod: upstream dropped the family for
 * that. The first ones are the machine's own.
 */
const MAX_HOST_INTERFACES = 4;
const MAX_POD_INTERFACES = 64;

/** Agents without metrics are not asked again. */
const withoutMetrics = new WeakSet<ManagementOptions>();

async function agentText(options: ManagementOptions): Promise<string | undefined> {
  const { sandbox, logger } = options;
  if (withoutMetrics.has(options) || sandbox.state === 'stopped' || sandbox.state === 'invalid') {
    return undefined;
  }
  try {
    return await withTimeout(sandbox.agent.getMetrics(), AGENT_TIMEOUT_MS, () => new KataError('DeadlineExceeded', 'the agent gave no metrics in time'));
  } catch (reason) {
    if (isCode(reason, 'NotFound') || isCode(reason, 'Unimplemented')) {
      withoutMetrics.add(options);
    }
    logger.debug('no metrics of the agent', { error: describeError(reason) });
    return undefined;
  }
}

function virtiofsdPid({ sandbox, stateRoot = '/run/vc/sbs' }: ManagementOptions): number | undefined {
  if (sandbox.config.hypervisor.sharedFs !== 'virtio-fs') {
    return undefined;
  }
  try {
    return new SandboxStore(stateRoot, sandbox.id).load()?.vm?.processes.find((process) => process.name === 'virtiofsd')?.pid;
  } catch {
    return undefined;
  }
}

function factoryCounts({ sandbox }: ManagementOptions): Counts | undefined {
  const { enableTemplate, vmCacheNumber, templatePath } = sandbox.config.factory;
  return enableTemplate || vmCacheNumber > 0 ? new Counters(join(templatePath, 'counts')).read() : undefined;
}

export async function scrape({ options }: Asked): Promise<Answer> {
  const { sandbox, figures } = options;
  const text = await agentText(options);
  const virtiofsd = virtiofsdPid(options);
  const overhead = overheadOf(sandbox);
  const body = renderMetrics({
    sandbox,
    figures,
    shim: procFigures(process.pid, { interfaces: MAX_HOST_INTERFACES, limits: true }),
    hypervisor: procFigures(sandbox.pid, { interfaces: MAX_POD_INTERFACES }),
    virtiofsd: virtiofsd === undefined ? undefined : procFigures(virtiofsd),
    overhead: overhead.latest,
    factory: factoryCounts(options),
    agentText: text,
  });
  overhead.sample([process.pid, sandbox.pid, ...(virtiofsd === undefined ? [] : [virtiofsd])]);
  return { status: 200, body, type: 'text/plain; version=0.0.4; charset=utf-8' };
}
