import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatFamily, mergeFamilies, parseMetrics, parseSample, renameFamily } from './prometheus-text';

test('every form of a sample is read, anything else is none', () => {
  assert.deepEqual(parseSample('a 1'), { name: 'a', labels: [], value: '1' });
  assert.deepEqual(parseSample('a:b{x="1",y="q\\"\\\\\\n",} +Inf 123'), { name: 'a:b', labels: [['x', '1'], ['y', 'q"\\\n']], value: '+Inf' });
  for (const value of ['1', '-1.5e+3', '.5', '5.', 'NaN', '-Inf']) {
    assert.equal(parseSample(`m{} ${value}`)?.value, value);
  }
  for (const line of ['', '1a 1', 'a', 'a b', 'a{x="1" 1', 'a{x=1} 1', 'a{x="1"y="2"} 1', 'a{x="1",x="2"} 1', 'a{x="\\q"} 1', 'a 1 2 3', 'a{} 0x1', 'ä 1']) {
    assert.equal(parseSample(line), undefined, line);
  }
});

test('families keep together what belongs together and survive being written', () => {
  const text = '# HELP h Help with \\\\ and \\n.\n# TYPE h histogram\nh_bucket{le="1"} 1\nh_sum 1\nh_count 1\n# TYPE g gauge\ng{a="x"} 1\ng{a="x"} 2\ng_count 3\n';
  const families = parseMetrics(text);
  assert.deepEqual(families.map(({ name, type, samples }) => [name, type, samples.length]), [['h', 'histogram', 3], ['g', 'gauge', 1], ['g_count', 'untyped', 1]]);
  assert.deepEqual(parseMetrics(families.map(formatFamily).join('')), families);
  const [histogram] = families;
  assert.ok(histogram !== undefined);
  assert.deepEqual(renameFamily(histogram, 'k').samples.map(({ name }) => name), ['k_bucket', 'k_sum', 'k_count']);
});

test('a family of another type under a known name is dropped when merging', () => {
  const merged = mergeFamilies([...parseMetrics('# TYPE a gauge\na 1'), ...parseMetrics('# TYPE a counter\na 2'), ...parseMetrics('# TYPE a gauge\na{x="1"} 3')]);
  assert.deepEqual(merged.map(({ samples }) => samples.map(({ value }) => value)), [['1', '3']]);
});

test('the same sample twice is one, however its labels look', () => {
  const text = ['m{a="x\\"y"} 1', 'm{ a = "x\\"y" } 2', 'm{a="1\\\\",b="2"} 3', 'm{a="1",b="\\\\2"} 4'].join('\n');
  assert.deepEqual(parseMetrics(text).flatMap(({ samples }) => samples.map(({ value }) => value)), ['1', '3', '4']);
});
