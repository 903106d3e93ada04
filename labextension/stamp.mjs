// After a build: leave only what a page needs, and write down what it was built from.
//
// `built-from.json` holds a hash of each source; tests/labextension compares them with the sources
// of the checkout, so that nobody forgets to build. No Node is needed for that.

import { createHash } from 'node:crypto';
import { readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const OUT = '../nnsight_lab/labextension/nnsight-lab';
const SOURCES = ['package.json', 'schema', 'src', 'stamp.mjs', 'style', 'tsconfig.json', 'yarn.lock'];

function files(path) {
  return statSync(path).isDirectory() ? readdirSync(path).sort().flatMap(name => files(join(path, name))) : [path];
}

for (const path of files(OUT)) {
  if (path.endsWith('.map') || path.endsWith('.orig') || path.endsWith('third-party-licenses.json') || path.endsWith('.LICENSE.txt')) {
    rmSync(path);
  }
}
const hashes = Object.fromEntries(
  SOURCES.flatMap(files).map(path => [path, createHash('sha256').update(readFileSync(path)).digest('hex')])
);
writeFileSync(join(OUT, 'built-from.json'), JSON.stringify(hashes, null, 2) + '\n');
