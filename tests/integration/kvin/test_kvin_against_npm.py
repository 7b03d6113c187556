"""The real npm kvin (9.0.0, and the worker's 1.2.17) reads what we write, and we read what it writes."""

from __future__ import annotations

import json
import math
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from orchestrator import kvin
from orchestrator.kvin import values as js

pytestmark = pytest.mark.npm
HERE = pathlib.Path(__file__).parent


class Bridge:
    """One Node process with the real packages, asked line by line."""

    def __init__(self, node: pathlib.Path, modules: pathlib.Path) -> None:
        self._process = subprocess.Popen(
            [node, HERE / "kvin_bridge.js"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._packages = {9: modules / "kvin", 8: modules / "dcp-worker" / "node_modules" / "kvin"}

    def ask(self, version: int, text: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"kvin": str(self._packages[version]), "text": text}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture(scope="module")
def bridge(node: pathlib.Path, npm_modules: pathlib.Path) -> Iterator[Bridge]:
    bridge = Bridge(node, npm_modules)
    yield bridge
    bridge.close()


def describe(value: Any, seen: dict[int, int]) -> Any:
    """What kvin_bridge.js says of the same value."""
    if value is kvin.UNDEFINED:
        return ["undefined"]
    if value is None:
        return ["null"]
    if isinstance(value, bool):
        return ["boolean", value]
    if isinstance(value, str):
        return ["string", value]
    if isinstance(value, kvin.BigInt):
        return ["bigint", str(value)]
    if isinstance(value, (int, float)):
        return ["number", "-0" if value == 0 and math.copysign(1, value) < 0 else kvin.number_text(value)]
    if isinstance(value, kvin.JsSymbol):
        return ["symbol", value.description]
    if id(value) in seen:
        return ["again", seen[id(value)]]
    seen[id(value)] = len(seen)
    return describe_object(value, seen)


def describe_object(value: Any, seen: dict[int, int]) -> Any:
    def members(mapping: dict[str, Any]) -> list[Any]:
        return [[key, describe(item, seen)] for key, item in js.js_order(mapping)]

    match value:
        case list():
            return ["array", len(value), [[str(i), describe(item, seen)] for i, item in enumerate(value)]]
        case kvin.SparseArray():
            items = {str(index): item for index, item in value.items.items()}
            return ["array", value.length, members(items | value.properties)]
        case kvin.TypedArray():
            return ["binary", value.kind, value.data.hex()]
        case kvin.JsMap():
            return ["map", [[describe(k, seen), describe(v, seen)] for k, v in value.entries]]
        case kvin.JsSet():
            return ["set", [describe(item, seen) for item in value.values]]
        case kvin.JsDate():
            return ["date", kvin.number_text(value.milliseconds)]
        case kvin.JsRegExp():
            return ["regexp", value.source, value.flags]
        case kvin.JsError():
            return ["error", value.message, members(value.properties)]
        case kvin.Url():
            return ["url", value.href]
        case kvin.Boxed(bool() as flag):
            return ["boxed", "true" if flag else "false"]
        case kvin.Boxed(str() as text):
            return ["boxed", text]
        case kvin.Boxed(number):
            return ["boxed", kvin.number_text(number)]
        case kvin.JsFunction():
            return ["function", value.name, value.source]
    assert isinstance(value, dict), value
    return ["object", members(value)]


TEXT = st.text(st.characters(codec=None), max_size=8)
# these names of properties change what the reference encoder itself does with an object
KEYS = TEXT.filter(lambda key: key not in ("__proto__", "hasOwnProperty", "constructor", "length"))
NUMBERS = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=True))
BINARY = st.sampled_from(["Uint8Array", "Int16Array", "Buffer", "Float64Array", "BigUint64Array", "DataView"]).flatmap(
    lambda kind: st.lists(st.binary(max_size=3), max_size=3).map(
        lambda parts: kvin.TypedArray(kind, b"".join(part * 8 + bytes(16) for part in parts))
    )
)
LEAVES = st.one_of(
    st.none(), st.booleans(), TEXT, NUMBERS, BINARY,
    st.just(kvin.UNDEFINED),
    st.integers().map(kvin.BigInt),
    st.integers(-8_640_000_000_000_000, 8_640_000_000_000_000).map(kvin.JsDate),
    st.builds(kvin.Url, st.just("http://host:1/p?q#f")),
    st.builds(kvin.Boxed, st.one_of(TEXT, st.integers(-9, 9), st.just(True))),
    st.builds(kvin.JsRegExp, st.just("a+"), st.just("gi")),
    st.builds(kvin.JsFunction, st.just("f"), st.just("() => 1")),
)  # fmt: skip


