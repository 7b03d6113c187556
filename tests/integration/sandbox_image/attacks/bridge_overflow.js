// Every function that crosses to the host, called when the stack is nearly full, with frames of several sizes.
async function attack(check, found, foreign) {
  const calls = [
    () => performance.now(),
    () => progress(.5),
    () => console.log(Math.random()),
    () => crypto.getRandomValues(new Uint8Array(4)),
    () => crypto.randomUUID(),
    () => new URL('http://a/b'),
    () => URL.canParse('x'),
    () => setTimeout(() => {}, 1e6),
    () => setInterval(() => {}, 1e6),
    () => work.emit('a', 1),
    () => fetch('http://x').catch(e => check(e, 'f')),
    () => queueMicrotask(() => {}),
    () => atob('YQ=='),
    () => (new TextDecoder).decode((new TextEncoder).encode('aé')),
    () => new Blob([ 'a' ]),
    () => new Response('x').text(),
    () => require('nope'),
    () => WebAssembly.compile(new Uint8Array(1)),
    () => structuredClone?.(1),
    () => clearTimeout(1),
    () => eval('1+1'),
    () => new Function('return 1')(),
    () => new Error('x').stack,
    () => JSON.parse('{'),
    () => new Intl.NumberFormat('de').format(1.5),
    () => 'x'.localeCompare('y'),
    () => (new Date).toLocaleString()
  ];
  for (const call of calls) {
    for (const size of [1, 4, 7, 10, 13]) {
      const names = (letter) => Array.from({ length: size }, (_, k) => `${letter}${k} = depth + ${k}`).join();
      // Once to learn how deep it goes, once to call on the last fifth of the frames.
      const descend = new Function('call', 'check', 'from', `
        let depth = 0, last = 0;
        const down = () => {
          let ${names('a')};
          last = ++depth;
          if (depth > from) {
            try {
              check(call(), String(call));
            } catch (e) {
              check(e, String(call));
            }
          }
          down();
          return a0;
        };
        try {
          down();
        } catch (e) {
          check(e, 'overflow');
        }
        return last;`);
      descend(call, check, descend(call, check, Infinity) * 0.8);
    }
  }
}
