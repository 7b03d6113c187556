'use strict';
/* data: URIs, read as the DCP client reads them: what it could not read is an error here, too. */

const { isUtf8 } = require('buffer');

const UTF8 = ['utf-8', 'utf8'];
const CHARSETS = [...UTF8, 'iso-8859-1', 'latin1', 'latin-1', 'us-ascii', 'ascii'];

/**
 * What a URI carries: {kind, text, contentType}. kind is 'text', 'boxed' (text of a type other than plain), 'json', 'kvin'
 * or 'bytes' (one character each).
 */
exports.decode = function decode(uri) {
  const comma = typeof uri === 'string' && uri.startsWith('data:') ? uri.indexOf(',') : -1;
  if (comma < 0)
    throw new TypeError('a data: URI is needed');
  const parameters = uri.slice(5, comma).split(';');
  const contentType = parameters[0].trim().toLowerCase() || 'text/plain';
  const isBase64 = parameters.includes('base64', 1);
  const charset = parameters.find((parameter) => /^charset=/i.test(parameter))?.slice(8).toLowerCase();
  const body = uri.slice(comma + 1);
  const kind = kindOf(contentType);
  if (kind !== 'bytes' && charset !== undefined && !CHARSETS.includes(charset))
    throw new TypeError(`character set ${JSON.stringify(charset.slice(0, 40))} is not known`);
  if (isBase64) {
    const bytes = base64Bytes(body.includes('%') ? decodeURIComponent(body) : body);
    const asUtf8 = kind !== 'bytes' && UTF8.includes(charset);
    if (asUtf8 && !isUtf8(bytes))
      throw new TypeError('the content is not UTF-8');
    return { kind, text: bytes.toString(asUtf8 ? 'utf8' : 'latin1'), contentType };
  }
  if (kind === 'bytes')
    return { kind, text: percentBytes(body), contentType };
  // decodeURI, not decodeURIComponent: writers leave reserved characters as they are, and so must a reader.
  return { kind, text: body.includes('%') ? decodeURI(body) : body, contentType };
};

function kindOf(contentType) {
  switch (contentType) {
    case 'text/plain': return 'text';
    case 'application/json': return 'json';
    case 'application/x-kvin': return 'kvin';
    default: return contentType.startsWith('text/') ? 'boxed' : 'bytes';
  }
}

/** Node skips what does not belong into base64, so the count tells whether there was any. */
function base64Bytes(text) {
  const bytes = Buffer.from(text, 'base64');
  if (bytes.length !== lengthOf(text)) {
    const bare = text.replace(/[\t\n\f\r ]/g, '');
    if (bytes.length !== lengthOf(bare))
      throw new TypeError('malformed base64');
  }
  return bytes;
}

/** How many bytes these characters stand for; -1 for a number of them that cannot be. */
function lengthOf(text) {
  let { length } = text;
  if (length % 4 === 0 && text.endsWith('='))
    length -= text.endsWith('==') ? 2 : 1;
  return length % 4 === 1 ? -1 : Math.floor(length * 3 / 4);
}

function percentBytes(body) {
  const bytes = Buffer.from(body);
  let to = 0;
  for (let i = 0; i < bytes.length; i++) {
    if (bytes[i] !== 37) {
      bytes[to++] = bytes[i];
      continue;
    }
    const digits = bytes.toString('latin1', i + 1, i + 3);
    if (!/^[0-9a-f]{2}$/i.test(digits))
      throw new URIError('malformed escape');
    bytes[to++] = Number.parseInt(digits, 16);
    i += 2;
  }
  return bytes.toString('latin1', 0, to);
}
