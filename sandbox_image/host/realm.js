'use strict';
/*
 * The realm in which the work function lives: a context with its own built-ins, the library in realm/, and no object
 * of this one. Only primitives cross, in both directions.
 */
const fs = require('fs');
const path = require('path');
const { performance } = require('perf_hooks');
const vm = require('vm');

const PARTS = ['bridge', 'kvin', 'timers', 'text', 'url', 'web', 'wasm', 'modules', 'work', 'baseline', 'runner'];
const URL_PARTS = ['href', 'origin', 'protocol', 'username', 'password', 'host', 'hostname', 'port', 'pathname', 'search', 'hash'];

function script(name) {
  const source = fs.readFileSync(path.join(__dirname, 'realm', `${name}.js`), 'utf8');
  return new vm.Script(source, { filename: `evaluator:${name}` });
}

/** The KVIN codec for values of the host's own realm. */
exports.hostKvin = function hostKvin() {
  const lib = script('primordials').runInThisContext()();
  lib.URL = URL;
  script('kvin').runInThisContext()(lib);
  return lib.kvin;
};

/** `send` and `setAlarm` are called by the realm, with primitives. The answer: functions that take and give primitives. */
exports.create = function create({ send, setAlarm, markProgress }) {
  // Without a contextified object there is no object of the host behind the global one.
  const context = vm.createContext(vm.constants.DONT_CONTEXTIFY, {
    name: 'work function',
    codeGeneration: { strings: true, wasm: true },
  });
  const lib = script('primordials').runInContext(context)();
  const host = [send, () => performance.now(), () => performance.timeOrigin, randomBytes, parseUrl, setAlarm, markProgress];
  let last;
  for (const part of PARTS) {
    const load = script(part).runInContext(context);
    last = part === 'bridge' ? load(lib, ...host) : load(lib);
  }
  const [
    configure, addArgument, takeArguments, missingModules, addModules, compile, start, startLine, fireTimer, answerFetch,
    reset, evaluate, stackOf, refuseImport,
  ] = last;
  return {
    configure, addArgument, takeArguments, missingModules, addModules, compile, start, startLine, fireTimer, answerFetch,
    reset, evaluate, stackOf, refuseImport,
    /** To be called once the hooks are in place: the library learns what a stack frame is. */
    settleIn() { vm.runInContext('new Error().stack;', context, { filename: 'boot' }); },
  };
};

function randomBytes(count) {
  const size = typeof count === 'number' && count >= 0 && count <= 65536 ? count : 0;
  // Loaded when first needed: most jobs never do.
  return require('crypto').randomBytes(size).toString('latin1');
}

function parseUrl(href, base, part, value) {
  if (typeof href !== 'string' || typeof base !== 'string' || typeof part !== 'string' || typeof value !== 'string')
    return '';
  const url = base === '' ? URL.parse(href) : URL.parse(href, base);
  if (url === null)
    return '';
  if (URL_PARTS.includes(part)) {
    try {
      url[part] = value;
    } catch {
      return '';
    }
  }
  const parts = {};
  for (const name of URL_PARTS)
    parts[name] = url[name];
  return JSON.stringify(parts);
}
