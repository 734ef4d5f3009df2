import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isCode } from '../base/errors';
import { formatAgentUrl, parseAgentUrl } from './endpoint';

test('every form of URL is taken apart and put together again', () => {
  const cases = [
    ['vsock://3:1024', { kind: 'vsock', cid: 3, port: 1024 }],
    ['vsock://4138340623:1024', { kind: 'vsock', cid: 4138340623, port: 1024 }],
    ['hvsock:///run/vc/vm/x/kata.hvsock:1024', { kind: 'hvsock', path: '/run/vc/vm/x/kata.hvsock', port: 1024 }],
    ['unix:///run/a.sock', { kind: 'unix', path: '/run/a.sock' }],
    ['serial:///run/vc/vm/x/agent.sock', { kind: 'serial', path: '/run/vc/vm/x/agent.sock' }],
  ] as const;
  for (const [url, endpoint] of cases) {
    assert.deepEqual(parseAgentUrl(url), endpoint);
    assert.equal(formatAgentUrl(parseAgentUrl(url)), url);
  }
});

test('mock and remote are unix sockets', () => {
  assert.deepEqual(parseAgentUrl('mock:///tmp/a.sock'), { kind: 'unix', path: '/tmp/a.sock' });
  assert.deepEqual(parseAgentUrl('remote:///run/r.sock'), { kind: 'unix', path: '/run/r.sock' });
});

test('a URL that says nothing clear is InvalidArgument and named', () => {
  const wrong = [
    '', 'foo', '/run/a.sock', 'http://x:1', 'vsock://', 'vsock://3', 'vsock://3:x', 'vsock://-1:5', 'vsock://3:1024/x',
    'vsock://3:1024:1', 'vsock://4294967296:1', 'hvsock:///a', 'hvsock://a:1', 'hvsock://:1', 'unix://a', 'serial://',
    'unix:///a\0b', `unix:///${'x'.repeat(107)}`,
  ];
  for (const url of wrong) {
    assert.throws(
      () => parseAgentUrl(url),
      (error) => isCode(error, 'InvalidArgument') && error instanceof Error && error.message.includes(JSON.stringify(url)),
      url,
    );
  }
});