def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    entries = st.dictionaries(KEYS, children, max_size=4)
    # no Set in here: the second mention of a Set comes back as an array in the reference
    repeated = st.one_of(LEAVES, st.lists(LEAVES, max_size=3), st.dictionaries(KEYS, LEAVES, max_size=3))
    return st.one_of(
        st.lists(children, max_size=5),
        st.builds(lambda item, count: [item] * count, repeated, st.integers(1, 12)),
        entries,
        st.dictionaries(st.integers(0, 30), children, max_size=12).map(lambda items: kvin.SparseArray(31, items)),
        # keys of one kind each, since a Map drops equal keys
        st.dictionaries(TEXT, children, max_size=3).map(lambda d: kvin.JsMap(list(d.items()))),
        st.sets(TEXT, max_size=3).map(lambda items: kvin.JsSet(list(items))),
        st.builds(kvin.JsError, TEXT, st.dictionaries(st.sampled_from(["code", "errno", "info"]), children)),
    )


VALUES = st.recursive(LEAVES, containers, max_leaves=12)
SETTINGS = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("version", [9, 8])
@SETTINGS
@given(value=VALUES)
def test_the_real_decoder_reads_what_we_write(bridge: Bridge, version: Any, value: Any) -> None:
    text = kvin.stringify(value, version=version)
    ours = kvin.parse(text)
    answer = bridge.ask(version, text)
    assert answer.get("description") == json.loads(json.dumps(describe(ours, {}))), answer


def is_lossless_in_the_reference(value: Any) -> bool:
    """Whether the reference *encoder* keeps all of a value: it writes short islands and Error properties raw."""
    if isinstance(value, (kvin.SparseArray, kvin.JsError, kvin.JsFunction)):
        return False
    if isinstance(value, kvin.JsMap):
        return all(is_lossless_in_the_reference(item) for _, item in value.entries)
    if isinstance(value, dict):
        return all(is_lossless_in_the_reference(item) for item in value.values())
    return not isinstance(value, list) or all(is_lossless_in_the_reference(item) for item in value)


@pytest.mark.parametrize("version", [9, 8])
@SETTINGS
@given(value=VALUES.filter(is_lossless_in_the_reference))
def test_we_read_and_write_what_the_real_encoder_writes(bridge: Bridge, version: Any, value: Any) -> None:
    ours = kvin.stringify(value, version=version)
    theirs = bridge.ask(version, ours)["text"]
    # back references after a Map are miscounted by the reference encoder: its own decoder misreads them as well
    assume('"seen"' not in theirs or "mapKeys" not in theirs)
    decoded = kvin.parse(theirs)
    assert describe(decoded, {}) == describe(kvin.parse(ours), {})
    if '{"raw":[]}' not in theirs:  # the reference makes one array of repeated empty ones, so we do not fold those
        assert numbers_as_float(kvin.stringify(decoded, version=version)) == numbers_as_float(theirs)


def numbers_as_float(text: str) -> Any:
    """JSON in which 1e16 and 10000000000000000 are the same."""
    return json.loads(text, parse_int=float)


