// Unhandled rejections with a nearly full stack.
async function attack(check, found, foreign) {
  function rec() {
    try {
      Promise.reject(1);
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
  await 0;
}
