"""Pure: how many sandboxes each job gets.

A slice that waits for something leaves its core to others, so more sandboxes than cores may be at work as long as what
they keep busy together (the sum of their densities) is not more than the cores, and a quarter of one.
"""

from __future__ import annotations

from collections.abc import Sequence

SLOP = 0.25
_ROUNDING = 1e-9


def shares(wanted: Sequence[int], capacity: int) -> list[int]:
    """Deal `capacity` sandboxes out one at a time, in order, to those that still want one.

    Everybody gets an equal part or all it wants; when there are fewer sandboxes than jobs, the first in order get one.
    """
    return overlapping(wanted, [1.0] * len(wanted), capacity, capacity)


def overlapping(
    wanted: Sequence[int], densities: Sequence[float], cores: float, most: int, slop: float = SLOP
) -> list[int]:
    """As `shares`, up to `most` sandboxes, while each job's keeps the part `densities` of a core busy."""
    given = [0] * len(wanted)
    busy = 0.0
    while most > 0:
        dealt = False
        for place, want in enumerate(wanted):
            if most and given[place] < want and fits(busy, densities[place], cores, slop):
                given[place] += 1
                busy += densities[place]
                most -= 1
                dealt = True
        if not dealt:
            break
    return given


def fits(busy: float, density: float, cores: float, slop: float = SLOP) -> bool:
    """Whether one more of that density may go to work while `busy` cores are taken."""
    return busy + density <= cores + slop + _ROUNDING


def excess(busy: float, more: float, cores: float, slop: float = SLOP) -> float:
    """How much of `busy` has to go before `more` fits."""
    return max(busy + more - cores - slop - _ROUNDING, 0.0)
