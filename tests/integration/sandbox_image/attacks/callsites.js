// The frames that Error.prepareStackTrace gets, and what their methods say.
async function attack(check, found, foreign) {
  const gp = Object.getPrototypeOf;
  const old = Error.prepareStackTrace;
  Error.prepareStackTrace = (e, t) => {
    check(e, 'e');
    check(t, 't');
    for (const f of t) {
      check(f, 'f');
      for (const m of Reflect.ownKeys(gp(f))) {
        try {
          check(f[m](), 'frame.' + String(m));
        } catch (e) {
          check(e, 'frame!' + String(m));
        }
      }
    }
    return t;
  };
  const s = new Error('x').stack;
  check(s, 's');
  if (!s.length) found.push('no frames');
  [ 1 ].map(() => check(new Error('y').stack, 's2'));
  const o = {};
  Error.captureStackTrace(o);
  check(o.stack, 's3');
  await 0;
  check(new Error('z').stack, 's4');
  try {
    null.x;
  } catch (e) {
    check(e.stack, 's5');
  }
  Error.prepareStackTrace = old;
  Error.stackTraceLimit = Infinity;
  const st = new Error('q').stack;
  if (/node:|\/host\/|evaluator:|main\.js/.test(st)) found.push(st);
}
