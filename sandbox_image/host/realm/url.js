/* URL and URLSearchParams. The host parses (URLs are text both ways); these classes hold the parts. */
(function url(lib) {
  'use strict';
  const { TypeError, defineProperty } = lib;

  class URLSearchParams {
    #pairs = [];
    #changed = null;
    constructor(init = '') {
      if (typeof init === 'object' && init !== null) {
        if (#pairs in init)
          this.#copy(init.#pairs);
        else if (typeof init[lib.symbolIterator] === 'function') {
          for (const pair of init)
            this.append(pair[0], pair[1]);
        } else {
          const names = lib.keys(init);
          for (let i = 0; i < names.length; i++)
            this.append(names[i], init[names[i]]);
        }
      } else
        this.#pairs = parsePairs(`${init}`);
    }

    /** The parameters of a URL: `changed` is told of every change. */
    static of(query, changed) {
      const parameters = new URLSearchParams(query);
      parameters.#changed = changed;
      return parameters;
    }

    static replace(parameters, query) {
      parameters.#pairs = parsePairs(query);
    }

    #copy(pairs) {
      for (let i = 0; i < pairs.length; i++)
        this.append(pairs[i][0], pairs[i][1]);
    }

    #tell() {
      if (this.#changed !== null)
        this.#changed(this.toString());
    }

    #filter(keep) {
      const kept = [];
      for (let i = 0; i < this.#pairs.length; i++) {
        if (keep(this.#pairs[i]))
          lib.arrayPush(kept, this.#pairs[i]);
      }
      return kept;
    }

    get size() { return this.#pairs.length; }

    append(name, value) {
      lib.arrayPush(this.#pairs, [lib.toWellFormed(`${name}`), lib.toWellFormed(`${value}`)]);
      this.#tell();
    }

    delete(name, value) {
      this.#pairs = this.#filter((pair) => pair[0] !== `${name}` || (value !== undefined && pair[1] !== `${value}`));
      this.#tell();
    }

    get(name) {
      const found = this.#filter((pair) => pair[0] === `${name}`);
      return found.length > 0 ? found[0][1] : null;
    }

    getAll(name) {
      const found = this.#filter((pair) => pair[0] === `${name}`);
      for (let i = 0; i < found.length; i++)
        found[i] = found[i][1];
      return found;
    }

    has(name, value) {
      return this.#filter((pair) => pair[0] === `${name}` && (value === undefined || pair[1] === `${value}`)).length > 0;
    }

    set(name, value) {
      const key = lib.toWellFormed(`${name}`);
      let first = null;
      this.#pairs = this.#filter((pair) => {
        if (pair[0] !== key)
          return true;
        const keep = first === null;
        first ??= pair;
        return keep;
      });
      if (first === null)
        lib.arrayPush(this.#pairs, [key, lib.toWellFormed(`${value}`)]);
      else
        first[1] = lib.toWellFormed(`${value}`);
      this.#tell();
    }

    sort() {
      lib.arraySort(this.#pairs, (a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0));
      this.#tell();
    }

    forEach(callback, self) {
      for (let i = 0; i < this.#pairs.length; i++)
        lib.apply(callback, self, [this.#pairs[i][1], this.#pairs[i][0], this]);
    }

    * entries() {
      for (let i = 0; i < this.#pairs.length; i++)
        yield [this.#pairs[i][0], this.#pairs[i][1]];
    }

    * keys() {
      for (let i = 0; i < this.#pairs.length; i++)
        yield this.#pairs[i][0];
    }

    * values() {
      for (let i = 0; i < this.#pairs.length; i++)
        yield this.#pairs[i][1];
    }

    toString() {
      let text = '';
      for (let i = 0; i < this.#pairs.length; i++)
        text += `${i > 0 ? '&' : ''}${formEncode(this.#pairs[i][0])}=${formEncode(this.#pairs[i][1])}`;
      return text;
    }

    get [lib.symbolToStringTag]() { return 'URLSearchParams'; }
  }
  defineProperty(URLSearchParams.prototype, lib.symbolIterator, {
    __proto__: null, value: URLSearchParams.prototype.entries, writable: true, configurable: true,
  });
  const { of: parametersOf, replace: replaceParameters } = URLSearchParams;
  delete URLSearchParams.of;
  delete URLSearchParams.replace;

  /** application/x-www-form-urlencoded */
  function formEncode(string) {
    const bytes = lib.encodeUtf8(string);
    let text = '';
    for (let i = 0; i < lib.viewByteLength(bytes); i++) {
      const byte = bytes[i];
      const plain = (byte >= 48 && byte <= 57) || (byte >= 65 && byte <= 90) || (byte >= 97 && byte <= 122)
        || byte === 42 || byte === 45 || byte === 46 || byte === 95;
      if (plain)
        text += lib.fromCharCode(byte);
      else
        text += byte === 32 ? '+' : `%${lib.padStart(lib.toUpperCase(lib.numberToString(byte, 16)), 2, '0')}`;
    }
    return text;
  }

  function formDecode(string) {
    const bytes = lib.encodeUtf8(string);
    const length = lib.viewByteLength(bytes);
    let to = 0;
    for (let i = 0; i < length; i++) {
      const hex = bytes[i] === 37 ? hexByte(bytes[i + 1], bytes[i + 2]) : -1;
      if (hex >= 0)
        i += 2;
      bytes[to++] = hex >= 0 ? hex : bytes[i] === 43 ? 32 : bytes[i];
    }
    return lib.decodeUtf8(lib.typedSubarray(bytes, 0, to));
  }

  function hexByte(high, low) {
    const digit = (code) => (code >= 48 && code <= 57 ? code - 48 : code >= 65 && code <= 70 ? code - 55 : code >= 97 && code <= 102 ? code - 87 : -1);
    const value = digit(high) * 16 + digit(low);
    return digit(high) < 0 || digit(low) < 0 ? -1 : value;
  }

  function parsePairs(query) {
    const pairs = [];
    const parts = lib.split(query[0] === '?' ? lib.sliceString(query, 1) : query, '&');
    for (let i = 0; i < parts.length; i++) {
      if (parts[i] === '')
        continue;
      const at = lib.indexOfString(parts[i], '=');
      const name = at < 0 ? parts[i] : lib.sliceString(parts[i], 0, at);
      lib.arrayPush(pairs, [formDecode(name), at < 0 ? '' : formDecode(lib.sliceString(parts[i], at + 1))]);
    }
    return pairs;
  }

  function parse(href, base, part, value) {
    const text = lib.parseUrl(href, base, part, value);
    return text === '' ? null : lib.parse(text);
  }

  class URL {
    #parts;
    #parameters = null;
    constructor(href, base) {
      this.#parts = parse(`${href}`, base === undefined ? '' : `${base}`, '', '');
      if (this.#parts === null)
        throw new TypeError(`Invalid URL: ${href}`);
    }

    static canParse(href, base) {
      return parse(`${href}`, base === undefined ? '' : `${base}`, '', '') !== null;
    }

    static parse(href, base) {
      return URL.canParse(href, base) ? new URL(href, base) : null;
    }

    static change(url, part, value) {
      const parts = parse(url.#parts.href, '', part, `${value}`);
      if (parts === null)
        throw new TypeError(`Invalid URL: ${value}`);
      url.#parts = parts;
      if (url.#parameters !== null && part !== 'parameters')
        replaceParameters(url.#parameters, parts.search);
    }

    static part(url, name) {
      return url.#parts[name];
    }

    get searchParams() {
      this.#parameters ??= parametersOf(this.#parts.search, (query) => {
        this.#parts = parse(this.#parts.href, '', 'search', query) ?? this.#parts;
      });
      return this.#parameters;
    }

    toString() { return this.#parts.href; }
    toJSON() { return this.#parts.href; }
    get [lib.symbolToStringTag]() { return 'URL'; }
  }
  const { change, part } = URL;
  delete URL.change;
  delete URL.part;
  const PARTS = ['href', 'origin', 'protocol', 'username', 'password', 'host', 'hostname', 'port', 'pathname', 'search', 'hash'];
  for (let i = 0; i < PARTS.length; i++) {
    const name = PARTS[i];
    const accessor = {
      __proto__: null,
      get() { return part(this, name); },
      set(value) { change(this, name, value); },
      enumerable: false,
      configurable: true,
    };
    if (name === 'origin')
      accessor.set = undefined;
    defineProperty(URL.prototype, name, accessor);
  }

  lib.URL = URL;
  lib.URLSearchParams = URLSearchParams;
  lib.globals({ URL, URLSearchParams });
});
