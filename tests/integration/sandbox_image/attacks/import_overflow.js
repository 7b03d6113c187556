// import() with a nearly full stack.
async function attack(check, found, foreign) {
  const ps = [];
  function rec() {
    try {
      const p = import('fs');
      check(p, 'p');
      p.catch(e => check(e, 'pe'));
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
  await 0;
  await 0;
}
