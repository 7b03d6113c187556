"""A database without SQL: the stores' functions are exchanged for those of this package while a simulation runs."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from types import ModuleType
from typing import Any
from unittest import mock

from orchestrator.bank import store as bank_store
from orchestrator.scheduler import store
from orchestrator.scheduler.store import (
    bans,
    blob_intents,
    counters,
    events,
    groups,
    market,
    opinions,
    owner_accounts,
    retention,
)
from tests.simulation.memory import bank, jobs, leases, others, slices
from tests.simulation.memory.rows import MemoryRows
from tests.simulation.memory.state import Memory
from tests.simulation.world import World

_SAME_NAMES: dict[ModuleType, ModuleType] = {
    store.jobs: jobs,
    store.slices: slices,
    store.leases: leases,
    bank_store: bank,
}
_OTHERS: dict[ModuleType, dict[str, Callable[..., Any]]] = {
    counters: {
        "reserve": others.reserve, "reserve_events": others.reserve_events, "newest": others.newest,
        "moment": others.moment,
    },
    events: {
        "append": others.append, "queued": others.queued, "count": others.count, "newest": others.newest,
        "moment": others.moment, "queues_since": others.queues_since, "delete": others.delete,
    },
    opinions: {
        "load": others.load_opinions, "pending": others.pending, "add": others.add, "settle": others.settle,
        "give_up": others.give_up, "trust": others.trust, "judge": others.judge, "forget_trust": others.forget_trust,
        "all_trust": others.all_trust,
    },
    bans: {"load": others.load_bans, "save": others.save_bans, "forget": others.forget_bans},
    owner_accounts: {"load": others.load_accounts, "grow": others.grow, "forget": others.forget_accounts},
    market: {"load": others.load_market, "add": others.add_work},
    retention: {"due": others.due},
    blob_intents: {"older": jobs.older},
    groups: {
        "insert": jobs.insert_group, "save": jobs.save_group, "named": jobs.named, "by_ids": jobs.by_ids,
        "count_of_owner": jobs.count_of_owner, "use": jobs.use,
    },
}  # fmt: skip


@contextlib.contextmanager
def exchanged() -> Iterator[None]:
    """Every function of a store either has a counterpart here or says that it has none."""
    with contextlib.ExitStack() as stack:
        for module in (*_SAME_NAMES, *_OTHERS):
            known = _OTHERS.get(module) or vars(_SAME_NAMES[module])
            for name, function in list(vars(module).items()):
                if inspect.iscoroutinefunction(function) and not name.startswith("_"):
                    stack.enter_context(mock.patch.object(module, name, known.get(name) or _missing(module, name)))
        yield


def _missing(module: ModuleType, name: str) -> Callable[..., Any]:
    async def missing(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"{module.__name__}.{name} has no counterpart in memory")

    return missing


class MemoryDatabase:
    """Has the methods of `orchestrator.database.Database`. `committed` is called after every commit."""

    is_shared = False

    def __init__(self, world: World, committed: Callable[[], None]) -> None:
        self.memory = Memory()
        self._pause = world.pause
        self._committed = committed
        self._lock = asyncio.Lock()
        self.rows = MemoryRows(self.memory)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Memory]:
        await self._pause()
        async with self._lock:
            try:
                yield self.memory
            except BaseException:
                self.memory.roll_back()
                raise
            self.memory.commit()
            self._committed()
        await self._pause()

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Memory]:
        await self._pause()
        async with self._lock:
            try:
                yield self.memory
            finally:
                self.memory.roll_back()
        await self._pause()

    async def notify(self, channel: str, payloads: Iterable[str]) -> None:
        raise NotImplementedError("one process has nobody to tell")

    def close(self) -> None:
        pass
