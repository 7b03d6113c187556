// All four function constructors, and eval.
async function attack(check, found, foreign) {
  const AF = (async () => {}).constructor, GF = function*() {}.constructor, AGF = async function*() {}.constructor;
  for (const C of [ Function, AF, GF, AGF ]) {
    check(C, 'C');
    const f = C('return typeof process');
    check(f, 'f');
    let r = f();
    r = await (r.next ? r.next() : r);
    r = r.value ?? r;
    if (r !== 'undefined') found.push(String(r));
  }
  if (new Function('return this')() !== globalThis) found.push('this');
  if ((0, eval)('this') !== globalThis) found.push('eval this');
  if (typeof process !== 'undefined' || typeof Buffer !== 'undefined' || typeof global !== 'undefined' || typeof KVIN !== 'undefined') found.push('globals');
}
