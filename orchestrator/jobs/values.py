"""Values of jobs (input data, arguments, results) as URIs, and what a URI means.

A value travels as a `data:` URI, or as the http(s) URI of a place where it can be fetched. Which text is inside a
`data:` URI is our choice where we write it: JSON wherever JSON says it all, since every reader is fastest at that;
KVIN for the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from orchestrator import kvin
from orchestrator.errors import InvalidInput
from orchestrator.jobs import data_uris
from orchestrator.jobs.data_uris import decode_data_uri, encode_data_uri, unescape_uri_component

__all__ = [
    "NOT_STORED",
    "decode_data_uri",
    "decode_uri_component",
    "encode_data_uri",
    "is_emittable_result",
    "json_uri",
    "kvin_uri",
    "result_uri",
    "uri_of_argument",
    "uri_of_value",
    "uris_of_arguments",
    "uris_of_pile",
    "value_of_uri",
]

#: As a result: "deliberately not stored". Clients pass it on without fetching.
NOT_STORED: Final = "https://dcp/dev/null"

#: `decodeURIComponent`
decode_uri_component = unescape_uri_component

_KVIN_HEAD: Final = f"data:{data_uris.KVIN},"
_WEB_SCHEMES: Final = ("http://", "https://", "data:")
_MIME_BY_METHOD: Final = {"json": data_uris.JSON, "kvin": data_uris.KVIN}
_DEFAULT_LIMITS: Final = kvin.Limits()


def json_uri(value: Any) -> str:
    """`data:application/json,…`. Raises InvalidInput when the value is not JSON."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"value is not JSON: {error}") from None
    return encode_data_uri(text, data_uris.JSON)


def kvin_uri(value: Any, version: kvin.Version = 9) -> str:
    """`data:application/x-kvin,…`. Raises KvinError."""
    return _KVIN_HEAD + data_uris.escape_uri(kvin.stringify(value, version=version))


def uri_of_value(value: Any, version: kvin.Version = 9) -> str:
    """The shortest URI that means the value; a URL object means the place that it names.

    Raises:
        KvinError: the value has no KVIN form.
        InvalidInput: a URL object of another scheme than http, https and data.
    """
    if value is None or isinstance(value, (str, bool)) or _is_plain_number(value):
        return json_uri(value)
    if isinstance(value, (kvin.Url, kvin.DcpUrl)):
        return _remote(value.href, "value")
    return kvin_uri(value, version)


def _is_plain_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, kvin.BigInt) and math.isfinite(value)


def _remote(href: str, field: str, *, allow_files: bool = False) -> str:
    if not href.lower().startswith((*_WEB_SCHEMES, "file://") if allow_files else _WEB_SCHEMES):
        raise InvalidInput(f"{field}: {href!r:.80} is neither an http(s) nor a data: URL")
    kvin.check_url(href)
    return href


def value_of_uri(uri: str, *, limits: kvin.Limits = _DEFAULT_LIMITS) -> Any:
    """The value inside a data: URI: text, what JSON or KVIN says, or bytes for every other type.

    Raises:
        InvalidInput: not a data: URI, or not decodable (KvinError for its KVIN or JSON).
    """
    mime, content = decode_data_uri(uri, limits.text)
    if isinstance(content, bytes):
        return content
    if mime == data_uris.JSON:
        return kvin.unmarshal({"_serializeVerId": "v9", "what": {"raw": kvin.load_json(content, limits.text)}})
    return kvin.parse(content, limits=limits) if mime == data_uris.KVIN else content


# -- input data and arguments, as submitted --------------------------------------------------------------------------


def uris_of_pile(data_values: Any, *, field: str = "dataValues", max_slices: int = 10_000_000) -> list[str]:
    """One URI per element of a marshalled array of input values.

    The elements' prepared forms are wrapped again one by one and only checked, not rebuilt; an array whose elements
    refer to each other is decoded as a whole.

    Raises:
        InvalidInput: not an array, too many elements, or an element that is not legal KVIN; the message names it.
    """
    what = _what(data_values, field)
    if set(what) == {"raw"} and isinstance(what["raw"], list):
        return [json_uri(element) for element in _at_most(what["raw"], max_slices, field)]
    arr = what.get("arr")
    if not isinstance(arr, list):
        raise InvalidInput(f"{field} is not a marshalled array")
    if set(what) != {"arr"} or any(_refers(element) for element in arr):
        return _uris_of_linked_pile(data_values, field, max_slices)
    version = data_values["_serializeVerId"]
    uris: list[str] = []
    for index, element in enumerate(arr):
        if type(element) is dict and element.get("lst"):
            count = element["lst"]
            if type(count) is not int or count < 0 or not uris or len(uris) + count > max_slices:
                raise InvalidInput(f"{field}[{index}] repeats {count!r:.20} times, which is not legal here")
            uris.extend([uris[-1]] * count)
        else:
            try:
                uris.append(_uri_of_form(element, version))
            except InvalidInput as error:
                raise InvalidInput(f"{field}[{index}]: {error.message}") from None
    return _at_most(uris, max_slices, field)


def _what(marshalled: Any, field: str) -> dict[str, Any]:
    what = marshalled.get("what") if isinstance(marshalled, dict) else None
    version = marshalled.get("_serializeVerId") if isinstance(marshalled, dict) else None
    if not isinstance(what, dict) or not isinstance(version, str) or version not in kvin.VERSIONS:
        raise InvalidInput(f"{field} is not a marshalled KVIN object")
    return what


