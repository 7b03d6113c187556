"""Values as URIs, and what is refused."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import kvin
from orchestrator.errors import InvalidInput
from orchestrator.jobs import data_uris, values

TEXT = st.text(max_size=30)


@pytest.mark.parametrize(
    ("content", "mime", "uri"),
    [
        ("(i)=>i%2#&,;/", "text/plain", "data:,(i)=%3Ei%252#&,;/"),
        ("", "", "data:,"),
        ('{"a":"é😀"}', "application/json", "data:application/json,%7B%22a%22:%22%C3%A9%F0%9F%98%80%22%7D"),
        ('"\ud800"', "application/json", "data:application/json,%22%5Cud800%22"),
        ("\x7f\n", "text/plain", "data:,%7F%0A"),
        (b"\xff\x00", "application/octet-stream", "data:application/octet-stream;base64,/wA="),
    ],
)
def test_encoding(content: Any, mime: str, uri: str) -> None:
    assert values.encode_data_uri(content, mime) == uri


def test_half_a_surrogate_pair_is_no_plain_text() -> None:
    with pytest.raises(InvalidInput, match="surrogate"):
        values.encode_data_uri("\ud800")


@given(TEXT)
@settings(max_examples=200, deadline=None)
def test_text_comes_back(text: str) -> None:
    assert values.decode_data_uri(values.encode_data_uri(text), 1000) == ("text/plain", text)
    assert data_uris.unescape_uri(data_uris.escape_uri(text)) == text


@given(
    st.text(st.characters(max_codepoint=255), max_size=60), st.sampled_from(["application/json", "application/x-kvin"])
)
@settings(max_examples=200, deadline=None)
def test_json_comes_back_compact_or_not(text: str, mime: str) -> None:
    text = json.dumps(text, ensure_ascii=False)
    for compact in (False, True):
        assert values.decode_data_uri(values.encode_data_uri(text, mime, compact=compact), 1000) == (mime, text)


def test_binary_results_are_compact() -> None:
    text = kvin.stringify(kvin.TypedArray("Uint8Array", bytes(range(128, 256)) * 8))
    assert len(values.encode_data_uri(text, "application/x-kvin", compact=True)) < 1.5 * len(text)


def test_decoding_is_limited() -> None:
    for uri in ("data:," + "x" * 101, "data:;base64," + "A" * 100_000):
        with pytest.raises(InvalidInput, match="limit"):
            values.decode_data_uri(uri, 100)


@pytest.mark.parametrize("uri", ["", "data:", "data:application/json", "http://x/", "data:,%2", "data:;base64,=A", 5])
def test_what_is_no_data_uri(uri: Any) -> None:
    assert not values.is_emittable_result(uri) or uri == "http://x/"
    if isinstance(uri, str):
        with pytest.raises(InvalidInput):
            values.decode_data_uri(uri, 100)


@pytest.mark.parametrize(
    ("value", "uri"),
    [
        (5, "data:application/json,5"),
        ("a", "data:application/json,%22a%22"),
        (True, "data:application/json,true"),
        (None, "data:application/json,null"),
        (kvin.Url("https://a/b"), "https://a/b"),
        (kvin.DcpUrl("http://a/b"), "http://a/b"),
        ([1], "data:application/x-kvin,%7B%22_serializeVerId%22:%22v9%22,%22what%22:%7B%22arr%22:%5B1%5D%7D%7D"),
    ],
)
def test_uri_of_value(value: Any, uri: str) -> None:
    assert values.uri_of_value(value) == uri


# -- piles -----------------------------------------------------------------------------------------------------------

ELEMENTS: list[Any] = [
    1, 1, 1, 2.5, "text", "\ud800", "", True, None, kvin.UNDEFINED, float("inf"), [], {}, {"a": 1}, {"b": [1]},
    [1, [2]],
    kvin.BigInt(7), kvin.TypedArray("Float32Array", b"\0\0\0\x80"), kvin.JsDate(5), kvin.JsMap([(1, 2)]),
    kvin.UserInstance("Foo", {"x": 1}), {"raw": 1}, {"lst": 3}, kvin.SparseArray(3, {1: 1}),
]  # fmt: skip


@pytest.mark.parametrize("version", [8, 9])
def test_a_pile_is_one_uri_per_value(version: Any) -> None:
    uris = values.uris_of_pile(kvin.marshal(ELEMENTS, version=version))
    assert [values.value_of_uri(uri) for uri in uris] == ELEMENTS
    assert f"%22v{version}%22" in uris[ELEMENTS.index({"b": [1]})]


@given(st.lists(st.recursive(st.none() | st.integers(0, 3) | TEXT, lambda c: st.lists(c, max_size=3) | st.dictionaries(TEXT, c, max_size=2), max_leaves=5), max_size=8))  # fmt: skip # noqa: E501
@settings(max_examples=150, deadline=None)
def test_any_pile_comes_back(elements: list[Any]) -> None:
    uris = values.uris_of_pile(json.loads(kvin.stringify(elements)))
    assert [values.value_of_uri(uri) for uri in uris] == elements


def test_elements_that_refer_to_each_other_are_taken_apart() -> None:
    shared = [1]
    loop: list[Any] = []
    loop.append(loop)
    uris = values.uris_of_pile(kvin.marshal([shared, {"again": shared}, loop]))
    assert [values.value_of_uri(uri) for uri in uris[:2]] == [[1], {"again": [1]}]
    again = values.value_of_uri(uris[2])
    assert again[0] is again


def test_remote_values_keep_their_address() -> None:
    pile = kvin.marshal([kvin.Url("https://a/1"), kvin.DcpUrl("http://a/2"), kvin.Url("data:,x")])
    assert values.uris_of_pile(pile) == ["https://a/1", "http://a/2", "data:,x"]


def test_a_pile_of_plain_json_and_of_none() -> None:
    assert values.uris_of_pile({"_serializeVerId": "v9", "what": {"raw": []}}) == []
    pile = {"_serializeVerId": "v9", "what": {"raw": [1, {"a": 2}]}}
    assert values.uris_of_pile(pile) == ["data:application/json,1", "data:application/json,%7B%22a%22:2%7D"]


def test_holes_are_undefined() -> None:
    uris = values.uris_of_pile(kvin.marshal(kvin.SparseArray(2, {1: 5})))
    assert [values.value_of_uri(uri) for uri in uris] == [kvin.UNDEFINED, 5]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"raw": 1}, "not a marshalled array"),
        (5, "not a marshalled"),
        ({"arr": [1, None]}, r"dataValues\[1\]"),
        ({"arr": [{"bogus": 1}]}, r"dataValues\[0\]"),
        ({"arr": [{"ctr": 18, "ps": {}, "arg": "file:///etc/passwd"}]}, r"dataValues\[0\].*file"),
        ({"arr": [{"lst": 1}]}, r"dataValues\[0\] repeats"),
        ({"arr": [1, {"lst": 10**12}]}, r"dataValues\[1\] repeats"),
        ({"arr": [], "len": 4_000_000_000}, "more than"),
        ({"arr": [{"seen": 5}]}, "points nowhere"),
    ],
)
def test_bad_piles_are_refused_by_element(what: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        values.uris_of_pile({"_serializeVerId": "v9", "what": what})


@pytest.mark.parametrize("version", [None, 9, [], {}])
def test_a_pile_of_no_known_version_is_refused(version: Any) -> None:
    with pytest.raises(InvalidInput, match="not a marshalled"):
        values.uris_of_pile({"_serializeVerId": version, "what": {}})


def test_a_pile_nested_too_deep_is_refused() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = {"arr": [deep]}
    with pytest.raises(InvalidInput, match="deep"):
        values.uris_of_pile({"_serializeVerId": "v9", "what": {"arr": [deep]}})


def test_a_pile_of_5000_values_of_3_kb_is_quick() -> None:
    pile = json.loads(kvin.stringify([f"{i:06d}" * 500 for i in range(5000)]))
    started = time.process_time()
    uris = values.uris_of_pile(pile)
    assert len(uris) == 5000
    assert (time.process_time() - started) / 5000 < 100e-6


# -- arguments and results -------------------------------------------------------------------------------------------


def test_arguments() -> None:
    arguments = [
        {"string": '"a"', "method": "json", "MIMEType": "application/json"},
        {"string": kvin.stringify([1]), "method": "kvin", "MIMEType": "application/x-kvin"},
        kvin.Url("https://a/b"),
    ]
    uris = values.uris_of_arguments(kvin.marshal(arguments))
    assert uris == ["data:application/json,%22a%22", values.kvin_uri([1]), "https://a/b"]
    assert [values.uri_of_argument(form) for form in kvin.marshal(arguments)["what"]["arr"]] == uris
    assert values.uris_of_arguments(None) == []
    assert values.uris_of_arguments(kvin.marshal([])) == []


def test_argument_files_are_for_local_jobs_only() -> None:
    arguments = kvin.marshal([kvin.Url("file:///tmp/x")])
    assert values.uris_of_arguments(arguments, allow_files=True) == ["file:///tmp/x"]
    with pytest.raises(InvalidInput, match=r"marshaledArguments\[0\].*file"):
        values.uris_of_arguments(arguments)


@pytest.mark.parametrize(
    "element",
    [
        None,
        5,
        {"string": 5, "method": "json"},
        {"string": "5", "method": "xml"},
        {"string": "5", "method": "json", "MIMEType": "text/html"},
    ],
)
def test_bad_arguments(element: Any) -> None:
    with pytest.raises(InvalidInput, match=r"marshaledArguments\[0\]"):
        values.uris_of_arguments(kvin.marshal([element]))


def test_results_marshalled_or_plain() -> None:
    result = {"string": "5", "method": "json", "MIMEType": "application/json"}
    assert values.result_uri(result) == values.result_uri(kvin.marshal(result)) == "data:application/json,5"
    with pytest.raises(InvalidInput):
        values.result_uri({"string": None, "method": "json"})
    with pytest.raises(InvalidInput):
        values.result_uri(kvin.marshal(5))


@pytest.mark.parametrize(
    ("uri", "good"),
    [
        (values.NOT_STORED, True),
        ("https://a.b/c", True),
        ("https:///c", False),
        ("http://a:99999/", False),
        ("http://a b/", False),
        ("ftp://a/", False),
        ("file:///etc/passwd", False),
        ("nonsense", False),
        (None, False),
        ("data:application/json,%7B", False),
        ("data:application/json,%5B1%5D", True),
        ("data:image/png;base64,AAAA", True),
        (values.kvin_uri(kvin.JsError("x", {"stack": "y"})), True),
        (values.kvin_uri([kvin.UNDEFINED, kvin.BigInt(5), kvin.JsMap(), kvin.TypedArray("Buffer", b"")]), True),
        (values.kvin_uri(kvin.UserInstance("eval", {}, args=["1"])), False),
        (values.kvin_uri(kvin.UserInstance("Foo")), False),
    ],
)
def test_only_what_a_client_survives_is_emitted(uri: Any, good: bool) -> None:
    assert values.is_emittable_result(uri) is good


def test_a_result_in_json_nested_too_deep_is_not_emitted() -> None:
    assert not values.is_emittable_result("data:application/json," + "%5B" * 50_000 + "%5D" * 50_000)


def test_small_results_are_judged_quickly() -> None:
    uri = values.kvin_uri([1, {"a": [2]}])
    started = time.process_time()
    for _ in range(1000):
        values.is_emittable_result(uri)
    assert (time.process_time() - started) / 1000 < 100e-6
