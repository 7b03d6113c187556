"""Our JSON text against the rules of ECMAScript; the real V8 judges in the integration tests."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput
from orchestrator.protocol import js_json

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.integers(0, 2**33).map(str), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e21, "1e+21"),
        (1e20, "100000000000000000000"),
        (123456789012345680000.0, "123456789012345680000"),
        (1.5e300, "1.5e+300"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1.25e-7, "1.25e-7"),
        (5e-324, "5e-324"),
        (-1e16, "-10000000000000000"),
        (2**53, "9007199254740992"),
        (2**53 + 1, "9007199254740992"),
        (10**25, "1e+25"),
        (12345678.9, "12345678.9"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert js_json.dumps(value) == text
    assert js_json.dumps([value]) == f"[{text}]"
    assert js_json.dumps({"a": value, "b": [1, value, 2]}) == f'{{"a":{text},"b":[1,{text},2]}}'
    assert js_json.number(value) == text


def test_integer_like_keys_come_first_in_order() -> None:
    value = {"b": 1, "10": 2, "2": 3, "01": 4, "4294967294": 5, "4294967295": 6, "0": 7, "-1": 8}
    assert js_json.dumps(value) == ('{"0":7,"2":3,"10":2,"4294967294":5,"b":1,"01":4,"4294967295":6,"-1":8}')
    assert js_json.dumps([{"x": value}]) == f'[{{"x":{js_json.dumps(value)}}}]'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('"\\/', '"\\"\\\\/"'),
        ("\b\t\n\f\r\x00\x1f\x7f", '"\\b\\t\\n\\f\\r\\u0000\\u001f\x7f"'),
        ("é\u2028\U0001f600", '"é\u2028\U0001f600"'),
        ("\ud83d", '"\\ud83d"'),
        ("a\ud83d" + "\ude00b\ude00", '"a\U0001f600b\\ude00"'),
        ("a\ude00\ud83db", '"a\\ude00\\ud83db"'),
    ],
)
def test_strings(value: str, text: str) -> None:
    assert js_json.dumps(value) == text
    assert js_json.string(value) == text
    assert js_json.dumps({value: [value]}) == f"{{{text}:[{text}]}}"


@pytest.mark.parametrize("value", [math.nan, math.inf, b"x", {1, 2}, object(), {"a": math.nan}, 10**400])
def test_what_json_cannot_say(value: Any) -> None:
    with pytest.raises(InvalidInput):
        js_json.dumps([value])


def test_cycles_and_depths_are_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (cycle, deep, [*deep, 1.0]):
        with pytest.raises(InvalidInput):
            js_json.dumps(value)
    with pytest.raises(InvalidInput):
        js_json.loads("[" * 100_000)


@pytest.mark.parametrize(
    "text", ["", "NaN", "[Infinity]", "-Infinity", "01", "1.", "'a'", '"\n"', "[1,]", "{}x", "\ufeff1"]
)
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(InvalidInput):
        js_json.loads(text)


def test_numbers_are_read_as_doubles() -> None:
    assert js_json.loads("[9007199254740993,9007199254740991,1e400]") == [9007199254740992.0, 2**53 - 1, math.inf]
    assert js_json.loads("1" * 5000) == math.inf
    assert type(js_json.loads("[9007199254740992]")[0]) is int


@settings(max_examples=300)
@given(values)
def test_the_text_reads_back_as_the_value_and_is_stable(value: Any) -> None:
    text = js_json.dumps(value)
    text.encode()
    again = js_json.loads(text)
    assert js_json.dumps(again) == text
    assert again == json.loads(json.dumps(value), parse_int=lambda digits: js_json.loads(digits))


@settings(max_examples=300)
@given(values)
def test_the_fast_way_agrees_with_the_thorough_one(value: Any) -> None:
    thorough = "".join(js_json._pieces(value)).encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")
    assert js_json.dumps(value) == js_json._SURROGATES.sub(js_json._mend_surrogates, thorough)


@settings(max_examples=500)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_keep_their_value_in_the_form_of_ecmascript(value: float) -> None:
    text = js_json.number(value)
    assert float(text) == value
    mantissa, _, exponent = text.lstrip("-").partition("e")
    if exponent:
        assert exponent[0] in "+-"
        assert int(exponent) >= 21 or int(exponent) <= -7
        assert len(mantissa.partition(".")[0]) == 1
    else:
        assert 1e-7 < abs(value) < 1e21 or value == 0
    assert not mantissa.endswith(".0")


@given(values)
def test_the_quick_look_overlooks_nothing(value: Any) -> None:
    """What is returned as the C encoder wrote it is what the careful encoder writes."""
    careful = "".join(js_json._pieces([value]))
    if not careful.isascii():
        careful = js_json._SURROGATES.sub(js_json._mend_surrogates, careful)
    assert js_json.dumps([value]) == careful


@pytest.mark.parametrize(("text", "long"), [("[" + "9" * 15 + "]", False), ('{"a":' + "1" * 16 + "}", True)])
def test_long_integers_are_noticed(text: str, long: bool) -> None:
    assert js_json._has_long_integer(text) is long
    assert js_json._has_long_integer(f'["\ud800é",{text}]') is long
