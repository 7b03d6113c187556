"""An event loop whose time is made up: when nothing is ready it jumps to the next timer.

There is no input or output and no other thread, so the order of everything follows from the program alone: the same
seed runs the same steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Stuck(AssertionError):
    """Everybody waits for somebody else, and no timer will ever wake them."""


class VirtualLoop(asyncio.BaseEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._clock_resolution = 1e-6
        self._selector = self
        self.failures: list[str] = []
        """what went wrong in callbacks and in tasks that nobody waits for"""
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> tuple[()]:
        """Called by the loop when it would wait for sockets."""
        if timeout is None:
            raise Stuck("nothing is ready and no timer is set")
        self._now += timeout
        return ()

    def _process_events(self, event_list: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _note(self, _loop: Any, context: dict[str, Any]) -> None:
        self.failures.append(f"{context.get('message')}: {context.get('exception')!r}")


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end on a loop of its own."""
    loop = VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        result = loop.run_until_complete(main)
        assert not loop.failures, "; ".join(loop.failures)
        return result
    finally:
        asyncio.set_event_loop(None)
        loop.close()
