import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { describeError } from '../../base/errors';
import type { Logger } from '../../base/log';
import type { Container } from '../../virtcontainers/container/types';

const MANAGER = 'io.container.manager';
const TYPE = 'io.kubernetes.cri-o.ContainerType';

/** cri-o takes no events: a file `oom` in the bundle tells it that the container ran out of memory. */
export function markOom(container: Container, logger: Logger): void {
  const { annotations } = container.spec;
  if (annotations?.[MANAGER] !== 'cri-o' && annotations?.[TYPE] === undefined) {
    return;
  }
  try {
    closeSync(openSync(join(container.bundle, 'oom'), 'a', 0o644));
  } catch (reason) {
    logger.warn('the oom file was not written', { container: container.id, error: describeError(reason) });
  }
}
