"""Creates that nobody waits for any more, and that the Engine may carry out all the same: pure.

An Engine that was frozen takes up what was sent to it before, also from a connection that is closed. So after a create
whose answer was not heard, the reaper looks again and again until the container has turned up, or the Engine has been
answering for long enough to have made it.
"""

from __future__ import annotations

from collections.abc import Iterable


class GivenUp:
    """`patience_s`: how long after it was sent an Engine that answers may take to carry out a create."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since: dict[str, float] = {}

    def add(self, sandbox: str, now: float) -> None:
        """A create of that sandbox's container was sent, and its answer not heard."""
        self._since[sandbox] = now

    def settle(self, sandboxes: Iterable[str]) -> None:
        """Their containers have turned up."""
        for sandbox in sandboxes:
            self._since.pop(sandbox, None)

    def postpone(self, now: float) -> None:
        """The Engine does not answer: what it has not begun, it begins later."""
        self._since = dict.fromkeys(self._since, now)

    def open(self, now: float) -> bool:
        """Whether one may still turn up."""
        self._since = {sandbox: since for sandbox, since in self._since.items() if now - since < self._patience_s}
        return bool(self._since)
