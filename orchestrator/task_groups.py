"""A task group after which the task that left it can be trusted with a time-out."""

from __future__ import annotations

import asyncio
import sys
from types import TracebackType
from typing import Final

__all__ = ["TaskGroup"]

_ASKED: Final = "_parent_cancel_requested"
_FORGETS: Final = sys.version_info < (3, 13)


class TaskGroup(asyncio.TaskGroup):
    """`asyncio.TaskGroup`, without a fault that CPython has up to 3.12.

    A child that fails while the block is already being left has its parent cancelled, to wake it, and nobody takes
    that request back. The exception comes out as it should, but `cancelling()` of the parent stays raised for ever,
    and every later `asyncio.timeout` in that task lets its `CancelledError` out instead of a `TimeoutError`: loops
    that rely on it end without a word. (gh-116720, mended in 3.13.)
    """

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        parent = asyncio.current_task()
        assert parent is not None
        asked_before = getattr(self, _ASKED)
        try:
            await super().__aexit__(kind, exc, traceback)
        finally:
            if _FORGETS and getattr(self, _ASKED) and not asked_before:
                parent.uncancel()
