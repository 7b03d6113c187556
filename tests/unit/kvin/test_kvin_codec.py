"""Round trips of generated values, limits, and refusals of the codec."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import kvin
from orchestrator.kvin import values as js

TEXT = st.text(st.characters(codec=None), max_size=12)
KEYS = TEXT.filter(lambda key: key not in ("__proto__", "hasOwnProperty", "constructor", "length"))
NUMBERS = st.one_of(st.integers(-(2**53), 2**53), st.floats().map(lambda x: _normal(x)))
BINARY = st.sampled_from(["Uint8Array", "Int8Array", "Buffer", "Float64Array", "BigInt64Array", "Uint16Array"]).flatmap(
    lambda kind: st.binary(max_size=5).map(lambda data: kvin.TypedArray(kind, data * 8 + bytes(8 * len(data))))
)
LEAVES = st.one_of(
    st.none(), st.booleans(), TEXT, NUMBERS, BINARY,
    st.just(kvin.UNDEFINED),
    st.integers().map(kvin.BigInt),
    st.integers(-8_640_000_000_000_000, 8_640_000_000_000_000).map(kvin.JsDate),
    st.builds(kvin.Url, st.just("http://h:1/p?q#f")),
    st.builds(kvin.Boxed, st.one_of(TEXT, st.integers(-9, 9), st.just(True))),
)  # fmt: skip


def _normal(number: float) -> float:
    """Numbers as the decoder gives them: whole ones up to 2^53 as int. NaN is left out, for it equals nothing."""
    if math.isnan(number) or (number == 0):
        return 0
    return int(number) if number.is_integer() and abs(number) <= 2**53 else number


def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    entries = st.dictionaries(KEYS, children, max_size=4).map(lambda d: dict(js.js_order(d)))
    return st.one_of(
        st.lists(children, max_size=5),
        st.lists(children, min_size=1, max_size=2).map(lambda items: items * 5),
        entries,
        st.dictionaries(st.integers(0, 30), children, max_size=12).map(
            lambda items: kvin.SparseArray(31, {k: items[k] for k in sorted(items)})
        ),
        st.lists(st.tuples(children, children), max_size=3).map(kvin.JsMap),
        st.lists(children, max_size=3).map(kvin.JsSet),
        st.builds(kvin.UserInstance, st.just("Foo"), entries),
        st.builds(kvin.JsError, TEXT, entries.filter(lambda e: not e.keys() & {"code", "stack"})),
    )


VALUES = st.recursive(LEAVES, containers, max_leaves=12)


@given(VALUES, st.sampled_from([8, 9]))
@settings(max_examples=300, deadline=None)
def test_round_trip(value: Any, version: Any) -> None:
    text = kvin.stringify(value, version=version)
    assert text.encode()  # no bare surrogates are left
    again = kvin.parse(text)
    assert again == value
    assert kvin.stringify(again, version=version) == text


@given(st.recursive(st.none() | st.booleans() | TEXT | st.floats() | st.integers(), lambda c: st.lists(c, max_size=4) | st.dictionaries(TEXT, c, max_size=4), max_leaves=20))  # fmt: skip # noqa: E501
@settings(max_examples=300, deadline=None)
def test_any_json_object_is_decoded_or_refused_but_never_crashes(what: Any) -> None:
    for strict in (False, True):
        try:
            kvin.unmarshal({"_serializeVerId": "v9", "what": what}, strict=strict)
        except kvin.KvinError as error:
            assert error.code == "EKVIN"


FORM_KEYS = st.sampled_from([
    "raw", "ptv", "number", "bigint", "fnName", "mapKeys", "mapVals", "ab16", "isl16", "ab8", "isl8", "arr", "ctr",
    "set", "json", "undefined", "symbol", "resolve", "reject", "seen", "isl", "ps", "len", "lst", "arg", "args", "@",
    "eb", "_serializeVerId", "what", "0",
])  # fmt: skip
FORM_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 22), st.floats(), st.text(max_size=3), st.sampled_from(["v9", "Error"])
)  # fmt: skip


@given(st.recursive(FORM_LEAVES, lambda c: st.lists(c, max_size=3) | st.dictionaries(FORM_KEYS, c, max_size=4), max_leaves=15))  # fmt: skip # noqa: E501
@settings(max_examples=500, deadline=None)
def test_any_form_is_decoded_or_refused_but_never_crashes(what: Any) -> None:
    limits = kvin.Limits(values=10_000, bytes=10_000)
    for strict in (False, True):
        try:
            kvin.unmarshal({"_serializeVerId": "v9", "what": what}, limits=limits, strict=strict)
        except kvin.KvinError as error:
            assert error.code == "EKVIN"


def test_shared_objects_stay_shared() -> None:
    shared = {"x": kvin.UNDEFINED}
    value = kvin.parse(kvin.stringify([shared, kvin.JsMap([(1, shared)]), shared, kvin.JsSet([shared])]))
    assert value[1].entries[0][1] is value[0] is value[2] is value[3].values[0]


def test_cycles_through_every_container() -> None:
    array: list[Any] = []
    sparse = kvin.SparseArray(9, {3: array}, {"me": array})
    array += [{"up": array, "m": kvin.JsMap([(array, 1)])}, sparse]
    again = kvin.parse(kvin.stringify(array))
    assert again[0]["up"] is again
    assert again[0]["m"].entries[0][0] is again
    assert again[1].items[3] is again
    assert again[1].properties["me"] is again


def test_decoding_leaves_its_input_alone() -> None:
    marshalled = {"_serializeVerId": "v9", "what": {"raw": {"a": {"b": 1}}}}
    value = kvin.unmarshal(marshalled)
    value["a"]["b"] = 2
    assert marshalled["what"] == {"raw": {"a": {"b": 1}}}


def test_run_lengths_count_against_the_limit() -> None:
    form = {"_serializeVerId": "v9", "what": {"arr": [0, {"lst": 1_000_000_000}]}}
    with pytest.raises(kvin.KvinError, match="more than"):
        kvin.unmarshal(form)


def test_zero_filled_binary_counts_against_the_limit() -> None:
    form = {"_serializeVerId": "v9", "what": {"ctr": 2, "isl8": [], "len": 4_000_000_000}}
    with pytest.raises(kvin.KvinError, match="bytes of binary"):
        kvin.unmarshal(form)


@pytest.mark.parametrize("opening", ['{"arr":[', '{"raw":{"a":', '{"ctr":0,"ps":{"a":', '{"set":{"arr":['])
def test_deep_nesting_is_refused_cleanly(opening: str) -> None:
    closing = "".join({"[": "]", "{": "}"}[c] for c in reversed(opening) if c in "[{")
    for depth in (300, 50_000):
        with pytest.raises(kvin.KvinError, match="deep"):
            kvin.parse('{"_serializeVerId":"v9","what":' + opening * depth + "1" + closing * depth + "}")


def test_nesting_within_the_limit_fits_the_stack() -> None:
    value: Any = 1
    for _ in range(190):
        value = [value]
    assert kvin.parse(kvin.stringify(value)) == value


def test_encoding_a_bottomless_value_is_refused() -> None:
    value: Any = {}
    for _ in range(5000):
        value = {"a": value}
    with pytest.raises(kvin.KvinError, match="deep"):
        kvin.marshal(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[1]", "not KVIN"),
        ("{}", "not KVIN"),
        ('{"_serializeVerId":"v3","what":1}', "version"),
        ('{"_serializeVerId":"v9"}', "what"),
        ('{"_serializeVerId":"v9","what":null}', "not a prepared form"),
        ('{"_serializeVerId":"v9","what":[1]}', "not a prepared form"),
        ('{"_serializeVerId":"v9","what":NaN}', "not JSON"),
        ('{"_serializeVerId":"v9","what":{"seen":0}}', "points nowhere"),
        ('{"_serializeVerId":"v9","what":{"ctr":99,"ps":{}}}', "not known"),
        ('{"_serializeVerId":"v9","what":{"ctr":"a.b","ps":{}}}', "not known"),
        ('{"_serializeVerId":"v9","what":{"ctr":17}}', "Promise"),
        ('{"_serializeVerId":"v9","what":{"ctr":9,"ab8":"123"}}', "multiple of 8"),
        ('{"_serializeVerId":"v9","what":{"ctr":2,"ab8":"\\u0100"}}', "over 255"),
        ('{"_serializeVerId":"v9","what":{"bigint":"1e5"}}', "bigint"),
        ('{"_serializeVerId":"v9","what":{"arr":[{"lst":2}]}}', "run length"),
        ('{"_serializeVerId":"v9","what":{"bogus":1}}', "bogus"),
        ("9" * 5000, "not JSON"),
    ],
)
def test_illegal_texts_get_one_clear_error(text: str, words: str) -> None:
    with pytest.raises(kvin.KvinError, match=words):
        kvin.parse(text)


@pytest.mark.parametrize(
    "what",
    [
        {"ctr": "eval", "args": ["globalThis.x = 1"]},  # the reference runs this
        {"ctr": "Function", "arg": "x = 1"},
        {"ctr": 15, "ps": {}, "arg": "x = 1"},
        {"ctr": "Foo", "ps": {}},
        {"ctr": 19, "ps": {}, "args": [1]},
        {"reject": 1},
        {"ctr": 0, "ps": {"__proto__": {"seen": 0}}},
        {"ctr": 0, "ps": {"hasOwnProperty": 1}},
        {"ctr": 18, "ps": {}, "arg": "no url"},
        {"ctr": "Error", "ps": {"info": {"a": 1}}, "arg": "x"},
        {"ctr": "Symbol", "ps": {}, "arg": "Symbol(a)"},
        {"ctr": "DataView"},
        {"ctr": 2, "ab16": "a", "eb": 7},
    ],
)
def test_strict_decoding_refuses_what_would_harm_a_client(what: Any) -> None:
    with pytest.raises(kvin.KvinError):
        kvin.unmarshal({"_serializeVerId": "v9", "what": what}, strict=True)


def test_lenient_decoding_keeps_unknown_classes_as_they_are() -> None:
    what = {"ctr": "Foo", "ps": {"a": {"undefined": True}}, "arg": [1, {"b": None}]}
    value = kvin.unmarshal({"_serializeVerId": "v9", "what": what})
    assert value == kvin.UserInstance("Foo", {"a": kvin.UNDEFINED}, [1, {"b": None}])
    assert kvin.marshal(value)["what"] == what


def test_sixteen_bit_binary_is_read() -> None:
    for what in (
        {"ctr": 2, "ab16": "\u0201", "eb": 3},
        {"ctr": 2, "isl16": [{"0": "\u0201", "@": 0}], "len": 3, "eb": 3},
    ):
        assert kvin.unmarshal({"_serializeVerId": "v9", "what": what}) == kvin.TypedArray("Uint8Array", b"\1\2\3")


def test_typed_array_of_plain_numbers_is_read() -> None:
    what = {"ctr": 3, "arg": [-1, 300, 1.5, 2.5, 7]}
    value = kvin.unmarshal({"_serializeVerId": "v9", "what": what})
    assert value == kvin.TypedArray("Uint8ClampedArray", bytes([0, 255, 2, 2, 7]))
    assert kvin.TypedArray.of("Int8Array", [200, -129, math.nan]).numbers() == (-56, 127, 0)


def test_buried_marshalled_object_is_read() -> None:
    inner = {"_serializeVerId": "v8", "what": {"arr": [{"seen": 0}]}}
    value = kvin.unmarshal({"_serializeVerId": "v8", "what": {"ctr": 0, "ps": {"p": {"resolve": inner}}}})
    assert value["p"].value[0] is value["p"].value


def test_bigints_of_any_length() -> None:
    huge = kvin.BigInt(7**20_000)
    text = kvin.stringify(huge)
    again = kvin.parse(text)
    assert again == huge
    assert type(again) is kvin.BigInt
    assert str(kvin.BigInt(5)) == f"{kvin.BigInt(5)}" == "5"
    with pytest.raises(kvin.KvinError, match="digits"):
        kvin.parse('{"_serializeVerId":"v9","what":{"bigint":"' + "1" * 200_000 + '"}}')


def test_values_without_a_form_are_refused() -> None:
    for value in (object(), {1: 2}, 2**53 + 1, kvin.JsPromise(1), {"a": [2**60]}):
        with pytest.raises(kvin.KvinError):
            kvin.marshal(value)


def test_integer_keys_come_first_as_in_javascript() -> None:
    shared = [1]
    text = kvin.stringify({"b": shared, "10": [shared], "9": kvin.UNDEFINED})
    assert list(json.loads(text)["what"]["ps"]) == ["9", "10", "b"]
    assert json.loads(text)["what"]["ps"]["b"] == {"seen": 2}


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1e-7, "1e-7"), (1.5e-7, "1.5e-7"), (1e-6, "0.000001"), (123456789012345680000.0, "123456789012345680000"),
        (1e21, "1e+21"), (-1.5, "-1.5"), (0.1, "0.1"), (1.25e25, "1.25e+25"), (5e-324, "5e-324"), (-0.0, "0"),
        (float("nan"), "NaN"), (float("-inf"), "-Infinity"), (100.0, "100"), (1234.5, "1234.5"),
        (1e16, "10000000000000000"),
    ],
)  # fmt: skip
def test_number_text_is_javascripts(number: float, text: str) -> None:
    assert js.number_text(number) == text


@pytest.mark.parametrize(
    ("ms", "iso"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (951782400000, "2000-02-29T00:00:00.000Z"),
        (-62198755200000, "-000001-01-01T00:00:00.000Z"),
        (8640000000000000, "+275760-09-13T00:00:00.000Z"),
    ],
)
def test_dates(ms: int, iso: str) -> None:
    assert kvin.JsDate(ms).iso == iso
    assert kvin.JsDate.of_iso(iso) == kvin.JsDate(ms)


def test_date_texts_that_are_no_dates() -> None:
    assert math.isnan(kvin.JsDate.of_iso("soon").milliseconds)
    assert kvin.JsDate(math.nan).iso is None
    assert kvin.JsDate.of_iso("2020-01-01T02:00+02:00").iso == "2020-01-01T00:00:00.000Z"