HAND_MADE = [
    '{"ctr":0,"ps":{"self":{"seen":0}}}',
    '{"arr":[{"symbol":"a"},{"ctr":2,"ab8":"a"},{"seen":2}]}',
    '{"arr":[{"seen":0},{"arr":[{"seen":0},{"seen":1}]}]}',
    '{"mapKeys":{"arr":["a"]},"mapVals":{"arr":[{"seen":0}]}}',
    '{"ctr":0,"ps":{"m":{"mapKeys":{"arr":["a"]},"mapVals":{"arr":[1]}},"n":{"seen":1},"k":{"seen":2},"v":{"seen":3}}}',
    '{"arr":[],"isl":[{"@":4,"arr":{"arr":[1,2,3,4,5,6,7,{"seen":0},{"seen":1}]}}],"len":20}',
    '{"ctr":0,"ps":{"b":{"arr":[1]},"2":{"arr":[2]},"1":{"arr":[{"seen":1}]},"c":{"seen":1}}}',
    '{"arr":[{"arr":[1]},{"lst":2},{"seen":3},{"ctr":2,"ab8":"a"},{"seen":4}]}',
    '{"arr":[{"ctr":15,"ps":{},"fnName":"f","arg":"x"},{"seen":1},{"ctr":10,"args":["a",""]},{"seen":2}]}',
    '{"arr":[{"resolve":1}],"len":3}',
    '{"arr":[{"raw":[1,[2]]},{"ptv":3},{"json":"[1.0,-0]"},{"number":"12abc"},{"number":"x"}]}',
    '{"ctr":"5","arg":[70000,-1]}',
    '{"arr":[{"ctr":19,"ps":{},"arg":null},{"ctr":19,"arg":5},{"ctr":14},{"ctr":20,"arg":[1]},{"ctr":11,"arg":"0x"}]}',
    '{"arr":[1,2,3],"ps":{"1":5,"x":{"raw":null},"9":true},"len":12}',
    '{"arr":[1,2,3],"len":2}',
]


@pytest.mark.parametrize("what", HAND_MADE)
def test_hand_made_forms_mean_the_same(bridge: Bridge, what: str) -> None:
    text = '{"_serializeVerId":"v9","what":' + what + "}"
    answer = bridge.ask(9, text)
    ours = kvin.parse(text)
    if "resolve" in what:  # a promise has no description
        assert isinstance(ours.items[0], kvin.JsPromise)
    elif '"ctr":14' in what:
        assert answer["description"][2][0][1] == ["date", "0"]
        assert ours[:2] == [kvin.JsDate(0), kvin.JsDate(5)]
        assert ours[2:4] == [kvin.UserInstance("Array"), kvin.JsSet([1])]
    elif '"k":{"seen":2}' in what:  # the arrays of a Map's keys and values are only seen in this way
        assert json.loads(json.dumps(describe(ours, {}))) == answer["description"]
    else:
        assert json.loads(json.dumps(describe(ours, {}))) == answer.get("description"), answer


@pytest.mark.parametrize(
    "what",
    [
        "null", "[1]", '{"seen":3}', '{"ctr":21}', '{"ctr":17}', '{"ctr":"x.y"}', '{"ctr":9,"ab8":"123"}',
        '{"bogus":1}', '{"arr":[{"lst":2}]}', '{"arr":[null]}', '{"bigint":"1e5"}', '{"ctr":18,"arg":"no"}',
        '{"ctr":10,"args":["","zz"]}',
        '{"ctr":"DataView"}', '{"ctr":"Nowhere","ps":{}}', '{"arr":[],"ps":{"length":-1}}', '{"json":"{"}', "{}",
    ],
)  # fmt: skip
def test_what_the_real_decoder_refuses_is_refused_strictly(bridge: Bridge, what: str) -> None:
    text = '{"_serializeVerId":"v9","what":' + what + "}"
    assert "error" in bridge.ask(9, text)
    with pytest.raises(kvin.KvinError):
        kvin.parse(text, strict=True)
