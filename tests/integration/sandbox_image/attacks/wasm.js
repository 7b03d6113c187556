// Errors, promises and imports of WebAssembly.
async function attack(check, found, foreign) {
  for (const k of Reflect.ownKeys(WebAssembly)) {
    check(WebAssembly[k], 'w' + String(k));
    try {
      const r = WebAssembly[k](new Uint8Array(2));
      check(r, 'r' + String(k));
      await r;
    } catch (e) {
      check(e, 'e' + String(k));
    }
    try {
      const r = new WebAssembly[k](new Uint8Array(2));
      check(r, 'n' + String(k));
    } catch (e) {
      check(e, 'ne' + String(k));
    }
  }
  try {
    await WebAssembly.compileStreaming(1);
  } catch (e) {
    check(e, 'cs');
  }
  try {
    await WebAssembly.instantiateStreaming(Promise.resolve(new Response('x')));
  } catch (e) {
    check(e, 'is');
  }
  const bytes = new Uint8Array([ 0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 2, 7, 1, 1, 97, 1, 98, 0, 0, 7, 5, 1, 1, 99, 0, 0 ]);
  const {instance: instance} = await WebAssembly.instantiate(bytes, {
    a: {
      b() {
        check(this, 'wt');
        check(arguments, 'wa');
        throw check(new Error('in'), 'x');
      }
    }
  });
  check(instance.exports, 'exp0');
  try {
    instance.exports.c();
  } catch (e) {
    check(e, 'we');
  }
  try {
    await WebAssembly.instantiate(bytes, 1);
  } catch (e) {
    check(e, 'l');
  }
  function rec() {
    try {
      instance.exports.c();
    } catch (e) {
      check(e, 'wo');
    }
    rec();
  }
  try {
    rec();
  } catch (e) {
    check(e, 'wo2');
  }
}
