// Reading such a stack with a nearly full stack.
async function attack(check, found, foreign) {
  function rec() {
    try {
      const e = new Error('x');
      e.name = Symbol();
      check(e.stack, 's');
    } catch (e) {
      check(e, 'e');
    }
    rec();
  }
  try {
    rec();
  } catch (e) {
    check(e, 'o');
  }
}
