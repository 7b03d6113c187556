"""Amounts of DCC: decimal text outside, integers of 10^-18 DCC inside, and nothing inexact in between."""

from __future__ import annotations

import decimal
import fractions
import math
import re
from typing import Any

from orchestrator.errors import InvalidInput

DECIMALS = 18
UNITS = 10**DECIMALS
"""One DCC."""
MAX_AMOUNT = 10**12 * UNITS
"""The most that one posting may move: 10^12 DCC."""

_FORM = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_MAX_TEXT = 200


def parse_amount(value: Any, *, field: str = "amount", round_down: bool = False) -> int:
    """Units of 10^-18 DCC from what a client sent: decimal text (`"1.25"`, `"1e-3"`) or a JSON number.

    A float stands for its shortest decimal form, which is what the client wrote. Digits beyond the 18th decimal are
    refused, or dropped with `round_down` (for prices that a client computed in floating point).

    Raises `InvalidInput`, naming field and value, for anything negative, not finite, or above `MAX_AMOUNT`.
    """
    too_large = f"{field} is too large: at most {format_amount(MAX_AMOUNT)} DCC"
    number = decimal.Decimal(_text(value, field, too_large))
    if number and number.adjusted() > 12:  # before anybody computes 10^9999
        raise InvalidInput(too_large)
    exact = fractions.Fraction(number) * UNITS
    if exact.denominator != 1 and not round_down:
        raise InvalidInput(f"{field} {_shown(value)} has more than {DECIMALS} decimals: round it")
    units: int = math.floor(exact)
    if units > MAX_AMOUNT:
        raise InvalidInput(too_large)
    return units


def format_amount(units: int) -> str:
    """Decimal text of an amount, exact and without needless zeros: `1.25`, `-3`, `0.000000000000000001`."""
    whole, fraction = divmod(abs(units), UNITS)
    text = f"{whole}.{fraction:0{DECIMALS}}".rstrip("0").rstrip(".")
    return "-" + text if units < 0 else text


def _text(value: Any, field: str, too_large: str) -> str:
    if isinstance(value, str):
        text = value
    elif isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        if value > MAX_AMOUNT:  # said before Python is asked to print an integer of any length
            raise InvalidInput(too_large)
        text = repr(max(value, -1))
    else:
        raise InvalidInput(f"{field} must be decimal text or a number, not {_kind(value)}")
    if text.startswith("-"):
        raise InvalidInput(f"{field} {_shown(text)} is negative")
    if len(text) > _MAX_TEXT or not _FORM.fullmatch(text):
        raise InvalidInput(f'{field} {_shown(text)} is not a decimal number such as "1.25"')
    return text


def _kind(value: Any) -> str:
    return "missing" if value is None else type(value).__name__


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
