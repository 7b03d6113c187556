/*
 * The only way out of the realm: host functions that take and give primitives.
 *
 * A host function object must never be seen by the work function (its constructor is the host's Function), nor may
 * anything that a host function throws: when the work function calls in with a nearly full stack, V8 raises the
 * RangeError in the host's realm. So every crossing is wrapped here; the wrappers are functions of this realm and
 * the error that they raise is made here.
 */
(function bridge(lib, send, clock, epochTime, randomBytes, parseUrl, setAlarm, markProgress) {
  'use strict';
  const { RangeError } = lib;

  function overflow() {
    return new RangeError('Maximum call stack size exceeded');
  }

  /** Put properties on the global object the way built-ins are there. */
  lib.globals = (properties) => {
    const names = lib.keys(properties);
    for (let i = 0; i < names.length; i++) {
      lib.defineProperty(lib.global, names[i], {
        __proto__: null, value: properties[names[i]], writable: true, enumerable: false, configurable: true,
      });
    }
  };

  const text = (value) => (typeof value === 'string' ? value : '');
  const number = (value) => (typeof value === 'number' ? value : 0);

  /** Send a message of the running slice: what it is, and JSON texts of its parts. False: larger than a message may be. */
  lib.send = (kind, first, second, third, fourth) => {
    try { return send(kind, first, second, third, fourth) !== false; } catch { throw overflow(); }
  };
  /** Monotonic milliseconds since the host started. */
  lib.clock = () => {
    try { return number(clock()); } catch { throw overflow(); }
  };
  /** Milliseconds since the epoch at which the monotonic clock stood at 0. */
  lib.epochTime = number(epochTime());
  /** `count` random bytes, one per character. */
  lib.randomBytes = (count) => {
    try { return text(randomBytes(count)); } catch { throw overflow(); }
  };
  /** Parts of a URL as JSON text, '' if it is not one; with a part's name and new value: of the changed URL. */
  lib.parseUrl = (href, base, part, value) => {
    try { return text(parseUrl(href, base, part, value)); } catch { throw overflow(); }
  };
  /** Have the timers looked at in so many milliseconds; negative: no more. */
  lib.setAlarm = (delay) => {
    try { setAlarm(delay); } catch { throw overflow(); }
  };
  /** Tell the host that the slice has called progress(). */
  lib.markProgress = () => {
    try { markProgress(); } catch { throw overflow(); }
  };
});
