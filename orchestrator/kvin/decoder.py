"""KVIN prepared forms to values. Nothing is ever evaluated: class names only select from a fixed table.

The reference decoder runs `eval` on unknown class names and applies constructors to argument lists, so a text that it
would accept can run code in a client. `strict` decoding therefore asks a narrower question: can the unmodified
dcp-client 5.6.1 decode this without throwing, and without calling anything but harmless constructors?
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final

from orchestrator.kvin import scalars
from orchestrator.kvin import values as js
from orchestrator.kvin.values import KvinError

VERSIONS: Final = frozenset({"v4", "v5", "v6", "v7", "v8", "v9"})

#: Class names beside the constructor table that dcp-client's decoder has and whose constructors take any string.
_STRICT_CLASSES: Final = frozenset({js.DCP_URL, js.ETH_ADDRESS, "Error", "ArrayBuffer"})
#: The reference passes an island's elements as function arguments; far longer lists overflow its stack.
_STRICT_ISLAND: Final = 30_000


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a decoder accepts. A form over any of these is refused with `KvinError` before memory is spent on it."""

    #: levels of nesting
    depth: int = 200
    #: values in all, run-length repeats counted out
    values: int = 5_000_000
    #: bytes of binary arrays in all
    bytes: int = 256 * 2**20
    #: characters of a JSON text
    text: int = 256 * 2**20


