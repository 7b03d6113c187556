"""JSON text exactly as JavaScript prints it.

A DCP receiver in JavaScript parses a message, prints its body again and checks the signature against *that* text, so
whatever we sign must be what `JSON.stringify(JSON.parse(text))` gives (observed with dcp-client 5.6.1 and 4.4.29):

- integer-like keys ("0" to "4294967294") first, ascending, then the others as inserted, at every level;
- numbers in ECMAScript's shortest form: 1 not 1.0, 1e+21, 1e-7, 0 for -0;
- strings escape only `"`, `\\` and U+0000-001F; lone surrogates are written `\\udxxx`; all else is raw.

`dumps` runs the C encoder of the standard library first and looks at its text: where that text cannot differ from
JavaScript's it is returned as it is, otherwise a Python encoder starts again from the value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from orchestrator.errors import InvalidInput

__all__ = ["dumps", "is_wire_text", "loads", "number", "string"]

_MAX_SAFE = 2**53
_ARRAY_INDEX_LIMIT = 2**32 - 1

_encoder = json.JSONEncoder(ensure_ascii=False, check_circular=True, allow_nan=False, separators=(",", ":"))
_string = json.encoder.encode_basestring

# Where the C encoder's text could differ from JavaScript's. Looks also inside strings: a hit there only costs time.
#   "12":                     an integer-like key, which JavaScript would move to the front
#   1.0  1e+16  1e-07         floats that Python prints in another form (without exponent and with digits other than
#                             a lone 0 behind the point both print the same shortest digits)
#   9007199254740993          integers that a double cannot hold
# A number inside a container follows one of : , [ and the possessive digits keep the search linear.
_SUSPICIOUS = re.compile(r'[":,\[]-?\d++(?:":|\.0(?!\d)|\.\d++e|e|(?<=\d{16}))')
# Two halves that stand side by side are a pair in JavaScript, whatever Python thinks of them.
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]")
# Texts with all digits made 0 are searched for plain pieces of text: a regular expression takes ten times as long as
# writing or reading the JSON itself.
_DIGITS = bytes(0x30 if 0x30 <= code <= 0x39 else code for code in range(256))
_LONG_INTEGER = b"0" * 16
_HINTS = (b'0":', b"0e+", b"0e-", _LONG_INTEGER)
_WHOLE_FLOATS = (b".0,", b".0}", b".0]")
"""one of these is in every text in which `_SUSPICIOUS` finds a number or a key"""
_INDEX_KEY = re.compile(r"0|[1-9]\d{0,9}")


def dumps(value: Any) -> str:
    """The text that `JSON.stringify` gives for the value.

    Objects are dicts with `str` keys, arrays lists or tuples. Raise `InvalidInput` for what JSON cannot say (NaN,
    bytes, other objects, cycles).
    """
    try:
        text = _encoder.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the value cannot be written as JSON: {error}") from error
    if isinstance(value, float | int) or _may_differ(text):
        try:
            text = "".join(_pieces(value))
        except RecursionError as error:
            raise InvalidInput("the value is nested too deeply for JSON") from error
    # ASCII is known without a scan; a surrogate makes the text a two byte string at least.
    if not text.isascii() and _SURROGATES.search(text):
        text = _SURROGATES.sub(_mend_surrogates, text)
    return text


def loads(text: str) -> Any:
    """The value of a JSON text, numbers as JavaScript would hold them.

    An integer is an `int` when a double holds it exactly, else a `float`, as is every other number. Raise
    `InvalidInput` for anything that `JSON.parse` refuses, and for nesting beyond the interpreter's depth.
    """
    try:
        return (_exact_decoder if _has_long_integer(text) else _decoder).decode(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"not JSON: {error}") from error


def _has_long_integer(text: str) -> bool:
    """Whether sixteen digits stand side by side."""
    return _LONG_INTEGER in text.encode("utf-8", "surrogatepass").translate(_DIGITS)


def _may_differ(text: str) -> bool:
    """Whether JavaScript may print it otherwise."""
    raw = text.encode("utf-8", "surrogatepass")
    leveled = raw.translate(_DIGITS)
    if any(hint in leveled for hint in _HINTS) or any(hint in raw for hint in _WHOLE_FLOATS):
        return _SUSPICIOUS.search(text) is not None
    return False


def string(text: str) -> str:
    """A JSON string, quotes included."""
    encoded = _string(text)
    if not encoded.isascii() and _SURROGATES.search(encoded):
        encoded = _SURROGATES.sub(_mend_surrogates, encoded)
    return encoded


def number(value: float) -> str:
    """A finite number in ECMAScript's shortest form. Raise `InvalidInput` for NaN and infinities."""
    if isinstance(value, int):
        if -_MAX_SAFE <= value <= _MAX_SAFE:
            return str(int(value))
        try:
            value = float(value)
        except OverflowError as error:
            raise InvalidInput("the number is beyond what a double can hold") from error
    if not math.isfinite(value):
        raise InvalidInput(f"{value} cannot be written as JSON")
    if value == 0:
        return "0"
    return _shortest(value)


def is_wire_text(text: str) -> bool:
    """Whether the text can travel as UTF-8, that is, holds no lone surrogate."""
    return text.isascii() or _SURROGATES.search(text) is None


def _shortest(value: float) -> str:
    """ECMAScript's Number::toString. Python's repr gives the same digits; only their arrangement differs."""
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    point = len(whole) + int(exponent or 0)
    digits = whole + fraction
    stripped = digits.lstrip("0")
    point -= len(digits) - len(stripped)
    digits = stripped.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        text = digits + "0" * (point - count)
    elif 0 < point <= 21:
        text = digits[:point] + "." + digits[point:]
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        shown = point - 1
        text = (
            digits[0] + ("." + digits[1:] if count > 1 else "") + "e" + ("+" if shown >= 0 else "-") + str(abs(shown))
        )
    return sign + text


def _pieces(value: Any) -> Iterator[str]:
    if value is None:
        yield "null"
    elif value is True:
        yield "true"
    elif value is False:
        yield "false"
    elif isinstance(value, str):
        yield _string(value)
    elif isinstance(value, int | float):
        yield number(value)
    elif isinstance(value, dict):
        separator = "{"
        for key in _in_js_order(value):
            yield f"{separator}{_string(key)}:"
            yield from _pieces(value[key])
            separator = ","
        yield "}" if value else "{}"
    elif isinstance(value, list | tuple):
        separator = "["
        for element in value:
            yield separator
            yield from _pieces(element)
            separator = ","
        yield "]" if value else "[]"
    else:
        raise InvalidInput(f"the value cannot be written as JSON: {type(value).__name__}")


def _in_js_order(members: dict[str, Any]) -> list[str]:
    indexes: list[str] = []
    names: list[str] = []
    for key in members:
        if not isinstance(key, str):
            raise InvalidInput(f"a key of a JSON object must be a string, not {key!r}")
        is_index = _INDEX_KEY.fullmatch(key) is not None and int(key) < _ARRAY_INDEX_LIMIT
        (indexes if is_index else names).append(key)
    indexes.sort(key=int)
    return indexes + names


def _mend_surrogates(match: re.Match[str]) -> str:
    text = match[0]
    if len(text) == 2:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    return f"\\u{ord(text):04x}"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _integer(digits: str) -> float:
    if len(digits) <= 20:
        value = int(digits)
        if -_MAX_SAFE <= value <= _MAX_SAFE:
            return value
    return float(digits)


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
_exact_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_integer)
