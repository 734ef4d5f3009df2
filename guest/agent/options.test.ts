import assert from 'node:assert/strict';
import { test } from 'node:test';
import { optionsFromArguments, optionsFromCommandLine } from './options';

test('a kernel command line without our words gives the defaults', () => {
  const options = optionsFromCommandLine('quiet console=ttyS0 root=/dev/pmem0p1\n');
  assert.equal(options.mode, 'guest');
  assert.equal(options.logLevel, 'info');
  assert.equal(options.vsockPort, 1024);
  assert.equal(options.debugConsole, false);
});

test('words of the kernel command line are taken', () => {
  const options = optionsFromCommandLine(
    'agent.log=debug agent.debug_console agent.debug_console_vport=1027 agent.container_pipe_size=2097152 agent.hotplug_timeout=30 agent.server_addr=vsock://-1:2048',
  );
  assert.deepEqual(
    [options.logLevel, options.debugConsole, options.debugConsolePort, options.pipeSizeBytes, options.hotplugTimeoutMs, options.vsockPort],
    ['debug', true, 1027, 2097152, 30_000, 2048],
  );
});

test('wrong words change nothing: a guest has to boot', () => {
  assert.deepEqual(
    optionsFromCommandLine('agent.log=loud agent.container_pipe_size=-1 agent.hotplug_timeout=never agent.server_addr=tcp://x agent.nothing=1'),
    optionsFromCommandLine(''),
  );
});

test('arguments make a mock', () => {
  const options = optionsFromArguments(['--mock', '--listen', 'unix:///tmp/x.sock', '--share', '/tmp/share', '--log', 'debug'], 'agent.log=error');
  assert.deepEqual([options.mode, options.unixPath, options.sharePath, options.logLevel], ['mock', '/tmp/x.sock', '/tmp/share', 'debug']);
});

test('an unknown argument, or one without its value, is refused', () => {
  assert.throws(() => optionsFromArguments(['--mock', '--bogus', 'x'], ''), /--bogus: not known/);
  assert.throws(() => optionsFromArguments(['--mock', '--listen'], ''), /value missing/);
});