class Decoder:
    """One unmarshal call: the seen list and the budgets."""

    def __init__(self, limits: Limits, *, strict: bool = False) -> None:
        self._limits = limits
        self._strict = strict
        self._values_left = limits.values
        self._bytes_left = limits.bytes
        self._seen: list[Any] = []

    def unmarshal(self, marshalled: Any, depth: int = 0) -> Any:
        """The value of a marshalled one, `depth` levels down. Raises `KvinError`."""
        if not isinstance(marshalled, dict) or "_serializeVerId" not in marshalled:
            raise KvinError("not KVIN: no _serializeVerId")
        version = marshalled["_serializeVerId"]
        if not isinstance(version, str) or version not in VERSIONS:
            raise KvinError(f"KVIN version {version!r:.20} is not one of v4 to v9")
        if "what" not in marshalled:
            raise KvinError("not KVIN: no 'what'")
        return self._unprepare(marshalled["what"], depth)

    def _unprepare(self, po: Any, depth: int) -> Any:
        kind = type(po)
        if kind is str or kind is bool:
            return po
        if kind is int or kind is float:
            return scalars.json_number(po)
        if kind is not dict:
            raise KvinError(f"a bare {'array' if kind is list else po!r:.20} is not a prepared form")
        self._spend(1)
        if depth > self._limits.depth:
            raise KvinError(f"nested deeper than {self._limits.depth} levels")
        ctr = scalars.constructor_name(po["ctr"]) if "ctr" in po else None
        # the order of these questions is that of the reference, since a form may hold several keys
        if "raw" in po:
            return self._json(po["raw"], depth)
        if "ptv" in po:
            return self._json(po["ptv"], depth)
        if "number" in po:
            return scalars.parse_float(po["number"])
        if "bigint" in po:
            return scalars.parse_bigint(po["bigint"])
        if "fnName" in po:
            return self._function(po, depth)
        if "mapKeys" in po or "mapVals" in po:
            return self._map(po, depth)
        if "ab16" in po or "isl16" in po:
            return self._binary(ctr, self._bytes16(po))
        if "ab8" in po or "isl8" in po:
            return self._binary(ctr, self._bytes8(po))
        if "arr" in po:
            return self._array(po, depth)
        if ctr is not None:
            return self._instance(ctr, po, depth)
        return self._other(po, depth)

    def _other(self, po: dict[str, Any], depth: int) -> Any:
        if "set" in po:
            return self._set(po, depth)
        if "json" in po:
            return self._json_text(po["json"])
        if "undefined" in po:
            return js.UNDEFINED
        if "symbol" in po:
            description = po["symbol"]
            return self._remember(js.JsSymbol(description if isinstance(description, str) else None))
        if "resolve" in po:
            return js.JsPromise(self._unprepare(po["resolve"], depth + 1))
        if "reject" in po:
            if self._strict:
                raise KvinError("a rejected promise ends the reference client")
            return js.JsPromise(self._unprepare(po["reject"], depth + 1), rejected=True)
        if "seen" in po:
            return self._back_reference(po["seen"])
        if "_serializeVerId" in po:
            return self._nested(po, depth)
        raise KvinError(f"no prepared form has the keys {sorted(po)[:4]!r:.60}")

    def _spend(self, values: int) -> None:
        self._values_left -= values
        if self._values_left < 0:
            raise KvinError(f"more than {self._limits.values} values")

    def _remember(self, value: Any) -> Any:
        self._seen.append(value)
        return value

    def _back_reference(self, index: Any) -> Any:
        if type(index) is not int or not 0 <= index < len(self._seen):
            raise KvinError(f"back reference {index!r:.20} points nowhere")
        return self._seen[index]

    def _nested(self, po: dict[str, Any], depth: int) -> Any:
        # kvin 1.2.18 and older bury marshalled objects inside others, each with its own numbering
        self._seen.append(po)
        outer, self._seen = self._seen, []
        try:
            return self.unmarshal(po, depth + 1)
        finally:
            self._seen = outer

    def _json(self, value: Any, depth: int) -> Any:
        """A plain JSON tree: copied, its numbers normalised, its size counted."""
        kind = type(value)
        if value is None or kind is str or kind is bool:
            return value
        if kind is int or kind is float:
            return scalars.json_number(value)
        if depth > self._limits.depth:
            raise KvinError(f"nested deeper than {self._limits.depth} levels")
        if kind is dict:
            self._spend(len(value) + 1)
            if self._strict and "__proto__" in value:
                raise KvinError("a __proto__ property changes the object's class in the reference client")
            return {key: self._json(item, depth + 1) for key, item in value.items()}
        if kind is list:
            self._spend(len(value) + 1)
            return [self._json(item, depth + 1) for item in value]
        raise KvinError(f"a {kind.__name__} is not JSON")

    def _json_text(self, text: Any) -> Any:
        if text == "-0":
            return -0.0
        if not isinstance(text, str):
            raise KvinError("'json' is not a string")
        return self._json(scalars.load_json(text, self._limits.text), 0)

    def _dict(self, po: dict[str, Any], key: str) -> dict[str, Any]:
        value = po.get(key, {})
        if not isinstance(value, dict):
            raise KvinError(f"{key!r} is not an object")
        return value

    def _fill(self, target: dict[str, Any], po: dict[str, Any], depth: int) -> None:
        """Decode `ps` into `target`, in the order in which JavaScript numbers what it meets."""
        ps = self._dict(po, "ps")
        if self._strict and ("__proto__" in ps or "hasOwnProperty" in ps):
            raise KvinError("a property name that breaks the reference decoder")
        self._spend(len(ps))
        for key, item in js.js_order(ps):
            target[key] = self._unprepare(item, depth + 1)

    def _no_properties(self, po: dict[str, Any], depth: int) -> None:
        """For kinds that keep no properties here: decode them for their numbers, then drop them."""
        if self._strict and po.get("ps"):
            raise KvinError("properties on a built-in object may throw in the reference client")
        self._fill({}, po, depth)

    def _array(self, po: dict[str, Any], depth: int) -> Any:
        arr = po.get("arr")
        if not isinstance(arr, list):
            raise KvinError("'arr' is not an array")
        dense = sum(item["lst"] if type(item) is dict and type(item.get("lst")) is int else 1 for item in arr)
        length = scalars.array_index(po["len"], "len") if po.get("len") else dense
        if length == dense and not po.get("isl") and not po.get("ps"):
            elements: list[Any] = self._remember([])
            self._elements(elements, arr, depth)
            return elements
        sparse: js.SparseArray = self._remember(js.SparseArray(0))
        elements = []
        self._elements(elements, arr, depth)
        sparse.items.update(enumerate(elements))
        self._islands(sparse.items, po, depth)
        self._fill(sparse.properties, po, depth)
        self._settle(sparse, po)
        return sparse

    def _settle(self, sparse: js.SparseArray, po: dict[str, Any]) -> None:
        """Sort indices out of the named properties and fix the length."""
        if "length" in sparse.properties:
            raise KvinError("'length' may not be an array's property")
        for key in [key for key in sparse.properties if js.is_index(key)]:
            sparse.items[int(key)] = sparse.properties.pop(key)
        length = max(sparse.items, default=-1) + 1
        if po.get("len"):
            length = scalars.array_index(po["len"], "len")
        for index in [index for index in sparse.items if index >= length]:
            del sparse.items[index]
        object.__setattr__(sparse, "length", length)

    def _elements(self, out: list[Any], arr: Any, depth: int) -> None:
        if not isinstance(arr, list):
            raise KvinError("'arr' is not an array")
        if depth > self._limits.depth:
            raise KvinError(f"nested deeper than {self._limits.depth} levels")
        self._spend(len(arr))
        last: Any = None
        for item in arr:
            if type(item) is dict and item.get("lst"):
                count = item["lst"]
                if type(count) is not int or count < 0 or not out:
                    raise KvinError(f"run length {count!r:.20} is not legal here")
                self._spend(count)
                out.extend(self._unprepare(last, depth + 1) for _ in range(count))
            else:
                out.append(self._unprepare(item, depth + 1))
                last = item

    def _islands(self, items: dict[int, Any], po: dict[str, Any], depth: int) -> None:
        islands = po.get("isl", [])
        if not isinstance(islands, list):
            raise KvinError("'isl' is not an array")
        for island in islands:
            if not isinstance(island, dict):
                raise KvinError("an island is not an object")
            start, arr = scalars.array_index(island.get("@"), "@"), island.get("arr")
            if isinstance(arr, dict):
                elements = self._remember([])
                self._elements(elements, arr.get("arr"), depth + 1)
            elif isinstance(arr, list):
                elements = self._json(arr, depth + 1)
            else:
                raise KvinError("an island has no 'arr'")
            if self._strict and len(elements) > _STRICT_ISLAND:
                raise KvinError("an island too long for the reference client")
            items.update(zip(range(start, start + len(elements)), elements, strict=True))

    def _map(self, po: dict[str, Any], depth: int) -> js.JsMap:
        result: js.JsMap = self._remember(js.JsMap())
        columns: list[list[Any]] = []
        for key in ("mapKeys", "mapVals"):
            form = self._dict(po, key)
            # the reference counts these two arrays when it decodes
            columns.append(self._remember([]))
            self._elements(columns[-1], form.get("arr"), depth + 1)
        if len(columns[0]) != len(columns[1]):
            raise KvinError("a Map has keys without values")
        result.entries.extend(zip(*columns, strict=True))
        self._fill(result.properties, po, depth)
        return result

    def _set(self, po: dict[str, Any], depth: int) -> js.JsSet:
        result: js.JsSet = self._remember(js.JsSet())
        # a Set's array takes the Set's number in the reference
        self._elements(result.values, self._dict(po, "set").get("arr"), depth + 1)
        return result

    def _function(self, po: dict[str, Any], depth: int) -> js.JsFunction:
        name, source = po["fnName"], po.get("arg", "")
        if not isinstance(name, str) or not isinstance(source, str):
            raise KvinError("a function's name and source must be strings")
        result: js.JsFunction = self._remember(js.JsFunction(name, source))
        if self._strict and any(key == "length" or js.is_index(key) for key in self._dict(po, "ps")):
            raise KvinError("properties of a boxed string cannot be set")
        self._fill(result.properties, po, depth)
        return result

    # -- binary ------------------------------------------------------------------------------------------------------

    def _binary(self, ctr: str | None, data: bytes) -> js.TypedArray:
        if ctr is None or not js.is_binary_kind(ctr):
            raise KvinError(f"{ctr!r:.40} is not a binary kind")
        if self._strict and ctr == "Float16Array":
            raise KvinError("Float16Array is unknown to many engines")
        return self._remember(js.TypedArray(ctr, data))  # type: ignore[no-any-return]

    def _buffer(self, size: int) -> bytearray:
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise KvinError(f"more than {self._limits.bytes} bytes of binary data")
        return bytearray(size)

    def _bytes8(self, po: dict[str, Any]) -> bytes:
        if "ab8" in po:
            data = scalars.latin1(po["ab8"])
            self._buffer(0)
            self._bytes_left -= len(data)
            return data
        buffer = self._buffer(scalars.array_index(po.get("len"), "len"))
        for start, text in scalars.byte_islands(po["isl8"]):
            scalars.place(buffer, start, scalars.latin1(text))
        return bytes(buffer)

    def _bytes16(self, po: dict[str, Any]) -> bytes:
        extra = po.get("eb")
        if self._strict and extra is not None:
            raise KvinError("the reference client cannot read an odd byte")
        tail = b"" if extra is None else bytes([extra & 255]) if type(extra) is int else scalars.latin1(extra)[:1]
        if "ab16" in po:
            return scalars.utf16(po["ab16"]) + tail
        size = scalars.array_index(po.get("len"), "len")
        buffer = self._buffer(size + size % 2)
        for start, text in scalars.byte_islands(po["isl16"]):
            scalars.place(buffer, start * 2, scalars.utf16(text))
        if tail:
            buffer[size - 1 : size] = tail
        return bytes(buffer[:size])

    # -- instances ---------------------------------------------------------------------------------------------------

    def _instance(self, ctr: str, po: dict[str, Any], depth: int) -> Any:
        if ctr == "Object" and "arg" not in po and "args" not in po:
            plain: dict[str, Any] = self._remember({})
            self._fill(plain, po, depth)
            return plain
        if ctr == "Promise":
            raise KvinError("a Promise cannot be constructed from a form")
        if ctr == "Error":
            return self._error(po, depth)
        built = self._built_in(ctr, po)
        if built is not None:
            self._remember(built)
            self._no_properties(po, depth)
            return built
        return self._user_instance(ctr, po, depth)

    def _built_in(self, ctr: str, po: dict[str, Any]) -> Any:
        """The kinds whose one argument says it all; None when the form is not of that shape."""
        if ctr == "RegExp":
            return scalars.regexp_of(po)
        if "args" in po:
            return None
        arg = po.get("arg", js.UNDEFINED)
        if ctr == "Date":
            return scalars.date_of(arg)
        if ctr in ("Number", "String", "Boolean"):
            return scalars.box_of(ctr, arg)
        if ctr == "Set":
            return js.JsSet(self._json(arg, 0)) if isinstance(arg, list) else js.JsSet()
        if ctr == "ArrayBuffer":
            return js.TypedArray(ctr, b"")
        if ctr == "Symbol" and isinstance(arg, str) and not self._strict:
            return js.JsSymbol(arg.removeprefix("Symbol(").removesuffix(")"))
        if js.is_binary_kind(ctr) and ctr != "DataView":
            return self._from_numbers(ctr, arg)
        if isinstance(arg, str) and ctr in ("URL", js.DCP_URL, js.ETH_ADDRESS):
            return self._dcp_class(ctr, arg)
        return None

    def _dcp_class(self, ctr: str, arg: str) -> Any:
        if ctr == js.ETH_ADDRESS:
            if self._strict and re.fullmatch(r"(0x)?[0-9A-Fa-f]{40}", arg) is None:
                raise KvinError(f"{arg!r:.60} is not an address")
            return js.EthAddress(arg)
        if self._strict:
            scalars.check_url(arg)
        return js.Url(arg) if ctr == "URL" else js.DcpUrl(arg)

    def _from_numbers(self, ctr: str, arg: Any) -> js.TypedArray:
        """`new Uint8Array([…])`, the form of `tune = "speed"`; or a length, or nothing."""
        if isinstance(arg, list) and all(type(n) in (int, float) for n in arg) and not ctr.startswith("Big"):
            self._spend(len(arg))
            return js.TypedArray.of(ctr, arg)
        if arg is js.UNDEFINED and ctr != "Buffer":
            return js.TypedArray(ctr, b"")
        raise KvinError(f"{ctr} cannot be made from {arg!r:.40}")

    def _error(self, po: dict[str, Any], depth: int) -> js.JsError:
        message = po.get("arg", "")
        if "args" in po or not (message is None or isinstance(message, (str, int, float))):
            raise KvinError("an Error's message is not a string")
        error: js.JsError = self._remember(js.JsError(message if isinstance(message, str) else str(message)))
        if self._strict:
            self._fill(error.properties, po, depth)
            return error
        for key, item in js.js_order(self._dict(po, "ps")):
            # the reference encoder writes these properties as they are, so objects need not be forms
            error.properties[key] = self._form_or_json(item, depth + 1)
        return error

    def _form_or_json(self, item: Any, depth: int) -> Any:
        if item is None or isinstance(item, list):
            return self._json(item, depth)
        mark = len(self._seen)
        try:
            return self._unprepare(item, depth)
        except KvinError:
            del self._seen[mark:]
            return self._json(item, depth)

    def _user_instance(self, ctr: str, po: dict[str, Any], depth: int) -> js.UserInstance:
        if self._strict and (ctr not in _STRICT_CLASSES or "args" in po):
            raise KvinError(f"the reference client cannot make a {ctr!r:.40}")
        args = po.get("args")
        if args is not None and not isinstance(args, list):
            raise KvinError("'args' is not an array")
        arg = self._json(po["arg"], depth) if "arg" in po else js.UNDEFINED
        instance = js.UserInstance(ctr, {}, arg, None if args is None else self._json(args, depth))
        self._remember(instance)
        self._fill(instance.properties, po, depth)
        return instance
