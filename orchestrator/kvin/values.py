"""The JavaScript kinds that have no Python twin, as small frozen dataclasses.

Python's own types carry the rest: `None` is null, `str`, `bool`, `int` and `float` are the primitives, `list` is a
dense array, `dict` with `str` keys is a plain object. Containers inside the frozen classes are mutable, so that a
decoder can build cyclic values.
"""

from __future__ import annotations

import dataclasses
import math
import re
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final, final

from orchestrator.errors import InvalidInput

#: Every integer up to here is exact in a JavaScript number.
MAX_SAFE: Final = 2**53


class KvinError(InvalidInput):
    """The one error of the codec: a text or object is not legal KVIN, is over a limit, or a value has no KVIN form."""

    code = "EKVIN"


@final
class Undefined:
    """The type of `UNDEFINED`; there is one instance."""

    _instance: Undefined | None = None

    def __new__(cls) -> Undefined:
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "UNDEFINED"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> tuple[type[Undefined], tuple[()]]:
        return (Undefined, ())


#: JavaScript's `undefined`.
UNDEFINED: Final = Undefined()


class BigInt(int):
    """A JavaScript bigint. A plain `int` stands for a number."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"BigInt({int(self)})"

    def __str__(self) -> str:
        return int.__repr__(self)


# struct codes of the element types; all little-endian on the wire
_ELEMENTS: Final = {
    "Int8Array": "b",
    "Uint8Array": "B",
    "Uint8ClampedArray": "B",
    "Int16Array": "h",
    "Uint16Array": "H",
    "Int32Array": "i",
    "Uint32Array": "I",
    "Float16Array": "e",
    "Float32Array": "f",
    "Float64Array": "d",
    "BigInt64Array": "q",
    "BigUint64Array": "Q",
    "Buffer": "B",
    "DataView": "B",
    "ArrayBuffer": "B",
}


@dataclasses.dataclass(frozen=True)
class TypedArray:
    """A typed array, DataView, Buffer or ArrayBuffer: the constructor's name and the little-endian bytes.

    KVIN loses the contents of a bare ArrayBuffer (observed with kvin 9.0.0), so `ArrayBuffer` always comes back empty.
    """

    kind: str
    data: bytes

    def __post_init__(self) -> None:
        if self.kind not in _ELEMENTS:
            raise KvinError(f"{self.kind!r} is not a binary kind; use one of {', '.join(_ELEMENTS)}")
        if len(self.data) % self.element_size:
            raise KvinError(f"{self.kind} needs a multiple of {self.element_size} bytes, not {len(self.data)}")

    @property
    def element_size(self) -> int:
        return struct.calcsize("<" + _ELEMENTS[self.kind])

    def numbers(self) -> tuple[int | float, ...]:
        """The elements, in order."""
        return struct.unpack(f"<{len(self.data) // self.element_size}{_ELEMENTS[self.kind]}", self.data)

    @classmethod
    def of(cls, kind: str, numbers: Sequence[int | float]) -> TypedArray:
        """Make an array as `new kind(numbers)` does: integers wrap, `Uint8ClampedArray` clamps.

        Raises `KvinError` for a kind that there is not.
        """
        letter = _ELEMENTS.get(kind)
        if letter is None:
            raise KvinError(f"{kind!r} is not a binary kind")
        if letter in "efd":
            converted: Iterable[int | float] = (_fit_float(letter, n) for n in numbers)
        elif kind == "Uint8ClampedArray":
            converted = (_clamp(n) for n in numbers)
        else:
            bits = 8 * struct.calcsize("<" + letter)
            converted = (_wrap(n, bits, signed=letter.islower()) for n in numbers)
        return cls(kind, struct.pack(f"<{len(numbers)}{letter}", *converted))


def is_binary_kind(name: str) -> bool:
    return name in _ELEMENTS


def _fit_float(letter: str, number: float) -> float:
    try:
        struct.pack("<" + letter, number)
    except OverflowError:
        return math.copysign(math.inf, number)
    return number


def _clamp(number: float) -> int:
    return 0 if math.isnan(number) else round(min(255, max(0, number)))


def _wrap(number: float, bits: int, *, signed: bool) -> int:
    whole = int(number) % (1 << bits) if math.isfinite(number) else 0
    return whole - (1 << bits) if signed and whole >> (bits - 1) else whole


@dataclasses.dataclass(frozen=True)
class SparseArray:
    """An array with holes or named properties. `items` maps the present indices to their values."""

    length: int
    items: dict[int, Any] = dataclasses.field(default_factory=dict)
    properties: dict[str, Any] = dataclasses.field(default_factory=dict)


_ISO = re.compile(
    r"([+-]\d{6}|\d{4})(?:-(\d\d)(?:-(\d\d))?)?(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(?:Z|([+-])(\d\d):(\d\d)))?"
)
_DAY_MS: Final = 86_400_000


@dataclasses.dataclass(frozen=True)
class JsDate:
    """A Date: milliseconds since 1970-01-01 UTC; NaN is JavaScript's Invalid Date."""

    milliseconds: float

    @property
    def iso(self) -> str | None:
        """The text of `toISOString()`, or None for Invalid Date."""
        if not math.isfinite(self.milliseconds):
            return None
        days, rest = divmod(int(self.milliseconds), _DAY_MS)
        year, month, day = _civil(days)
        seconds, ms = divmod(rest, 1000)
        years = f"{year:04d}" if 0 <= year <= 9999 else f"{year:+07d}"
        return (
            f"{years}-{month:02d}-{day:02d}T{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{ms:03d}Z"
        )

    @classmethod
    def of_iso(cls, text: str) -> JsDate:
        """Read an ISO 8601 date, as `new Date(text)` does; anything else is Invalid Date."""
        match = _ISO.fullmatch(text)
        if match is None:
            return cls(math.nan)
        year, month, day, hour, minute, second, fraction, sign, off_h, off_m = match.groups()
        days = _days(int(year), int(month or 1), int(day or 1))
        seconds = int(hour or 0) * 3600 + int(minute or 0) * 60 + int(second or 0)
        if sign:
            seconds -= (1 if sign == "+" else -1) * (int(off_h) * 3600 + int(off_m) * 60)
        return cls(days * _DAY_MS + seconds * 1000 + int((fraction or "0")[:3].ljust(3, "0")))


