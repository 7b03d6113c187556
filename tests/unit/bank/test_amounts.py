import contextlib
import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.bank.amounts import MAX_AMOUNT, UNITS, format_amount, parse_amount
from orchestrator.errors import InvalidInput


@pytest.mark.parametrize(
    ("value", "units"),
    [
        ("1.25", 1_250_000_000_000_000_000),
        ("1.", UNITS),
        (".5", UNITS // 2),
        ("0", 0),
        ("0e9999", 0),
        ("0.000000000000000001", 1),
        ("1.0000000000000000000000000", UNITS),
        ("1e-18", 1),
        ("10e-19", 1),
        ("1E+12", MAX_AMOUNT),
        ("123456789012.123456789012345678", 123456789012123456789012345678),
        (3, 3 * UNITS),
        (0.1, UNITS // 10),
        (1e-7, 10**11),
        (1e12, MAX_AMOUNT),
        (9.3, 9_300_000_000_000_000_000),
        (0, 0),
    ],
)
def test_exact(value: Any, units: int) -> None:
    assert parse_amount(value) == units


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "not a decimal number"),
        (".", "not a decimal number"),
        ("1,5", "not a decimal number"),
        (" 1", "not a decimal number"),
        ("1\n", "not a decimal number"),
        ("1_000", "not a decimal number"),
        ("٣", "not a decimal number"),
        ("0x10", "not a decimal number"),
        ("NaN", "not a decimal number"),
        ("Infinity", "not a decimal number"),
        ("1e99999", "not a decimal number"),
        ("1" * 201, "not a decimal number"),
        (float("nan"), "not a decimal number"),
        (float("inf"), "too large"),
        (float("-inf"), "negative"),
        ("-1", "negative"),
        (-1, "negative"),
        (-1e-30, "negative"),
        (-0.0, "negative"),
        pytest.param(-(10**5000), "negative", id="minus a very long integer"),
        pytest.param(10**5000, "too large", id="a very long integer"),
        ("1000000000000.000000000000000001", "too large"),
        ("1e13", "too large"),
        ("1e9999", "too large"),
        ("0.0000000000000000001", "more than 18 decimals"),
        ("1e-9999", "more than 18 decimals"),
        (3.3333333333333335e-06, "more than 18 decimals"),
        (None, "not missing"),
        (True, "not bool"),
        ([], "not list"),
        ({"amount": 1}, "not dict"),
    ],
)
def test_refused(value: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        parse_amount(value, field="offer")
    assert caught.value.message.startswith("offer")
    assert len(caught.value.message) < 200


def test_prices_may_be_rounded_down() -> None:
    assert parse_amount(3.3333333333333335e-06, round_down=True) == 3_333_333_333_333
    assert parse_amount("1e-19", round_down=True) == 0


@given(st.integers(0, MAX_AMOUNT))
@settings(max_examples=200)
def test_round_trip(units: int) -> None:
    text = format_amount(units)
    assert parse_amount(text) == units
    assert Fraction(text) == Fraction(units, UNITS)
    assert "E" not in text and not (("." in text) and text[-1] in "0.")


@given(st.floats(0, 1e12) | st.integers(0, 10**12))
@settings(max_examples=200)
def test_a_number_is_its_shortest_decimal_form(value: float) -> None:
    assert parse_amount(value, round_down=True) == math.floor(Fraction(repr(value)) * UNITS)


@given(st.text(max_size=30))
@settings(max_examples=100)
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        assert parse_amount(text) >= 0
