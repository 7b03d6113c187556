"""KVIN, the serialisation of DCP values: plain JSON that carries what JSON cannot (undefined, typed arrays, cycles…).

A *marshalled* value is a JSON-able object `{"_serializeVerId": "v9", "what": form}`; its JSON text is what KVIN calls
*stringified*. Versions 8 and 9 are written, 4 to 9 are read. Checked against the npm package in versions 9.0.0 (v9) and
1.2.17 (v8).

Numbers come back as `int` when they are whole and at most 2^53 in size, else as `float`; null is `None`; arrays are
lists, plain objects are dicts in JavaScript's property order; strings may hold lone surrogates. The JavaScript kinds
without a Python twin are the dataclasses of `orchestrator.kvin.values`.

The codec is pure and never evaluates anything it reads. Its one error is `KvinError`.
"""

from __future__ import annotations

from typing import Any, Literal

from orchestrator.kvin.decoder import VERSIONS, Decoder, Limits
from orchestrator.kvin.encoder import Encoder, dumps, escape_surrogates
from orchestrator.kvin.scalars import check_url, load_json
from orchestrator.kvin.values import (
    UNDEFINED,
    BigInt,
    Boxed,
    DcpUrl,
    EthAddress,
    JsDate,
    JsError,
    JsFunction,
    JsMap,
    JsPromise,
    JsRegExp,
    JsSet,
    JsSymbol,
    KvinError,
    SparseArray,
    TypedArray,
    Undefined,
    Url,
    UserInstance,
    number_text,
)

__all__ = [
    "UNDEFINED",
    "VERSIONS",
    "BigInt",
    "Boxed",
    "DcpUrl",
    "EthAddress",
    "JsDate",
    "JsError",
    "JsFunction",
    "JsMap",
    "JsPromise",
    "JsRegExp",
    "JsSet",
    "JsSymbol",
    "KvinError",
    "Limits",
    "SparseArray",
    "TypedArray",
    "Undefined",
    "Url",
    "UserInstance",
    "Version",
    "check_url",
    "dumps",
    "escape_surrogates",
    "load_json",
    "marshal",
    "number_text",
    "parse",
    "stringify",
    "unmarshal",
]

Version = Literal[8, 9]
_DEFAULT = Limits()


def marshal(value: Any, *, version: Version = 9) -> dict[str, Any]:
    """The JSON-able object of a value.

    Raises:
        KvinError: the value holds something without a KVIN form, a non-string object key, a plain integer beyond 2^53,
            or is nested too deep.
    """
    try:
        return {"_serializeVerId": f"v{version}", "what": Encoder(version, _DEFAULT.depth).prepare(value)}
    except RecursionError:
        raise KvinError("value is nested too deep for the caller's stack") from None


def unmarshal(marshalled: Any, *, limits: Limits = _DEFAULT, strict: bool = False) -> Any:
    """The value of a marshalled object, which is left as it was.

    `strict` accepts only what dcp-client 5.6.1 decodes without throwing and without constructing unknown classes.

    Raises:
        KvinError: not KVIN, not legal, or over a limit.
    """
    try:
        return Decoder(limits, strict=strict).unmarshal(marshalled)
    except RecursionError:
        raise KvinError("nested too deep for the caller's stack") from None


def stringify(value: Any, *, version: Version = 9) -> str:
    """The KVIN text of a value. Raises as `marshal` does."""
    return dumps(marshal(value, version=version))


def parse(text: str, *, limits: Limits = _DEFAULT, strict: bool = False) -> Any:
    """The value of a KVIN text. Raises as `unmarshal` does, and for a text that is not JSON or too long."""
    return unmarshal(load_json(text, limits.text), limits=limits, strict=strict)
