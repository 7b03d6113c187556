// caller and arguments of functions that the host calls.
async function attack(check, found, foreign) {
  function a() {
    check(a.caller, 'caller');
    check(a.arguments, 'arguments');
    try {
      check(arguments.callee.caller, 'cc');
    } catch (e) {
      check(e, 'cce');
    }
  }
  a();
  (function b() {
    check(b.caller, 'bc');
  })();
  await 0;
  a();
  await new Promise(r => setTimeout(function t() {
    check(t.caller, 'timer caller');
    a();
    r();
  }, 1));
  Promise.resolve().then(function m() {
    check(m.caller, 'mc');
  });
  await 0;
}
