"""Tasks that live as long as an object does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

from orchestrator.task_groups import TaskGroup

__all__ = ["TaskScope"]


class TaskScope:
    """A `TaskGroup` for servers and clients: leaving it cancels its tasks.

    A task that fails cancels the body of the `async with`, and the failure comes out as an `ExceptionGroup`. An
    exception of the body itself comes out as it is, which a `TaskGroup` alone would wrap.
    """

    def __init__(self) -> None:
        self._group = TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something until it ends or the scope does."""
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def __aenter__(self) -> TaskScope:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in list(self._tasks):
            task.cancel()
        if isinstance(error, asyncio.CancelledError):
            await self._group.__aexit__(kind, error, traceback)
        else:
            await self._group.__aexit__(None, None, None)
