/**
 * Runs the DistributiveWorker of the unmodified dcp-client 5.6.1 until SIGTERM.
 *
 * Arguments: the folder of the npm modules, a JSON object {identity, paymentAddress, cores, sandboxes, port}; `port` is
 * where its evaluator listens on loopback. Tells what happens as lines on stdout.
 */
'use strict';

const path = require('path');

async function main()
{
  const modules = process.argv[2];
  const options = JSON.parse(process.argv[3]);
  await require(path.join(modules, 'dcp-client')).init();
  await require('dcp/identity').set(options.identity);
  const { DistributiveWorker } = require('dcp/worker');
  const { workerFactory } = require(path.join(modules, 'dcp-client', 'lib', 'standaloneWorker'));
  const worker = new DistributiveWorker({
    paymentAddress: options.paymentAddress,
    cores: { cpu: options.cores, gpu: 0 },
    utilization: { cpu: 1, gpu: 0 },
    maxSandboxes: options.sandboxes,
    unmanaged: true,
  }, workerFactory({ hostname: '127.0.0.1', port: options.port }));
  worker.on('error', (error) => console.log('error', error));
  worker.on('warning', (...warning) => console.log('warning', ...warning));
  worker.on('payment', (...payment) => console.log('payment', ...payment));
  worker.on('end', () => process.exit(0));
  process.on('SIGTERM', () => worker.stop());
  await worker.start();
  console.log('started', worker.id);
}

main().catch((error) => { console.error(error); process.exit(3); });
