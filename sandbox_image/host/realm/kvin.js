/*
 * KVIN v9: values that JSON cannot carry, as JSON text. Written from the format's description and its test vectors.
 *
 * The encoder writes text directly instead of building a tree, so that nothing the work function has put on
 * Object.prototype (a toJSON, a setter) gets between the value and the line. The decoder knows a fixed list of
 * constructors and never evaluates anything.
 */
(function kvin(lib) {
  'use strict';
  const {
    stringify: quote, isArray, isFinite, isView, hasOwn, keys, mapGet, mapSet, mapSize, fromCharCode, apply,
    typedSubarray, construct,
  } = lib;
  const VERSION = 'v9';
  /** Constructors which the format knows by number. */
  const NUMBERED = [
    'Object', 'Int8Array', 'Uint8Array', 'Uint8ClampedArray', 'Int16Array', 'Uint16Array', 'Int32Array', 'Uint32Array',
    'Float32Array', 'Float64Array', 'RegExp', 'Number', 'String', 'Boolean', 'Array', 'Function', 'Error', 'Promise', 'URL',
    'Date', 'Set',
  ];
  const ISLAND_MIN = 8;
  const CHUNK = 8192;

  function numberOf(constructor) {
    for (let i = 0; i < NUMBERED.length; i++) {
      if (lib[NUMBERED[i]] !== undefined && constructor === lib[NUMBERED[i]])
        return i;
    }
    return -1;
  }

  // ------------------------------------------------------------------------------------------------- encoder

  /**
   * One encoding: the objects seen so far and their numbers. `base` objects of an enclosing text come before. With
   * `plain`, instances of the job's own classes are written as plain objects: a reader elsewhere cannot have their class,
   * and the official one dies of it.
   */
  class Encoder {
    constructor(base, plain) {
      this.seen = new lib.Map();
      this.base = base;
      this.plain = plain;
    }

    /** Number of an object seen before, or -1; a new one is numbered now. */
    visit(object) {
      const index = mapGet(this.seen, object);
      if (index !== undefined)
        return index;
      mapSet(this.seen, object, this.base + mapSize(this.seen));
      return -1;
    }

    value(value) {
      switch (typeof value) {
        case 'number': return numberText(value);
        case 'string': return `{"raw":${quote(value)}}`;
        case 'boolean': return value ? '{"raw":true}' : '{"raw":false}';
        case 'undefined': return '{"undefined":true}';
        case 'bigint': return `{"bigint":"${lib.bigintToString(value)}"}`;
        case 'symbol': return this.symbol(value);
        default: return value === null ? '{"raw":null}' : this.object(value);
      }
    }

    symbol(value) {
      const index = this.visit(value);
      if (index !== -1)
        return `{"seen":${index}}`;
      const description = lib.symbolDescription(value);
      return description === undefined ? '{"symbol":""}' : `{"symbol":${quote(description)}}`;
    }

    object(object) {
      const literal = this.literal(object, null);
      if (literal !== undefined)
        return `{"raw":${literal}}`;
      const index = this.visit(object);
      if (index !== -1)
        return `{"seen":${index}}`;
      if (isArray(object))
        return this.array(object);
      if (isView(object))
        return binary(object, this.plain);
      const { constructor } = object;
      if (constructor === lib.Map)
        return this.map(object);
      if (constructor === lib.Set)
        return this.set(object);
      if (constructor === lib.RegExp)
        return `{"ctr":10,"args":[${quote(lib.regExpSource(object))},${quote(lib.regExpFlags(object))}]}`;
      if (constructor === lib.String || constructor === lib.Number || constructor === lib.Boolean)
        return `{"ctr":${numberOf(constructor)},"arg":${quote(`${object}`)}}`;
      if (object instanceof lib.Promise || constructor === lib.WeakMap)
        throw new lib.TypeError(`a ${constructor === lib.WeakMap ? 'WeakMap' : 'Promise'} cannot be serialised`);
      if (object instanceof lib.Error)
        return errorText(object);
      if (constructor === undefined || constructor === null)
        return '{"undefined":true}';
      return this.instance(object, constructor);
    }

    /**
     * JSON text of an object that JSON carries as it is: plain, made of strings, booleans, null, finite numbers, such
     * objects and empty arrays, and sharing nothing with what was seen; undefined for every other object.
     */
    literal(object, parent) {
      const { constructor } = object;
      if (isArray(object))
        return constructor === lib.Array && object.length === 0 && keys(object).length === 0 ? '[]' : undefined;
      if (constructor !== lib.Object)
        return undefined;
      let text = '';
      const chain = { __proto__: null, object, parent };
      for (const name in object) {
        if (!hasOwn(object, name))
          return undefined;
        const value = object[name];
        let part;
        if (value === null || typeof value === 'string' || typeof value === 'boolean')
          part = quote(value);
        else if (typeof value === 'number')
          part = isFinite(value) ? `${value}` : undefined;
        else if (typeof value === 'object' && !this.isKnown(value, chain))
          part = this.literal(value, chain);
        if (part === undefined)
          return undefined;
        text += `${text === '' ? '' : ','}${quote(name)}:${part}`;
      }
      return `{${text}}`;
    }

    isKnown(object, chain) {
      for (let link = chain; link !== null; link = link.parent) {
        if (link.object === object)
          return true;
      }
      return mapGet(this.seen, object) !== undefined;
    }

    /** Elements up to the first hole, equal neighbours folded; then holes and named properties. */
    array(array) {
      let text = '';
      let last;
      let repeats = 0;
      let dense = 0;
      for (; dense < array.length && hasOwn(array, dense); dense++) {
        const part = this.element(array[dense]);
        if (part === last) {
          repeats++;
          continue;
        }
        if (repeats > 0)
          text += `,{"lst":${repeats}}`;
        repeats = 0;
        text += last === undefined ? part : `,${part}`;
        last = part;
      }
      if (repeats > 0)
        text += `,{"lst":${repeats}}`;
      const names = keys(array);
      text = `{"arr":[${text}]`;
      if (names.length !== array.length)
        text += this.rest(array, names, dense);
      return dense === array.length ? `${text}}` : `${text},"len":${array.length}}`;
    }

    element(value) {
      if (typeof value === 'number' && isFinite(value))
        return value === 0 ? '0' : `${value}`;
      if (typeof value === 'string' || typeof value === 'boolean')
        return quote(value);
      return this.value(value);
    }

    /** What an array has beyond its dense start: runs of two and more as islands, the rest by name. */
    rest(array, names, dense) {
      const islands = [];
      const properties = [];
      for (let j = 0; j < names.length; j++) {
        const index = +names[j];
        if (index < j && index < dense)
          continue;
        if (!hasOwn(array, index + 1)) {
          lib.arrayPush(properties, `${quote(names[j])}:${this.element(array[names[j]])}`);
          continue;
        }
        const run = [];
        for (let k = index; hasOwn(array, k); k++)
          lib.arrayPush(run, array[k]);
        j += run.length - 1;
        const text = run.length >= ISLAND_MIN || !isRaw(run) ? this.value(run) : quote(run);
        lib.arrayPush(islands, `{"@":${index},"arr":${text}}`);
      }
      return (islands.length ? `,"isl":[${lib.arrayJoin(islands, ',')}]` : '')
        + (properties.length ? `,"ps":{${lib.arrayJoin(properties, ',')}}` : '');
    }

    map(map) {
      const names = [];
      const values = [];
      lib.mapForEach(map, (value, name) => {
        lib.arrayPush(names, name);
        lib.arrayPush(values, value);
      });
      const own = this.properties(map);
      return `{"mapKeys":${this.array(names)},"mapVals":${this.array(values)}${own === '{}' ? '' : `,"ps":${own}`}}`;
    }

    set(set) {
      const values = [];
      lib.setForEach(set, (value) => { lib.arrayPush(values, value); });
      return `{"set":${this.array(values)}}`;
    }

    /** Every other object and function: its constructor, its own properties and what it says of itself. */
    instance(object, constructor) {
      const number = numberOf(constructor);
      if (this.plain && number === -1 && typeof object !== 'function' && constructor !== lib.ArrayBuffer)
        return `{"ctr":0,"ps":${this.properties(object)}}`;
      const label = number !== -1 ? `${number}` : quote(typeof constructor.name === 'string' && constructor.name !== '' ? constructor.name : 0);
      if (typeof object.toKVIN === 'function')
        return this.described(object, label);
      const name = typeof object === 'function' ? `,"fnName":${quote(`${object.name}`)}` : '';
      let argument;
      if (typeof object.toJSON === 'function')
        argument = quote(object.toJSON());
      else if (typeof object === 'function')
        argument = quote(lib.functionToString(object));
      else if (object.toString !== lib.prototypes.Object.toString)
        argument = quote(`${object.toString()}`);
      const tail = argument === undefined ? '' : `,"arg":${argument}`;
      return `{"ctr":${label},"ps":${this.properties(object)}${name}${tail}}`;
    }

    /** An object that has its own idea of its KVIN form. */
    described(object, label) {
      const form = object.toKVIN(object, undefined);
      const own = form !== null && typeof form === 'object' ? form : {};
      const names = keys(own);
      let text = `"ctr":${hasOwn(own, 'ctr') ? quote(own.ctr) : label},"ps":${hasOwn(own, 'ps') ? quote(own.ps) : '{}'}`;
      for (let i = 0; i < names.length; i++) {
        if (names[i] !== 'ctr' && names[i] !== 'ps')
          text += `,${quote(names[i])}:${quote(own[names[i]])}`;
      }
      return `{${text}}`;
    }

    properties(object) {
      let text = '';
      for (const name in object) {
        if (hasOwn(object, name))
          text += `${text === '' ? '' : ','}${quote(name)}:${this.value(object[name])}`;
      }
      return `{${text}}`;
    }
  }

  function numberText(value) {
    if (!isFinite(value))
      return `{"number":"${value}"}`;
    return value === 0 && 1 / value < 0 ? '{"json":"-0"}' : `${value}`;
  }

  /** Short islands hold bare values, which only works for those that JSON keeps. */
  function isRaw(run) {
    for (let i = 0; i < run.length; i++) {
      const value = run[i];
      if (typeof value !== 'string' && typeof value !== 'boolean' && !(typeof value === 'number' && isFinite(value)))
        return false;
    }
    return true;
  }

  /** The standard parts of an error, then its own properties, as plain JSON. */
  function errorText(error) {
    const parts = { __proto__: null };
    const standard = ['code', 'stack', 'lineNumber', 'fileName'];
    for (let i = 0; i < standard.length; i++) {
      if (hasOwn(error, standard[i]))
        parts[standard[i]] = plainText(error[standard[i]]);
    }
    for (const name in error) {
      if (hasOwn(error, name))
        parts[name] = plainText(error[name]);
    }
    let text = '';
    const names = keys(parts);
    for (let i = 0; i < names.length; i++) {
      if (parts[names[i]] !== undefined)
        text += `${text === '' ? '' : ','}${quote(names[i])}:${parts[names[i]]}`;
    }
    return `{"ctr":"Error","ps":{${text}},"arg":${quote(`${error.message}`)}}`;
  }

  function plainText(value) {
    switch (typeof value) {
      case 'string': case 'boolean': return quote(value);
      case 'number': return isFinite(value) ? `${value}` : undefined;
      // A decoder takes this for a prepared form, so an object has to be one.
      case 'object': return value === null ? '{"raw":null}' : new Encoder(1, true).value(value);
      default: return undefined;
    }
  }

  function bytesOf(view) {
    if (lib.viewTag(view) === undefined)
      return new lib.Uint8Array(lib.dataViewBuffer(view), lib.dataViewByteOffset(view), lib.dataViewByteLength(view));
    return new lib.Uint8Array(lib.viewBuffer(view), lib.viewByteOffset(view), lib.viewByteLength(view));
  }

  /** One character per byte. */
  function latin1(bytes, from, to) {
    let text = '';
    for (let i = from; i < to; i += CHUNK)
      text += apply(fromCharCode, null, typedSubarray(bytes, i, lib.min(i + CHUNK, to)));
    return text;
  }

  function binary(view, plain) {
    const constructor = plain ? lib[lib.viewTag(view) ?? 'DataView'] : view.constructor;
    const number = numberOf(constructor);
    const label = number !== -1 ? `${number}` : quote(`${constructor.name}`);
    const bytes = bytesOf(view);
    const length = lib.viewByteLength(bytes);
    if (!hasLongGap(bytes, length))
      return `{"ctr":${label},"ab8":${quote(latin1(bytes, 0, length))}}`;
    return `{"ctr":${label},"isl8":[${islands(bytes, length)}],"len":${length}}`;
  }

  function hasLongGap(bytes, length) {
    for (let i = 0, zeros = 0; i < length; i++) {
      zeros = bytes[i] === 0 ? zeros + 1 : 0;
      if (zeros === 8)
        return true;
    }
    return false;
  }

  /** The stretches between gaps of four zeros and more. */
  function islands(bytes, length) {
    let text = '';
    for (let i = 0; i < length;) {
      if (bytes[i] === 0) {
        i++;
        continue;
      }
      let end = i + 1;
      for (let k = end; k < length && k - end < 4; k++) {
        if (bytes[k] !== 0)
          end = k + 1;
      }
      text += `${text === '' ? '' : ','}{"0":${quote(latin1(bytes, i, end))},"@":${i}}`;
      i = end;
    }
    return text;
  }

  // ------------------------------------------------------------------------------------------------- decoder

  class Decoder {
    constructor() {
      this.seen = [];
    }

    value(form) {
      if (form === null || typeof form !== 'object')
        return form === null ? invalid('null in place of a prepared form') : form;
      if (hasOwn(form, 'raw'))
        return form.raw;
      if (hasOwn(form, 'ptv'))
        return form.ptv;
      if (hasOwn(form, 'number'))
        return lib.parseFloat(form.number);
      if (hasOwn(form, 'bigint'))
        return lib.BigInt(form.bigint);
      if (hasOwn(form, 'fnName'))
        return this.functionText(form);
      if (hasOwn(form, 'mapKeys'))
        return this.map(form);
      if (hasOwn(form, 'ab8') || hasOwn(form, 'isl8') || hasOwn(form, 'ab16') || hasOwn(form, 'isl16'))
        return this.remember(view(form));
      if (hasOwn(form, 'arr'))
        return this.array(form);
      if (hasOwn(form, 'ctr'))
        return this.instance(form);
      if (hasOwn(form, 'set'))
        return this.set(form);
      if (hasOwn(form, 'json'))
        return lib.parse(form.json);
      if (hasOwn(form, 'undefined'))
        return undefined;
      if (hasOwn(form, 'symbol'))
        return this.remember(lib.Symbol(form.symbol));
      if (hasOwn(form, 'seen'))
        return form.seen < this.seen.length ? this.seen[form.seen] : invalid(`no object number ${form.seen}`);
      if (hasOwn(form, '_serializeVerId')) {
        this.remember(form);
        return unmarshal(form);
      }
      return invalid('unknown prepared form');
    }

    remember(object) {
      lib.arrayPush(this.seen, object);
      return object;
    }

    array(form) {
      const array = this.remember([]);
      const { arr } = form;
      let previous;
      for (let i = 0; i < arr.length; i++) {
        const part = arr[i];
        if (part !== null && typeof part === 'object' && hasOwn(part, 'lst')) {
          // Each repetition is an object of its own, down to the literals inside.
          for (let n = 0; n < part.lst; n++)
            array[array.length] = this.value(typeof previous === 'object' ? lib.parse(quote(previous)) : previous);
          continue;
        }
        array[array.length] = this.value(part);
        previous = part;
      }
      if (hasOwn(form, 'isl')) {
        for (let i = 0; i < form.isl.length; i++) {
          const island = form.isl[i];
          const values = isArray(island.arr) ? island.arr : this.array(island.arr);
          for (let k = 0; k < values.length; k++)
            array[+island['@'] + k] = values[k];
        }
      }
      if (hasOwn(form, 'ps'))
        this.assign(array, form.ps);
      if (form.len)
        array.length = form.len;
      return array;
    }

    map(form) {
      const map = this.remember(new lib.Map());
      const names = new Inner(this).array(form.mapKeys);
      const values = new Inner(this).array(form.mapVals);
      for (let i = 0; i < names.length; i++)
        lib.mapSet(map, names[i], values[i]);
      if (hasOwn(form, 'ps'))
        this.assign(map, form.ps);
      return map;
    }

    set(form) {
      const set = this.remember(new lib.Set());
      const values = new Inner(this).array(form.set);
      for (let i = 0; i < values.length; i++)
        lib.setAdd(set, values[i]);
      return set;
    }

    functionText(form) {
      const text = this.remember(new lib.String(form.arg));
      if (hasOwn(form, 'ps'))
        this.assign(text, form.ps);
      text.name = form.fnName;
      return text;
    }

    instance(form) {
      const constructor = constructorOf(form.ctr);
      let object;
      if (hasOwn(form, 'args'))
        object = construct(constructor, form.args);
      else if (hasOwn(form, 'arg'))
        object = new constructor(form.arg);
      else
        object = new constructor();
      if (form.ctr === 'Error' || form.ctr === 16)
        delete object.stack;
      this.remember(object);
      if (hasOwn(form, 'ps'))
        this.assign(object, form.ps);
      return object;
    }

    assign(object, properties) {
      const names = keys(properties);
      for (let i = 0; i < names.length; i++) {
        const value = this.value(properties[names[i]]);
        // Not by assignment: a property named __proto__ has to become one.
        lib.defineProperty(object, names[i], { __proto__: null, value, writable: true, enumerable: true, configurable: true });
      }
    }
  }

  /** Key, value and element arrays share the list of their owner without standing in it themselves. */
  class Inner extends Decoder {
    constructor(outer) {
      super();
      this.seen = outer.seen;
      this.first = true;
    }

    remember(object) {
      if (this.first) {
        this.first = false;
        return object;
      }
      return super.remember(object);
    }
  }

  function invalid(message) {
    throw new lib.TypeError(`invalid KVIN: ${message}`);
  }

  function constructorOf(label) {
    const name = typeof label === 'number' ? NUMBERED[label] : label;
    switch (name) {
      case 'Object': case 'RegExp': case 'Number': case 'String': case 'Boolean': case 'Array': case 'URL': case 'Date': case 'Set':
      case 'Map': case 'ArrayBuffer':
        if (lib[name] !== undefined)
          return lib[name];
        break;
      case 'dcpUrl$$DcpURL':
        return lib.URL ?? lib.String;
      case 'dcpEth$$Address':
        return lib.String;
      default:
        if (typeof name === 'string' && lib.errorTypes[name] !== undefined)
          return lib.errorTypes[name];
    }
    return invalid(`constructor ${quote(label)} is not known here`);
  }

  const VIEWS = {
    __proto__: null,
    Int8Array: 1, Uint8Array: 1, Uint8ClampedArray: 1, Int16Array: 2, Uint16Array: 2, Int32Array: 4, Uint32Array: 4, Float32Array: 4,
    Float64Array: 8, BigInt64Array: 8, BigUint64Array: 8, DataView: 1,
  };

  function view(form) {
    const name = typeof form.ctr === 'number' ? NUMBERED[form.ctr] : form.ctr;
    // Outside Node there is no Buffer; its bytes are what counts.
    const type = name === 'Buffer' ? 'Uint8Array' : name;
    if (VIEWS[type] === undefined)
      return invalid(`binary data of type ${quote(form.ctr)}`);
    const bytes = form.ab16 !== undefined || form.isl16 !== undefined ? wideBytes(form) : narrowBytes(form);
    return new lib[type](lib.viewBuffer(bytes));
  }

  function narrowBytes(form) {
    if (form.ab8 !== undefined) {
      const bytes = new lib.Uint8Array(form.ab8.length);
      fill(bytes, 0, form.ab8);
      return bytes;
    }
    const bytes = new lib.Uint8Array(form.len);
    for (let i = 0; i < form.isl8.length; i++)
      fill(bytes, form.isl8[i]['@'], form.isl8[i][0]);
    return bytes;
  }

  function fill(bytes, offset, text) {
    for (let i = 0; i < text.length; i++)
      bytes[offset + i] = lib.charCodeAt(text, i);
  }

  function wideBytes(form) {
    const extra = hasOwn(form, 'eb');
    const bytes = new lib.Uint8Array(form.ab16 !== undefined ? form.ab16.length * 2 + (extra ? 1 : 0) : form.len);
    if (form.ab16 !== undefined)
      fillWide(bytes, 0, form.ab16);
    else {
      for (let i = 0; i < form.isl16.length; i++)
        fillWide(bytes, form.isl16[i]['@'], form.isl16[i][0]);
    }
    if (extra)
      bytes[lib.viewByteLength(bytes) - 1] = typeof form.eb === 'string' ? lib.charCodeAt(form.eb, 0) : form.eb;
    return bytes;
  }

  function fillWide(bytes, offset, text) {
    for (let i = 0; i < text.length; i++) {
      const code = lib.charCodeAt(text, i);
      bytes[(offset + i) * 2] = code & 255;
      bytes[(offset + i) * 2 + 1] = code >> 8;
    }
  }

  // --------------------------------------------------------------------------------------------- entry points

  function unmarshal(object) {
    if (object === null || typeof object !== 'object' || !hasOwn(object, '_serializeVerId'))
      return invalid('no version');
    switch (object._serializeVerId) {
      case 'v4': case 'v5': case 'v6': case 'v7': case 'v8': case 'v9':
        return new Decoder().value(object.what);
      default:
        return invalid(`version ${quote(object._serializeVerId)}`);
    }
  }

  lib.kvin = {
    __proto__: null,
    /** Prepared form of a value, as JSON text; `base` = number of objects that stand before it in an enclosing text. */
    prepare: (value, base, plain = false) => new Encoder(base, plain).value(value),
    stringify: (value, plain = false) => `{"_serializeVerId":"${VERSION}","what":${new Encoder(0, plain).value(value)}}`,
    unmarshal,
    parse: (text) => unmarshal(lib.parse(text)),
    bytesOf,
    latin1,
  };
});
