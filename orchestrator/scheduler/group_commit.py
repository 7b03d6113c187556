"""Group commit: everything that arrives while a transaction runs goes into the next one.

A transaction costs a disk flush and a dozen statements, however many items it carries. Under load the groups grow by
themselves and the cost per item falls; without load an item waits for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from orchestrator.database import retried

Item = TypeVar("Item")

MAX_GROUP = 1000
AWAY_S = 20.0
"""how long a group is tried again while the database is away; its items may be carried out twice"""


class GroupCommit(Generic[Item]):
    """`apply` gets a group and returns when it is committed; what it raises goes to every submitter of the group.

    `run()` does the work and must be running while items are submitted. An item whose submitter was cancelled is
    carried out all the same.
    """

    def __init__(
        self,
        apply: Callable[[Sequence[Item]], Awaitable[None]],
        max_group: int = MAX_GROUP,
        *,
        patience: float = AWAY_S,
    ) -> None:
        self._apply = apply
        self._patience = patience
        self._max_group = max_group
        self._waiting: list[tuple[Sequence[Item], asyncio.Future[None]]] = []
        self._arrived = asyncio.Event()

    async def submit(self, items: Sequence[Item]) -> None:
        """Returns once the items are committed."""
        if not items:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, done))
        self._arrived.set()
        await done

    async def run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                await asyncio.sleep(0)  # what is ready to be read comes along
                await self._commit(self._next_group())

    def _next_group(self) -> list[tuple[Sequence[Item], asyncio.Future[None]]]:
        size = taken = 0
        for items, _ in self._waiting:
            if taken and size + len(items) > self._max_group:
                break
            size += len(items)
            taken += 1
        group, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return group

    async def _commit(self, group: list[tuple[Sequence[Item], asyncio.Future[None]]]) -> None:
        gathered = [item for items, _ in group for item in items]
        try:
            await retried(lambda: self._apply(gathered), patience=self._patience)
        except asyncio.CancelledError:
            for _, done in group:
                done.cancel()
            raise
        except Exception as error:
            if len(group) > 1:
                # One submitter's trouble is not the others': each alone now.
                for single in group:
                    await self._commit([single])
                return
            _, done = group[0]
            if not done.done():
                done.set_exception(error)
        else:
            for _, done in group:
                if not done.done():
                    done.set_result(None)
