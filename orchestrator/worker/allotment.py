"""Pure: how many sandboxes each job gets."""

from __future__ import annotations

from collections.abc import Sequence


def shares(wanted: Sequence[int], capacity: int) -> list[int]:
    """Deal `capacity` sandboxes out one at a time, in order, to those that still want one.

    Everybody gets an equal part or all it wants; when there are fewer sandboxes than jobs, the first in order get one.
    """
    given = [0] * len(wanted)
    while capacity > 0:
        dealt = False
        for place, want in enumerate(wanted):
            if capacity and given[place] < want:
                given[place] += 1
                capacity -= 1
                dealt = True
        if not dealt:
            break
    return given
