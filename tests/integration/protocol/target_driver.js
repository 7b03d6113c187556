'use strict';
// The server side of an unmodified dcp-client, for a client of ours to talk to.
// argv: <folder of the dcp-client package> <folder of the socket.io package> <port>
// Prints {"address": "0x..."} when it listens; answers lines on stdin: "drop" cuts every transport,
// "forget" makes it forget its sessions and cuts every transport.

const [packageFolder, socketIoFolder, port] = process.argv.slice(2);
const readline = require('readline');

async function main() {
  process.argv.splice(2);
  await require(packageFolder).init(process.env.DCP_SCHEDULER_LOCATION);
  const protocol = require('dcp/protocol');
  const wallet = require('dcp/wallet');
  const { DcpURL } = require('dcp/dcp-url');
  const identity = await new wallet.Keystore(null, '');
  const connections = new Set();

  const config = { listen: new DcpURL('http://127.0.0.1:' + port + '/target/'), identity };
  const target = new protocol.Target(['socketio'], config, { socketio: { module: require(socketIoFolder) } });
  target.on('error', (error) => console.error('target error', error));
  target.on('session', (connection) => {
    connections.add(connection);
    connection.on('error', (error) => console.error('connection error', error));
    connection.on('request', async (request) => {
      const { operation, data } = request.payload;
      try {
        switch (operation) {
          case 'fail':
            await request.respond(Object.assign(new Error('no money'), { code: 'ENOFUNDS' }));
            break;
          case 'authorized':
            await request.respond({ verdict: Boolean(await request.doesAuthorize(new wallet.Address(data.account))) });
            break;
          case 'call-me': {
            const answers = await Promise.all(Array.from({ length: data.count }, (_, i) => connection.request('event', { i })));
            await request.respond(answers.map((answer) => answer.success && answer.payload));
            break;
          }
          case 'close-me':
            connection.close();
            break;
          default:
            await request.respond(data);
        }
      } catch (error) { console.error('handler', error); }
    });
  });
  target.on('listening', () => {
    process.stdout.write(JSON.stringify({ address: String(identity.address) }) + '\n');
  });

  readline.createInterface({ input: process.stdin }).on('line', (line) => {
    if (line === 'forget') target.sessionMemos = {};
    for (const connection of connections) if (connection.transport) connection.transport.close();
    process.stdout.write('{"done": true}\n');
  }).on('close', () => process.exit(0));
  setInterval(() => {}, 1000);
}

main().catch((error) => { console.error(error); process.exit(1); });
