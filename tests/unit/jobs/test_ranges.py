"""Input sets: lazy, exact, and refused with the name of the bad field."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import kvin
from orchestrator.errors import InvalidInput
from orchestrator.jobs import ranges, values
from orchestrator.jobs.ranges import parse_input_set, parse_slice_selection


def everything(form: Any, **options: Any) -> list[Any]:
    inputs = parse_input_set(form, **options)
    return [inputs.value(index) for index in range(inputs.length)]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"start": 1, "end": 10, "step": 3}, [1, 4, 7, 10]),
        ({"start": 1, "end": 9, "step": 3}, [1, 4, 7]),
        ({"start": 3, "end": 1}, [3, 2, 1]),
        ({"start": 0, "end": 0, "step": 0}, [0]),
        ({"start": 1, "end": 1, "step": 1}, [1]),
        ({"start": 1, "end": 1, "step": -2.5, "group": 3}, [[1]]),
        ({"start": 0, "end": 1, "step": 0.25}, [0, 0.25, 0.5, 0.75, 1]),
        ({"start": 1, "end": 5, "step": 1, "group": 2}, [[1, 2], [3, 4], [5]]),
        (
            {"sparse": True, "ranges": [{"start": 0, "end": 1, "step": 1}, {"start": 9, "end": 7, "step": -1}]},
            [0, 1, 9, 8, 7],
        ),
        (
            {"ranges": [{"start": 0, "end": 1, "step": 1}, ["a", {"b": 1}]]},
            [[0, "a"], [0, {"b": 1}], [1, "a"], [1, {"b": 1}]],
        ),
        ({"ranges": [{"start": 0, "end": 3, "group": 2}, 5]}, [[[0, 1], 5], [[2, 3], 5]]),
        ({"ranges": [[], [1, 2]]}, []),
        ([1, "two", None], [1, "two", None]),
        ({"length": 3, "dist": "identity", "params": []}, [0, 1, 2]),
        ({"length": 2, "dist": "random", "params": [0, 1], "values": [0.5, 0.25]}, [0.5, 0.25]),
        ({"length": 2, "dist": "poisson", "params": [-1], "values": ["any", None]}, ["any", None]),
    ],
)
def test_values(form: Any, expected: list[Any]) -> None:
    assert everything(form) == expected
    assert everything({"dataRange": form, "job": "x"}) == expected
    inputs = parse_input_set(form)
    assert [values.value_of_uri(inputs.uri(index)) for index in range(inputs.length)] == expected
    for outside in (-1, inputs.length):
        with pytest.raises(IndexError):
            inputs.value(outside)
        with pytest.raises(IndexError):
            inputs.uri(outside)


def test_uris_are_short_json() -> None:
    assert parse_input_set({"start": 1, "end": 9}).uri(4) == "data:application/json,5"
    assert parse_input_set({"start": 1, "end": 9, "group": 2}).uri(4) == "data:application/json,%5B9%5D"
    assert parse_input_set(["a b"]).uri(0) == "data:application/json,%22a%20b%22"


def test_a_number_that_is_not_json_travels_as_kvin() -> None:
    inputs = parse_input_set({"ranges": [{"length": 1, "dist": "poisson", "params": [-1]}]})
    assert values.is_emittable_result(inputs.uri(0))
    (value,) = values.value_of_uri(inputs.uri(0))
    assert math.isnan(value)


def test_huge_sets_cost_nothing() -> None:
    big = {"start": 0, "end": 9_999_999, "step": 1}
    started = time.process_time()
    inputs = parse_input_set({"ranges": [big, big, {"sparse": True, "ranges": [big]}, {"start": 0, "end": 9}]})
    assert inputs.length == 10**7 * 10**7 * 10
    assert inputs.value(inputs.length - 1)[:2] == [9_999_999, 9_999_999]
    single = parse_input_set(big)
    for index in range(0, 10**7, 10**4):
        assert single.value(index) == index
        single.uri(index)
    assert time.process_time() - started < 1


@given(
    st.lists(
        st.lists(st.integers(0, 9), min_size=1, max_size=4)
        | st.integers(1, 5).map(lambda n: {"start": 1, "end": n, "step": min(n - 1, 1)}),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=100, deadline=None)
def test_products_are_products(members: list[Any]) -> None:
    columns = [everything(member) for member in members]
    assert everything({"ranges": members}) == [list(combination) for combination in itertools.product(*columns)]


def test_remote_pattern() -> None:
    inputs = parse_input_set({"dataPattern": "https://a.b/x/{slice}.json", "sliceCount": 3})
    assert inputs.length == 3
    assert inputs.uri(0) == "https://a.b/x/1.json"
    assert inputs.value(2) == kvin.Url("https://a.b/x/3.json")
    with pytest.raises(IndexError):
        inputs.uri(3)
    assert parse_input_set({"dataPattern": "http://a/%7Bslice%7D", "sliceCount": 1}).uri(0) == "http://a/1"


def test_local_execution_names_files() -> None:
    listed = {"0": "file:///a", "1": "file:///b", "length": 2}
    inputs = parse_input_set({"marshaledDataValues": listed})
    assert [inputs.uri(0), inputs.uri(1)] == ["file:///a", "file:///b"]
    located = parse_input_set({"dataRange": {"0": "file:///r", "length": 1}, "rangeLength": 7})
    assert isinstance(located, ranges.LocatedRange)
    assert (located.location, located.length) == ("file:///r", 7)
    with pytest.raises(InvalidInput):
        located.uri(0)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (5, "dataRange"),
        ({}, "dataRange is not a range"),
        ({"start": 0, "end": 10, "step": -1}, r"dataRange\.step -1 does not lead from start 0 to end 10"),
        ({"start": 0, "end": 10, "step": 0}, r"dataRange\.step"),
        ({"start": 0, "end": math.inf}, r"dataRange\.end"),
        ({"start": 0, "end": 10**400}, r"dataRange\.end"),
        ({"start": True, "end": 3}, "not a range"),
        ({"start": 0, "end": 1e300, "step": 1}, "too many"),
        ({"start": 0, "end": 1, "step": 5e-324}, "too many"),
        ({"start": 0, "end": 10, "group": 0}, r"dataRange\.group"),
        ({"start": 0, "end": 10, "group": 1.5}, r"dataRange\.group"),
        ({"sparse": True, "ranges": []}, r"dataRange\.ranges"),
        ({"sparse": True, "ranges": [{"start": 0, "end": 1}, {"x": 1}]}, r"dataRange\.ranges\[1\]"),
        (
            {"sparse": True, "ranges": [{"start": 0, "end": 1, "group": 2}, {"start": 0, "end": 1, "group": 3}]},
            "group of the first",
        ),
        ({"ranges": [{"start": 0, "end": 2**52}] * 3}, "slices, more than"),
        ({"ranges": [[1], {"start": 0, "end": 5, "step": "x"}]}, r"dataRange\.ranges\[1\]\.step"),
        ({"length": -1, "dist": "random", "params": []}, r"dataRange\.length"),
        ({"length": 3, "dist": "evil", "params": []}, r"dataRange\.dist"),
        ({"length": 3, "dist": "random", "params": [], "values": [1]}, r"dataRange\.values"),
        ({"length": 3, "dist": "poisson", "params": [1, True]}, "no random form"),
        ({"dataPattern": "https://a/{x}", "sliceCount": 3}, "dataPattern"),
        ({"dataPattern": "ftp://a/{slice}", "sliceCount": 3}, "dataPattern"),
        ({"dataPattern": "https://a/{slice}", "sliceCount": 0}, "sliceCount"),
        ({"marshaledDataValues": {"0": "a", "length": 2}}, "marshaledDataValues"),
        ({"marshaledDataValues": {"length": 10**12}}, "marshaledDataValues"),
        ({"marshaledDataValues": {"0": 1, "length": 1}}, "marshaledDataValues"),
    ],
)
def test_bad_input_sets_are_refused_by_name(form: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_input_set(form)


def test_values_nested_too_deep_are_refused_at_once() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    with pytest.raises(InvalidInput, match="deeper"):
        parse_input_set([deep])
    with pytest.raises(InvalidInput, match="deeper"):
        parse_input_set({"ranges": [{"a": deep}]})


RANDOM = [
    {"length": 50, "dist": "random", "params": [2, 4]},
    {"length": 50, "dist": "randomInt", "params": [2, 40]},
    {"length": 50, "dist": "normalRNG", "params": [10, 2]},
    {"length": 50, "dist": "normal", "params": [0, 1, 0, 3, True]},
]


@pytest.mark.parametrize("form", RANDOM)
def test_random_values_depend_on_the_seed_and_the_index_only(form: dict[str, Any]) -> None:
    first = everything(form, seed="job-1")
    assert first == everything(form, seed="job-1")
    assert first != everything(form, seed="job-2")
    assert len(set(first)) > 20
    inputs = parse_input_set(form, seed="job-1")
    assert inputs.value(33) == first[33]


def test_random_values_follow_their_distribution() -> None:
    flat = everything({"length": 2000, "dist": "random", "params": [2, 4]})
    assert all(2 <= value < 4 for value in flat)
    assert sum(flat) / 2000 == pytest.approx(3, abs=0.05)
    whole = everything({"length": 2000, "dist": "randomInt", "params": [0, 3]})
    assert set(whole) == {0, 1, 2}
    normal = everything({"length": 2000, "dist": "normalRNG", "params": [10, 2]})
    assert sum(normal) / 2000 == pytest.approx(10, abs=0.2)
    assert sum((value - 10) ** 2 for value in normal) / 2000 == pytest.approx(4, abs=0.5)


def test_two_random_members_of_a_product_differ() -> None:
    member = {"length": 5, "dist": "random", "params": [0, 1]}
    assert all(one != other for one, other in everything({"ranges": [member, member]}))


@pytest.mark.parametrize(
    ("form", "inside", "outside"),
    [
        (None, [1, 10**9], []),
        ([3, 5], [3, 5], [4]),
        (7, [7], [6]),
        ({"start": 2, "end": 10, "step": 4}, [2, 6, 10], [1, 3, 11, 14]),
        ({"start": 10, "end": 2, "step": -4}, [2, 6, 10], [4]),
        ({"start": 4, "end": 4, "step": 0}, [4], [5]),
        ({"start": 1, "end": 10**12, "step": 1}, [5 * 10**11], [0]),
        ({"start": 1, "end": 9, "step": 1, "group": 3}, [1, 9], [10]),
        ({"sparse": True, "ranges": [{"start": 1, "end": 2}, {"start": 9, "end": 10}]}, [1, 2, 9], [3]),
        ({"ranges": [{"start": 1, "end": 2}, [5]]}, [1, 2, 5], [3]),
    ],
)
def test_slice_selections(form: Any, inside: list[int], outside: list[int]) -> None:
    selection = parse_slice_selection(form)
    assert all(number in selection for number in inside)
    assert not any(number in selection for number in outside)


def test_explicit_slice_numbers() -> None:
    assert parse_slice_selection([5, 3, 5]).explicit() == [3, 5]
    assert parse_slice_selection([]).explicit() == []
    assert parse_slice_selection(None).explicit() is None
    assert parse_slice_selection({"start": 1, "end": 2}).explicit() is None


@pytest.mark.parametrize("form", ["x", {"a": 1}, [[[[[[[1]]]]]]], {"start": 1, "end": 5, "step": -1}, [None], True])
def test_bad_selections_are_refused(form: Any) -> None:
    with pytest.raises(InvalidInput, match="range"):
        parse_slice_selection(form)
