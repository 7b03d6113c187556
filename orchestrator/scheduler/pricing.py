"""Pure: what a slice pays. Money is an integer of 10^-18 DCC; offers arrive as JavaScript numbers."""

from __future__ import annotations

import dataclasses
import decimal
import math
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import InvalidInput
from orchestrator.scheduler.estimates import Estimate

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


@dataclasses.dataclass(frozen=True, slots=True)
class MinimumWage:
    """What a worker wants at least: DCC per hour of CPU and GPU, and per MB (10⁶ bytes) in and out."""

    cpu_hour: float = 0.0
    gpu_hour: float = 0.0
    in_mb: float = 0.0
    out_mb: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.cpu_hour or self.gpu_hour or self.in_mb or self.out_mb)

    def slice_price(self, estimate: Estimate) -> float:
        """The least that a slice must pay, in units."""
        dcc = (
            estimate.cpu_ms / 3_600_000 * self.cpu_hour
            + estimate.gpu_ms / 3_600_000 * self.gpu_hour
            + estimate.in_bytes / 1e6 * self.in_mb
            + estimate.out_bytes / 1e6 * self.out_mb
        )
        return dcc * UNITS_PER_DCC

    def accepts(self, slice_price: int, estimate: Estimate) -> bool:
        """Whether slices of a job pay enough. Before they are measured only a job that pays nothing is below it."""
        if not self:
            return True
        if not estimate.measured:
            return slice_price > 0
        # Prices are whole and rounded down: a unit less is no less.
        return slice_price + 1 >= self.slice_price(estimate)


NO_WAGE = MinimumWage()


def read_minimum_wage(told: Any) -> MinimumWage:
    """`minimumWage` of a request: {CPU, GPU, in, out}. What is missing or makes no sense asks for nothing."""
    if not isinstance(told, Mapping):
        return NO_WAGE
    values = []
    for name in ("CPU", "GPU", "in", "out"):
        value = told.get(name)
        usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
        values.append(float(value) if usable and value is not None else 0.0)
    return MinimumWage(*values)


def hold_for(slices: int, slice_price: int) -> int:
    """What must be set aside for `slices` slices."""
    return slices * slice_price


def to_dcc(units: int) -> str:
    """Decimal text of DCC as it travels on the wire: 1500000000000000000 → "1.5"."""
    sign, units = ("-", -units) if units < 0 else ("", units)
    whole, fraction = divmod(units, UNITS_PER_DCC)
    return f"{sign}{whole}.{fraction:018d}".rstrip("0").rstrip(".")
