"""Pure: what a slice pays. Money is an integer of 10^-18 DCC; offers arrive as JavaScript numbers."""

from __future__ import annotations

import dataclasses
import decimal
from typing import Any

from orchestrator.errors import InvalidInput

UNITS_PER_DCC = 10**18
_MAX_OFFER = decimal.Decimal(10) ** 20
"""Far more than the Bank moves at once; keeps arithmetic small. Whoever offers more has not the funds either."""


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """Either a multiple of the market value or DCC per slice; both zero for a job that pays nothing."""

    market_multiple: decimal.Decimal = decimal.Decimal(0)
    absolute: decimal.Decimal = decimal.Decimal(0)

    def slice_price(self, market_value: int) -> int:
        """Units paid per accepted slice, rounded down: a job never costs more than was offered."""
        exact = self.market_multiple * market_value + self.absolute * UNITS_PER_DCC
        return int(exact.to_integral_value(rounding=decimal.ROUND_FLOOR))


def parse_offer(market_multiple: Any, absolute: Any) -> Offer:
    """`mvMultSlicePayment` and `absoluteSlicePayment` of a submit. A client that was given both sends the multiple
    only, so both at once is refused. Raises `InvalidInput`."""
    offer = Offer(_amount("mvMultSlicePayment", market_multiple), _amount("absoluteSlicePayment", absolute))
    if offer.market_multiple and offer.absolute:
        raise InvalidInput("give either mvMultSlicePayment or absoluteSlicePayment, not both")
    return offer


def _amount(field: str, value: Any) -> decimal.Decimal:
    if value is None:
        return decimal.Decimal(0)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidInput(f"{field} is {value!r}; it must be a number ≥ 0")
    try:
        # str() gives the shortest decimal that reads back as the same double: 0.1 means 0.1, not 0.1000000000000000055.
        amount = decimal.Decimal(str(value))
    except decimal.InvalidOperation:
        raise InvalidInput(f"{field} is {value!r}; it must be a number ≥ 0") from None
    if not amount.is_finite() or amount < 0:
        raise InvalidInput(f"{field} is {value!r}; it must be a number ≥ 0")
    return min(amount, _MAX_OFFER)


def hold_for(slices: int, slice_price: int) -> int:
    """What must be set aside for `slices` slices."""
    return slices * slice_price


def to_dcc(units: int) -> str:
    """Decimal text of DCC as it travels on the wire: 1500000000000000000 → "1.5"."""
    sign, units = ("-", -units) if units < 0 else ("", units)
    whole, fraction = divmod(units, UNITS_PER_DCC)
    return f"{sign}{whole}.{fraction:018d}".rstrip("0").rstrip(".")
