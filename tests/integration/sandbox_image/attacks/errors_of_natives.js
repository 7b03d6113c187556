// Errors that built-ins and library functions raise.
async function attack(check, found, foreign) {
  for (const f of [
    () => null.x,
    () => undefined(),
    () => new class extends(null){},
    () => JSON.parse('{'),
    () => decodeURIComponent('%'),
    () => new Array(-1),
    () => 'x'.repeat(-1),
    () => Symbol() + '',
    () => BigInt(1.5),
    () => new RegExp('('),
    () => eval('('),
    () => new Function('('),
    () => Object.defineProperty(1, 'a', {}),
    () => new Proxy(1, 1),
    () => Reflect.ownKeys(1),
    () => new Uint8Array(-1),
    () => new ArrayBuffer(1e20),
    () => new SharedArrayBuffer(1e20),
    () => Atomics.wait(new Int32Array(4), 0, 0),
    () => structuredClone(1),
    () => new Intl.DateTimeFormat('xx-invalid-locale-zzzzzzzzzzz'),
    () => new Date(NaN).toISOString(),
    () => 'a'.normalize('x'),
    () => process,
    () => new URL('x'),
    () => new TextDecoder('zz'),
    () => atob('*'),
    () => new WebAssembly.Memory({
    initial: 1e9
  }),
    () => 'x'.padEnd(2 ** 30) + 'x'.padEnd(2 ** 30),
    () => [].reduce(() => 1),
    () => new WebAssembly.Module(new Uint8Array(3)),
    () => Error.captureStackTrace(1),
    () => new WeakRef(1),
    () => new FinalizationRegistry(1),
    () => importScripts('x'),
    () => require('fs'),
    () => module.declare([],
    () => {}),
    () => module.provide([ 'x' ])
  ]) try {
    check(f(), 'r ' + f);
  } catch (e) {
    check(e, 'e ' + f);
  }
}
