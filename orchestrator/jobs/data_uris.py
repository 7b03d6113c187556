"""data: URIs, written and read exactly as dcp-client 5.6.1 does.

The client writes with JavaScript's `encodeURI` and reads with `decodeURI`. The latter leaves escapes of reserved
characters as they are, so text escaped by stricter rules (`%3A` for a colon) does not survive (observed).
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from orchestrator import kvin
from orchestrator.errors import InvalidInput

TEXT: Final = "text/plain"
JSON: Final = "application/json"
KVIN: Final = "application/x-kvin"
BYTES: Final = "application/octet-stream"

# `encodeURI` leaves letters, digits and ;,/?:@&=+$-_.!~*'()# alone. Of the rest these occur in JSON; replacing them
# one by one is ten times faster than a regular expression. % must come first.
_COMMON: Final = tuple((char, f"%{ord(char):02X}") for char in '% "<>\\^`{|}[]')
_RARE = re.compile("[^ -~]+")
_PLAIN_CHARS: Final = frozenset(";,/?:@&=+$#-_.!~*'()abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_LATIN_1: Final = tuple(
    chr(code) if chr(code) in _PLAIN_CHARS else "".join(f"%{byte:02X}" for byte in chr(code).encode())
    for code in range(256)
)

_ESCAPE_RUN = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_RESERVED_ESCAPE = re.compile(r"%(?=3B|2C|2F|3F|3A|40|26|3D|2B|24|23|3b|2c|2f|3f|3a|3d|2b)")
_WHITESPACE = re.compile(r"[\t\n\f\r ]")

_LATIN_CHARSETS: Final = frozenset({"", "iso-8859-1", "latin1", "latin-1", "us-ascii", "ascii"})
_UTF8_CHARSETS: Final = frozenset({"utf8", "utf-8"})
# what escape() followed by decodeURI() makes of these, in the client's reading of UTF-8 in base64
_ESCAPE_QUIRK: Final = {ord(char): f"%{ord(char):02X}" for char in ";,?:&=$#"}


def escape_uri(text: str) -> str:
    """`encodeURI(text)`. Raises InvalidInput for a lone surrogate, which has no UTF-8 form."""
    binary = _latin_1(text)
    if binary is not None:
        return "".join(map(_LATIN_1.__getitem__, binary))
    for char, escaped in _COMMON:
        if char in text:
            text = text.replace(char, escaped)
    if text.isascii() and text.isprintable():
        return text
    try:
        return _RARE.sub(lambda run: "%" + run.group().encode().hex("%").upper(), text)
    except UnicodeEncodeError:
        raise InvalidInput("text with half a surrogate pair cannot stand in a URI; send it as JSON") from None


def _latin_1(text: str) -> bytes | None:
    """The text as Latin-1 when it holds many characters over 127 and none over 255: binary arrays in KVIN do."""
    if text.isascii():
        return None
    try:
        binary = text.encode("latin-1")
    except UnicodeEncodeError:
        return None
    return binary if len(text.encode()) - len(binary) > len(binary) // 16 else None


def unescape_uri(text: str) -> str:
    """`decodeURI(text)`: percent escapes as UTF-8, but those of ;,/?:@&=+$# stay. Raises InvalidInput."""
    if "%" not in text:
        return text
    # A % always begins an escape, so the common ones can be replaced one by one; %25 last, since it makes new ones.
    for char, escaped in _COMMON[1:]:
        if escaped in text:
            text = text.replace(escaped, char)
    if text.count("%") == text.count("%25"):
        return text.replace("%25", "%")
    return _unescape(_RESERVED_ESCAPE.sub("%25", text), text)


def unescape_uri_component(text: str) -> str:
    """`decodeURIComponent(text)`. Raises InvalidInput."""
    return _unescape(text, text) if "%" in text else text


