/*
 * setTimeout and its kin, on one alarm of the host. Everything that can run job code later than the slice that
 * asked for it (timers here; fetch, Atomics.waitAsync and FinalizationRegistry elsewhere) belongs to an epoch:
 * when a slice ends the epoch is counted up, and what is left of it never runs.
 */
(function timers(lib) {
  'use strict';
  const { arraySplice, apply, defineProperty } = lib;
  const MAX_DELAY = 2147483647;
  /** Pending timers, in the order in which they fire. */
  let pending = [];
  let serial = 0;
  let locked = false;
  lib.epoch = 0;

  function insert(timer) {
    let low = 0;
    let high = pending.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (pending[middle].when <= timer.when)
        low = middle + 1;
      else
        high = middle;
    }
    arraySplice(pending, low, 0, timer);
    if (low === 0 && !locked)
      lib.setAlarm(lib.max(0, timer.when - lib.clock()));
  }

  function add(callback, delay, parameters, repeats) {
    const milliseconds = +delay;
    const wait = milliseconds > 0 && milliseconds <= MAX_DELAY ? milliseconds : 0;
    let run = callback;
    if (typeof callback === 'string')
      run = () => (0, lib.eval)(callback);
    else if (typeof callback !== 'function')
      throw new lib.TypeError('a timer needs a function');
    const id = ++serial;
    insert({ __proto__: null, id, run, parameters, when: lib.clock() + wait, every: repeats ? lib.max(wait, 1) : 0 });
    return id;
  }

  function remove(id) {
    for (let i = 0; i < pending.length; i++) {
      if (pending[i].id === id) {
        arraySplice(pending, i, 1);
        return;
      }
    }
  }

  /** Run the first timer that is due. False: none is; the alarm is set for the next. Never throws. */
  lib.fireTimer = () => {
    const now = lib.clock();
    if (pending.length === 0 || pending[0].when > now + 0.5) {
      if (pending.length > 0)
        lib.setAlarm(pending[0].when - now);
      return false;
    }
    const timer = pending[0];
    arraySplice(pending, 0, 1);
    if (timer.every > 0) {
      timer.when = now + timer.every;
      locked = true;
      insert(timer);
      locked = false;
    }
    try {
      apply(timer.run, undefined, timer.parameters);
    } catch (error) {
      lib.reportUncaught(error);
    }
    return true;
  };

  /** What was set while the job was assigned runs in its first slice. */
  lib.wakeTimers = () => {
    if (pending.length > 0)
      lib.setAlarm(lib.max(0, pending[0].when - lib.clock()));
  };

  lib.clearTimers = () => {
    lib.epoch++;
    if (pending.length > 0) {
      pending = [];
      lib.setAlarm(-1);
    }
  };

  /** Call `settle` with what comes later, unless the slice that asked has ended by then. */
  lib.inThisEpoch = (settle) => {
    const { epoch } = lib;
    return (value) => {
      if (lib.epoch === epoch)
        settle(value);
    };
  };

  const clear = (id) => {
    remove(typeof id === 'number' ? id : +id);
  };
  lib.globals({
    setTimeout(callback, delay, ...parameters) { return add(callback, delay, parameters, false); },
    setInterval(callback, delay, ...parameters) { return add(callback, delay, parameters, true); },
    setImmediate(callback, ...parameters) { return add(callback, 0, parameters, false); },
    clearTimeout(id) { clear(id); },
    clearInterval(id) { clear(id); },
    clearImmediate(id) { clear(id); },
    queueMicrotask(callback) {
      if (typeof callback !== 'function')
        throw new lib.TypeError('queueMicrotask needs a function');
      lib.promiseThen(lib.promiseResolve(lib.Promise, undefined), () => {
        try {
          callback();
        } catch (error) {
          lib.reportUncaught(error);
        }
      });
    },
  });

  // Two built-ins that call back later on their own.
  const { waitAsync } = lib.global.Atomics;
  if (waitAsync !== undefined) {
    defineProperty(lib.global.Atomics, 'waitAsync', {
      __proto__: null, writable: true, enumerable: false, configurable: true,
      value: function waitAsync_(array, index, value, timeout) {
        const answer = waitAsync(array, index, value, timeout);
        if (answer.async) {
          const settled = answer.value;
          answer.value = new lib.Promise((resolve) => { lib.promiseThen(settled, lib.inThisEpoch(resolve)); });
        }
        return answer;
      },
    });
    defineProperty(lib.global.Atomics.waitAsync, 'name', { __proto__: null, value: 'waitAsync' });
  }

  const Registry = lib.global.FinalizationRegistry;
  function FinalizationRegistry(cleanup) {
    if (new.target === undefined || typeof cleanup !== 'function')
      throw new lib.TypeError('FinalizationRegistry: use new, with a function');
    const guarded = lib.inThisEpoch((held) => {
      try {
        cleanup(held);
      } catch (error) {
        lib.reportUncaught(error);
      }
    });
    return lib.construct(Registry, [guarded], new.target);
  }
  // One prototype, so that the registry which lacks the guard cannot be reached through it.
  defineProperty(FinalizationRegistry, 'prototype', { __proto__: null, value: Registry.prototype, writable: false });
  defineProperty(Registry.prototype, 'constructor', { __proto__: null, value: FinalizationRegistry, writable: true, configurable: true });
  lib.globals({ FinalizationRegistry });
});