def _civil(days: int) -> tuple[int, int, int]:
    """Days since 1970-01-01 to (year, month, day) in the proleptic Gregorian calendar, for any year."""
    shifted = days + 719_468
    era, day_of_era = divmod(shifted, 146_097)
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    return year + era * 400 + (month <= 2), month, day


def _days(year: int, month: int, day: int) -> int:
    """The inverse of `_civil`."""
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468


@dataclasses.dataclass(frozen=True)
class JsRegExp:
    source: str
    flags: str = ""


@dataclasses.dataclass(frozen=True)
class JsMap:
    """A Map. Entries are pairs in insertion order, since keys need not be hashable in Python."""

    entries: list[tuple[Any, Any]] = dataclasses.field(default_factory=list)
    properties: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class JsSet:
    values: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class JsError:
    """An Error. KVIN keeps no subclass name; `properties` holds stack, code and other own properties."""

    message: str
    properties: dict[str, Any] = dataclasses.field(default_factory=dict)
    name: str = "Error"


@dataclasses.dataclass(frozen=True)
class JsSymbol:
    description: str | None = None


@dataclasses.dataclass(frozen=True)
class JsFunction:
    """A function as its source text. Nothing here ever runs it."""

    name: str
    source: str
    properties: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Boxed:
    """`new Number(value)`, `new String(value)` or `new Boolean(value)`."""

    value: float | str | bool


@dataclasses.dataclass(frozen=True)
class Url:
    """An instance of the platform's URL class."""

    href: str


@dataclasses.dataclass(frozen=True)
class DcpUrl:
    """An instance of dcp-client's own URL class."""

    href: str


@dataclasses.dataclass(frozen=True)
class EthAddress:
    """An instance of dcp-client's Address class; `text` as it was sent."""

    text: str


@dataclasses.dataclass(frozen=True)
class JsPromise:
    """A settled Promise. Only decoded; encoding one is refused, as the reference's synchronous calls do."""

    value: Any
    rejected: bool = False


@dataclasses.dataclass(frozen=True)
class UserInstance:
    """An instance of a class that is not known here: kept as its parts, so that it can be passed on unchanged.

    `arg` is the one constructor argument (`UNDEFINED`: none), `args` a whole argument list; both are plain JSON.
    """

    ctr: str
    properties: dict[str, Any] = dataclasses.field(default_factory=dict)
    arg: Any = UNDEFINED
    args: list[Any] | None = None


#: Constructor numbers of the prepared forms; the index is the number on the wire.
CONSTRUCTORS: Final = (
    "Object",
    "Int8Array",
    "Uint8Array",
    "Uint8ClampedArray",
    "Int16Array",
    "Uint16Array",
    "Int32Array",
    "Uint32Array",
    "Float32Array",
    "Float64Array",
    "RegExp",
    "Number",
    "String",
    "Boolean",
    "Array",
    "Function",
    "Error",
    "Promise",
    "URL",
    "Date",
    "Set",
)
CONSTRUCTOR_NUMBERS: Final = {name: number for number, name in enumerate(CONSTRUCTORS)}
DCP_URL: Final = "dcpUrl$$DcpURL"
ETH_ADDRESS: Final = "dcpEth$$Address"

_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")


def is_index(key: str) -> bool:
    """Whether JavaScript treats the property name as an integer index, which is enumerated first."""
    return _INDEX.fullmatch(key) is not None and int(key) < 2**32 - 1


def js_order(mapping: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """The items as JavaScript enumerates own properties: integer keys ascending, then the others as inserted."""
    if not any(key[:1].isdigit() and is_index(key) for key in mapping):
        return mapping.items()
    indices = sorted(int(key) for key in mapping if is_index(key))
    ordered = [(str(index), mapping[str(index)]) for index in indices]
    ordered += [(key, value) for key, value in mapping.items() if not is_index(key)]
    return ordered


def number_text(number: float) -> str:
    """The text that JavaScript's `String(number)` gives."""
    if isinstance(number, int) and abs(number) <= MAX_SAFE:
        return str(int(number))
    value = float(number)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent_text = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    # `point` is where the decimal point stands, counted from the first significant digit
    point = len(whole) + int(exponent_text or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return sign + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    exponent = point - 1
    head = digits[0] + ("." + digits[1:] if count > 1 else "")
    return f"{sign}{head}e{'+' if exponent >= 0 else '-'}{abs(exponent)}"
