// asm.js, whose failures V8 reports to the host.
async function attack(check, found, foreign) {
  (0, eval)('(function M(stdlib,foreign,heap){"use asm"; function f(){return 1.5+"x"} return f})');
  try {
    (0, eval)('(function M(stdlib,foreign,heap){"use asm"; var x=foreign.q|0; function f(){return x|0} return f})')({}, {
      get q() {
        check(this, 'q');
        return 1;
      }
    }, new ArrayBuffer(64));
  } catch (e) {
    check(e, 'e');
  }
}
