"""Pure: how far a worker's word is trusted, from the opinions that it gave.

Every owner of jobs trusts for itself, from what its own jobs showed: nobody earns trust with jobs of his own and spends
it on another's. Trust belongs to the identity that signs, not to the name that a worker gives itself.

A worker begins at 0, untrusted. Each opinion that others agree with is a point; from `trusted_after` (10) points on
it is trusted, and its slices are spot-checked at a rate that falls as the points grow: half of them at first, a tenth
at 50, never fewer than `least_rate` (a twentieth, from 100 on). One opinion that is shown wrong takes all of it: the
worker falls to -10 points, to -20 the next time, and so on down to -100. Below 0 it is a suspect, whose word counts
only beside one more. An opinion that was accepted without a check, or could not be decided, changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

HIGHEST = 1000
"""points; more would only make the numbers long"""
FALL = 10
"""points below 0 for each opinion that was shown wrong"""
DEEPEST = -100


@dataclasses.dataclass(frozen=True, slots=True)
class Trust:
    """What one owner knows of one identity."""

    points: int = 0
    agreed: int = 0
    """opinions that others agreed with, ever"""
    wrong: int = 0
    """opinions that were shown wrong, ever"""

    def confirmed(self) -> Trust:
        """Others agree with it."""
        return Trust(min(HIGHEST, self.points + 1), self.agreed + 1, self.wrong)

    def refuted(self) -> Trust:
        """It was shown wrong."""
        return Trust(max(DEEPEST, min(self.points, 0) - FALL), self.agreed, self.wrong + 1)


NOBODY: Mapping[str, Trust] = MappingProxyType({})
"""nothing is known of anybody"""


@dataclasses.dataclass(frozen=True, slots=True)
class TrustRules:
    trusted_after: int = 10
    """points"""
    least_rate: float = 0.05
    """of a trusted worker's slices this share is checked, however much it is trusted"""

    def is_trusted(self, trust: Trust) -> bool:
        return trust.points >= self.trusted_after

    def is_suspect(self, trust: Trust) -> bool:
        return trust.points < 0

    def check_rate(self, trust: Trust) -> float:
        """The share of the worker's slices that others compute as well."""
        if not self.is_trusted(trust):
            return 1.0
        return min(1.0, max(self.least_rate, self.trusted_after / (2 * trust.points)))

    def story(self, trust: Trust) -> str:
        """One sentence."""
        past = f"{trust.agreed} opinions agreed with, {trust.wrong} shown wrong"
        if self.is_suspect(trust):
            return f"suspect: {past}; {-trust.points} more must be agreed with before it is one no more"
        if not self.is_trusted(trust):
            return f"not trusted yet: {past}; {self.trusted_after - trust.points} more must be agreed with"
        return f"trusted: {past}; {self.check_rate(trust):.0%} of its slices are checked"


USUAL_RULES = TrustRules()
