/** `kata-runtime env` (`kata-env`): the settings of runtime and host. */
import { realpathSync } from 'node:fs';
import { describeError } from '../../base/errors';
import type { RuntimeConfig } from '../../virtcontainers/config/types';
import type { Registrar } from '../registrar';
import type { Session } from '../session';
import { envDocument } from './document';
import { formatSources, sourcedValues } from './sources';
import { formatGoJson, formatToml } from './toml';

export interface EnvOptions {
  readonly json?: boolean;
  readonly sources?: boolean;
  readonly bundle?: string;
}

/** A missing kernel is a reason to look at the settings, not to refuse them: told on stderr, and shown as written. */
function configToShow(session: Session): RuntimeConfig {
  try {
    return session.loadConfig();
  } catch (reason) {
    const loose = session.loadConfigUnchecked();
    session.host.err(`kata-runtime: warning: ${describeError(reason)}\n`);
    return loose;
  }
}

function programPath(session: Session): string {
  const path = session.host.env['KATA_RUNTIME_PATH'] ?? process.argv[1] ?? '';
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

/** The configuration as a sandbox with this bundle has it: its annotations change what they may change. */
async function ofBundle(config: RuntimeConfig, bundle: string): Promise<RuntimeConfig> {
  const [{ readBundle }, { annotate }] = await Promise.all([import('../../virtcontainers/bundle/bundle'), import('../../virtcontainers/config/annotations')]);
  const { spec } = await readBundle(bundle);
  return annotate(config, spec.annotations ?? {}).config;
}

export async function runEnv(session: Session, options: EnvOptions): Promise<void> {
  const own = configToShow(session);
  const config = options.bundle === undefined ? own : await ofBundle(own, options.bundle);
  if (options.sources === true) {
    const values = sourcedValues(config);
    session.host.out(options.json === true ? `${JSON.stringify({ file: config.path, dropIns: config.dropIns, values }, null, 2)}\n` : formatSources(values));
    return;
  }
  const document = await envDocument(session.host, config, programPath(session));
  session.host.out(options.json === true ? formatGoJson(document) : formatToml(document));
}

export const registerEnv: Registrar = (program, run) => {
  program
    .command('env')
    .alias('kata-env')
    .description('display settings. Default to TOML')
    .option('--json', 'output JSON instead of TOML')
    .option('--sources', 'show every key of the configuration, and whether its value is a default or from which file and line or which annotation it comes')
    .option('--bundle <folder>', 'as the sandbox of this bundle has it, with the annotations of its config.json')
    .addHelpText('after', '\nExamples:\n  kata-runtime env --json | jq .Hypervisor\n  kata-runtime env --sources | grep -v default\n  kata-runtime env --sources --bundle /run/containerd/io.containerd.runtime.v2.task/k8s.io/<id> | grep annotation')
    .action(run('env', (session, options: EnvOptions) => runEnv(session, options)));
};
