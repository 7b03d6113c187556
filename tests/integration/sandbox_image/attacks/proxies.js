// Proxies that watch every trap, given to every function.
async function attack(check, found, foreign) {
  const h = new Proxy({}, {
    get(t, trap) {
      return (...a) => {
        for (const x of a) check(x, 'trap ' + trap);
        return Reflect[trap](...a);
      };
    }
  });
  const p = () => new Proxy({
    a: 1
  }, h), pf = () => new Proxy(function() {}, h), pa = () => new Proxy([ 1, 2 ], h), pe = () => new Proxy(new Error('x'), h);
  for (const v of [ p(), pf(), pa(), pe() ]) {
    for (const f of [ x => console.log(x), x => work.emit('x', x), x => progress(x), x => new URL(x), x => new Headers(x), x => new Blob(x), x => setTimeout(x, 0), x => new Response(x), x => fetch(x).catch(e => check(e, 'fe')), x => new URLSearchParams(x), x => Promise.reject(x), x => crypto.getRandomValues(x), x => require(x) ]) try {
      check(f(v), 'r');
    } catch (e) {
      check(e, 'e');
    }
  }
  await new Promise(r => setTimeout(r, 3));
}
