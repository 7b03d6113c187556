"""Values to KVIN prepared forms, versions 8 and 9.

The forms are those that kvin 9.0.0 and 1.2.17 emit, run-length and island encodings included. Where the reference
encoder loses data (a short island of objects, an Error property that is an object) the longer legal form is used.
"""

from __future__ import annotations

import decimal
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from orchestrator.kvin import values as js
from orchestrator.kvin.values import KvinError

#: Runs and islands at least this long are written as array forms of their own.
_LONG_ISLAND: Final = 8
_MANY_ZEROS: Final = b"\0" * 8
# Stretches of non-zero bytes, with gaps of at most three zeros.
_BYTE_ISLAND = re.compile(rb"[^\0]+(?:\0{1,3}[^\0]+)*")
_CLASS_NAME = re.compile(r"[A-Za-z_0-9$]+")

_NOT_PLAIN: Final = object()
# The reference decoder makes one array of all the repeats of an empty one, and forgets the names of repeated functions,
# so forms that hold any of these are not folded.
_NOT_FOLDED: Final = ('{"raw": []}', '"fnName"')


def dumps(prepared: Any) -> str:
    """JSON text of a prepared form; a lone surrogate is written as an escape, as JSON.stringify does."""
    text = json.dumps(prepared, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text if text.isascii() else escape_surrogates(text)


_SURROGATE = re.compile("[\ud800-\udfff]")


def escape_surrogates(json_text: str) -> str:
    """Replace bare surrogates in a JSON text, where they can only stand inside strings, by `\\uXXXX`."""
    return _SURROGATE.sub(lambda match: f"\\u{ord(match.group()):04x}", json_text)


def number(value: int | float) -> Any:
    """A number as it stands in JSON or, for the four values JSON lacks, as its form."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return {"number": js.number_text(value)}
        if value == 0 and math.copysign(1, value) < 0:
            return {"json": "-0"}
    return _finite(value)


def _finite(value: int | float) -> int | float:
    """Normalise a finite number: whole numbers become `int` (so -0 becomes 0)."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= js.MAX_SAFE else value
    if abs(value) > js.MAX_SAFE:
        raise KvinError(f"{value} is not exact as a JavaScript number; pass a BigInt or a float")
    return value


def bigint_text(value: int) -> str:
    # str(int) refuses more than 4,300 digits; Decimal does not
    return str(decimal.Decimal(value)) if abs(value).bit_length() > 12_000 else str(int(value))


class Encoder:
    """One marshal call: the seen list and the depth guard."""

    def __init__(self, version: int, max_depth: int) -> None:
        self._version = version
        self._max_depth = max_depth
        self._seen: dict[int, int] = {}
        self._count = 0
        self._not_plain: set[int] = set()
        self._forms: dict[type, Callable[[Any, int], dict[str, Any]]] = {
            js.SparseArray: self._sparse,
            js.TypedArray: lambda o, _: typed_array(o),
            bytes: lambda o, _: typed_array(js.TypedArray("Uint8Array", bytes(o))),
            bytearray: lambda o, _: typed_array(js.TypedArray("Uint8Array", bytes(o))),
            js.JsDate: lambda o, _: {"ctr": 19, "ps": {}, "arg": o.iso},
            js.JsRegExp: lambda o, _: {"ctr": 10, "args": [o.source, o.flags]},
            js.JsMap: self._map,
            js.JsSet: lambda o, depth: {"set": self._array(o.values, depth)},
            js.JsError: self._error,
            js.JsFunction: self._function,
            js.Boxed: lambda o, _: _boxed(o),
            js.Url: lambda o, _: {"ctr": 18, "ps": {}, "arg": o.href},
            js.DcpUrl: lambda o, _: {"ctr": js.DCP_URL, "ps": {}, "arg": o.href},
            js.EthAddress: lambda o, _: {"ctr": js.ETH_ADDRESS, "ps": {}, "arg": o.text},
            js.UserInstance: self._instance,
        }

    def prepare(self, value: Any, depth: int = 0) -> Any:
        """The prepared form of a value at the top or inside an array. Raises `KvinError` for what KVIN cannot say."""
        if value is None or isinstance(value, (str, bool)):
            return {"raw": value}
        if isinstance(value, js.BigInt):
            return {"bigint": bigint_text(value)}
        if isinstance(value, (int, float)):
            return number(value)
        if value is js.UNDEFINED:
            return {"undefined": True}
        if depth > self._max_depth:
            raise KvinError(f"value is nested deeper than {self._max_depth} levels")
        if isinstance(value, (dict, list, tuple)):
            plain = self._plain(value, depth)
            if plain is not _NOT_PLAIN:
                return {"raw": plain}
        index = self._seen.get(id(value))
        if index is not None:
            return {"seen": index}
        self._push(value)
        if isinstance(value, dict):
            return {"ctr": 0, "ps": self._properties(value, depth)}
        if isinstance(value, (list, tuple)):
            return self._array(value, depth)
        if isinstance(value, js.JsSymbol):
            return self._symbol(value)
        form = self._forms.get(type(value))
        if form is None:
            raise KvinError(f"a {type(value).__name__} has no KVIN form")
        return form(value, depth)

    def _push(self, value: Any) -> None:
        self._seen[id(value)] = self._count
        self._count += 1

    def _plain(self, value: Any, depth: int) -> Any:
        """A copy of a value that JSON alone can carry, or `_NOT_PLAIN`.

        Plain are objects of null, strings, booleans, finite numbers, plain objects and *empty* arrays.
        """
        if not isinstance(value, dict):
            return _NOT_PLAIN if value else []
        if id(value) in self._not_plain:
            return _NOT_PLAIN
        if depth > self._max_depth:
            raise KvinError(f"value is nested deeper than {self._max_depth} levels")
        # an object that is met again below itself is not plain; taken out again if all is well
        self._not_plain.add(id(value))
        copy: dict[str, Any] = {}
        for key, item in js.js_order(_checked_keys(value)):
            if item is None or isinstance(item, (str, bool)):
                copy[key] = item
            elif isinstance(item, (int, float)) and not isinstance(item, js.BigInt) and math.isfinite(item):
                copy[key] = _finite(item)
            elif isinstance(item, (dict, list, tuple)):
                inner = self._plain(item, depth + 1)
                if inner is _NOT_PLAIN:
                    return _NOT_PLAIN
                copy[key] = inner
            else:
                return _NOT_PLAIN
        self._not_plain.discard(id(value))
        return copy

    def _properties(self, mapping: dict[str, Any], depth: int) -> dict[str, Any]:
        return {key: self.prepare(item, depth + 1) for key, item in js.js_order(_checked_keys(mapping))}

    def _element(self, item: Any, depth: int) -> Any:
        """Array elements of a primitive kind stand bare, all but null."""
        if isinstance(item, (str, bool)):
            return item
        if isinstance(item, (int, float)) and not isinstance(item, js.BigInt) and math.isfinite(item):
            return _finite(item)
        return self.prepare(item, depth + 1)

    def _array(self, items: Sequence[Any], depth: int) -> dict[str, Any]:
        out: list[Any] = []
        last: Any = _NOT_PLAIN
        run = 0
        for item in items:
            form = self._element(item, depth)
            if _same_json(form, last):
                if run:
                    out[-1]["lst"] += 1
                else:
                    out.append({"lst": 1})
                run += 1
            else:
                out.append(form)
                last = form
                run = 0
        return {"arr": out}

    def _sparse(self, array: js.SparseArray, depth: int) -> dict[str, Any]:
        if not 0 <= array.length < 2**32:
            raise KvinError(f"array length {array.length} is not between 0 and 2^32-1")
        runs = _runs(array)
        dense = len(runs[0]) if runs and runs[0].start == 0 else 0
        form = self._array([array.items[i] for i in range(dense)], depth)
        islands: list[dict[str, Any]] = []
        properties: dict[str, Any] = {}
        if dense != array.length or array.properties:
            for run in runs:
                items = [array.items[i] for i in run]
                if run.start == 0 and self._raw_items(items, depth) is None:
                    continue  # the reference repeats the dense part; that is only harmless for plain values
                island = self._island(run.start, items, depth) if len(items) > 1 else None
                if island is not None:
                    islands.append(island)
                else:
                    properties.update({str(i): self._element(array.items[i], depth) for i in run})
        for key, item in js.js_order(_checked_keys(array.properties)):
            properties[key] = self._element(item, depth)
        if islands:
            form["isl"] = islands
        if properties:
            form["ps"] = properties
        if dense != array.length:
            form["len"] = array.length
        return form

    def _island(self, start: int, items: list[Any], depth: int) -> dict[str, Any] | None:
        """An island form, or None when the elements of a short one would not survive (they stand there raw)."""
        if len(items) >= _LONG_ISLAND:
            self._count += 1  # the decoder counts the island's array
            return {"@": start, "arr": self._array(items, depth)}
        raw = self._raw_items(items, depth)
        return None if raw is None else {"@": start, "arr": raw}

    def _raw_items(self, items: list[Any], depth: int) -> list[Any] | None:
        """Elements as bare JSON, or None when one of them is more than that."""
        raw: list[Any] = []
        for item in items:
            if item is None or isinstance(item, (str, bool)):
                raw.append(item)
                continue
            if isinstance(item, (int, float)) and not isinstance(item, js.BigInt) and math.isfinite(item):
                raw.append(_finite(item))
                continue
            plain = self._plain(item, depth + 1) if isinstance(item, (dict, list, tuple)) else _NOT_PLAIN
            if plain is _NOT_PLAIN:
                return None
            raw.append(plain)
        return raw

    def _map(self, value: js.JsMap, depth: int) -> dict[str, Any]:
        # The reference decoder counts the arrays of keys and of values, its encoder does not. Back references after
        # a Map are numbered for the decoder: it is what gives them their meaning.
        self._count += 1
        keys = self._array([key for key, _ in value.entries], depth)
        self._count += 1
        form: dict[str, Any] = {"mapKeys": keys, "mapVals": self._array([item for _, item in value.entries], depth)}
        if value.properties:
            form["ps"] = {k: self._element(v, depth) for k, v in js.js_order(_checked_keys(value.properties))}
        return form

    def _error(self, error: js.JsError, depth: int) -> dict[str, Any]:
        first = [key for key in ("code", "stack", "lineNumber", "fileName") if key in error.properties]
        ordered = {key: error.properties[key] for key in first} | error.properties
        properties = {key: self._element(item, depth) for key, item in js.js_order(_checked_keys(ordered))}
        return {"ctr": "Error", "ps": properties, "arg": error.message}

    def _function(self, function: js.JsFunction, depth: int) -> dict[str, Any]:
        properties = self._properties(function.properties, depth)
        return {"ctr": 15, "ps": properties, "fnName": function.name, "arg": function.source}

    def _symbol(self, symbol: js.JsSymbol) -> dict[str, Any]:
        if self._version >= 9:
            return {"symbol": symbol.description or ""}
        # kvin 1.2.17 writes this and cannot read it back
        return {"ctr": "Symbol", "ps": {}, "arg": f"Symbol({symbol.description or ''})"}

    def _instance(self, instance: js.UserInstance, depth: int) -> dict[str, Any]:
        if _CLASS_NAME.fullmatch(instance.ctr) is None:
            raise KvinError(f"{instance.ctr!r} is not a class name")
        form: dict[str, Any] = {"ctr": js.CONSTRUCTOR_NUMBERS.get(instance.ctr, instance.ctr)}
        form["ps"] = self._properties(instance.properties, depth)
        if instance.args is not None:
            form["args"] = instance.args
        elif instance.arg is not js.UNDEFINED:
            form["arg"] = instance.arg
        return form


def typed_array(array: js.TypedArray) -> dict[str, Any]:
    """The 8-bit form, as islands when it holds eight zeros in a row."""
    ctr = js.CONSTRUCTOR_NUMBERS.get(array.kind, array.kind)
    if array.kind == "ArrayBuffer":
        return {"ctr": ctr, "ps": {}}
    if _MANY_ZEROS not in array.data:
        return {"ctr": ctr, "ab8": array.data.decode("latin-1")}
    islands = [{"0": m.group().decode("latin-1"), "@": m.start()} for m in _BYTE_ISLAND.finditer(array.data)]
    return {"ctr": ctr, "isl8": islands, "len": len(array.data)}


def _boxed(box: js.Boxed) -> dict[str, Any]:
    if isinstance(box.value, bool):
        return {"ctr": 13, "arg": "true" if box.value else "false"}
    if isinstance(box.value, str):
        return {"ctr": 12, "arg": box.value}
    return {"ctr": 11, "arg": js.number_text(box.value)}


def _same_json(one: Any, other: Any) -> bool:
    """Whether two prepared elements have the same JSON text and may be folded into one."""
    if type(one) is not type(other) or one != other:
        return False
    if not isinstance(one, dict):
        return True
    # equal dicts may still differ in key order, or hold True where the other holds 1
    text = json.dumps(one)
    return text == json.dumps(other) and not any(form in text for form in _NOT_FOLDED)


def _runs(array: js.SparseArray) -> list[range]:
    """The present indices as maximal runs, ascending."""
    runs: list[range] = []
    for index in sorted(array.items):
        if not 0 <= index < array.length:
            raise KvinError(f"array index {index} is outside the length {array.length}")
        if runs and runs[-1].stop == index:
            runs[-1] = range(runs[-1].start, index + 1)
        else:
            runs.append(range(index, index + 1))
    return runs


def _checked_keys(mapping: dict[Any, Any]) -> dict[str, Any]:
    for key in mapping:
        if not isinstance(key, str):
            raise KvinError(f"object key {key!r} is not a string; use a JsMap")
    return mapping
