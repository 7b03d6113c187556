// The list of frames, thrown out of Error.prepareStackTrace.
async function attack(check, found, foreign) {
  Error.prepareStackTrace = (e, t) => {
    throw t;
  };
  try {
    new Error('x').stack;
  } catch (t) {
    check(t, 't');
    t.forEach?.(f => check(f.getThis?.(), 'this'));
  }
  Error.prepareStackTrace = undefined;
}
