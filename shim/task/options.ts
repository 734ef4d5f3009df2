import { KataError } from '../../base/errors';
import type { Logger } from '../../base/log';
import { Options } from '../../gen/containerd/runtimeoptions/options';
import type { Any } from '../../gen/google/protobuf/any';

/**
 * The configuration file that the host's runtime options name. Both spellings of the type are taken (containerd up to
 * 1.4 had a longer one); runc's options and unknown ones say nothing to us and are never an error.
 */
export function configPathOf(options: Any | undefined, logger: Logger): string | undefined {
  if (options === undefined || options.typeUrl === '') {
    return undefined;
  }
  const type = options.typeUrl.slice(options.typeUrl.lastIndexOf('/') + 1);
  if (!type.endsWith('runtimeoptions.v1.Options')) {
    if (!type.startsWith('containerd.runc.') && !type.startsWith('containerd.linux.runc.')) {
      logger.warn('runtime options of an unknown type are ignored', { type });
    }
    return undefined;
  }
  try {
    const { configPath, configBody } = Options.decode(options.value);
    if (configBody.length > 0) {
      logger.warn('inline configuration (ConfigBody) is ignored', { bytes: configBody.length });
    }
    return configPath === '' ? undefined : configPath;
  } catch (reason) {
    throw new KataError('InvalidArgument', `read runtime options of type ${JSON.stringify(type)}: not valid`, { cause: reason });
  }
}
