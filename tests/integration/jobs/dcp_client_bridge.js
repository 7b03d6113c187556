'use strict';
/*
 * Loads the unmodified dcp-client (first argument) without any network and answers one JSON line per line of input:
 *   {"range": dataRange, "indices": [...]}   values of a range, as the client's own rehydrated object computes them
 *   {"uri": "data:..."}                      what the client's fetchURI makes of it
 *   {"encode": text}                         encodeURI
 *   {"global_": name}                        a global variable of this process
 */
const readline = require('node:readline');

function neutral(value)
{
  if (typeof value === 'number')
    return Object.is(value, -0) ? '-0' : Number.isFinite(value) ? value : String(value);
  if (value instanceof Uint8Array)
    return { bytes: Buffer.from(value).toString('hex') };
  if (value instanceof String)
    return { boxed: String(value) };
  if (value === undefined)
    return { undefined: true };
  if (Array.isArray(value))
    return value.map(neutral);
  if (value !== null && typeof value === 'object')
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, neutral(item)]));
  return value;
}

async function answer({ range, indices, uri, encode, global_ })
{
  if (global_ !== undefined)
    return globalThis[global_];
  if (encode !== undefined)
    return encodeURI(encode);
  if (uri !== undefined)
    return neutral(await require('dcp/utils').fetchURI(uri, false, null));
  const { rehydrateRange } = require('dcp/range-object');
  const set = rehydrateRange(range);
  const values = indices.map((index) => (Array.isArray(set) ? set[index] : set.nthValue(index)));
  return { length: set.length, values: neutral(values) };
}

process.on('unhandledRejection', () => {});
require(process.argv[2]).init().then(() => {
  readline.createInterface({ input: process.stdin }).on('line', async (line) => {
    let reply;
    try
    {
      reply = { ok: await answer(JSON.parse(line)) };
    }
    catch (error)
    {
      reply = { error: String(error) };
    }
    process.stdout.write(JSON.stringify(reply) + '\n');
  });
});
