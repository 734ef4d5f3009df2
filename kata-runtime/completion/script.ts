/** Completion scripts for shells, from the tree of commands. */
import type { Command } from 'commander';
import { KataError } from '../../base/errors';

export interface Node {
  /** Words that lead here: `['', 'iptables', 'get']` without the program. */
  readonly path: readonly string[];
  /** Subcommands and long options. */
  readonly words: readonly string[];
}

/** Every command with what may follow it. */
export function completionNodes(command: Command, path: readonly string[] = []): Node[] {
  const subcommands = command.commands.flatMap((sub) => [sub.name(), ...sub.aliases()]);
  const options = command.options.filter((option) => !option.hidden).flatMap((option) => (option.long === undefined ? [] : [option.long]));
  const own: Node = { path, words: [...subcommands, ...options, '--help'] };
  return [own, ...command.commands.flatMap((sub) => [sub.name(), ...sub.aliases()].flatMap((name) => completionNodes(sub, [...path, name])))];
}

/** Commands whose argument is a sandbox. */
const TAKES_SANDBOX: ReadonlySet<string> = new Set(['exec', 'metrics']);

function bash(program: string, nodes: readonly Node[]): string {
  const cases = nodes.map(({ path, words }) => {
    const ids = path.length === 1 && TAKES_SANDBOX.has(path[0] ?? '') ? ` $(${program} ps -q 2>/dev/null)` : '';
    return `    "${path.join(' ')}") words="${words.join(' ')}${ids}" ;;`;
  });
  const name = `_${program.replaceAll('-', '_')}`;
  return `# bash completion of ${program}
${name}() {
  local path="" word words="" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    case $word in
    --sandbox-id) if ((i + 1 == COMP_CWORD)); then COMPREPLY=($(compgen -W "$(${program} ps -q 2>/dev/null)" -- "\${COMP_WORDS[COMP_CWORD]}")); return; fi; ((i++)) ;;
    --config | --kata-config | --log | --log-format | --root | --rootless | --volume-path | --mount-info | --size | --bundle) ((i++)) ;;
    -*) ;;
    *) path="\${path:+$path }$word" ;;
    esac
  done
  case $path in
${cases.join('\n')}
    *) COMPREPLY=($(compgen -f -- "\${COMP_WORDS[COMP_CWORD]}")); return ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F ${name} ${program}
`;
}

function fish(program: string, nodes: readonly Node[]): string {
  const lines = nodes.flatMap(({ path, words }) => {
    const condition = path.length === 0 ? '__fish_use_subcommand' : path.map((word) => `__fish_seen_subcommand_from ${word}`).join('; and ');
    return words.map((word) => `complete -c ${program} -n '${condition}' ${word.startsWith('--') ? `-l ${word.slice(2)}` : `-f -a ${word}`}`);
  });
  return `# fish completion of ${program}\n${lines.join('\n')}\n`;
}

/** The script for a shell. InvalidArgument for one that we do not know. */
export function completionScript(shell: string, program: Command): string {
  const name = program.name();
  const nodes = completionNodes(program);
  switch (shell) {
    case 'bash':
      return bash(name, nodes);
    case 'zsh':
      return `#compdef ${name}\nautoload -U +X bashcompinit && bashcompinit\n${bash(name, nodes)}`;
    case 'fish':
      return fish(name, nodes);
    default:
      throw new KataError('InvalidArgument', `make completions for ${JSON.stringify(shell.slice(0, 40))}: unknown shell`, { hint: 'known are bash, zsh and fish' });
  }
}
