'use strict';
/*
 * Messages out, in both dialects: plain JSON wherever the content is the host's own, prepared KVIN forms (given as JSON
 * text by the realm) where values of the job travel in the plain dialect.
 */
const output = require('./output.js');

/** What a message that is no result may be, so that no reader takes it for a flood: bytes, and brackets within brackets. */
const MESSAGE_BYTES = 1_000_000;
const MESSAGE_DEPTH = 80;

/** A message of plain data. */
function post(ring, value) {
  line(ring, JSON.stringify(value));
}

/** A message given as JSON text, in the form that both dialects read. */
function line(ring, text) {
  output.line(`MSG:{"type":"workerMessage","message":{"_serializeVerId":"v9","what":{"raw":{"ringSource":${ring},"value":${text}}}}}`);
}

/** A message whose properties are given as prepared forms. The first object in them is number 2. */
function marshalledLine(ring, properties) {
  output.line(`MSG:{"type":"workerMessage","message":{"_serializeVerId":"v9","what":{"ctr":0,"ps":{"ringSource":${ring},"value":{"ctr":0,"ps":{${properties}}}}}}}`);
}

/** The KVIN form of an error given as {name, message, stack, code?} in JSON text. */
function errorForm(text) {
  const { message, ...properties } = JSON.parse(text);
  return JSON.stringify({ ctr: 'Error', ps: properties, arg: message });
}

// --------------------------------------------------------------------------------------------- a slice's messages

/** How a slice ends: `text` and `detail` are what the realm said. A slice of the plain dialect has no id. */
exports.reportEnd = function reportEnd(slice, kind, text, detail, measurement) {
  if (kind === 'badDatum') {
    const { name, message, stack } = JSON.parse(text);
    text = JSON.stringify({ name, message: `datum: ${message}`, stack, code: 'EBADDATUM' });
  }
  if (slice.id === null)
    plainEnd(kind, text, detail, measurement);
  else
    pipelinedEnd(slice, kind, text, detail, JSON.stringify(measurement));
};

function pipelinedEnd(slice, kind, text, detail, measurement) {
  const tail = `"measurement":${measurement},"progressed":${slice.progressed}}`;
  if (kind === 'result') {
    const type = detail === 'json' ? 'application/json' : 'application/x-kvin';
    line(3, `{"request":"complete","id":${slice.id},"result":{"string":${JSON.stringify(text)},"method":"${detail}","MIMEType":"${type}"},${tail}`);
  } else if (kind === 'reject')
    line(3, `{"request":"workReject","id":${slice.id},"reason":${JSON.stringify(text)},"retries":${Number(detail)},${tail}`);
  else
    line(3, `{"request":"workError","id":${slice.id},"error":${text},"badDatum":${kind === 'badDatum'},${tail}`);
}

function plainEnd(kind, text, detail, measurement) {
  post(3, { request: 'measurement', ...measurement });
  if (kind === 'result')
    marshalledLine(3, `"request":{"raw":"complete"},"result":${text}`);
  else if (kind === 'reject')
    post(3, { request: 'workReject', workRejectData: { reason: text, retries: Number(detail) } });
  else
    marshalledLine(3, `"request":{"raw":"workError"},"error":${errorForm(text)}`);
}

/** What a slice says while it runs. */
exports.reportMeanwhile = function reportMeanwhile(slice, kind, ...parts) {
  if (slice.id === null)
    plainReport(kind, ...parts);
  else
    pipelinedReport(slice, kind, ...parts);
};

function pipelinedReport(slice, kind, first, second, third, fourth) {
  const head = `"id":${slice.id}`;
  const marshalled = (text) => `{"_serializeVerId":"v9","what":${text}}`;
  if (kind === 'progress') {
    const value = second === '' ? '' : `,"value":${second}`;
    line(3, `{"request":"progress",${head},"progress":${Number(first)}${value},"indeterminate":${!!third},"throttledReports":${Number(fourth)}}`);
  } else if (kind === 'console') {
    const message = second === '' ? '' : `,"message":${marshalled(second)}`;
    line(3, `{"request":"console",${head},"payload":{"level":"${first}"${message},"same":${Number(third)}}}`);
  } else if (kind === 'emit') {
    const data = third === true ? second : marshalled(second);
    line(3, `{"request":"emitEvent",${head},"payload":{"eventName":"custom","customEvent":${JSON.stringify(first)},"data":${data}}}`);
  } else if (kind === 'fetch')
    line(3, `{"request":"fetchRequest",${head},"fetchId":${Number(first)},"data":${second}}`);
}

function plainReport(kind, first, second, third, fourth) {
  if (kind === 'progress') {
    post(3, {
      request: 'progress',
      progress: Number(first),
      value: second === '' ? undefined : JSON.parse(second),
      indeterminate: !!third,
      throttledReports: Number(fourth),
    });
  } else if (kind === 'console') {
    const message = second === '' ? '' : `"message":${second},`;
    marshalledLine(3, `"request":{"raw":"console"},"payload":{"ctr":0,"ps":{"level":{"raw":"${first}"},${message}"same":${Number(third)}}}`);
  } else if (kind === 'emit') {
    marshalledLine(3, `"request":{"raw":"emitEvent"},"payload":{"ctr":0,"ps":{"eventName":{"raw":"custom"},"customEvent":{"raw":${JSON.stringify(first)}},"data":${second}}}`);
  } else if (kind === 'fetch')
    marshalledLine(2, `"request":{"raw":"fetchRequest"},"id":${Number(first)},"data":${second}`);
}

function fits(text) {
  if (text.length > MESSAGE_BYTES / 3 && Buffer.byteLength(text) > MESSAGE_BYTES)
    return false;
  if (text.length <= 2 * MESSAGE_DEPTH)
    return true;
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 34)
      inString = !inString;
    else if (inString)
      i += code === 92 ? 1 : 0;
    else if (code === 91 || code === 123) {
      if (++depth > MESSAGE_DEPTH)
        return false;
    } else if (code === 93 || code === 125)
      depth--;
  }
  return true;
}

Object.assign(exports, { errorForm, fits, line, marshalledLine, post });
