/**
 * Leaves V8's compiled code beside the bundles of the shim (shim/parts.ts loads it): `npx tsx hack/code-cache.ts FILE...`,
 * run by hack/build.ts with the node that will run them. Each is sealed with its bundle: V8 itself compares lengths
 * only.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { Script } from 'node:vm';
import { runBundle, sealCache, wrapSource } from '../shim/parts';

for (const file of process.argv.slice(2)) {
  const source = readFileSync(file);
  const script = new Script(wrapSource(source.toString('utf8')), { filename: file });
  // What has run is in the cache; the rest is compiled when it is called.
  runBundle(script, file);
  writeFileSync(`${file}.cache`, sealCache(script.createCachedData(), source));
}
