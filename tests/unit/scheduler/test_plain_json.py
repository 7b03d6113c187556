from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import kvin
from orchestrator.errors import InvalidInput
from orchestrator.scheduler.plain_json import plain, plain_data

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_json_stays_json(value: Any) -> None:
    assert plain_data(json.loads(json.dumps(kvin.marshal(value)))) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (kvin.UNDEFINED, None),
        ({"a": kvin.UNDEFINED, "b": 1}, {"b": 1}),
        ([kvin.UNDEFINED], [None]),
        (float("nan"), None),
        (kvin.TypedArray("Uint8Array", b"\x01\xff"), {"0": 1, "1": 255}),
        (kvin.JsDate(0.0), "1970-01-01T00:00:00.000Z"),
        (kvin.Url("http://a/"), "http://a/"),
        (kvin.JsSet([1]), {}),
        (kvin.SparseArray(3, {1: "x"}), [None, "x", None]),
        (kvin.JsError("m", {"code": "E"}), {"code": "E"}),
    ],
)
def test_what_javascript_makes_of_it(value: Any, expected: Any) -> None:
    assert plain(value) == expected


def test_what_javascript_refuses() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidInput):
        plain(loop)
    with pytest.raises(InvalidInput):
        plain(kvin.BigInt(5))


def test_data_that_is_not_marshalled_is_left_alone() -> None:
    assert plain_data({"what": 1}) == {"what": 1}
    assert plain_data(7) == 7
