/*
 * The built-ins of one realm, captured before any job code runs there.
 *
 * The work function may replace or poison every global and prototype of its realm. The library beside it keeps working
 * (and keeps its secrets) because it reaches built-ins only through this object, never by a look-up at call time.
 *
 * A classic script whose value is a function: it is evaluated in the work function's realm, and once in the host's
 * own realm for the KVIN codec there.
 */
(function primordials() {
  'use strict';
  const { bind, call } = Function.prototype;
  const uncurry = bind.bind(call);
  const getter = (object, name) => uncurry(Reflect.getOwnPropertyDescriptor(object, name).get);
  const TypedArray = Reflect.getPrototypeOf(Uint8Array);

  return {
    __proto__: null,
    uncurry,
    global: globalThis,

    apply: Reflect.apply,
    construct: Reflect.construct,
    defineProperty: Reflect.defineProperty,
    deleteProperty: Reflect.deleteProperty,
    getOwnPropertyDescriptor: Reflect.getOwnPropertyDescriptor,
    getPrototypeOf: Reflect.getPrototypeOf,
    setPrototypeOf: Reflect.setPrototypeOf,
    ownKeys: Reflect.ownKeys,
    keys: Object.keys,
    hasOwn: Object.hasOwn,
    is: Object.is,

    Array, ArrayBuffer, BigInt, Boolean, DataView, Date, Error, Function, Map, Number, Object, Promise, RangeError,
    RegExp, Set, String, Symbol, TypeError, Uint8Array, WeakMap,
    Int8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array, Float32Array, Float64Array,
    BigInt64Array, BigUint64Array,
    errorTypes: { __proto__: null, Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError, AggregateError },
    eval: globalThis.eval,
    parseFloat,
    isFinite: Number.isFinite,
    isNaN: Number.isNaN,
    floor: Math.floor,
    max: Math.max,
    min: Math.min,
    parse: JSON.parse,
    stringify: JSON.stringify,
    isArray: Array.isArray,
    isView: ArrayBuffer.isView,
    fromCharCode: String.fromCharCode,
    decodeURIComponent,
    encodeURIComponent,
    symbolIterator: Symbol.iterator,
    symbolToStringTag: Symbol.toStringTag,
    prototypes: {
      __proto__: null,
      Array: Array.prototype,
      Object: Object.prototype,
      Error: Error.prototype,
      Promise: Promise.prototype,
    },

    errorToString: uncurry(Error.prototype.toString),
    objectToString: uncurry(Object.prototype.toString),
    functionToString: uncurry(Function.prototype.toString),
    numberToString: uncurry(Number.prototype.toString),
    numberToFixed: uncurry(Number.prototype.toFixed),
    bigintToString: uncurry(BigInt.prototype.toString),
    symbolDescription: getter(Symbol.prototype, 'description'),
    charCodeAt: uncurry(String.prototype.charCodeAt),
    endsWith: uncurry(String.prototype.endsWith),
    indexOfString: uncurry(String.prototype.indexOf),
    lastIndexOfString: uncurry(String.prototype.lastIndexOf),
    padStart: uncurry(String.prototype.padStart),
    sliceString: uncurry(String.prototype.slice),
    split: uncurry(String.prototype.split),
    startsWith: uncurry(String.prototype.startsWith),
    toLowerCase: uncurry(String.prototype.toLowerCase),
    toUpperCase: uncurry(String.prototype.toUpperCase),
    toWellFormed: uncurry(String.prototype.toWellFormed),
    trim: uncurry(String.prototype.trim),
    arrayJoin: uncurry(Array.prototype.join),
    arrayPush: uncurry(Array.prototype.push),
    arraySplice: uncurry(Array.prototype.splice),
    arraySort: uncurry(Array.prototype.sort),
    arrayIndexOf: uncurry(Array.prototype.indexOf),
    mapGet: uncurry(Map.prototype.get),
    mapSet: uncurry(Map.prototype.set),
    mapHas: uncurry(Map.prototype.has),
    mapDelete: uncurry(Map.prototype.delete),
    mapClear: uncurry(Map.prototype.clear),
    mapForEach: uncurry(Map.prototype.forEach),
    mapSize: getter(Map.prototype, 'size'),
    setAdd: uncurry(Set.prototype.add),
    setForEach: uncurry(Set.prototype.forEach),
    promiseThen: uncurry(Promise.prototype.then),
    promiseResolve: uncurry(Promise.resolve),
    regExpExec: uncurry(RegExp.prototype.exec),
    regExpSource: getter(RegExp.prototype, 'source'),
    regExpFlags: getter(RegExp.prototype, 'flags'),
    viewBuffer: getter(TypedArray.prototype, 'buffer'),
    viewByteLength: getter(TypedArray.prototype, 'byteLength'),
    viewByteOffset: getter(TypedArray.prototype, 'byteOffset'),
    viewTag: getter(TypedArray.prototype, Symbol.toStringTag),
    dataViewBuffer: getter(DataView.prototype, 'buffer'),
    dataViewByteLength: getter(DataView.prototype, 'byteLength'),
    dataViewByteOffset: getter(DataView.prototype, 'byteOffset'),
    typedFill: uncurry(TypedArray.prototype.fill),
    typedSet: uncurry(TypedArray.prototype.set),
    typedSubarray: uncurry(TypedArray.prototype.subarray),
    arrayBufferByteLength: getter(ArrayBuffer.prototype, 'byteLength'),
  };
});
