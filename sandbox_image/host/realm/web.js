/*
 * What a web worker has and work functions count on: Blob, Headers, Request, Response, fetch, crypto, performance,
 * navigator, location, events.
 */
(function web(lib) {
  'use strict';
  const { TypeError, Uint8Array, defineProperty } = lib;

  // --------------------------------------------------------------------------------------------------- Blob

  class Blob {
    #bytes;
    #type;
    constructor(parts = [], options = {}) {
      if (typeof parts !== 'object' || parts === null || typeof parts[lib.symbolIterator] !== 'function')
        throw new TypeError('Blob: a sequence of parts is needed');
      const chunks = [];
      let size = 0;
      for (const part of parts) {
        const chunk = bytesOfBody(part);
        size += lib.viewByteLength(chunk);
        lib.arrayPush(chunks, chunk);
      }
      this.#bytes = new Uint8Array(size);
      for (let i = 0, at = 0; i < chunks.length; i++) {
        lib.typedSet(this.#bytes, chunks[i], at);
        at += lib.viewByteLength(chunks[i]);
      }
      const type = options?.type === undefined ? '' : `${options.type}`;
      this.#type = lib.regExpExec(/^[\x20-\x7e]*$/, type) === null ? '' : lib.toLowerCase(type);
    }

    static bytes(blob) {
      return blob !== null && typeof blob === 'object' && #bytes in blob ? blob.#bytes : null;
    }

    get size() { return lib.viewByteLength(this.#bytes); }
    get type() { return this.#type; }
    async text() { return lib.decodeUtf8(this.#bytes); }
    async arrayBuffer() { return lib.viewBuffer(new Uint8Array(this.#bytes)); }
    async bytes() { return new Uint8Array(this.#bytes); }
    slice(start = 0, end = this.size, type = '') {
      const { size } = this;
      const from = start < 0 ? lib.max(size + start, 0) : lib.min(start, size);
      const to = end < 0 ? lib.max(size + end, 0) : lib.min(end, size);
      return new Blob([lib.typedSubarray(this.#bytes, from, lib.max(from, to))], { type });
    }
    get [lib.symbolToStringTag]() { return 'Blob'; }
  }
  const blobBytes = Blob.bytes;
  delete Blob.bytes;

  function bytesOfBody(body) {
    const bytes = blobBytes(body);
    if (bytes !== null)
      return bytes;
    const tag = lib.objectToString(body);
    if (lib.isView(body) || tag === '[object ArrayBuffer]' || tag === '[object SharedArrayBuffer]')
      return new Uint8Array(lib.bytesOfSource(body));
    return lib.encodeUtf8(`${body}`);
  }

  // ------------------------------------------------------------------------------------------------ Headers

  class Headers {
    #entries = new lib.Map();
    constructor(init) {
      if (init === undefined || init === null)
        return;
      if (typeof init[lib.symbolIterator] === 'function') {
        for (const pair of init) {
          if (pair.length !== 2)
            throw new TypeError('Headers: every entry must be a name and a value');
          this.append(pair[0], pair[1]);
        }
      } else {
        const names = lib.keys(init);
        for (let i = 0; i < names.length; i++)
          this.append(names[i], init[names[i]]);
      }
    }

    append(name, value) {
      const key = headerName(name);
      const before = lib.mapGet(this.#entries, key);
      lib.mapSet(this.#entries, key, before === undefined ? headerValue(value) : `${before}, ${headerValue(value)}`);
    }

    delete(name) { lib.mapDelete(this.#entries, headerName(name)); }
    get(name) { return lib.mapGet(this.#entries, headerName(name)) ?? null; }
    has(name) { return lib.mapHas(this.#entries, headerName(name)); }
    set(name, value) { lib.mapSet(this.#entries, headerName(name), headerValue(value)); }
    forEach(callback, self) {
      const entries = this.#list();
      for (let i = 0; i < entries.length; i++)
        lib.apply(callback, self, [entries[i][1], entries[i][0], this]);
    }
    #list() {
      const entries = [];
      lib.mapForEach(this.#entries, (value, name) => { lib.arrayPush(entries, [name, value]); });
      return lib.arraySort(entries, (a, b) => (a[0] < b[0] ? -1 : 1));
    }
    * entries() {
      const entries = this.#list();
      for (let i = 0; i < entries.length; i++)
        yield entries[i];
    }
    * keys() {
      const entries = this.#list();
      for (let i = 0; i < entries.length; i++)
        yield entries[i][0];
    }
    * values() {
      const entries = this.#list();
      for (let i = 0; i < entries.length; i++)
        yield entries[i][1];
    }
    get [lib.symbolToStringTag]() { return 'Headers'; }
  }
  defineProperty(Headers.prototype, lib.symbolIterator, {
    __proto__: null, value: Headers.prototype.entries, writable: true, configurable: true,
  });

  function headerName(name) {
    const text = `${name}`;
    if (lib.regExpExec(/^[a-z0-9\-#$%&'*+.^_`|~!]+$/i, text) === null)
      throw new TypeError(`Headers: invalid name ${text}`);
    return lib.toLowerCase(text);
  }

  function headerValue(value) {
    const text = lib.trim(`${value}`);
    if (lib.regExpExec(/[\0\r\n]/, text) !== null)
      throw new TypeError('Headers: invalid value');
    return text;
  }

  // ------------------------------------------------------------------------------------- Request and Response

  class Body {
    #bytes = null;
    #used = false;
    static fill(target, body) {
      if (body !== undefined && body !== null)
        target.#bytes = bytesOfBody(body);
      const type = typeof body === 'string' ? 'text/plain;charset=UTF-8' : blobBytes(body) !== null ? body.type
        : body instanceof lib.URLSearchParams ? 'application/x-www-form-urlencoded;charset=UTF-8' : '';
      if (type !== '' && !target.headers.has('content-type'))
        target.headers.set('content-type', type);
    }
    static peek(source) { return source.#bytes; }
    #take() {
      if (this.#used)
        throw new TypeError('Body has already been read');
      this.#used = this.#bytes !== null;
      return this.#bytes ?? new Uint8Array(0);
    }
    get bodyUsed() { return this.#used; }
    async arrayBuffer() { return lib.viewBuffer(new Uint8Array(this.#take())); }
    async bytes() { return new Uint8Array(this.#take()); }
    async blob() { return new Blob([this.#take()], { type: this.headers.get('content-type') ?? '' }); }
    async text() { return lib.decodeUtf8(this.#take()); }
    async json() { return lib.parse(lib.decodeUtf8(this.#take())); }
  }
  const { fill: fillBody, peek: peekBody } = Body;
  delete Body.fill;
  delete Body.peek;

  class Request extends Body {
    constructor(input, options = {}) {
      super();
      const from = input instanceof Request ? input : null;
      if (from?.bodyUsed)
        throw new TypeError('Request: its body has already been read');
      this.url = from ? from.url : `${input}`;
      this.method = methodName(options.method ?? from?.method ?? 'GET');
      this.headers = new Headers(options.headers ?? from?.headers);
      this.mode = options.mode ?? from?.mode ?? 'cors';
      this.credentials = options.credentials ?? from?.credentials ?? 'same-origin';
      this.cache = options.cache ?? from?.cache ?? 'default';
      const body = options.body ?? (from ? peekBody(from) : undefined);
      if (body !== undefined && body !== null && (this.method === 'GET' || this.method === 'HEAD'))
        throw new TypeError('Request: GET and HEAD have no body');
      fillBody(this, body);
    }
    clone() { return new Request(this); }
    get [lib.symbolToStringTag]() { return 'Request'; }
  }

  function methodName(method) {
    const upper = lib.toUpperCase(`${method}`);
    const known = ['CONNECT', 'DELETE', 'GET', 'HEAD', 'OPTIONS', 'PATCH', 'POST', 'PUT', 'TRACE'];
    return lib.arrayIndexOf(known, upper) >= 0 ? upper : `${method}`;
  }

  class Response extends Body {
    #type = 'default';
    constructor(body, options = {}) {
      super();
      this.status = options.status === undefined ? 200 : +options.status;
      if (!(this.status >= 200 && this.status <= 599))
        throw new lib.RangeError('Response: status must be between 200 and 599');
      this.statusText = options.statusText === undefined ? '' : `${options.statusText}`;
      this.headers = new Headers(options.headers);
      this.url = '';
      this.redirected = false;
      fillBody(this, body);
    }
    static fetched(data, bytes) {
      const response = new Response(bytes, { status: data.status, statusText: data.statusText, headers: data.headersEntries });
      response.url = `${data.url}`;
      return response;
    }
    static error() {
      const response = new Response(null);
      response.#type = 'error';
      response.status = 0;
      return response;
    }
    static redirect(location, status = 302) {
      if (lib.arrayIndexOf([301, 302, 303, 307, 308], status) < 0)
        throw new lib.RangeError('Response: invalid status for a redirect');
      return new Response(null, { status, headers: { location: `${location}` } });
    }
    static json(value, options = {}) {
      const headers = new Headers(options.headers);
      if (!headers.has('content-type'))
        headers.set('content-type', 'application/json');
      return new Response(lib.stringify(value), { status: options.status, statusText: options.statusText, headers });
    }
    get ok() { return this.status >= 200 && this.status < 300; }
    get type() { return this.#type; }
    clone() {
      const { status, statusText, headers } = this;
      const copy = new Response(peekBody(this), { status, statusText, headers });
      copy.url = this.url;
      return copy;
    }
    get [lib.symbolToStringTag]() { return 'Response'; }
  }
  const { fetched } = Response;
  delete Response.fetched;

  // -------------------------------------------------------------------------------------------------- fetch

  /** Requests without an answer: number → [resolve, reject]. */
  const unanswered = new lib.Map();
  let fetches = 0;

  function fetch(input, init) {
    return new lib.Promise((resolve, reject) => {
      const request = new Request(input, init);
      const bytes = peekBody(request);
      const headersEntries = [];
      for (const pair of request.headers.entries())
        lib.arrayPush(headersEntries, pair);
      const { url, method, mode, credentials } = request;
      const data = { url, method, headersEntries, mode, credentials };
      let text;
      if (lib.pipelined) {
        data.bodyBase64 = bytes === null ? null : lib.base64OfBytes(bytes);
        text = lib.stringify(data);
      } else {
        data.bodyBuffer = bytes;
        text = lib.kvin.prepare(data, 2);
      }
      const id = ++fetches;
      lib.mapSet(unanswered, id, [resolve, reject]);
      if (!lib.send('fetch', id, text)) {
        lib.mapDelete(unanswered, id);
        throw new TypeError('fetch: the request is larger than 1 MB');
      }
    });
  }

  /** `message` is a fetchResponse or a fetchError. */
  lib.answerFetch = (message) => {
    const id = message.fetchId ?? message.id;
    const waiting = lib.mapGet(unanswered, id);
    if (waiting === undefined)
      return;
    lib.mapDelete(unanswered, id);
    try {
      if (message.request === 'fetchError')
        throw fetchFailure(message.error);
      const { data } = message;
      const bytes = typeof data.bodyBase64 === 'string' ? lib.bytesOfBase64(data.bodyBase64) : data.bodyBuffer;
      waiting[0](fetched(data, bytes ?? null));
    } catch (error) {
      waiting[1](error);
    }
  };
  lib.forgetFetches = () => { lib.mapClear(unanswered); };

  function fetchFailure(cause) {
    const error = new TypeError(`${cause?.message ?? 'fetch failed'}`);
    if (cause?.code !== undefined)
      error.code = `${cause.code}`;
    return error;
  }

  // ----------------------------------------------------------------------------------------- the small things

  const crypto = {
    getRandomValues(array) {
      const tag = lib.isView(array) ? lib.viewTag(array) : undefined;
      if (tag === undefined || tag === 'Float32Array' || tag === 'Float64Array')
        throw new lib.DOMException('getRandomValues: an integer typed array is needed', 'TypeMismatchError');
      const bytes = lib.kvin.bytesOf(array);
      const length = lib.viewByteLength(bytes);
      if (length > 65536)
        throw new lib.DOMException('getRandomValues: more than 65536 bytes', 'QuotaExceededError');
      const random = lib.randomBytes(length);
      for (let i = 0; i < length; i++)
        bytes[i] = lib.charCodeAt(random, i);
      return array;
    },
    randomUUID() {
      const random = lib.randomBytes(16);
      let text = '';
      for (let i = 0; i < 16; i++) {
        let byte = lib.charCodeAt(random, i);
        if (i === 6)
          byte = (byte & 0x0f) | 0x40;
        if (i === 8)
          byte = (byte & 0x3f) | 0x80;
        text += (i === 4 || i === 6 || i === 8 || i === 10 ? '-' : '') + lib.padStart(lib.numberToString(byte, 16), 2, '0');
      }
      return text;
    },
  };

  const origin = lib.clock();
  const performance = {
    // A tenth of a millisecond: fine enough to time work, too coarse to time caches.
    now() { return lib.floor((lib.clock() - origin) * 10) / 10; },
    timeOrigin: lib.floor(lib.epochTime + origin),
    toJSON() { return { timeOrigin: performance.timeOrigin }; },
  };

  /** Event listeners are accepted as a worker's global accepts them; no event of the outside reaches the job. */
  const ignore = () => {};
  lib.globals({
    self: lib.global,
    WorkerGlobalScope: lib.global,
    Blob,
    Headers,
    Request,
    Response,
    fetch,
    crypto,
    performance,
    navigator: { userAgent: 'not a browser' },
    location: { search: '', href: 'DCP Worker' },
    importScripts() { throw new lib.Error('importScripts is not supported on DCP'); },
    postMessage(message) { ignore(message); },
    addEventListener(type, listener) { ignore(type, listener); },
    removeEventListener(type, listener) { ignore(type, listener); },
    onmessage: null,
    onerror: null,
  });
});
