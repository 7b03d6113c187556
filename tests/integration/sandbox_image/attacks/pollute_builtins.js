// Array, Map, JSON and Promise methods replaced by spies.
async function attack(check, found, foreign) {
  const A = Array.prototype;
  const s = {};
  for (const k of [ 'push', 'splice', 'slice', 'join', 'forEach', 'map', 'indexOf', 'sort', 'values' ]) {
    s[k] = A[k];
    A[k] = function(...a) {
      check(this, k);
      a.forEach;
      for (let i = 0; i < a.length; i++) check(a[i], k + 'a');
      return Reflect.apply(s[k], this, a);
    };
  }
  const it = A[Symbol.iterator];
  A[Symbol.iterator] = function() {
    check(this, 'iter');
    return Reflect.apply(it, this, []);
  };
  const M = Map.prototype;
  for (const k of [ 'get', 'set', 'has', 'forEach' ]) {
    s['m' + k] = M[k];
    M[k] = function(...a) {
      check(this, 'm' + k);
      for (let i = 0; i < a.length; i++) check(a[i], 'm' + k);
      return Reflect.apply(s['m' + k], this, a);
    };
  }
  const js = JSON.stringify, jp = JSON.parse;
  JSON.stringify = function(...a) {
    for (let i = 0; i < a.length; i++) check(a[i], 'js');
    return js(...a);
  };
  JSON.parse = function(...a) {
    for (let i = 0; i < a.length; i++) check(a[i], 'jp');
    return jp(...a);
  };
  const th = Promise.prototype.then;
  Promise.prototype.then = function(...a) {
    check(this, 'then');
    for (let i = 0; i < a.length; i++) check(a[i], 'then arg');
    return Reflect.apply(th, this, a);
  };
  const R = Reflect.apply;
  console.log('z', {
    a: undefined
  });
  progress(.2);
  work.emit('e', [ 1, , 3 ]);
  new URL('http://a?b=c').searchParams.append('q', 'r');
  fetch('http://q').catch(() => {});
  setTimeout(() => {}, 0);
  await new Promise(r => setTimeout(r, 2));
  await WebAssembly.compile(new Uint8Array([ 0, 97, 115, 109, 1, 0, 0, 0 ]));
  A[Symbol.iterator] = it;
  JSON.stringify = js;
  JSON.parse = jp;
  Promise.prototype.then = th;
  for (const k in s) {
    if (k[0] === 'm' && k !== 'map') M[k.slice(1)] = s[k]; else A[k] = s[k];
  }
}
