/**
 * Leaves V8's compiled code beside the bundles of the shim (shim/parts.ts loads it): `npx tsx hack/code-cache.ts FILE...`,
 * run by hack/build.ts with the node that will run them. V8 tells a cache of other code by its length only, so caches are
 * always made anew with their bundles.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { Script } from 'node:vm';
import { runBundle, wrapSource } from '../shim/parts';

for (const file of process.argv.slice(2)) {
  const script = new Script(wrapSource(readFileSync(file, 'utf8')), { filename: file });
  // What has run is in the cache; the rest is compiled when it is called.
  runBundle(script, file);
  writeFileSync(`${file}.cache`, script.createCachedData());
}
