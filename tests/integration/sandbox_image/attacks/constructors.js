// The classic: the constructor of a constructor.
async function attack(check, found, foreign) {
  const G = globalThis;
  for (const x of [ this, G, G.constructor, console, work, progress, performance, crypto, navigator, location, module, require, bravojs, self, setTimeout, fetch, work.job, work.job.public, Error, arguments, async () => {}, function*() {}(), async function*() {}(), new Proxy({}, {}) ]) {
    try {
      const r = x.constructor.constructor('return typeof process + typeof require')();
      if (typeof r === 'string' && r !== 'undefinedfunction') found.push(r);
    } catch (e) {
      check(e, 'thrown');
    }
  }
}
