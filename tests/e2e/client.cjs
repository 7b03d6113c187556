/**
 * Runs one program (JavaScript on stdin) against a Scheduler with the unmodified dcp-client.
 *
 * The program is the body of an async function of { compute, wallet, say, watch }: say(name, value) prints a JSON
 * line for the test to read; watch(job) prints every event of the job. Keystores come from DCP_RESOURCE_DIR.
 */
'use strict';

const fs = require('fs');
const path = require('path');

function say(name, value)
{
  // Lone surrogates must reach the test as escapes: UTF-8 cannot carry them.
  const text = JSON.stringify([name, value === undefined ? null : value]);
  process.stdout.write(text.replace(/[\ud800-\udfff]/g, (unit) => '\\u' + unit.charCodeAt(0).toString(16)) + '\n');
}

function watch(job)
{
  for (const name of ['result', 'console', 'error', 'noProgress', 'status', 'cancel', 'stop', 'nofunds', 'duplicate-result'])
    job.on(name, (event) => say(name, plain(event)));
  job.on('accepted', () => say('accepted', { id: job.id }));
  // The event is the job's results; to look at one that is missing throws.
  job.on('complete', (results) => say('complete', plain(Array.from(results))));
}

/** An event as JSON can hold it. */
function plain(event)
{
  return JSON.parse(JSON.stringify(event, (key, value) => (typeof value === 'bigint' ? String(value) : value)) ?? 'null');
}

async function main()
{
  const modules = process.argv[2];
  const program = fs.readFileSync(0, 'utf8');
  await require(path.join(modules, 'dcp-client')).init();
  const compute = require('dcp/compute');
  const wallet = require('dcp/wallet');
  const AsyncFunction = (async () => {}).constructor;
  await new AsyncFunction('compute', 'wallet', 'say', 'watch', 'require', program)(compute, wallet, say, watch, require);
  say('done');
}

function exit(status)
{
  process.stdout.write('', () => process.exit(status));
}

main().then(() => exit(0), (error) => {
  say('failed', { message: error.message, code: error.code, stack: error.stack });
  exit(3);
});
