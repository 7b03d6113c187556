'use strict';
// Drives the Connection class of an unmodified dcp-client against a server of ours.
// argv: <folder of the dcp-client package> <name of the service> <scenario>...
// Prints one JSON line per scenario: {"scenario": name, "result": value} or {"scenario": name, "error": text}.

const [packageFolder, serviceName, ...wanted] = process.argv.slice(2);
const isOld = require(packageFolder + '/package.json').version.startsWith('4.');

const emoji = '\u{1f600}';

function scenarios(protocol, wallet, location, identity) {
  let connection;
  const served = [];

  function open(options) {
    const fresh = new protocol.Connection({ location }, { identity, ...options });
    fresh.on('error', () => {});
    fresh.on('request', async (request) => {
      served.push(request.payload.operation);
      try {
        if (request.payload.operation === 'refuse') await request.respond(Object.assign(new Error('no thanks'), { code: 'ENOTHANKS' }));
        else await request.respond({ operation: request.payload.operation, data: request.payload.data });
      } catch (error) { /* the connection is gone */ }
    });
    return fresh;
  }

  async function ask(operation, data, on = connection) {
    const response = await on.send(new on.Request(operation, data));
    return { success: response.success, payload: response.payload };
  }

  connection = open();

  return {
    echo: async () => ask('echo', { 2: 'y', 10: 'x', a: 1, unicode: 'é中' + emoji + '\u2028\u007f', f: 1e21, z: -0, tiny: 1e-7, n: null }),
    surrogates: async () => ask('echo', { lone: 'a\ud83d', other: '\ude00b', pair: emoji }),
    numeric_keys: async () => ask('numeric', {}),
    failure: async () => {
      const response = await connection.send(new connection.Request('fail', {}));
      return { success: response.success, message: response.payload.message, code: response.payload.code, info: response.payload.info };
    },
    bug: async () => ask('bug', {}),
    unserialisable: async () => ask('unserialisable', {}),
    large: async () => {
      const text = ('x"' + emoji).repeat(300000);  // 1.2 million units, pairs across the cuts
      const shifted = 'y' + text;
      const first = await ask('echo', text);
      const second = await ask('echo', shifted);
      return first.payload === text && second.payload === shifted;
    },
    authorized: async () => {
      const account = await new wallet.Keystore(null, '');
      const request = new connection.Request('authorized', { amount: 1.5, 7: 'seven' });
      await request.authorize(account);
      const response = await connection.send(request);
      return { resources: response.payload, account: String(account.address), known: String(connection.peerAddress) };
    },
    batches: async () => {
      const answers = await Promise.all(Array.from({ length: 250 }, (_, i) => ask('echo', { i })));
      return answers.every((answer, i) => answer.success && answer.payload.i === i);
    },
    no_batches: async () => {
      const single = open({ allowBatch: false });
      const answers = await Promise.all(Array.from({ length: 30 }, (_, i) => ask('echo', { i }, single)));
      const ended = new Promise((resolve) => single.once('close', resolve));
      single.close();
      await ended;
      return answers.every((answer, i) => answer.payload.i === i);
    },
    called: async () => ask('call-me', { count: 1 }),
    called_often: async () => {
      served.length = 0;
      const answer = await ask('call-me', { count: 500 });
      return { answer: answer.payload, served: served.length };
    },
    called_refused: async () => ask('call-refuse', {}),
    called_large: async () => ask('call-large', {}),
    keepalive: async () => {
      const response = await connection.keepalive();
      return { success: response.success, payload: response.payload };
    },
    expired: async () => {
      const request = new connection.Request('echo', {});
      request.payload.validity.time = 1;
      const response = await connection.send(request);
      return { success: response.success, code: response.payload.code };
    },
    reused_stamp: async () => {
      const codes = [];
      for (let i = 0; i < 2; i++) {
        const request = new connection.Request('echo', {});
        request.payload.validity.stamp = 'oneStampForTwo' + process.pid;
        codes.push((await connection.send(request)).payload.code || 'accepted');
      }
      return codes;
    },
    notification: async () => {
      if (isOld) return null;
      connection.notify({ data: { x: 1 } });
      return ask('echo', 'after');
    },
    lost_request: async () => ask('echo', 'lose-request'),
    lost_ack: async () => ask('echo', 'lose-ack'),
    lost_response: async () => ask('echo', 'lose-response'),
    lost_call: async () => ask('call-lost', {}),
    lost_in_traffic: async () => {
      served.length = 0;
      const answers = await Promise.all(Array.from({ length: 200 }, (_, i) => ask(i === 90 ? 'drop' : 'echo', { i })));
      return answers.every((answer, i) => answer.payload.i === i);
    },
    same_session: async () => connection.dcpsid,
    forgotten: async () => {
      const ended = new Promise((resolve) => connection.once('close', resolve));
      const before = connection.dcpsid;
      const first = await ask('forget', {}).catch((error) => ({ code: error.code }));
      await ended;
      connection = open();
      const after = await ask('echo', 'new session');
      return { first, after, changed: before !== connection.dcpsid };
    },
    closed_by_server: async () => {
      const other = open();
      await ask('echo', 1, other);
      const ended = new Promise((resolve) => other.once('close', resolve));
      ask('close-me', {}, other).catch(() => {});
      await ended;
      return String(other.state);
    },
    close: async () => {
      const ended = new Promise((resolve) => connection.once('close', resolve));
      connection.close();
      await ended;
      return String(connection.state);
    },
  };
}

async function main() {
  process.argv.splice(2);
  setInterval(() => {}, 1000);  // a connection that closes does not keep Node alive
  await require(packageFolder).init(process.env.DCP_SCHEDULER_LOCATION);
  const protocol = require('dcp/protocol');
  const wallet = require('dcp/wallet');
  const identity = await new wallet.Keystore(null, '');
  const location = dcpConfig.scheduler.services[serviceName].location;
  const all = scenarios(protocol, wallet, location, identity);
  for (const scenario of wanted) {
    let line;
    try {
      line = { scenario, result: await all[scenario]() };
    } catch (error) {
      line = { scenario, error: String(error && error.stack) };
    }
    process.stdout.write(JSON.stringify(line) + '\n');
  }
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
