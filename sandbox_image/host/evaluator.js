'use strict';
/*
 * The protocol: takes lines, drives the realm, gives lines. See README.md for both dialects: the plain one of the
 * official evaluators, one slice at a time and values in KVIN; and the pipelined one, all in plain JSON, where slices
 * queue up here.
 */
const engine = require('./engine.js');
const datauri = require('./datauri.js');
const input = require('./input.js');
const output = require('./output.js');
const realms = require('./realm.js');
const { errorForm, fits, line, marshalledLine, post, reportEnd, reportMeanwhile } = require('./reports.js');

const WORKTIMES = [{ name: 'map-basic', version: '1.0.0' }];
const DEPTH = 256;
/** Timers that may fire before other events get their turn. */
const BURST = 64;

/** Arguments and values of exp as fdlibm computes them. */
const FDLIBM = [
  [7.330382858376183, 1525.9658889887482], [9.42477796076938, 12391.647807916692], [14.66076571675237, 2328571.8943572324],
  [16.755160819145566, 18909231.863243133], [7.33038285837618, 1525.9658889887442],
];

let realm;
let kvin;
/** The job given to this sandbox, null before. */
let job = null;
/** Slices that wait, and the one that runs. */
let queue = [];
let current = null;
let outcome = null;
/** Are we below a function of ours that looks at the outcome when it is done? */
let driving = false;
let alarm = null;
let immediate = null;

exports.start = function start() {
  realm = realms.create({ send: fromRealm, setAlarm, markProgress });
  engine.install(realm);
  realm.settleIn();
  input.read(onLine, () => { pump(); output.flush(); }, () => exit(0));
  post(0, { request: 'scriptLoaded', script: 'evaluator', result: 'success' });
  post(0, { request: '__sandboxLoaded' });
  output.flush();
};

function exit(code) {
  process.reallyExit(code);
}

// --------------------------------------------------------------------------------------------------- lines in

function onLine(line) {
  let inbound;
  try {
    inbound = JSON.parse(line);
    if (inbound.type === 'die') {
      output.flush();
      exit(0);
    }
    if (inbound.type !== 'workerMessage')
      throw new TypeError(`message type ${JSON.stringify(inbound.type)} is not known`);
    if (onMessage(messageOf(inbound.message), line))
      return;
    output.line('MSG:{"type":"result","step":"workerMessage","success":true,"origin":"workerMessage"}');
  } catch (error) {
    const { name, message } = error;
    output.line(`MSG:${JSON.stringify({ type: 'result', step: 'parseInput', success: false, origin: inbound?.type, exception: { name, message } })}`);
  }
}

/** The message as an object of ours: without looking further if it is plain JSON. */
function messageOf(marshalled) {
  const raw = marshalled?.what?.raw;
  if (raw !== null && typeof raw === 'object')
    return raw;
  kvin ??= realms.hostKvin();
  return controlOf(marshalled.what) ?? kvin.unmarshal(marshalled);
}

/** Of a datum only its message's name is wanted here: the value is decoded in its own realm. */
function controlOf(form) {
  return form?.ps?.request?.raw === 'main' ? { request: 'main' } : null;
}

/** True: the message belongs to the pipelined dialect, which has no acknowledgements. */
function onMessage(message, line) {
  switch (message.request) {
    case 'main':
      return main(message, line);
    case 'describe':
      post(2, describe());
      return false;
    case 'applyRequirements':
      post(1, { request: 'applyRequirementsDone' });
      return false;
    case 'assign':
      return assign(message, line);
    case 'moduleGroup':
      finishAssign(realm.addModules(JSON.stringify(message.data)));
      return job?.pipelined;
    case 'moduleGroupError':
      finishAssign(JSON.stringify({ name: 'Error', message: `modules could not be loaded: ${message.message ?? 'no reason given'}`, code: 'ENOMODULE' }));
      return job?.pipelined;
    case 'resetState':
      realm.reset();
      post(2, { request: 'resetStateDone' });
      return false;
    case 'fetchResponse':
    case 'fetchError':
      if (message.fetchId === undefined)
        drive(() => realm.answerFetch(line, true));
      else
        drive(() => realm.answerFetch(JSON.stringify(message), false));
      return message.fetchId !== undefined;
    case 'clearTimers':
      realm.reset();
      return false;
    case 'eval':
      evaluate(message);
      return false;
    default:
      return false;
  }
}

