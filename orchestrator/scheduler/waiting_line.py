"""Pure: workers that wait for work, and which of them are called when there is some.

A call goes to no more workers than there is work for: each is expected to take its part, and what is left of the
slices goes to the next, who has waited longest of those that may have the job. A worker that was called looks at the
board; what it did not take of that for which it was called it hands on, to somebody who was not called for it before.

Work may come while a worker looks, and before it rests again. If the line could not take all of it, that worker looks
once more: nothing is missed.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

from orchestrator.scheduler.estimates import Estimate
from orchestrator.scheduler.matching import JobProfile, WorkerProfile, why_not
from orchestrator.scheduler.task_request import TaskRequest

MOST_LOOKED_AT = 2_000
"""workers that one call looks at"""
VAIN_PER_S = 500.0
"""requests that are told a second that there is nothing; where more would be, each waits longer"""
MOST_PATIENCE = 4.0
"""how many times as long as usual a request waits where very many do"""


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """`slices` of a job for one waiter. `tried`: who was called for them before. `late`: they are out at others."""

    key: int
    job_id: str
    slices: int
    tried: frozenset[int]
    late: bool = False


@dataclasses.dataclass(slots=True, eq=False)
class Waiter:
    """One request for work. `called` is called without arguments when it should look at the board."""

    wanted: TaskRequest
    called: Callable[[], None]
    number: int
    calls: list[Call] = dataclasses.field(default_factory=list)
    place: int | None = None
    """in the line; None while it looks"""
    kind: _Kind | None = None
    """with whom it rests"""
    seen: int = 0
    """overflows before its look began"""


class _Kind:
    """Waiters that offer the same."""

    def __init__(self, offers: tuple[object, ...], profile: WorkerProfile) -> None:
        self.offers = offers
        self.profile = dataclasses.replace(profile, rejected=frozenset(), unresolved=frozenset())
        self.resting: dict[int, Waiter] = {}


Share = Callable[[Waiter, int], int]
"""How many slices a waiter would take when so many were given to others before; 0 when it may have none."""


class WaitingLine:
    def __init__(self) -> None:
        self._kinds: dict[tuple[object, ...], _Kind] = {}
        self._numbers = itertools.count(1)
        self._places = itertools.count(1)
        self._waiters: set[int] = set()
        self._overflows = 0

    def __len__(self) -> int:
        return len(self._waiters)

    def patience_s(self, usual_s: float) -> float:
        """How long a request waits for work. Very many workers that find none would keep the Scheduler busy with
        asking."""
        return min(MOST_PATIENCE * usual_s, max(usual_s, len(self._waiters) / VAIN_PER_S))

    def enter(self, wanted: TaskRequest, called: Callable[[], None]) -> Waiter:
        """A request has come. It looks at once, and rests when it has found nothing."""
        waiter = Waiter(wanted, called, next(self._numbers), seen=self._overflows)
        self._waiters.add(waiter.number)
        return waiter

    def look(self, waiter: Waiter) -> list[Call]:
        """It looks at the board from now on; for what it was called."""
        self._lift(waiter)
        waiter.seen = self._overflows
        calls, waiter.calls = waiter.calls, []
        return calls

    def rest(self, waiter: Waiter) -> bool:
        """It has found nothing. False: more came while it looked, so it should look again at once."""
        if waiter.seen != self._overflows:
            return False
        offers = waiter.wanted.profile.offers
        kind = self._kinds.get(offers)
        if kind is None:
            kind = self._kinds[offers] = _Kind(offers, waiter.wanted.profile)
        waiter.place, waiter.kind = next(self._places), kind
        kind.resting[waiter.place] = waiter
        return True

    def leave(self, waiter: Waiter) -> list[Call]:
        """The request is answered; the calls that it has not followed."""
        self._lift(waiter)
        self._waiters.discard(waiter.number)
        calls, waiter.calls = waiter.calls, []
        return calls

    def _lift(self, waiter: Waiter) -> None:
        if waiter.place is not None and waiter.kind is not None:
            kind = waiter.kind
            del kind.resting[waiter.place]
            waiter.place = waiter.kind = None
            if not kind.resting:
                del self._kinds[kind.offers]

    def call(
        self,
        key: int,
        job: JobProfile,
        estimate: Estimate,
        slices: int,
        share: Share,
        *,
        tried: frozenset[int] = frozenset(),
        late: bool = False,
        by: Waiter | None = None,
    ) -> int:
        """Call as many waiters as it takes for this number of slices, each once; how many. `by` is who hands them on:
        it has looked already."""
        given = looked_at = 0
        chosen: list[tuple[Waiter, int]] = []
        for waiter in self._matching(job, estimate):
            if given >= slices or looked_at >= MOST_LOOKED_AT:
                break
            looked_at += 1
            if waiter.number in tried or _has_set_aside(waiter.wanted.profile, job.job_id):
                continue
            number = share(waiter, given)
            if number > 0:
                chosen.append((waiter, number))
                given += number
        for waiter, number in chosen:
            self._lift(waiter)
            waiter.calls.append(Call(key, job.job_id, number, tried | {waiter.number}, late))
            waiter.called()
        if given < slices:
            self._overflows += 1
            if by is not None:
                by.seen += 1
        return len(chosen)

    def _matching(self, job: JobProfile, estimate: Estimate) -> Iterator[Waiter]:
        fitting = [kind for kind in self._kinds.values() if why_not(job, kind.profile, estimate) is None]
        lines: list[Iterable[tuple[int, Waiter]]] = [kind.resting.items() for kind in fitting]
        for _, waiter in heapq.merge(*lines, key=lambda one: one[0]) if len(lines) != 1 else lines[0]:
            yield waiter

    def call_all(self) -> None:
        """Everything may have changed."""
        for kind in list(self._kinds.values()):
            for waiter in list(kind.resting.values()):
                self._lift(waiter)
                waiter.called()
        self._overflows += 1

    def validate(self) -> None:
        """Raise `AssertionError` unless places and waiters agree."""
        for offers, kind in self._kinds.items():
            assert kind.resting, "an empty kind"
            assert list(kind.resting) == sorted(kind.resting), "who came first is called first"
            for place, waiter in kind.resting.items():
                assert waiter.place == place and waiter.wanted.profile.offers == offers, "a place in the line"
                assert waiter.kind is kind, "with others of its kind"
                assert not waiter.calls, "a waiter that was called rests"
                assert waiter.number in self._waiters, "a waiter that has left"

    def statistics(self) -> dict[str, int]:
        resting = sum(len(kind.resting) for kind in self._kinds.values())
        return {"waiters": len(self._waiters), "resting": resting, "kinds": len(self._kinds)}


def _has_set_aside(profile: WorkerProfile, job_id: str) -> bool:
    return job_id in profile.rejected or job_id in profile.unresolved


def left_over(calls: Iterable[Call], taken: Mapping[str, int]) -> Iterator[Call]:
    """What remains of calls after a look that took so many slices of each job, by its id."""
    for call in calls:
        missing = call.slices - taken.get(call.job_id, 0)
        if missing > 0:
            yield dataclasses.replace(call, slices=missing)
