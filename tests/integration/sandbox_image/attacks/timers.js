// What timer callbacks get.
async function attack(check, found, foreign) {
  await new Promise(r => setTimeout(function(...a) {
    check(this, 't');
    check(arguments, 'a');
    check(a, 'aa');
    r();
  }, 1, 1, 2));
  const id = setInterval(function() {
    check(this, 'i');
    check(arguments.callee.caller, 'c');
    clearInterval(id);
  }, 1);
  await new Promise(r => setTimeout(r, 5));
  check(setTimeout(() => {}, 1), 'id');
  try {
    setTimeout();
  } catch (e) {
    check(e, 'e');
  }
  setTimeout('check(1)', 0);
  setTimeout(check, 0, check);
}
