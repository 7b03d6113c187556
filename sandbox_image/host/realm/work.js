/* progress(), console and work: how a work function speaks to the outside while it runs. */
(function work(lib) {
  'use strict';
  const { Error } = lib;
  /** Characters of an event's name, and of a console argument that had to be made text. */
  const NAME = 1024;
  const DESCRIBED = 4096;
  const PUBLIC = {
    __proto__: null,
    name: 'Ad-Hoc Job',
    description: 'Discreetly making the world smarter',
    link: 'https://distributed.computer/about',
  };

  // ----------------------------------------------------------------------------------------------- progress

  let last;
  let sentAt;
  let throttled;
  let indeterminate;
  lib.progressThrottle = 100;

  function progress(value) {
    lib.markProgress();
    let vague = false;
    let percent;
    if (value === undefined) {
      percent = last;
      vague = last === 0;
    } else {
      percent = lib.parseFloat(value);
      if (lib.isNaN(percent)) {
        percent = last;
        vague = true;
      } else if (!(typeof value === 'string' && lib.endsWith(value, '%')))
        percent *= 100;
    }
    if (percent < 0 || percent > 100) {
      log('info', [`Progress out of bounds: ${lib.numberToFixed(percent, 1)}%, last: ${lib.numberToFixed(last, 1)}%`]);
      vague = true;
      percent = lib.min(lib.max(percent, last), 100);
    } else if (percent < last) {
      vague = true;
      percent = last;
    }
    last = percent;
    indeterminate = indeterminate && vague;
    const now = lib.clock();
    if (now - sentAt >= lib.progressThrottle) {
      sentAt = now;
      const raw = value === null || (typeof value === 'string' && value.length < 256) || (typeof value === 'number' && lib.isFinite(value)) || typeof value === 'boolean';
      lib.send('progress', last, raw ? lib.stringify(value) : '', indeterminate, throttled);
      throttled = 0;
      indeterminate = true;
    } else
      throttled++;
    flushRepeats();
    return true;
  }

  // ------------------------------------------------------------------------------------------------ console

  /** The last message sent and how often it was said: equal ones that follow are only counted. */
  let said = null;
  /** What was said before the first slice. */
  let early = [];
  let open = false;
  let hasRun = false;

  function log(level, message) {
    if (!open) {
      lib.arrayPush(early, [level, message]);
      return;
    }
    if (said !== null && said.level === level && equal(said.message, message)) {
      said.same++;
      return;
    }
    flushRepeats();
    said = { __proto__: null, level, message, same: 1 };
    try {
      if (lib.send('console', level, textOf(message), 1))
        return;
    } catch {
      // See below.
    }
    // Something that cannot be serialised, or is too much for a message: as text, then.
    const described = [];
    for (let i = 0; i < message.length && i < 64; i++)
      lib.arrayPush(described, lib.sliceString(lib.describe(message[i]), 0, DESCRIBED));
    lib.send('console', level, textOf(described), 1);
  }

  function textOf(value) {
    return lib.pipelined ? lib.kvin.prepare(value, 0, true) : lib.kvin.prepare(value, 3);
  }

  function equal(some, others) {
    if (some.length !== others.length)
      return false;
    for (let i = 0; i < some.length; i++) {
      if (some[i] !== others[i])
        return false;
    }
    return true;
  }

  function flushRepeats() {
    if (said !== null && said.same > 1) {
      lib.send('console', said.level, '', said.same);
      said = null;
    }
  }

  /** A slice begins: what was said at assignment is said now. */
  lib.openReports = () => {
    last = 0;
    throttled = 0;
    indeterminate = true;
    // A pipelined slice that ends before the throttle does needs no line; the plain protocol reports at once.
    sentAt = lib.pipelined ? lib.clock() : -Infinity;
    said = null;
    open = true;
    hasRun = true;
    const waiting = early;
    early = [];
    for (let i = 0; i < waiting.length; i++)
      log(waiting[i][0], waiting[i][1]);
  };

  lib.closeReports = () => {
    flushRepeats();
    open = false;
  };

  /** Nothing that was said between two slices is heard. */
  lib.dropReports = () => {
    if (hasRun)
      early = [];
  };

  // --------------------------------------------------------------------------------------------------- work

  /** The value as a client gets it: JSON, which is how events travel from the worker on. '' when JSON cannot hold it. */
  function plainTextOf(value) {
    try {
      return lib.stringify(value) || 'null';
    } catch {
      return '';
    }
  }

  function emit(name, value) {
    if (typeof name !== 'string')
      throw new Error(`Event name passed to work.emit must be a string, not ${lib.describe(name)}.`);
    if (name.length > NAME)
      throw new lib.RangeError(`work.emit: a name has ${NAME} characters at most`);
    if (!open)
      return;
    const plain = lib.pipelined ? plainTextOf(value) : '';
    if (!lib.send('emit', name, plain === '' ? textOf(value) : plain, plain !== ''))
      throw new lib.RangeError('work.emit: the value is larger than 1 MB, or nested too deep');
  }

  function reject(reason, retries) {
    let times = retries;
    let why = reason;
    if (retries === undefined) {
      times = reason === false ? 1 : 0;
      why = reason === false ? 'false' : reason;
    }
    lib.settle('reject', lib.describe(why), +times || 0);
  }

  const details = { ...PUBLIC };
  lib.setPublic = (given) => {
    const names = lib.keys(given);
    for (let i = 0; i < names.length; i++)
      lib.defineProperty(details, names[i], { __proto__: null, value: given[names[i]], writable: true, enumerable: true, configurable: true });
  };

  lib.globals({
    progress,
    work: { emit, job: { public: details }, reject },
    console: {
      log(...message) { log('log', message); },
      debug(...message) { log('debug', message); },
      info(...message) { log('info', message); },
      warn(...message) { log('warn', message); },
      error(...message) { log('error', message); },
    },
  });
});