function describe() {
  return {
    request: 'describe',
    capabilities: {
      environment: { webgpu: false, offscreenCanvas: false, fdlibm: FDLIBM.every(([x, y]) => Math.exp(x) === y) },
      useStrict: true,
    },
    worktimes: WORKTIMES,
    extensions: { pipeline: { version: 1, depth: DEPTH } },
  };
}

// ---------------------------------------------------------------------------------------------------- assign

function assign(message, line) {
  const given = message.job;
  if (job !== null) {
    post(2, { request: 'reject', error: { name: 'Error', message: 'this sandbox already has a job', code: 'EASSIGNED' } });
    return false;
  }
  const pipelined = Array.isArray(given.argumentUris);
  job = { ...given, pipelined, ready: false };
  const failure = prepare(message.sandboxConfig, line);
  if (failure !== '') {
    finishAssign(failure);
    return pipelined;
  }
  const dependencies = given.dependencies ?? [];
  if (dependencies.length === 0)
    finishAssign('');
  else {
    const missing = realm.missingModules(JSON.stringify(dependencies));
    if (missing === '')
      finishAssign(JSON.stringify({ name: 'Error', message: 'a dependency has an invalid name', code: 'ENOMODULE' }));
    else
      post(2, { request: 'dependency', data: JSON.parse(missing), id: 1 });
  }
  return pipelined;
}

/** Everything about the job that does not depend on modules: '' or what is wrong, as JSON text. */
function prepare(config, line) {
  const { worktime } = job;
  if (worktime !== undefined && worktime !== null && !WORKTIMES.some(({ name, version }) => name === worktime.name && version === worktime.version))
    return JSON.stringify({ name: 'Error', message: `Unsupported worktime: ${worktime.name} ${worktime.version}`, code: 'EWORKTIME' });
  const settings = {
    pipelined: job.pipelined,
    progressThrottle: (Number(config?.progressThrottle) || 0.1) * 1000,
    public: job.public ?? {},
    requirePath: job.requirePath ?? [],
  };
  const failure = realm.configure(JSON.stringify(settings));
  if (failure !== '' || !job.pipelined)
    return failure || realm.takeArguments(line);
  for (const uri of job.argumentUris) {
    let failed;
    try {
      const { kind, text, contentType } = datauri.decode(uri);
      failed = realm.addArgument(kind, text, contentType);
    } catch (error) {
      failed = JSON.stringify({ message: error.message });
    }
    if (failed !== '')
      return JSON.stringify({ name: 'Error', message: `argument: ${JSON.parse(failed).message}`, code: 'EBADARG' });
  }
  return '';
}

function finishAssign(failure) {
  if (job === null || job.ready)
    return;
  const failed = failure !== '' ? failure : realm.compile(String(job.workFunction), !!job.useStrict);
  engine.runMicrotasks();
  if (failed === '') {
    job.ready = true;
    markCpu();
    delete job.workFunction;
    post(2, { request: 'assigned', jobAddress: job.id });
  } else if (job.pipelined)
    line(2, `{"request":"reject","error":${failed}}`);
  else
    marshalledLine(2, `"request":{"raw":"reject"},"error":${errorForm(failed)}`);
}

// ---------------------------------------------------------------------------------------------------- slices

function main(message, text) {
  const pipelined = typeof message.datumUri === 'string';
  queue.push(pipelined ? { id: message.id, uri: message.datumUri } : { id: null, line: text });
  return pipelined;
}

/** Run what can be run. */
function pump() {
  while (current === null && queue.length > 0) {
    begin(queue.shift());
    // What is finished does not wait for a slice that may be long.
    output.flushIfDue();
  }
}

function begin(slice) {
  current = slice;
  outcome = null;
  slice.progressed = false;
  slice.started = performance.now();
  if (job === null || !job.ready) {
    outcome = ['error', '{"name":"Error","message":"no job has been assigned","stack":""}'];
    finish();
    return;
  }
  if (slice.id === null) {
    drive(() => realm.startLine(slice.line));
    return;
  }
  let datum;
  try {
    datum = datauri.decode(slice.uri);
  } catch (error) {
    outcome = ['badDatum', JSON.stringify({ name: error.name, message: error.message, stack: '' })];
    finish();
    return;
  }
  slice.uri = null;
  drive(() => realm.start(datum.kind, datum.text, datum.contentType));
}

