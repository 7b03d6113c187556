"""Pure: up to which number everything was seen, though numbers are handed out before their transactions commit.

Whoever looks for rows with numbers above the highest that he has seen misses those of a slow writer, which appear later
below it. So a number counts as passed only when every transaction that may have drawn it, or a lower one, was over
before a look that has seen its rows.
"""

from __future__ import annotations

import collections
import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """What a snapshot sees, in ids of transactions: all below `oldest` are over. `own` is the looking one's, which
    began after the newest number was read."""

    oldest: int
    own: int


class Watermark:
    """Each look: the newest number is read first; then, in a new snapshot, its moment and all rows above `passed`; and
    when that has gone well `looked` is called. Transactions have their ids before they draw numbers."""

    def __init__(self) -> None:
        self.passed = 0
        """rows up to this number were seen, and none will appear"""
        self._pending: collections.deque[tuple[int, int]] = collections.deque()
        """(number, transactions below this one may have drawn it or lower ones), oldest first"""

    def looked(self, newest: int, moment: Moment) -> None:
        while self._pending and self._pending[0][1] <= moment.oldest:
            # Whoever drew it was over by now: this look sees the rows, the next ones need not.
            self.passed = max(self.passed, self._pending.popleft()[0])
        if not self._pending or newest > self._pending[-1][0]:
            self._pending.append((newest, moment.own))

    def validate(self) -> None:
        """Raise `AssertionError` unless what is pending grows."""
        numbers = [self.passed, *(number for number, _ in self._pending)]
        assert numbers == sorted(numbers), numbers
        bounds = [one for _, one in self._pending]
        assert bounds == sorted(bounds), bounds
