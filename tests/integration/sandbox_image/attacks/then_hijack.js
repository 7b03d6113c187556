// Thenables see the resolving functions.
async function attack(check, found, foreign) {
  const th = {
    then: function(a, b) {
      check(a, 'a');
      check(b, 'b');
      check(arguments.callee.caller, 'c');
      a(1);
    }
  };
  await th;
  await Promise.resolve(th);
  await new Promise(r => r(th));
  await Promise.all([ th ]);
  const r = fetch('http://x');
  check(r, 'r');
  check(r.then, 'rt');
  r.catch(() => {});
  check(Promise.prototype.constructor, 'pc');
}
