/** `kata-runtime completion <shell>`. */
import type { Registrar } from '../registrar';
import { completionScript } from './script';

export const registerCompletion: Registrar = (program, run) => {
  program
    .command('completion')
    .description('print a completion script for bash, zsh or fish')
    .argument('<shell>', 'bash, zsh or fish')
    .addHelpText('after', '\nExamples:\n  kata-runtime completion bash > /etc/bash_completion.d/kata-runtime')
    .action(run('completion', (session, shell: string) => session.host.out(completionScript(shell, program))));
};