/** Let job code run, and all promise jobs that it leaves; then see whether the slice has ended. */
function drive(step) {
  driving = true;
  step();
  engine.runMicrotasks();
  driving = false;
  if (current !== null && outcome !== null)
    finish();
}

function finish() {
  const slice = current;
  const [kind, text, detail] = outcome;
  const total = performance.now() - slice.started;
  const measurement = { total: round(total), CPU: round(cpuTime(total)), webGL: 0, webGPU: 0 };
  reportEnd(slice, kind, text, detail, measurement);
  if (slice.id === null && kind === 'reject') {
    // In the plain dialect a sandbox whose slice was rejected is not used again.
    output.line('DIE: worker close called');
    output.flush();
    exit(0);
  }
  // The reader need not wait while the realm is put back.
  if (queue.length === 0)
    output.flush();
  realm.reset();
  current = null;
  outcome = null;
}

/** CPU time at the last reading, and the time of slices since then that were too short for one. */
let cpuMark = 0;
let unread = 0;

/** CPU time (ms) of a slice that took `total` ms. Reading it costs as much as an empty slice, so short ones are not read. */
function cpuTime(total) {
  if (total < 1) {
    unread += total;
    return total;
  }
  const used = cpuMark + unread;
  markCpu();
  return Math.max(0, cpuMark - used);
}

function markCpu() {
  const { user, system } = process.cpuUsage();
  cpuMark = (user + system) / 1000;
  unread = 0;
}

function round(milliseconds) {
  return Math.round(milliseconds * 1000) / 1000;
}

// ------------------------------------------------------------------------------------------- from the realm

/** A message of the running slice, in primitives; which ones, depends on the kind. False: it is too large. */
function fromRealm(kind, first, second, third, fourth) {
  if (kind === 'result' || kind === 'error' || kind === 'reject' || kind === 'badDatum') {
    outcome = [kind, String(first), typeof second === 'number' ? second : String(second)];
    if (!driving)
      setImmediate(afterwards);
    return true;
  }
  if (kind === 'evaluated' || kind === 'evaluationFailed') {
    evaluated(kind, String(first));
    return true;
  }
  if (current === null)
    return true;
  if (typeof second === 'string' && !fits(second))
    return false;
  reportMeanwhile(current, kind, first, second, third, fourth);
  if (kind === 'progress')
    output.flush();
  else
    output.flushIfDue();
  return true;
}

function afterwards() {
  drive(() => {});
  pump();
  output.flush();
}

function markProgress() {
  if (current !== null)
    current.progressed = true;
}

function setAlarm(delay) {
  if (alarm !== null)
    clearTimeout(alarm);
  if (immediate !== null)
    clearImmediate(immediate);
  alarm = immediate = null;
  if (typeof delay !== 'number' || delay < 0)
    return;
  if (delay < 0.5)
    immediate = setImmediate(onAlarm);
  else
    alarm = setTimeout(onAlarm, delay);
}

function onAlarm() {
  alarm = immediate = null;
  const slice = current;
  let more = true;
  for (let i = 0; i < BURST && more && current === slice && slice !== null; i++)
    drive(() => { more = realm.fireTimer() === true; });
  if (more && current === slice && slice !== null)
    setAlarm(0);
  pump();
  output.flush();
}

// ------------------------------------------------------------------------------------------------------ eval

let evaluation = null;

/** The worker asks what a piece of code says, before it gives a job. */
function evaluate(message) {
  evaluation = message.msgId;
  realm.evaluate(String(message.data));
  engine.runMicrotasks();
}

function evaluated(kind, text) {
  const id = evaluation;
  evaluation = null;
  if (kind === 'evaluated')
    marshalledLine(2, `"request":{"raw":${JSON.stringify(`evalResult::${id}`)}},"data":${text}`);
  else
    marshalledLine(2, `"request":{"raw":"error"},"error":${errorForm(text)}`);
}
