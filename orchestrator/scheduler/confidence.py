"""Pure: what the chosen confidence costs, told when a job is deployed.

The expectation is exact for workers that err independently of each other, at the rate that was seen, and never in the
same way.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

from orchestrator.scheduler.pricing import to_dcc
from orchestrator.scheduler.redundancy import Asked, Opinion, Outcome, Panel, Rule
from orchestrator.scheduler.trust import Trust, TrustRules

DOUBT_WEIGHT = 100
"""with so many opinions' weight one in a hundred is taken to be wrong, until more is known"""
_STEPS = 100
"""rates of errors are rounded to this part of a percent point, so that few are computed"""


@dataclasses.dataclass(frozen=True, slots=True)
class Experience:
    """What is known of the workers that may take the job."""

    agreed: int = 0
    wrong: int = 0
    trusted: float = 0.0
    """share of the workers that are trusted"""
    check_rate: float = 1.0
    """of their slices this share is checked"""

    @property
    def error_rate(self) -> float:
        """The chance that an opinion is wrong. Never 0: nobody knows."""
        return (self.wrong + 1) / (self.agreed + self.wrong + DOUBT_WEIGHT)


@dataclasses.dataclass(frozen=True, slots=True)
class Price:
    """Opinions that are paid per slice."""

    least: int
    expected: float
    most: int


def experience(known: Iterable[Trust], rules: TrustRules) -> Experience:
    """What an owner's earlier jobs showed."""
    everybody = list(known)
    trusted = [trust for trust in everybody if rules.is_trusted(trust)]
    if not trusted:
        return Experience(sum(one.agreed for one in everybody), sum(one.wrong for one in everybody))
    return Experience(
        agreed=sum(one.agreed for one in everybody),
        wrong=sum(one.wrong for one in everybody),
        trusted=len(trusted) / len(everybody),
        check_rate=sum(map(rules.check_rate, trusted)) / len(trusted),
    )


def price_of(rule: Rule, experience: Experience) -> Price:
    # Where errors abound a slice may be given up after few opinions; nobody deploys for that.
    full = max(rule.agree, _expected(rule.agree, rule.of, round(experience.error_rate * 100 * _STEPS)))
    if not rule.trusting:
        return Price(rule.agree, full, rule.of)
    alone = experience.trusted * (1 - experience.check_rate)
    return Price(1, alone + (1 - alone) * full, rule.of)


@functools.lru_cache(maxsize=1024)
def _expected(agree: int, of: int, error: int) -> float:
    """How many opinions are paid on average. Wrong ones all differ, so only their number matters."""
    wrong_chance = error / (100 * _STEPS)
    total = 0.0
    reached = {(0, 0): 1.0}  # (right, wrong) opinions heard → chance
    while reached:
        following: dict[tuple[int, int], float] = {}
        for (right, wrong), chance in reached.items():
            outcome = _outcome(agree, of, right, wrong)
            if outcome is Outcome.MORE:
                for step, part in (((right + 1, wrong), 1 - wrong_chance), ((right, wrong + 1), wrong_chance)):
                    following[step] = following.get(step, 0.0) + chance * part
            else:
                total += chance * (right if outcome is Outcome.AGREED else right + wrong)
        reached = following
    return total


@functools.lru_cache(maxsize=10_000)
def _outcome(agree: int, of: int, right: int, wrong: int) -> Outcome:
    said = ["right"] * right + [f"wrong {place}" for place in range(wrong)]
    opinions = tuple(Opinion(place, Asked(str(place), str(place)), digest) for place, digest in enumerate(said, 1))
    return Panel(Rule(agree, of), opinions).decide().outcome


def told(rule: Rule, price: Price, slice_price: int, slices: int) -> dict[str, Any]:
    """What the deployer hears: opinions per slice and DCC (decimal text), per slice and for `slices` of them."""

    def amounts(times: int) -> dict[str, str]:
        return {
            "least": to_dcc(slice_price * price.least * times),
            "expected": to_dcc(slice_price * times * round(price.expected * 1000) // 1000),
            "most": to_dcc(slice_price * price.most * times),
        }

    return rule.to_json() | {
        "opinions": {"least": price.least, "expected": round(price.expected, 3), "most": price.most},
        "perSlice": amounts(1),
        "slices": slices,
        "total": amounts(slices),
    }
