// The prototype of the global object replaced by a proxy.
async function attack(check, found, foreign) {
  const O = Object.prototype, gp = Object.getPrototypeOf;
  check(gp(globalThis), 'gp');
  const was = gp(globalThis);
  try {
    Object.setPrototypeOf(globalThis, new Proxy(O, {
      get(t, k, r) {
        if (r !== globalThis) found.push('r');
        return Reflect.get(t, k);
      },
      has(t, k) {
        return k in t;
      }
    }));
    typeof zzz;
    zzz;
  } catch (e) {
    check(e, 'e');
  }
  check(globalThis.constructor, 'c');
  if (globalThis.valueOf() !== globalThis) found.push('v');
  Object.setPrototypeOf(globalThis, was);
}
