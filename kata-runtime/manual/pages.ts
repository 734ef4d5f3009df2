/** Manual pages (roff) and their Markdown, from the tree of commands: what --help says is what they say. */
import type { Command } from 'commander';

export interface ManualPage {
  /** `kata-runtime-iptables-get`. */
  readonly name: string;
  readonly roff: string;
  readonly markdown: string;
}

interface Entry {
  readonly name: string;
  readonly words: string;
  readonly command: Command;
}

function entries(command: Command, prefix: string): Entry[] {
  const words = `${prefix}${command.name()}`;
  const own = { name: words.replaceAll(' ', '-'), words, command };
  return [own, ...command.commands.flatMap((sub) => entries(sub, `${words} `))];
}

/** Text that the command adds behind its help: examples, environment, remarks. */
function textBehindHelp(command: Command): string {
  let said = '';
  command.configureOutput({ writeOut: (text) => (said += text) });
  command.outputHelp();
  return said.slice(command.helpInformation().length).trim();
}

interface Item {
  readonly term: string;
  readonly text: string;
}

function optionItems(command: Command): Item[] {
  return command.options.filter((option) => !option.hidden).map((option) => {
    const value: unknown = option.defaultValue;
    return { term: option.flags, text: `${option.description}${typeof value === 'string' && value !== '' ? ` (default: ${value})` : ''}` };
  });
}

function argumentItems(command: Command): Item[] {
  return command.registeredArguments.map((argument) => ({ term: argument.required ? `<${argument.name()}>` : `[${argument.name()}]`, text: argument.description }));
}

function escape(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .split('\n')
    .map((line) => line.replace(/^(\s*)([.'])/, '$1\\&$2'))
    .join('\n');
}

function roffOf(entry: Entry, related: readonly string[]): string {
  const { command } = entry;
  const items = (title: string, list: readonly Item[]): string => (list.length === 0 ? '' : `.SH ${title}\n${list.map(({ term, text }) => `.TP\n.B ${escape(term)}\n${escape(text)}\n`).join('')}`);
  const behind = textBehindHelp(command);
  return [
    `.TH ${entry.name.toUpperCase().replaceAll('-', '\\-')} 1 "" "kata\\-ts" "User Commands"\n`,
    `.SH NAME\n${escape(entry.name)} \\- ${escape(command.description())}\n`,
    `.SH SYNOPSIS\n.B ${escape(entry.words)}\n${escape(command.usage())}\n`,
    command.aliases().length === 0 ? '' : `.SH ALIAS\n${escape(command.aliases().join(', '))}\n`,
    items('COMMANDS', command.commands.map((sub) => ({ term: sub.name(), text: sub.description() }))),
    items('ARGUMENTS', argumentItems(command)),
    items('OPTIONS', optionItems(command)),
    behind === '' ? '' : `.SH NOTES\n.nf\n${escape(behind)}\n.fi\n`,
    '.SH EXIT STATUS\n0 for success, 1 for anything else; the reason and the remedy are one sentence on standard error.\n',
    related.length === 0 ? '' : `.SH SEE ALSO\n${related.map((name) => `.BR ${escape(name)} (1)`).join(',\n')}\n`,
  ].join('');
}

function markdownOf(entry: Entry): string {
  const { command } = entry;
  const cell = (text: string): string => text.replaceAll('|', '\\|');
  const table = (list: readonly Item[]): string => (list.length === 0 ? '' : `\n| | |\n|---|---|\n${list.map(({ term, text }) => `| \`${cell(term)}\` | ${cell(text).replaceAll('<', '&lt;')} |\n`).join('')}`);
  const behind = textBehindHelp(command);
  const alias = command.aliases().length === 0 ? '' : ` Also: \`${command.aliases().join('`, `')}\`.`;
  return `## ${entry.words}\n\n${command.description()}.${alias}\n\n\`${entry.words} ${command.usage()}\`\n${table(argumentItems(command))}${table(optionItems(command))}${behind === '' ? '' : `\n\`\`\`text\n${behind}\n\`\`\`\n`}`;
}

/** One page for the program and one for each command; `monitor` is installed as kata-monitor too. */
export function manualPages(program: Command): ManualPage[] {
  const all = entries(program, '');
  const pages = all.map((entry) => {
    const related = all.filter((other) => other !== entry && (entry.command.commands.includes(other.command) || other.command.commands.includes(entry.command))).map((other) => other.name);
    return { name: entry.name, roff: roffOf(entry, related), markdown: markdownOf(entry) };
  });
  const monitor = pages.find((page) => page.name === 'kata-runtime-monitor');
  return monitor === undefined ? pages : [...pages, { name: 'kata-monitor', roff: monitor.roff.replaceAll('kata\\-runtime\\-monitor', 'kata\\-monitor').replaceAll('KATA\\-RUNTIME\\-MONITOR', 'KATA\\-MONITOR').replaceAll('kata\\-runtime monitor', 'kata\\-monitor'), markdown: '' }];
}

/** docs/kata-runtime-commands.md. */
export function commandsPage(pages: readonly ManualPage[]): string {
  return `# kata-runtime: commands\n\nMade from the commands themselves by \`npx tsx kata-runtime/manual/write.ts\`; the man pages in \`docs/man\` too.\n\n${pages.map((page) => page.markdown).filter((text) => text !== '').join('\n')}`;
}
