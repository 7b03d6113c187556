// Atomics.waitAsync.
async function attack(check, found, foreign) {
  const a = new Int32Array(new SharedArrayBuffer(4));
  const w = Atomics.waitAsync(a, 0, 0, 3);
  check(w, 'w');
  check(w.value, 'v');
  check(await w.value, 'vv');
  try {
    Atomics.waitAsync(1);
  } catch (e) {
    check(e, 'e');
  }
}
