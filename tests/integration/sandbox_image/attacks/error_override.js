// Error replaced, removed, and with a throwing stackTraceLimit.
async function attack(check, found, foreign) {
  const E = globalThis.Error;
  globalThis.Error = new Proxy(E, {
    get(t, k, r) {
      check(r, 'r');
      return Reflect.get(t, k);
    }
  });
  new E('x').stack;
  try {
    null.x;
  } catch (e) {
    e.stack;
    check(e, 'e');
  }
  globalThis.Error = undefined;
  try {
    const e = new E('q');
    e.name = Symbol();
    e.stack;
    performance.now();
    new URL('q');
  } catch (e) {
    check(e, 'e2');
    try {
      check(e.stack, 's');
    } catch (x) {
      check(x, 'x');
    }
  }
  globalThis.Error = E;
  Object.defineProperty(E, 'stackTraceLimit', {
    get() {
      check(this, 'stl');
      throw new E('l');
    },
    configurable: true
  });
  try {
    new E('x').stack;
    new URL('x');
  } catch (e) {
    check(e, 'e3');
  }
  delete E.stackTraceLimit;
  E.stackTraceLimit = 10;
}
