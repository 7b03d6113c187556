// import() of every kind: its promise and its error must be of the realm.
async function attack(check, found, foreign) {
  const p = import('fs');
  check(p, 'promise');
  try {
    await p;
    found.push('imported');
  } catch (e) {
    check(e, 'err');
    if (!(e instanceof TypeError)) found.push('not TypeError');
  }
  try {
    const q = (0, eval)('import(\'node:fs\')');
    check(q, 'p2');
    await q;
    found.push('x');
  } catch (e) {
    check(e, 'e2');
  }
  try {
    const q = new Function('return import(\'fs\',{with:{type:\'json\'}})')();
    check(q, 'p3');
    await q;
  } catch (e) {
    check(e, 'e3');
  }
  try {
    const q = setTimeout;
    await (import({
      toString() {
        throw check(new Error('x'), 't');
      }
    }));
  } catch (e) {
    check(e, 'e4');
  }
}
