/*
 * The map-basic worktime: compiles the work function, runs it for one datum at a time and puts the realm back
 * afterwards. Its value is the list of functions by which the host drives the realm. They take primitives, return
 * primitives and never throw.
 */
(function runner(lib) {
  'use strict';
  const { apply, deleteProperty, stringify } = lib;
  lib.pipelined = false;
  /** Characters of each text of an error. */
  const LONGEST = 16384;
  let workFunction;
  let parameters = [undefined];
  /** True while a slice runs and nothing has decided how it ends. */
  let running = false;

  // ------------------------------------------------------------------------------------------------- errors

  /** What a thrown value says of itself, as far as it can be had without being thrown at again. */
  lib.describe = (value) => {
    try {
      return lib.sliceString(typeof value === 'symbol' ? `Symbol(${lib.symbolDescription(value)})` : `${value}`, 0, LONGEST);
    } catch {
      return '(no description)';
    }
  };

  function read(error, name) {
    try {
      return error[name];
    } catch {
      return undefined;
    }
  }

  /** {name, message, stack, code?} as JSON text. */
  function errorText(error) {
    const parts = { __proto__: null, name: 'Error', message: '', stack: '' };
    const isObject = error !== null && (typeof error === 'object' || typeof error === 'function');
    if (isObject) {
      const names = ['name', 'message', 'stack', 'code', 'lineNumber', 'columnNumber'];
      for (let i = 0; i < names.length; i++) {
        const value = read(error, names[i]);
        if (typeof value === 'string')
          parts[names[i]] = lib.sliceString(value, 0, LONGEST);
        else if (typeof value === 'number' && i > 2)
          parts[names[i]] = value;
      }
      if (parts.message === '' && !(error instanceof lib.Error))
        parts.message = lib.describe(error);
    } else
      parts.message = lib.describe(error);
    return stringify(parts);
  }

  /** Run a step that may fail: '' or the error as JSON text. */
  function attempt(step) {
    try {
      step();
      return '';
    } catch (error) {
      return errorText(error);
    }
  }

  lib.reportUncaught = (error) => { lib.settle('error', errorText(error), ''); };

  /** How the running slice ends is decided once. */
  lib.settle = (kind, text, detail) => {
    if (!running)
      return;
    running = false;
    lib.closeReports();
    lib.send(kind, text, detail);
  };

  // ------------------------------------------------------------------------------------------------- values

  /** The rule by which results travel: JSON where the client would use it, KVIN for everything else. */
  function settleResult(value) {
    if (!lib.pipelined) {
      lib.settle('result', lib.kvin.prepare(value, 2), 'kvin');
      return;
    }
    const json = jsonOf(value);
    if (json !== undefined)
      lib.settle('result', json, 'json');
    else
      lib.settle('result', lib.kvin.stringify(value, true), 'kvin');
  }

  function jsonOf(value) {
    switch (typeof value) {
      case 'string':
      case 'boolean':
        return stringify(value);
      case 'number':
        return lib.is(value, -0) ? '-0' : undefined;
      case 'object':
        return value !== null && typeof value.toJSON === 'function' ? stringify(value) : undefined;
      default:
        return undefined;
    }
  }

  /** A value as its data: URI carried it. Bytes come as one character each. */
  function valueOf(kind, text, contentType) {
    switch (kind) {
      case 'json': return lib.parse(text);
      case 'kvin': return lib.kvin.parse(text);
      case 'text': return text;
      case 'boxed': {
        const boxed = new lib.String(text);
        boxed.contentType = contentType;
        return boxed;
      }
      default: {
        const bytes = new lib.Uint8Array(text.length);
        for (let i = 0; i < text.length; i++)
          bytes[i] = lib.charCodeAt(text, i);
        bytes.contentType = contentType;
        return bytes;
      }
    }
  }

  // ------------------------------------------------------------------------------------------------- slices

  lib.evaluate = (source, name) => {
    const label = lib.regExpExec(/^[\w./@-]+$/, name) === null ? '' : `\n//# sourceURL=${name}`;
    return (0, lib.eval)(`${source}${label}`);
  };

  async function run(datum) {
    const { epoch } = lib;
    try {
      parameters[0] = datum;
      const value = await apply(workFunction, null, parameters);
      if (epoch === lib.epoch)
        settleResult(value);
    } catch (error) {
      if (epoch === lib.epoch)
        lib.settle('error', errorText(error), '');
    }
  }

  function start(decode) {
    running = true;
    lib.openReports();
    lib.wakeTimers();
    let datum;
    try {
      datum = decode();
    } catch (error) {
      lib.settle('badDatum', errorText(error), '');
      return;
    }
    run(datum);
  }

  // ---------------------------------------------------------------------------------------- the stack of errors

  /**
   * V8 asks this for the text of every stack. The embedder's own would make errors of the host's realm when a name or
   * message cannot be read; it would also show the host's frames.
   */
  let fileName = null;
  let frameText = null;
  lib.stackOf = (global, error, frames) => {
    if (frameText === null && global === lib.global && frames.length > 0)
      tameFrames(lib.getPrototypeOf(frames[0]));
    let shown = frames;
    if (global === lib.global) {
      shown = [];
      for (let i = 0; i < frames.length; i++) {
        if (isOwnFrame(fileName(frames[i])))
          shown[shown.length] = frames[i];
      }
      const own = lib.Error.prepareStackTrace;
      if (typeof own === 'function')
        return apply(own, lib.Error, [error, shown]);
    }
    let text;
    try {
      text = lib.errorToString(error);
    } catch {
      text = '<error>';
    }
    for (let i = 0; i < shown.length; i++)
      text += `\n    at ${global === lib.global ? frameText(shown[i]) : shown[i]}`;
    return text;
  };

  /** Frames of the job's code, not those of this library and of the host. */
  function isOwnFrame(file) {
    return typeof file !== 'string' || !(lib.startsWith(file, 'node:') || lib.startsWith(file, 'evaluator:') || lib.startsWith(file, '/'));
  }

  /** Frames say where they are; the functions and receivers behind them are nobody's business. */
  function tameFrames(prototype) {
    fileName = lib.uncurry(prototype.getFileName);
    frameText = lib.uncurry(prototype.toString);
    deleteProperty(prototype, 'getFunction');
    deleteProperty(prototype, 'getThis');
  }

  lib.refuseImport = async () => { throw new lib.TypeError('import() is not available in a work function'); };

  // ------------------------------------------------------------------------------------ what the host may call

  lib.findBuiltIns();

  return [
    // 0 configure(job as JSON)
    (text) => attempt(() => {
      const job = lib.parse(text);
      lib.pipelined = job.pipelined;
      lib.progressThrottle = job.progressThrottle;
      lib.setPublic(job.public);
      lib.addRequirePaths(job.requirePath);
    }),
    // 1 addArgument(kind, text, content type)
    (kind, text, contentType) => attempt(() => { lib.arrayPush(parameters, valueOf(kind, text, contentType)); }),
    // 2 takeArguments(line of an assign message)
    (line) => attempt(() => {
      const given = lib.kvin.unmarshal(lib.parse(line).message).job.arguments;
      parameters = [undefined];
      for (let i = 0; i < given.length; i++)
        lib.arrayPush(parameters, given[i]);
    }),
    // 3 missingModules(dependencies as JSON): ids as JSON, '' if a name is invalid
    (text) => {
      try {
        return stringify(lib.missingModules(lib.parse(text)));
      } catch {
        return '';
      }
    },
    // 4 addModules(group as JSON)
    (text) => attempt(() => lib.addModules(lib.parse(text))),
    // 5 compile(source, strict)
    (source, strict) => attempt(() => {
      workFunction = lib.evaluate(`${strict ? '"use strict";' : ''}(${source}\n)`, 'work-function.js');
      if (typeof workFunction !== 'function')
        throw new lib.TypeError('the work function is not a function');
      lib.rememberBaseline();
    }),
    // 6 start(kind, text, content type of the datum)
    (kind, text, contentType) => start(() => valueOf(kind, text, contentType)),
    // 7 startLine(line of a main message)
    (line) => start(() => lib.kvin.unmarshal(lib.parse(line).message).data),
    // 8 fireTimer()
    () => lib.fireTimer(),
    // 9 answerFetch(text, whether it is a line)
    (text, isLine) => { attempt(() => { lib.answerFetch(isLine ? lib.kvin.unmarshal(lib.parse(text).message) : lib.parse(text)); }); },
    // 10 reset()
    () => attempt(() => {
      running = false;
      lib.clearTimers();
      lib.forgetFetches();
      lib.dropReports();
      parameters[0] = undefined;
      lib.restoreBaseline();
    }),
    // 11 evaluate(code): '' and the prepared form follows by send
    (code) => {
      const done = async () => lib.send('evaluated', lib.kvin.prepare(await (0, lib.eval)(code), 2), '');
      const failed = (error) => lib.send('evaluationFailed', errorText(error), '');
      try {
        lib.promiseThen(done(), undefined, failed);
      } catch (error) {
        failed(error);
      }
    },
    // 12, 13: hooks of the engine
    lib.stackOf,
    lib.refuseImport,
  ];
});
