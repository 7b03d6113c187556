'use strict';
/*
 * Answers one JSON line per line of input: {kvin: folder of the package, text} is parsed with the real kvin, described in
 * a neutral form and stringified again.
 */
const readline = require('node:readline');

function describe(value, seen)
{
  switch (typeof value)
  {
    case 'undefined': return ['undefined'];
    case 'boolean':   return ['boolean', value];
    case 'string':    return ['string', value];
    case 'number':    return ['number', Object.is(value, -0) ? '-0' : String(value)];
    case 'bigint':    return ['bigint', String(value)];
    case 'symbol':    return ['symbol', value.description];
  }
  if (value === null)
    return ['null'];
  if (seen.has(value))
    return ['again', seen.get(value)];
  seen.set(value, seen.size);
  const members = () => Object.keys(value).map((key) => [key, describe(value[key], seen)]);
  if (Array.isArray(value))
    return ['array', value.length, members()];
  if (ArrayBuffer.isView(value))
    return ['binary', value.constructor.name, Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('hex')];
  if (value instanceof Map)
    return ['map', [...value].map(([key, item]) => [describe(key, seen), describe(item, seen)])];
  if (value instanceof Set)
    return ['set', [...value].map((item) => describe(item, seen))];
  if (value instanceof Date)
    return ['date', String(value.getTime())];
  if (value instanceof RegExp)
    return ['regexp', value.source, value.flags];
  if (value instanceof Error)
    return ['error', value.message, members()];
  if (value instanceof URL)
    return ['url', value.href];
  if (value instanceof Number || value instanceof Boolean)
    return ['boxed', String(value)];
  if (value instanceof String)
    return 'name' in value ? ['function', value.name, String(value)] : ['boxed', String(value)];
  return ['object', members()];
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const { kvin, text } = JSON.parse(line);
  const answer = {};
  try
  {
    const value = require(kvin).parse(text);
    answer.description = describe(value, new Map());
    answer.text = require(kvin).stringify(value); /* fails for some values that it can parse */
  }
  catch (error)
  {
    answer.error = String(error);
  }
  process.stdout.write(JSON.stringify(answer) + '\n');
});
