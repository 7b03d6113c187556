// Unhandled rejections with exotic reasons and promises.
async function attack(check, found, foreign) {
  const e = new Error('u');
  Object.defineProperty(e, 'stack', {
    get() {
      check(this, 'st');
      check(arguments, 'sta');
      return {};
    }
  });
  Promise.reject(e);
  const p = Promise.reject(new Proxy(e, {
    get(t, k, r) {
      check(k, 'k');
      check(r, 'r');
      throw 1;
    }
  }));
  Object.setPrototypeOf(p, new Proxy(Promise.prototype, {
    get(t, k, r) {
      check(r, 'pr');
      check(k, 'pk');
      return Reflect.get(t, k, r);
    }
  }));
  await new Promise(r => setTimeout(r, 5));
}
