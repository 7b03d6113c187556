// Errors whose name or message cannot be made text when the stack is read.
async function attack(check, found, foreign) {
  const e = new Error;
  e.name = Symbol();
  try {
    check(e.stack, 's');
  } catch (x) {
    check(x, 'x');
  }
  const f = async () => e.stack;
  try {
    await f();
  } catch (x) {
    check(x, 'x2');
  }
  const e3 = new Error;
  Object.defineProperty(e3, 'message', {
    get() {
      throw 1;
    }
  });
  try {
    check(e3.stack, 's3');
  } catch (x) {
    check(x, 'x3');
  }
  const e4 = new Error('m');
  Object.setPrototypeOf(e4, new Proxy({}, {
    get(t, k, r) {
      check(t, 'pt');
      check(r, 'pr');
      throw new Error('trap');
    }
  }));
  try {
    check(e4.stack, 's4');
  } catch (x) {
    check(x, 'x4');
  }
  const e5 = new Error;
  e5.name = {
    toString() {
      throw check(new Error('n'), 'n');
    }
  };
  try {
    e5.stack;
  } catch (x) {
    check(x, 'x5');
  }
}
