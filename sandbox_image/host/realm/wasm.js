/*
 * WebAssembly's asynchronous functions, done at once. V8 would compile on other threads and answer on a later turn
 * of the event loop, perhaps in the next slice; the answer is the same, and the time is spent where it is measured.
 */
(function wasm(lib) {
  'use strict';
  const { WebAssembly } = lib.global;
  const { Module, Instance } = WebAssembly;

  const bytesOf = async (source) => {
    const response = await source;
    return response.arrayBuffer();
  };

  const functions = {
    async compile(bytes) { return new Module(bytes); },
    async instantiate(source, imports) {
      if (source instanceof Module)
        return new Instance(source, imports);
      const module = new Module(source);
      return { module, instance: new Instance(module, imports) };
    },
    async compileStreaming(source) { return new Module(await bytesOf(source)); },
    async instantiateStreaming(source, imports) {
      const module = new Module(await bytesOf(source));
      return { module, instance: new Instance(module, imports) };
    },
  };
  const names = lib.keys(functions);
  for (let i = 0; i < names.length; i++) {
    lib.defineProperty(WebAssembly, names[i], {
      __proto__: null, value: functions[names[i]], writable: true, enumerable: true, configurable: true,
    });
  }
});
