// call, apply and bind replaced by spies.
async function attack(check, found, foreign) {
  const F = Function.prototype;
  const saved = {};
  for (const k of [ 'call', 'apply', 'bind' ]) {
    saved[k] = F[k];
    F[k] = function(...args) {
      check(this, k + ' this');
      for (const x of args) check(x, k + ' arg');
      return Reflect.apply(saved[k], this, args);
    };
  }
  performance.now();
  progress(.1);
  console.log('q');
  new URL('http://x/y').searchParams.get('a');
  crypto.getRandomValues(new Uint8Array(2));
  setTimeout(() => {}, 1);
  work.emit('x', {
    a: 1,
    b: [ 1, 2 ]
  });
  fetch('http://q').catch(() => {});
  atob('YQ==');
  (new TextDecoder).decode(new Uint8Array(3));
  for (const k in saved) F[k] = saved[k];
}
