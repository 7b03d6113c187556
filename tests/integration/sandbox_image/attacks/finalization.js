// FinalizationRegistry and WeakRef.
async function attack(check, found, foreign) {
  const f = new FinalizationRegistry(() => {});
  check(f, 'f');
  check(FinalizationRegistry.prototype.constructor, 'c');
  f.register({}, 1);
  const w = new WeakRef({});
  check(w.deref(), 'w');
}
