'use strict';
/*
 * Stands in for the agent in boot tests: loads the boot modules, opens the serial channel and says HELLO with what it
 * measured. `npx tsx guest/image/build.ts --agent guest/image/stub-agent.cjs --out /tmp/guest-stub`.
 */
const { closeSync, openSync, readFileSync, readdirSync, writeSync } = require('node:fs');

const MOUNT = 165;
const FINIT_MODULE = 313;
const holder = { exports: {} };
process.dlopen(holder, `${__dirname}/sys.node`);
const { sys } = holder.exports;
const startedMs = process.uptime() * 1000;
for (const [type, path] of [['proc', '/proc'], ['sysfs', '/sys'], ['devtmpfs', '/dev']]) {
  sys(MOUNT, type, path, type, 0, null);
}
const kernelSeconds = readFileSync('/proc/uptime', 'utf8').split(' ')[0];
const failed = [];
for (const path of JSON.parse(readFileSync('/etc/kata-modules.json', 'utf8')).boot) {
  const fd = openSync(path, 'r');
  const result = sys(FINIT_MODULE, fd, '', 0);
  closeSync(fd);
  if (result < 0) {
    failed.push(`${path}: ${result}`);
  }
}
const ports = '/sys/class/virtio-ports';

function findPort() {
  return readdirSync(ports).find((name) => {
    try {
      return readFileSync(`${ports}/${name}/name`, 'utf8').trim() === 'agent.channel.0';
    } catch {
      return false;
    }
  });
}

// A port's folder is there a moment before its name is: seen once in 12 boots on a busy machine.
let port = findPort();
for (const deadline = Date.now() + 10_000; port === undefined && Date.now() < deadline; port = findPort()) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
}
if (port === undefined) {
  throw new Error(`no serial port agent.channel.0 among ${readdirSync(ports).join() || 'none'} after 10 s`);
}
const channel = openSync(`/dev/${port}`, 'r+');
const memory = readFileSync('/proc/meminfo', 'utf8').split('\n').slice(0, 3).join(' ').replace(/\s+/g, ' ');
writeSync(channel, `HELLO ${JSON.stringify({ node: process.version, kernelSeconds, startedMs: Math.round(startedMs), nowMs: Math.round(process.uptime() * 1000), memory, failed })}\n`);
const script = /kata_ts\.test=([^ \n]+)/.exec(readFileSync('/proc/cmdline', 'utf8'))?.[1];
if (script !== undefined) {
  const { spawnSync } = require('node:child_process');
  const done = spawnSync('/bin/sh', ['-c', Buffer.from(script, 'base64').toString()], { encoding: 'utf8', env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' } });
  writeSync(channel, `${done.stdout}${done.stderr}status ${done.status}\nEND\n`);
}
setInterval(() => undefined, 1 << 30);
