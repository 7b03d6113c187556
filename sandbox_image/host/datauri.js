'use strict';
/* data: URIs, read as the DCP client reads them. */

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
  if (isBase64) {
    const bytes = Buffer.from(body.includes('%') ? decodeURIComponent(body) : body, 'base64');
    const isUtf8 = kind !== 'bytes' && (charset === 'utf-8' || charset === 'utf8');
    return { kind, text: bytes.toString(isUtf8 ? 'utf8' : 'latin1'), contentType };
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

function percentBytes(body) {
  const bytes = Buffer.from(body);
  let to = 0;
  for (let i = 0; i < bytes.length; i++) {
    const hex = bytes[i] === 37 ? Number.parseInt(bytes.toString('latin1', i + 1, i + 3), 16) : Number.NaN;
    bytes[to++] = Number.isNaN(hex) ? bytes[i] : hex;
    if (!Number.isNaN(hex))
      i += 2;
  }
  return bytes.toString('latin1', 0, to);
}