def _unescape(text: str, original: str) -> str:
    bad = _BAD_ESCAPE.search(original)
    if bad is not None:
        raise InvalidInput(f"malformed escape {original[bad.start() : bad.start() + 3]!r} in a URI")
    try:
        if text.isascii():
            return unquote_to_bytes(text).decode()
        return _ESCAPE_RUN.sub(lambda run: bytes.fromhex(run.group().replace("%", "")).decode(), text)
    except UnicodeDecodeError:
        raise InvalidInput("escapes in a URI are not UTF-8") from None


def encode_data_uri(content: str | bytes, mime: str = TEXT, *, compact: bool = False) -> str:
    """A data: URI that the client decodes to `content`.

    Text is percent-escaped; `text/plain` (or no type) becomes `data:,…`. Bytes are written in base64 and need a type
    that is not text, JSON or KVIN, for example `application/octet-stream`. `compact` allows base64 for JSON and KVIN
    that is mostly binary data: a third of the size, but a reader must take each byte for one character, as clients do.

    Raises:
        InvalidInput: text with half a surrogate pair that is neither JSON nor KVIN.
    """
    if isinstance(content, bytes):
        return f"data:{mime};base64,{base64.b64encode(content).decode()}"
    if mime in (JSON, KVIN):
        if not content.isascii():
            binary = _latin_1(content) if compact else None
            if binary is not None:
                return f"data:{mime};base64,{base64.b64encode(binary).decode()}"
            content = kvin.escape_surrogates(content)
        return f"data:{mime},{escape_uri(content)}"
    return f"data:{'' if mime in (TEXT, '') else mime},{escape_uri(content)}"


def decode_data_uri(uri: str, max_bytes: int) -> tuple[str, bytes | str]:
    """(MIME type, content): a string for text, JSON and KVIN, bytes for every other type.

    Raises:
        InvalidInput: the client could not decode it either (no comma, malformed escape, base64 or character set),
            or the content is longer than `max_bytes` (of text: characters).
    """
    head, comma, payload = uri.partition(",")
    if not comma or not head.startswith("data:"):
        raise InvalidInput(f"{uri[:40]!r} is not a data: URI")
    if len(payload) > 12 * max_bytes + 64:
        raise InvalidInput(f"data: URI of {len(uri)} characters is over the limit of {max_bytes} bytes")
    mime, charset, is_base64 = _media_type(head[5:])
    if mime in (JSON, KVIN) or mime.partition("/")[0] == "text":
        content: bytes | str = _text(payload, charset, is_base64)
    elif is_base64:
        content = _from_base64(payload)
    else:
        content = unescape_uri(payload).encode("utf-16-le", "surrogatepass")[::2]  # one byte of each character code
    if len(content) > max_bytes:
        raise InvalidInput(f"content of {len(content)} bytes is over the limit of {max_bytes}")
    return mime, content


def _media_type(text: str) -> tuple[str, str, bool]:
    """(type, character set, is it base64?) of the part between `data:` and the comma."""
    if not text:
        return TEXT, "", False
    if ";" not in text:
        return text, "", False
    mime, *parameters = text.split(";")
    charset, is_base64 = "", False
    for parameter in parameters:
        name, *value = parameter.split("=")
        if name.lower() == "base64":
            is_base64 = True
        elif name.lower() == "charset":
            charset = (value[0] if value else "").lower() or "true"
    return mime, charset, is_base64


def _text(payload: str, charset: str, is_base64: bool) -> str:
    if charset in _LATIN_CHARSETS:
        return _from_base64(payload).decode("latin-1") if is_base64 else unescape_uri(payload)
    if charset not in _UTF8_CHARSETS:
        raise InvalidInput(f"character set {charset!r:.40} is not known to clients")
    if not is_base64:
        return unescape_uri(payload)
    try:
        return _from_base64(payload).decode().translate(_ESCAPE_QUIRK)
    except UnicodeDecodeError:
        raise InvalidInput("base64 content is not UTF-8") from None


def _from_base64(payload: str) -> bytes:
    payload = _WHITESPACE.sub("", payload)
    bare = payload.removesuffix("=").removesuffix("=") if len(payload) % 4 == 0 else payload
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput("malformed base64 in a data: URI") from None
