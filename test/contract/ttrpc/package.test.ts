/** The package as npm would publish it, used from a folder that knows nothing of this repository. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

const ROOT = join(__dirname, '../../..');
let folder: string;
let packed: string[];

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'ttrpc-package-'));
  const out = execFileSync('npm', ['pack', '--json', '--pack-destination', folder], { cwd: join(ROOT, 'ttrpc-ts'), encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  const [info] = JSON.parse(out.slice(out.indexOf('['))) as [{ filename: string; files: { path: string }[] }];
  packed = info.files.map(({ path }) => path);
  const modules = join(folder, 'node_modules');
  mkdirSync(join(modules, 'ttrpc-ts'), { recursive: true });
  execFileSync('tar', ['-xf', join(folder, info.filename), '--strip-components=1', '-C', join(modules, 'ttrpc-ts')]);
  // Its one dependency, which npm would fetch.
  symlinkSync(join(ROOT, 'node_modules/@bufbuild'), join(modules, '@bufbuild'));
});

after(() => {
  rmSync(folder, { recursive: true, force: true });
});

const PROGRAM = `
const text: Codec<string> = { encode: (value) => Buffer.from(value), decode: (bytes) => Buffer.from(bytes).toString() };
const service = { name: 'a.v1.B', methods: { Echo: { kind: 'unary', request: text, response: text } } } as const satisfies ServiceDefinition;
async function main(): Promise<void> {
  const path = __filename + '.sock';
  const server = new TtrpcServer().register(service, {
    echo: (request) => {
      if (request === 'bad') {
        throw new TtrpcError('NotFound', 'nothing here');
      }
      return 're: ' + request;
    },
  });
  await server.listen({ path });
  const client = new TtrpcClient(connect(path));
  const answer: string = await client.call(service.name, 'Echo', service.methods.Echo, 'hello');
  const error = await client.call(service.name, 'Echo', service.methods.Echo, 'bad').catch((reason: unknown) => reason);
  console.log(answer, error instanceof TtrpcError ? error.code : 'no TtrpcError');
  client.close();
  await server.close();
}
void main();
`;

const node = (file: string): string => execFileSync(process.execPath, [file], { cwd: folder, encoding: 'utf8', timeout: 20_000 });

test('the package holds code, types, texts and licence, and nothing else', () => {
  for (const wanted of ['package.json', 'README.md', 'PROTOCOL.md', 'LICENSE', 'dist/index.js', 'dist/index.d.ts']) {
    assert.ok(packed.includes(wanted), wanted);
  }
  assert.deepEqual(packed.filter((path) => !/^dist\/[\w-]+\.(js|js\.map|d\.ts)$|^(package\.json|README\.md|PROTOCOL\.md|LICENSE)$/.test(path)), []);
  const sources = readdirSync(join(ROOT, 'ttrpc-ts/src')).filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'));
  assert.equal(packed.filter((path) => path.endsWith('.js')).length, sources.length);
  const map = JSON.parse(readFileSync(join(folder, 'node_modules/ttrpc-ts/dist/frame.js.map'), 'utf8')) as { sourcesContent?: string[] };
  assert.match(map.sourcesContent?.[0] ?? '', /class FrameDecoder/);
  assert.ok(!existsSync(join(folder, 'node_modules/ttrpc-ts/src')));
});

test('a TypeScript program compiles against it under every module resolution, and runs', () => {
  writeFileSync(join(folder, 'program.ts'), `import { connect } from 'node:net';\nimport { TtrpcClient, TtrpcError, TtrpcServer, type Codec, type ServiceDefinition } from 'ttrpc-ts';\n${PROGRAM}`);
  const tsc = join(ROOT, 'node_modules/.bin/tsc');
  const types = ['--types', 'node', '--typeRoots', join(ROOT, 'node_modules/@types')];
  for (const [module, resolution, ...more] of [['esnext', 'bundler', '--noEmit'], ['node16', 'node16', '--noEmit'], ['commonjs', 'node10']] as const) {
    execFileSync(tsc, ['--strict', '--target', 'es2022', '--module', module, '--moduleResolution', resolution, ...types, ...more, 'program.ts'], { cwd: folder, encoding: 'utf8' });
  }
  assert.equal(node('program.js'), 're: hello NotFound\n');
});

test('JavaScript programs import it both ways', () => {
  const names = "typeof TtrpcServer, typeof TtrpcClient, TtrpcError.name";
  writeFileSync(join(folder, 'a.cjs'), `const { TtrpcServer, TtrpcClient, TtrpcError } = require('ttrpc-ts'); console.log(${names});`);
  writeFileSync(join(folder, 'a.mjs'), `import { TtrpcServer, TtrpcClient, TtrpcError } from 'ttrpc-ts'; console.log(${names});`);
  for (const file of ['a.cjs', 'a.mjs']) {
    assert.equal(node(file), 'function function TtrpcError\n');
  }
});
