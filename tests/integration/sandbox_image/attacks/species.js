// Symbol.species hands out spies.
async function attack(check, found, foreign) {
  class P extends Promise {
    static get [Symbol.species]() {
      return function(ex) {
        check(ex, 'ex');
        ex(a => check(a, 'ra'), b => check(b, 'rb'));
      };
    }
  }
  const p = P.resolve(1);
  try {
    p.then(() => {});
  } catch (e) {
    check(e, 'e');
  }
  class X extends Array {
    static get [Symbol.species]() {
      return function(n) {
        check(this, 'x');
        return [];
      };
    }
  }
  console.log(new X(1, 2));
  work.emit('a', X.from([ 1, 2, 3 ]));
  class U extends Uint8Array {
    static get [Symbol.species]() {
      return function(b, o, l) {
        check(b, 'b');
        return new Uint8Array(b, o, l);
      };
    }
  }
  work.emit('u', new U(100));
  crypto.getRandomValues(new U(4));
  new Blob([ new U(5) ]);
  (new TextDecoder).decode(new U(4));
}
