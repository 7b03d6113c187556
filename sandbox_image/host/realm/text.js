/* TextEncoder, TextDecoder, atob and btoa. */
(function text(lib) {
  'use strict';
  const { charCodeAt, fromCharCode, apply, typedSubarray, Uint8Array, TypeError, RangeError } = lib;
  const CHUNK = 4096;
  const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';

  class DOMException extends lib.Error {
    #name;
    constructor(message = '', name = 'Error') {
      super(`${message}`);
      this.#name = `${name}`;
    }
    get name() { return this.#name; }
    get code() { return this.#name === 'InvalidCharacterError' ? 5 : this.#name === 'QuotaExceededError' ? 22 : 0; }
    get [lib.symbolToStringTag]() { return 'DOMException'; }
  }
  lib.DOMException = DOMException;

  // -------------------------------------------------------------------------------------------------- UTF-8

  function utf8Length(string) {
    let length = 0;
    for (let i = 0; i < string.length; i++) {
      const code = charCodeAt(string, i);
      if (code < 0x80)
        length += 1;
      else if (code < 0x800)
        length += 2;
      else if (code >= 0xd800 && code < 0xdc00 && isLow(charCodeAt(string, i + 1))) {
        length += 4;
        i++;
      } else
        length += 3;
    }
    return length;
  }

  function isLow(code) {
    return code >= 0xdc00 && code < 0xe000;
  }

  /** Write as many whole characters as fit. */
  function writeUtf8(string, bytes) {
    const room = lib.viewByteLength(bytes);
    let at = 0;
    let i = 0;
    for (; i < string.length; i++) {
      let code = charCodeAt(string, i);
      if (code < 0x80) {
        if (at >= room)
          break;
        bytes[at++] = code;
        continue;
      }
      let units = 1;
      if (code >= 0xd800 && code < 0xe000) {
        const low = charCodeAt(string, i + 1);
        if (code < 0xdc00 && isLow(low)) {
          code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
          units = 2;
        } else
          code = 0xfffd;
      }
      const size = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
      if (at + size > room)
        break;
      if (size === 2)
        bytes[at++] = 0xc0 | (code >> 6);
      else if (size === 3) {
        bytes[at++] = 0xe0 | (code >> 12);
        bytes[at++] = 0x80 | ((code >> 6) & 63);
      } else {
        bytes[at++] = 0xf0 | (code >> 18);
        bytes[at++] = 0x80 | ((code >> 12) & 63);
        bytes[at++] = 0x80 | ((code >> 6) & 63);
      }
      bytes[at++] = 0x80 | (code & 63);
      i += units - 1;
    }
    return { __proto__: null, read: i, written: at };
  }

  function encodeUtf8(string) {
    const bytes = new Uint8Array(utf8Length(string));
    writeUtf8(string, bytes);
    return bytes;
  }
  lib.encodeUtf8 = encodeUtf8;

  /** Collects UTF-16 units and turns them into a string in chunks. */
  class Units {
    constructor() {
      this.units = new lib.Uint16Array(CHUNK + 2);
      this.count = 0;
      this.text = '';
    }

    add(code) {
      if (code > 0xffff) {
        this.units[this.count++] = 0xd7c0 + (code >> 10);
        this.units[this.count++] = 0xdc00 | (code & 0x3ff);
      } else
        this.units[this.count++] = code;
      if (this.count >= CHUNK)
        this.flush();
    }

    flush() {
      this.text += apply(fromCharCode, null, typedSubarray(this.units, 0, this.count));
      this.count = 0;
    }

    end() {
      this.flush();
      return this.text;
    }
  }

  /** The decoder of the Encoding standard: ill-formed input gives U+FFFD, or an error when `fatal`. */
  class Utf8 {
    constructor(fatal) {
      this.fatal = fatal;
      this.reset();
    }

    reset() {
      this.point = 0;
      this.needed = 0;
      this.lower = 0x80;
      this.upper = 0xbf;
    }

    decode(bytes, out, last) {
      const length = lib.viewByteLength(bytes);
      for (let i = 0; i < length; i++) {
        const byte = bytes[i];
        if (this.needed === 0) {
          if (byte < 0x80)
            out.add(byte);
          else
            this.lead(byte, out);
        } else if (byte < this.lower || byte > this.upper) {
          this.reset();
          this.bad(out);
          i--;
        } else {
          this.lower = 0x80;
          this.upper = 0xbf;
          this.point = (this.point << 6) | (byte & 63);
          if (--this.needed === 0)
            out.add(this.point);
        }
      }
      if (last && this.needed > 0) {
        this.reset();
        this.bad(out);
      }
    }

    lead(byte, out) {
      if (byte >= 0xc2 && byte <= 0xdf) {
        this.needed = 1;
        this.point = byte & 0x1f;
      } else if (byte >= 0xe0 && byte <= 0xef) {
        this.needed = 2;
        this.point = byte & 0xf;
        this.lower = byte === 0xe0 ? 0xa0 : 0x80;
        this.upper = byte === 0xed ? 0x9f : 0xbf;
      } else if (byte >= 0xf0 && byte <= 0xf4) {
        this.needed = 3;
        this.point = byte & 7;
        this.lower = byte === 0xf0 ? 0x90 : 0x80;
        this.upper = byte === 0xf4 ? 0x8f : 0xbf;
      } else
        this.bad(out);
    }

    bad(out) {
      if (this.fatal)
        throw new TypeError('The encoded data was not valid');
      out.add(0xfffd);
    }
  }

  class Utf16 {
    constructor(fatal) {
      this.fatal = fatal;
      this.half = -1;
      this.high = -1;
    }

    decode(bytes, out, last) {
      const length = lib.viewByteLength(bytes);
      for (let i = 0; i < length; i++) {
        if (this.half < 0) {
          this.half = bytes[i];
          continue;
        }
        this.unit(this.half | (bytes[i] << 8), out);
        this.half = -1;
      }
      if (last && (this.half >= 0 || this.high >= 0)) {
        this.half = this.high = -1;
        this.bad(out);
      }
    }

    unit(unit, out) {
      if (this.high >= 0) {
        const high = this.high;
        this.high = -1;
        if (isLow(unit)) {
          out.add(0x10000 + ((high - 0xd800) << 10) + (unit - 0xdc00));
          return;
        }
        this.bad(out);
      }
      if (unit >= 0xd800 && unit < 0xdc00)
        this.high = unit;
      else if (isLow(unit))
        this.bad(out);
      else
        out.add(unit);
    }

    bad(out) {
      if (this.fatal)
        throw new TypeError('The encoded data was not valid');
      out.add(0xfffd);
    }
  }

  /** Windows-1252, which the web means by Latin-1 and ASCII. */
  const HIGH_LATIN = '\u20ac\x81\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\x8d\u017d\x8f'
    + '\x90\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\x9d\u017e\u0178';
  class Latin {
    decode(bytes, out) {
      const length = lib.viewByteLength(bytes);
      for (let i = 0; i < length; i++)
        out.add(bytes[i] >= 0x80 && bytes[i] < 0xa0 ? charCodeAt(HIGH_LATIN, bytes[i] - 0x80) : bytes[i]);
    }
  }

  lib.decodeUtf8 = (bytes) => {
    const out = new Units();
    new Utf8(false).decode(bytes, out, true);
    const string = out.end();
    return charCodeAt(string, 0) === 0xfeff ? lib.sliceString(string, 1) : string;
  };

  /** Bytes of a buffer or view, without copying. */
  lib.bytesOfSource = (source) => {
    if (source === undefined)
      return new Uint8Array(0);
    if (lib.isView(source))
      return lib.kvin.bytesOf(source);
    try {
      return new Uint8Array(source, 0, lib.arrayBufferByteLength(source));
    } catch {
      if (lib.objectToString(source) === '[object SharedArrayBuffer]')
        return new Uint8Array(source);
      throw new TypeError('an ArrayBuffer or a view of one is needed');
    }
  };

  const LABELS = {
    __proto__: null,
    'utf-8': 'utf-8', 'utf8': 'utf-8', 'unicode-1-1-utf-8': 'utf-8', 'utf-16le': 'utf-16le', 'utf-16': 'utf-16le', 'ucs-2': 'utf-16le',
    'latin1': 'windows-1252', 'iso-8859-1': 'windows-1252', 'ascii': 'windows-1252', 'us-ascii': 'windows-1252', 'windows-1252': 'windows-1252',
  };

  class TextDecoder {
    #encoding;
    #fatal;
    #ignoreBom;
    #decoder = null;
    #started = false;
    constructor(label = 'utf-8', options = {}) {
      this.#encoding = LABELS[lib.toLowerCase(lib.trim(`${label}`))];
      if (this.#encoding === undefined)
        throw new RangeError(`TextDecoder: encoding ${label} is not supported`);
      this.#fatal = !!options?.fatal;
      this.#ignoreBom = !!options?.ignoreBOM;
    }

    get encoding() { return this.#encoding; }
    get fatal() { return this.#fatal; }
    get ignoreBOM() { return this.#ignoreBom; }

    decode(source, options) {
      const more = !!options?.stream;
      this.#decoder ??= this.#encoding === 'utf-8' ? new Utf8(this.#fatal) : this.#encoding === 'utf-16le' ? new Utf16(this.#fatal) : new Latin();
      const out = new Units();
      try {
        this.#decoder.decode(lib.bytesOfSource(source), out, !more);
      } catch (error) {
        this.#decoder = null;
        this.#started = false;
        throw error;
      }
      let string = out.end();
      if (!this.#started && string !== '') {
        this.#started = true;
        if (!this.#ignoreBom && charCodeAt(string, 0) === 0xfeff)
          string = lib.sliceString(string, 1);
      }
      if (!more) {
        this.#decoder = null;
        this.#started = false;
      }
      return string;
    }

    get [lib.symbolToStringTag]() { return 'TextDecoder'; }
  }

  class TextEncoder {
    get encoding() { return 'utf-8'; }
    encode(string = '') { return encodeUtf8(`${string}`); }
    encodeInto(string, bytes) {
      const { read, written } = writeUtf8(`${string}`, bytes);
      return { read, written };
    }
    get [lib.symbolToStringTag]() { return 'TextEncoder'; }
  }

  // ------------------------------------------------------------------------------------------------- base64

  const SEXTETS = new Uint8Array(128);
  lib.typedFill(SEXTETS, 255);
  for (let i = 0; i < 64; i++)
    SEXTETS[charCodeAt(ALPHABET, i)] = i;

  function base64(length, byteAt) {
    let result = '';
    let part = '';
    for (let i = 0; i < length; i += 3) {
      const left = length - i;
      const bits = (byteAt(i) << 16) | (left > 1 ? byteAt(i + 1) << 8 : 0) | (left > 2 ? byteAt(i + 2) : 0);
      part += ALPHABET[bits >> 18] + ALPHABET[(bits >> 12) & 63] + (left > 1 ? ALPHABET[(bits >> 6) & 63] : '=') + (left > 2 ? ALPHABET[bits & 63] : '=');
      if (part.length > CHUNK) {
        result += part;
        part = '';
      }
    }
    return result + part;
  }

  /** Bytes of base64 text, or undefined if it is not. */
  function bytesOfBase64(text) {
    let clean = '';
    for (let i = 0; i < text.length; i++) {
      const code = charCodeAt(text, i);
      if (code !== 32 && code !== 9 && code !== 10 && code !== 12 && code !== 13)
        clean += text[i];
    }
    if (clean.length % 4 === 0) {
      if (lib.endsWith(clean, '=='))
        clean = lib.sliceString(clean, 0, -2);
      else if (lib.endsWith(clean, '='))
        clean = lib.sliceString(clean, 0, -1);
    }
    if (clean.length % 4 === 1)
      return undefined;
    const bytes = new Uint8Array(lib.floor(clean.length * 3 / 4));
    let bits = 0;
    let at = 0;
    for (let i = 0; i < clean.length; i++) {
      const code = charCodeAt(clean, i);
      if (code > 127 || SEXTETS[code] === 255)
        return undefined;
      bits = (bits << 6) | SEXTETS[code];
      const phase = i & 3;
      if (phase > 0)
        bytes[at++] = (bits >> (6 - 2 * phase)) & 255;
    }
    return bytes;
  }

  lib.base64OfBytes = (bytes) => base64(lib.viewByteLength(bytes), (i) => bytes[i]);
  lib.bytesOfBase64 = bytesOfBase64;

  lib.globals({
    DOMException,
    TextDecoder,
    TextEncoder,
    btoa(data) {
      const string = `${data}`;
      return base64(string.length, (i) => {
        const code = charCodeAt(string, i);
        if (code > 255)
          throw new DOMException('btoa: a character is outside of Latin-1', 'InvalidCharacterError');
        return code;
      });
    },
    atob(data) {
      const bytes = bytesOfBase64(`${data}`);
      if (bytes === undefined)
        throw new DOMException('atob: the text is not base64', 'InvalidCharacterError');
      return lib.kvin.latin1(bytes, 0, lib.viewByteLength(bytes));
    },
  });
});
