"""Pure: what JavaScript's JSON.stringify makes of a KVIN value.

Workers hand on a custom event's data as the sandbox marshalled it; clients take the data as plain JSON, because that is
how the official worker sends it (dcp-client 5.6.1 does not unmarshal it).
"""

from __future__ import annotations

import math
from typing import Any

from orchestrator import kvin
from orchestrator.errors import InvalidInput

_DROPPED = (kvin.Undefined, kvin.JsFunction, kvin.JsSymbol)
_EMPTY = (kvin.JsSet, kvin.JsRegExp, kvin.JsPromise)
_MOST = 1_000_000


def plain_data(data: Any) -> Any:
    """Marshalled values as JSON, everything else as it is. Raises `InvalidInput`."""
    if not isinstance(data, dict) or "_serializeVerId" not in data or "what" not in data:
        return data
    return plain(kvin.unmarshal(data))


def plain(value: Any) -> Any:
    """JSON for a decoded value; undefined at the top is null. Cycles are refused, as JavaScript does."""
    return _plain(value, [])


def _plain(value: Any, path: list[int]) -> Any:
    if isinstance(value, kvin.BigInt):
        raise InvalidInput("a BigInt cannot be written as JSON")
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, _DROPPED):
        return None
    if isinstance(value, kvin.Boxed):
        return _plain(value.value, path)
    if isinstance(value, kvin.JsDate):
        return value.iso
    if isinstance(value, kvin.Url | kvin.DcpUrl):
        return value.href
    if isinstance(value, kvin.EthAddress):
        return value.text
    if isinstance(value, kvin.TypedArray):
        return {str(index): _plain(number, path) for index, number in enumerate(value.numbers())}
    if id(value) in path or len(path) > 500:
        raise InvalidInput("the data of the event are circular or too deep")
    path.append(id(value))
    try:
        return _plain_container(value, path)
    finally:
        path.pop()


def _plain_container(value: Any, path: list[int]) -> Any:
    if isinstance(value, list):
        return [_plain(item, path) for item in value]
    if isinstance(value, kvin.SparseArray):
        if value.length > _MOST:
            raise InvalidInput("the data of the event hold too long an array")
        return [_plain(value.items.get(index), path) for index in range(value.length)]
    members = value if isinstance(value, dict) else {} if isinstance(value, _EMPTY) else value.properties
    return {name: _plain(item, path) for name, item in members.items() if not isinstance(item, _DROPPED)}