def _at_most(items: list[Any], limit: int, field: str) -> list[Any]:
    if len(items) > limit:
        raise InvalidInput(f"{field} has {len(items)} elements, more than {limit}")
    return items


def _refers(form: Any) -> bool:
    """Whether a prepared form holds a back reference, whose number only means something inside the whole array."""
    forms = [form]
    while forms:
        form = forms.pop()
        if type(form) is list:
            forms.extend(form)
        elif type(form) is dict and "raw" not in form and "ab8" not in form:
            if "seen" in form:
                return True
            forms.extend(form.values())
    return False


def _uri_of_form(form: Any, version: str) -> str:
    kind = type(form)
    if kind is str or kind is bool or kind is int:
        return json_uri(form)
    if kind is dict and len(form) == 1 and "raw" in form:
        return json_uri(form["raw"])
    marshalled = {"_serializeVerId": version, "what": form}
    value = kvin.unmarshal(marshalled)
    if isinstance(value, (kvin.Url, kvin.DcpUrl)):
        return _remote(value.href, "URL")
    if kind is float and math.isfinite(value):
        return json_uri(value)
    return _KVIN_HEAD + data_uris.escape_uri(kvin.dumps(marshalled))


def _uris_of_linked_pile(data_values: Any, field: str, max_slices: int) -> list[str]:
    value = kvin.unmarshal(data_values, limits=kvin.Limits(values=20 * max_slices))
    version: kvin.Version = 9 if data_values["_serializeVerId"] == "v9" else 8
    if isinstance(value, kvin.SparseArray):
        if value.length > max_slices:
            raise InvalidInput(f"{field} has {value.length} elements, more than {max_slices}")
        value = [value.items.get(index, kvin.UNDEFINED) for index in range(value.length)]
    return [uri_of_value(element, version) for element in _at_most(value, max_slices, field)]


def uris_of_arguments(marshalled: Any, *, field: str = "marshaledArguments", allow_files: bool = False) -> list[str]:
    """One URI per work-function argument of `submit@5`. `allow_files`: for jobs that run on the deployer's machine.

    Raises `InvalidInput` naming `field`.
    """
    if marshalled is None:
        return []
    elements = kvin.unmarshal(marshalled)
    if not isinstance(elements, list):
        raise InvalidInput(f"{field} is not a marshalled array")
    return [
        uri_of_argument(element, field=f"{field}[{index}]", allow_files=allow_files)
        for index, element in enumerate(elements)
    ]


def uri_of_argument(element: Any, *, field: str = "argument", allow_files: bool = False) -> str:
    """The URI of one argument: a URL object, or `{string, method, MIMEType}`; as a value or as a prepared form.

    Raises:
        InvalidInput: neither of them, or a method that does not go with the MIME type.
    """
    if isinstance(element, dict) and ("raw" in element or "ctr" in element):
        element = kvin.unmarshal({"_serializeVerId": "v9", "what": element})
    if isinstance(element, (kvin.Url, kvin.DcpUrl)):
        return _remote(element.href, field, allow_files=allow_files)
    return _serialised_uri(element, field)


def _serialised_uri(element: Any, field: str, *, compact: bool = False) -> str:
    """URI of `{string, method, MIMEType}`, the client's and worker's own wrapping of a serialised value."""
    if not isinstance(element, Mapping) or not isinstance(element.get("string"), str):
        raise InvalidInput(f"{field} is not an object with string, method and MIMEType")
    mime = _MIME_BY_METHOD.get(str(element.get("method")))
    if mime is None or element.get("MIMEType", mime) != mime:
        raise InvalidInput(
            f"{field}: method {element.get('method')!r:.20} with MIMEType {element.get('MIMEType')!r:.40} is not json "
            "with application/json or kvin with application/x-kvin"
        )
    return encode_data_uri(element["string"], mime, compact=compact)


# -- results ---------------------------------------------------------------------------------------------------------


def result_uri(result: Any, *, field: str = "result") -> str:
    """The URI of a worker's result `{string, method, MIMEType}`, marshalled (as in `resultV2`) or plain.

    Nothing is said about whether a client can decode it: ask `is_emittable_result`.
    """
    if isinstance(result, dict) and "_serializeVerId" in result:
        result = _what(result, field).get("raw") if "raw" in _what(result, field) else kvin.unmarshal(result)
    return _serialised_uri(result, field, compact=True)


def is_emittable_result(uri: Any, *, limits: kvin.Limits = _DEFAULT_LIMITS) -> bool:
    """Whether dcp-client 5.6.1 survives a result event with this URI.

    The client's process ends on a URI that it cannot parse or decode. It also constructs whatever class a KVIN text
    names and applies it to given arguments, `eval` included; so only harmless kinds pass here, which protects clients
    from workers. Takes time in proportion to the length: about 0.1 ms for 10 kB of JSON.
    """
    if not isinstance(uri, str):
        return False
    try:
        if not uri.startswith("data:"):
            kvin.check_url(uri)
            return uri.startswith(("http://", "https://"))
        mime, content = decode_data_uri(uri, limits.text)
        if isinstance(content, bytes):
            return True
        if mime == data_uris.JSON:
            kvin.load_json(content, limits.text)
        elif mime == data_uris.KVIN:
            kvin.parse(content, limits=limits, strict=True)
    except InvalidInput:
        return False
    return True
