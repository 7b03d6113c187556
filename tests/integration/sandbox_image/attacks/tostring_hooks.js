// Conversions of arguments look at who called.
async function attack(check, found, foreign) {
  const evil = () => ({
    toString() {
      check(this, 'this');
      check(arguments, 'args');
      check(arguments.callee.caller, 'caller');
      return 'http://a/';
    },
    valueOf() {
      return 1;
    },
    toJSON() {
      check(arguments.callee.caller, 'tjcaller');
      return 1;
    },
    get then() {
      check(this, 'then');
      return undefined;
    }
  });
  for (const f of [ x => new URL(x), x => progress(x), x => console.log(x), x => work.emit(x, x), x => work.emit('a', x), x => new Blob([ x ]), x => btoa(x), x => new Headers({
    a: x
  }), x => new Request(x), x => crypto.getRandomValues(x), x => setTimeout(x, x), x => require(x), x => (new TextEncoder).encode(x), x => new URLSearchParams(x), x => fetch(x).catch(e => check(e, 'fe')) ]) {
    try {
      check(f(evil()), 'r');
    } catch (e) {
      check(e, 'e');
    }
  }
}
