"""Calls workers that wait when jobs have slices for them: when some come back, when a job comes, when some are late."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from orchestrator.database import persistently
from orchestrator.scheduler import escrow
from orchestrator.scheduler.board import Entry
from orchestrator.scheduler.core import Core
from orchestrator.scheduler.late import SOONEST_S, Watchman
from orchestrator.scheduler.late_leasing import LateLeasing
from orchestrator.scheduler.lifecycle import DISTRIBUTABLE
from orchestrator.scheduler.offers import estimation_left
from orchestrator.scheduler.packing import Candidate, PackingRules, pack
from orchestrator.scheduler.roster import Roster
from orchestrator.scheduler.store.jobs import JobState
from orchestrator.scheduler.task_answer import slice_seconds
from orchestrator.scheduler.task_request import TaskRequest
from orchestrator.scheduler.waiting_line import Call, Waiter, WaitingLine, left_over
from orchestrator.task_groups import TaskGroup

MOST_CALLED_IN_TURN = 4
"""workers that one late slice is offered to, one after the other, until it is looked at again"""


class Dispatcher:
    """`run()` must be running while requests wait."""

    def __init__(self, core: Core, roster: Roster, rules: PackingRules, late: LateLeasing, watchman: Watchman) -> None:
        self._core = core
        self._roster = roster
        self._rules = rules
        self._late = late
        self._watchman = watchman
        self._line = WaitingLine()
        self._news = asyncio.Event()
        """the board must be brought up to date"""
        self._planned = asyncio.Event()
        """a look at late slices is due earlier than it was"""
        self._next_look = math.inf
        core.listing.posted = self.work
        core.dispatcher = self

    async def run(self) -> None:
        async with TaskGroup() as group:
            group.create_task(self._bring_news())
            group.create_task(self._look_for_late())

    # --- who waits

    @contextmanager
    def waiting(self, wanted: TaskRequest) -> Iterator[Visit]:
        """A request for work, from its first look at the board to its answer."""
        visit = Visit(self, wanted)
        try:
            yield visit
        finally:
            visit.end()

    def patience_s(self) -> float:
        """How long a request for work waits now."""
        return self._line.patience_s(self._core.settings.long_poll_s)

    # --- what there is to do

    def work(self, keys: Iterable[int]) -> None:
        """These jobs have slices that did not wait before."""
        if len(self._line):
            for key in keys:
                self._call(key)

    def read_again(self) -> None:
        """Jobs on the board are not as they are in the database: those that have slices are told when they are."""
        if len(self._line):
            self._news.set()

    def everybody(self) -> None:
        """Workers may fit in that did not."""
        self._line.call_all()

    def changed(self, states: Iterable[JobState]) -> None:
        """A transaction has changed these jobs."""
        now = self._core.clock()
        for state in states:
            if state.ended_at is not None:
                self._watchman.forget(state.key)
                continue
            entry = self._core.listing.board.get(state.key)
            if entry is not None and entry.is_ending:
                self._watchman.changed(state.key, now)
        self.replan()

    def replan(self) -> None:
        """The next look at late slices may be due earlier."""
        if self._watchman.next_look() < self._next_look:
            self._planned.set()

    def hand_on(self, calls: Iterable[Call], taken: Mapping[str, int], by: Waiter | None = None) -> None:
        """What a worker that was called has not taken is for others."""
        for call in left_over(calls, taken):
            self._call(call.key, call, by)

    def _call(self, key: int, before: Call | None = None, by: Waiter | None = None) -> None:
        entry = self._core.listing.board.get(key)
        if entry is None or self._core.listing.is_stale(key):
            self._news.set()  # it is called for once it is on the board as it is
            return
        tried = frozenset() if before is None else before.tried
        if before is not None and before.late:
            # Others took what was late, or it is for few: not all who wait need find that out in turn. Whoever asks
            # anew looks without being called, and there is another look at the job soon.
            if self._watchman.is_quiet(key, self._core.clock()) or len(tried) >= MOST_CALLED_IN_TURN:
                return
            self._line.call(
                key, entry.profile, entry.state.estimate, before.slices, _late_share, tried=tried, late=True, by=by
            )
            return
        left = _may_lease(entry.state)
        left = left if before is None else min(left, before.slices)
        if left > 0:
            share = functools.partial(self._share, entry, self._roster.load(self._core.clock()))
            self._line.call(key, entry.profile, entry.state.estimate, left, share, tried=tried, by=by)

    def _share(self, entry: Entry, cluster_load: float, waiter: Waiter, given: int) -> int:
        """How many slices the worker would be given now, when others have got some already."""
        state, wanted = entry.state, waiter.wanted
        left = estimation_left(state, wanted.load)
        candidate = Candidate(
            key=entry.key,
            waiting=_may_lease(state) - given,
            leased=state.counts.leased + given,
            slice_s=slice_seconds(state),
            work_s=state.estimate.work_s,
            estimation_left=None if left is None else left - given,
            discrete=entry.profile.discrete,
        )
        plan = pack([candidate], wanted.load, cluster_load, self._rules, gpu_load=wanted.gpu_load)
        return sum(portion.slices for portion in plan)

    # --- side tasks

    async def _bring_news(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await persistently(lambda: self._core.listing.fresh(self._core.clock()))
            if self._core.listing.is_behind:
                self._news.set()

    async def _look_for_late(self) -> None:
        while True:
            self._planned.clear()
            self._next_look = self._watchman.next_look()
            pause_s = None if self._next_look == math.inf else max(self._next_look - self._core.clock(), SOONEST_S)
            try:
                async with asyncio.timeout(pause_s):
                    await self._planned.wait()
            except TimeoutError:
                pass
            for key in self._watchman.due(self._core.clock()):
                await self._look_at(key)

    async def _look_at(self, key: int) -> None:
        """A request that comes while nobody waits looks for itself."""
        entry = self._core.listing.board.get(key)
        if entry is None or not entry.is_ending or not len(self._line):
            return
        late = await persistently(functools.partial(self._late.find, entry))
        if late:
            self._line.call(key, entry.profile, entry.state.estimate, late, _late_share, late=True)

    def statistics(self) -> dict[str, int]:
        return self._line.statistics()


class Visit:
    """One request at the line."""

    def __init__(self, dispatcher: Dispatcher, wanted: TaskRequest) -> None:
        self._dispatcher = dispatcher
        self._line = dispatcher._line
        self._called = asyncio.Event()
        self._waiter = self._line.enter(wanted, self._called.set)
        self._calls: Sequence[Call] = ()

    def look(self) -> None:
        """It looks at the board now."""
        self._called.clear()
        self._calls = self._line.look(self._waiter)

    def found(self, taken: Mapping[str, int]) -> None:
        """It was given so many slices, by job."""
        calls, self._calls = self._calls, ()
        self._dispatcher.hand_on(calls, taken, self._waiter)

    async def rest(self, patience_s: float) -> bool:
        """It was given nothing, and waits to be called; False when that did not happen in time."""
        self.found({})
        if not self._line.rest(self._waiter):
            return True
        try:
            async with asyncio.timeout(patience_s):
                await self._called.wait()
        except TimeoutError:
            return False
        return True

    def end(self) -> None:
        calls, self._calls = self._calls, ()
        self._dispatcher.hand_on([*calls, *self._line.leave(self._waiter)], {})


def _may_lease(state: JobState) -> int:
    return escrow.may_lease(state.funded, state.counts) if state.status in DISTRIBUTABLE else 0


def _late_share(waiter: Waiter, _given: int) -> int:
    return max(1, math.floor(waiter.wanted.load))
