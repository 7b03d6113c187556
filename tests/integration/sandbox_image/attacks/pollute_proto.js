// Setters and getters on Object.prototype and Array.prototype for names that a library may use.
async function attack(check, found, foreign) {
  const keys = [ '0', '1', '2', 'get', 'set', 'value', 'writable', 'then', 'constructor', 'host', 'send', 'epoch', 'kind', 'id', 'when' ];
  for (const k of keys) {
    for (const P of [ Object.prototype, Array.prototype ]) {
      if (Object.hasOwn(P, k)) continue;
      try {
        Object.defineProperty(P, k, {
          configurable: true,
          set(v) {
            check(v, 'set ' + k);
            check(this, 'set this ' + k);
            Object.defineProperty(this, k, {
              value: v,
              writable: true,
              configurable: true,
              enumerable: true
            });
          },
          get() {
            check(this, 'get this' + k);
            return undefined;
          }
        });
      } catch (e) {}
    }
  }
  const errs = [];
  for (const f of [ () => performance.now(), () => progress(.1), () => console.log('q', [ 1 ]), () => new URL('http://x/y').searchParams.get('a'), () => crypto.getRandomValues(new Uint8Array(2)), () => setTimeout(() => {}, 1), () => work.emit('x', {
    a: 1,
    b: [ 1, 2 ]
  }), () => fetch('http://q').catch(() => {}), () => atob('YQ=='), () => new Error('x').stack, () => require('q'), () => import('q').catch(() => {}) ]) try {
    check(f(), 'r');
  } catch (e) {
    check(e, 'e');
  }
  for (const k of keys) for (const P of [ Object.prototype, Array.prototype ]) delete P[k];
}
