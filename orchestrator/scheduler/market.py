"""Pure: what work is worth, from what was recently paid for it.

The market value is the price at which half of the recently paid work was cheaper: a median, weighted by work, which
nobody moves who does not pay for half of all work. Until enough was paid, it is what the operator has set. A job that
offers a multiple of the market value counts with that multiple of it: jobs that follow the market do not move it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

STEP = 1.1
"""prices are told apart in steps of a tenth"""
FARTHEST = 96
"""steps from the operator's value to the highest and the lowest that the market can reach: a factor of 9,400"""
HEAVIEST, LIGHTEST = 16.0, 1 / 16


@dataclasses.dataclass(frozen=True, slots=True)
class MarketRules:
    reference: int
    """what the operator has set: units (10^-18 DCC) per core-second"""
    half_life_s: float = 6 * 3600.0
    inertia_s: float = 3600.0
    """core-seconds that count as paid at the reference price"""


class Market:
    """Core-seconds by price, where older ones count less."""

    def __init__(self, rules: MarketRules) -> None:
        self.rules = rules
        self._work: dict[int, float] = {}
        self._at: float | None = None
        self._fresh: dict[int, float] = {}
        self._steps = 0
        self._moved = False

    def paid(self, rate: float, work_s: float, now: float) -> None:
        """So much work was paid at `rate` units per core-second."""
        if self.rules.reference <= 0 or not (work_s > 0 and math.isfinite(work_s) and math.isfinite(rate)):
            return
        self._age(now)
        steps = self._step_of(rate)
        self._work[steps] = self._work.get(steps, 0.0) + work_s
        self._fresh[steps] = self._fresh.get(steps, 0.0) + work_s
        self._moved = True

    def rate(self, now: float) -> float:
        """Units per core-second."""
        self._age(now)
        self._find()
        return float(self.rules.reference) * STEP**self._steps

    def slice_value(self, now: float, work_s: float = 1.0) -> int:
        """What an offer of one market value pays for a slice of so much work."""
        self._age(now)
        self._find()
        if self._steps == 0 and work_s == 1.0:
            return self.rules.reference  # exactly what the operator has set
        return math.floor(self.rules.reference * STEP**self._steps * work_s)

    def weight(self, slice_price: int, work_s: float | None) -> float:
        """How much more than others, at equal need, a job gets that pays so much for slices of so much work. 1 at
        market value, and while the work is not known."""
        if slice_price <= 0 or self.rules.reference <= 0:
            return LIGHTEST if self.rules.reference > 0 else 1.0
        if work_s is None:
            return 1.0
        value = self.rules.reference * STEP**self._steps * max(work_s, 1e-6)
        return min(max(slice_price / value, LIGHTEST), HEAVIEST)

    def take_fresh(self) -> dict[int, float]:
        """What was paid since the last call, to be written down."""
        fresh, self._fresh = self._fresh, {}
        return fresh

    def load(self, work: Mapping[int, float], now: float) -> None:
        """What was written down, by this process or others, as it counts now."""
        self._work = dict(work)
        for steps, work_s in self._fresh.items():
            self._work[steps] = self._work.get(steps, 0.0) + work_s
        self._at = now
        self._moved = True
        self._find()

    def _step_of(self, rate: float) -> int:
        ratio = rate / self.rules.reference
        if ratio <= STEP**-FARTHEST:
            return -FARTHEST
        return min(max(round(math.log(ratio, STEP)), -FARTHEST), FARTHEST)

    def _age(self, now: float) -> None:
        if self._at is None:
            self._at = now
        if now - self._at < self.rules.half_life_s / 100:
            return
        kept = 0.5 ** ((now - self._at) / self.rules.half_life_s)
        self._work = {steps: work * kept for steps, work in self._work.items() if work * kept > 1e-3}
        self._at = now
        self._moved = True
        self._find()

    def _find(self) -> None:
        """The price below which half of the work was paid."""
        if not self._moved:
            return
        self._moved = False
        work = dict(self._work)
        work[0] = work.get(0, 0.0) + self.rules.inertia_s
        half, sofar = sum(work.values()) / 2, 0.0
        for steps in sorted(work):
            sofar += work[steps]
            if sofar >= half:
                self._steps = steps
                return
