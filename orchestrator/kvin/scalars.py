"""The leaves of a prepared form: numbers, texts, binary strings and the arguments of built-in constructors."""

from __future__ import annotations

import decimal
import json
import math
import re
from typing import Any, Final
from urllib.parse import urlsplit

from orchestrator.kvin import values as js
from orchestrator.kvin.values import KvinError

_MAX_BIGINT_DIGITS: Final = 100_000
_CLASS_NAME = re.compile(r"[A-Za-z_0-9$]+")
_DECIMAL = re.compile(r"-?[0-9]+")
_FLOAT_PREFIX = re.compile(r"\s*([+-]?(?:Infinity|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?))")
_URL_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def load_json(text: str, max_characters: int) -> Any:
    """`JSON.parse` with a limit. Raises `KvinError` for everything that it refuses."""
    if len(text) > max_characters:
        raise KvinError(f"text of {len(text)} characters is longer than {max_characters}")
    try:
        # "-0" is a number of its own in JavaScript, but an int in Python
        return (_exact_decoder if "-0" in text else _decoder).decode(text)
    except RecursionError:
        raise KvinError("JSON is nested too deep") from None
    except ValueError as error:
        raise KvinError(f"not JSON: {error}") from None


def _whole(text: str) -> int | float:
    return -0.0 if text == "-0" else int(text)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_no_constant)
_exact_decoder = json.JSONDecoder(parse_int=_whole, parse_constant=_no_constant)


def json_number(value: float) -> int | float:
    """A number out of JSON: whole numbers up to 2^53 are `int`, all others `float`."""
    if type(value) is int:
        if -js.MAX_SAFE <= value <= js.MAX_SAFE:
            return value
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if value.is_integer() and abs(value) <= js.MAX_SAFE and (value or math.copysign(1, value) > 0):
        return int(value)
    return value


def check_url(href: str) -> None:
    """Refuse what the URL class of a browser or Node would throw on.

    Raises:
        KvinError: the text has no scheme, or a web scheme without a host or with a bad port.
    """
    try:
        parts = urlsplit(href)
        sound = bool(_URL_SCHEME.match(href)) and (parts.scheme not in ("http", "https") or bool(parts.hostname))
        sound = sound and (parts.port is None or parts.port < 65_536) and not (set(parts.netloc) & set(" <>^|%\\"))
    except ValueError:
        sound = False
    if not sound:
        raise KvinError(f"{href!r:.80} is not a URL")


def constructor_name(ctr: Any) -> str:
    """The class that `ctr` stands for, a name or a number. Raises `KvinError`."""
    if isinstance(ctr, str) and _CLASS_NAME.fullmatch(ctr):
        if not re.fullmatch(r"[1-9][0-9]*", ctr):
            return ctr
        ctr = int(ctr) if len(ctr) < 4 else -1
    if type(ctr) is int and 0 <= ctr < len(js.CONSTRUCTORS):
        return js.CONSTRUCTORS[ctr]
    raise KvinError(f"constructor {ctr!r:.40} is not known")


def parse_float(text: Any) -> float:
    if type(text) in (int, float):
        return json_number(text)
    match = _FLOAT_PREFIX.match(text) if isinstance(text, str) else None
    return json_number(float(match.group(1))) if match else math.nan


def parse_bigint(text: Any) -> js.BigInt:
    """Raises `KvinError`."""
    if not isinstance(text, str) or len(text) > _MAX_BIGINT_DIGITS or _DECIMAL.fullmatch(text) is None:
        raise KvinError(f"bigint {text!r:.40} is not a decimal number of at most {_MAX_BIGINT_DIGITS} digits")
    # int() refuses more than 4,300 digits; Decimal does not
    return js.BigInt(int(text) if len(text) < 4000 else int(decimal.Decimal(text)))


def array_index(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value < 2**32:
        raise KvinError(f"{name} {value!r:.20} is not an array index")
    return value


def latin1(text: Any) -> bytes:
    """A byte per character. Raises `KvinError`."""
    if not isinstance(text, str):
        raise KvinError("binary data is not a string")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise KvinError("8-bit data holds a character over 255") from None


def utf16(text: Any) -> bytes:
    if not isinstance(text, str):
        raise KvinError("binary data is not a string")
    return text.encode("utf-16-le", "surrogatepass")


def byte_islands(islands: Any) -> list[tuple[int, Any]]:
    if not isinstance(islands, list) or not all(isinstance(island, dict) for island in islands):
        raise KvinError("islands are not an array of objects")
    return [(array_index(island.get("@"), "@"), island.get("0")) for island in islands]


def place(buffer: bytearray, start: int, data: bytes) -> None:
    if start + len(data) > len(buffer):
        raise KvinError("an island lies outside its array")
    buffer[start : start + len(data)] = data


def regexp_of(po: dict[str, Any]) -> js.JsRegExp:
    """Raises `KvinError`."""
    args = po.get("args", [po.get("arg", "")])
    if not isinstance(args, list) or not 1 <= len(args) <= 2 or not all(isinstance(arg, str) for arg in args):
        raise KvinError("a RegExp needs a source and flags")
    flags = args[1] if len(args) == 2 else ""
    if len(set(flags)) != len(flags) or not set(flags) <= set("dgimsuvy"):
        raise KvinError(f"RegExp flags {flags!r:.20} are not legal")
    return js.JsRegExp(args[0], flags)


def date_of(arg: Any) -> js.JsDate:
    if arg is None:
        return js.JsDate(0)  # `new Date(null)`, which is what an Invalid Date decodes to in the reference
    if type(arg) in (int, float):
        return js.JsDate(arg)
    return js.JsDate.of_iso(arg) if isinstance(arg, str) else js.JsDate(math.nan)


def box_of(ctr: str, arg: Any) -> js.Boxed:
    """`new ctr(arg)` of a Boolean, Number or String. Raises `KvinError`."""
    if not isinstance(arg, (str, int, float)):
        raise KvinError(f"{ctr} cannot be made from {arg!r:.40}")
    if ctr == "Boolean":
        return js.Boxed(bool(arg))  # so the text "false" makes true, as in the reference
    if ctr == "String":
        return js.Boxed(arg if isinstance(arg, str) else js.number_text(arg))
    return js.Boxed(parse_float(arg) if isinstance(arg, str) else arg)
