// Library classes with foreign new.target, and their methods on foreign receivers.
async function attack(check, found, foreign) {
  for (const C of [ URL, URLSearchParams, Blob, Headers, Request, Response, TextDecoder, TextEncoder, DOMException, FinalizationRegistry ]) {
    for (const nt of [ Object, Array, Promise, Proxy, new Proxy(function() {}, {
      get(t, k) {
        check(t, 't');
        return Reflect.get(t, k);
      }
    }) ]) {
      try {
        check(Reflect.construct(C, [ 'http://x/' ], nt), C.name);
      } catch (e) {
        check(e, C.name + 'e');
      }
    }
    for (const k of Reflect.ownKeys(C.prototype)) {
      for (const self of [ undefined, null, 1, {}, C.prototype ]) {
        try {
          const d = Reflect.getOwnPropertyDescriptor(C.prototype, k);
          const v = d.value ?? d.get;
          if (typeof v === 'function') check(Reflect.apply(v, self, []), C.name + '.' + String(k));
        } catch (e) {
          check(e, C.name + '.' + String(k));
        }
      }
    }
  }
}
