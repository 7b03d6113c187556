"""Pure: the supervisor's books, open to the reader: are they straight, what is in them, what happened to one entry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from orchestrator.worker.dealing import Dealer
from orchestrator.worker.holdings import Job, Place, Sandbox
from orchestrator.worker.pausing import GiveBack, Pause
from orchestrator.worker.refusals import Kind, Record


class BooksWrong(AssertionError):
    """An invariant of the supervisor does not hold: a programming error, never a consequence of input."""


@dataclasses.dataclass(frozen=True, slots=True)
class JobStatistics:
    name: str
    fetched: bool
    unstarted: int
    queued: int
    reported: int
    sandboxes: int
    slice_s: float | None
    measured: int
    density: float = 1.0  # part of a core that a running slice keeps busy
    completed: int = 0
    earned: int = 0  # units of 10^-18 DCC


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """One place for a sandbox. `state` is working, idle, opening, retiring or empty; `since` on the supervisor's clock.

    `why` is the code of the reason for which it does not work, "" when it does.
    """

    state: str
    sandbox: int | None = None
    job: str = ""
    job_name: str = ""
    slice: int | None = None
    queued: int = 0
    done: int = 0
    since: float | None = None
    why: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Statistics:
    """A picture of the supervisor at one moment; times in seconds, `unacknowledged` in characters of results."""

    held: int
    queued: int
    reported: int
    unacknowledged: int
    sandboxes: int
    sandboxes_open: int
    sandboxes_busy: int
    capacity: int
    most_sandboxes: int
    jobs: Mapping[str, JobStatistics]
    requests: int
    empty_answers: int
    request_in_flight: bool
    next_request_at: float
    rejected_jobs: Mapping[str, str]  # job → why
    runtime: str  # "" when sandboxes can be had, else why not
    stopping: str | None
    draining: bool
    counts: Mapping[str, int]
    slots: tuple[Slot, ...] = ()
    refusals: tuple[Record, ...] = ()
    request_failures: int = 0  # in a row, until now
    asked_at: float | None = None  # the request for work that is under way
    heard_at: float | None = None  # the last answer to any request; on the supervisor's clock
    answered_at: float | None = None  # the last answer to a request for work; on the supervisor's clock
    worked_at: float | None = None  # the last answer that brought slices
    no_work: Mapping[str, int] = dataclasses.field(default_factory=dict)  # jobs that wait at the Scheduler, by why
    earned: int = 0  # units of 10^-18 DCC
    job_pauses: Mapping[str, float] = dataclasses.field(default_factory=dict)  # job → not wanted before
    pauses: tuple[Pause, ...] = ()  # who keeps the worker from taking work, the oldest first


class Auditor(Dealer):
    """Adds the reading side; see the module."""

    def statistics(self) -> Statistics:
        sandboxes = self._sandboxes.values()
        return Statistics(
            held=len(self._held),
            queued=sum(len(sandbox.queue) for sandbox in sandboxes),
            reported=sum(job.reported for job in self._jobs.values()),
            unacknowledged=self._unacknowledged_size,
            sandboxes=len(self._sandboxes),
            sandboxes_open=sum(1 for sandbox in sandboxes if sandbox.open),
            sandboxes_busy=sum(1 for sandbox in sandboxes if sandbox.queue),
            capacity=self.policy.sandboxes,
            most_sandboxes=self.policy.most,
            jobs={job.id: _job_statistics(job, self._crowd_of(job)) for job in self._jobs.values()},
            requests=self._demand.requests,
            empty_answers=self._demand.empty_answers,
            request_in_flight=self._demand.in_flight,
            next_request_at=self._demand.ask_at,
            rejected_jobs=dict(self._reasons),
            runtime=self._runtime_reason,
            stopping=self._stopping,
            draining=self._draining,
            counts=dict(self._counts),
            slots=tuple(self._slots()),
            refusals=self._refusals.records(),
            request_failures=self._demand.failures,
            asked_at=self._asked_at if self._demand.in_flight and self._asking else None,
            heard_at=self._heard_at,
            answered_at=self._answered_at,
            worked_at=self._worked_at,
            no_work=dict(self._no_work),
            earned=self._earned,
            job_pauses=dict(self._paused),
            pauses=self._pauses.all(),
        )

    def _slots(self) -> list[Slot]:
        """The places in order of their sandboxes' numbers, the empty ones last."""
        general = self._why_idle()
        slots = [_slot(sandbox, general) for sandbox in self._sandboxes.values()]
        return slots + [Slot("empty", why=general)] * (self.policy.sandboxes - len(slots))

    def _why_idle(self) -> str:
        """The code of the reason for which a place has no work at this moment, the most decisive first."""
        if self._stopping:
            return "ESTOPPING"
        if not self._runtime:
            return "ENOSANDBOX"
        if self._backlogged or sum(job.reported for job in self._jobs.values()) >= self.policy.max_unacknowledged:
            return "EBACKLOG"
        if any(job.held and not job.fetched for job in self._jobs.values()):
            return "EJOBCODE"
        if any(job.fetching for job in self._jobs.values()):
            return "EDATA"
        if self._draining:
            return "EDRAINING"
        if self._pauses:
            return "EPAUSED"
        if self._demand.failures:
            return "ENOSCHEDULER"
        if len(self._held) >= self.policy.max_held:
            return "EHELD"
        return "ENOWORK" if self._answered_at is not None else "EASKING"

    def _note_idle(self, now: float) -> None:
        """Called about once a second: charges the time since the last call to the reason of each idle place."""
        before, self._ticked_at = self._ticked_at, now
        busy = sum(1 for sandbox in self._sandboxes.values() if sandbox.queue)
        if before is None or busy >= self.policy.sandboxes:
            return
        for slot in self._slots():
            if slot.why:
                self._refusals.note(Kind.IDLE, slot.why, now, seconds=now - before)

    def story(self, key: str | int | tuple[str, int]) -> list[tuple[float, str]]:
        """What happened, as (time, sentence), oldest first: (job id, slice number), job id, sandbox number, "pauses".

        Of slices that left, the last thousand are remembered; a slice that was here several times has all its visits.
        """
        if key == "pauses":  # no job id is that short
            return list(self._pause_lives)
        if isinstance(key, str):
            return list(self._lives.get(key, ()))
        if isinstance(key, int):
            return list(self._sandbox_lives.get(key, ()))
        past = [line for job_id, number, lines in self._stories if (job_id, number) == key for line in lines]
        job = self._jobs.get(key[0])
        held = None if job is None else job.held.get(key[1])
        return past if held is None else past + held.story

    def validate(self) -> None:
        """Raise `BooksWrong` unless every held slice is in exactly one place and all counters agree."""
        places: dict[int, int] = {}
        for job in self._jobs.values():
            for place, line in ((Place.WAITING, job.waiting), (Place.READY, job.ready)):
                for held in line:
                    places[held.key] = places.get(held.key, 0) + 1
                    _check(held.place is place, f"slice {held.key} lies among the {place.value}, says {held.place}")
            for number, held in job.held.items():
                _check(held.number == number and self._held.get(held.key) is held, f"slice {held.key} is misfiled")
            by_place = [held.place for held in job.held.values()]
            _check(job.fetching == by_place.count(Place.FETCHING), f"job {job.id}: fetching count")
            _check(job.reported == by_place.count(Place.REPORTED), f"job {job.id}: reported count")
            weight = sum(held.weight for held in job.held.values())
            _check(job.fetched_size == weight, f"job {job.id}: size of fetched data")
            _check(not (job.ready and not job.fetched), f"job {job.id}: ready before its code is here")
        for sandbox in self._sandboxes.values():
            _check(sandbox.job.sandboxes.get(sandbox.id) is sandbox, f"sandbox {sandbox.id} is not with its job")
            _check(self._jobs.get(sandbox.job.id) is sandbox.job, f"sandbox {sandbox.id} serves a forgotten job")
            _check(sandbox.open or not sandbox.queue, f"sandbox {sandbox.id} has slices before it is open")
            for held in sandbox.queue.values():
                places[held.key] = places.get(held.key, 0) + 1
                _check(held.sandbox is sandbox and held.place is Place.QUEUED, f"slice {held.key} is misqueued")
                _check(held.job is sandbox.job, f"slice {held.key} is in a sandbox of another job")
        for held in self._held.values():
            expected = 1 if held.place in {Place.WAITING, Place.READY, Place.QUEUED} else 0
            _check(places.pop(held.key, 0) == expected, f"slice {held.key} ({held.place}) is not in one place")
            _check(held.place is not Place.GONE, f"slice {held.key} is gone and held")
        if self._pauses.give_back is not GiveBack.NOTHING and not self._stopping:
            stays = {Place.QUEUED, Place.REPORTED} if self._pauses.give_back is GiveBack.UNSTARTED else {Place.REPORTED}
            strange = [held.key for held in self._held.values() if held.place not in stays]
            _check(not strange, f"slices {strange} are kept though they were to go back")
        _check(not places, f"slices {list(places)} lie about without being held")
        size = sum(held.size for held in self._held.values() if held.place is Place.REPORTED)
        _check(size == self._unacknowledged_size, "size of unacknowledged results")
        _check(len(self._sandboxes) <= self.policy.most, "more sandboxes than allowed")
        _check(sum(len(job.held) for job in self._jobs.values()) == len(self._held), "slices of forgotten jobs")
        _check(sorted(self._order) == sorted(self._jobs), "the line of jobs")


def _job_statistics(job: Job, crowding: float | None) -> JobStatistics:
    return JobStatistics(
        name=job.offer.name,
        fetched=job.fetched,
        unstarted=job.unstarted(),
        queued=sum(len(sandbox.queue) for sandbox in job.sandboxes.values()),
        reported=job.reported,
        sandboxes=len(job.sandboxes),
        slice_s=job.quanta.slice_s(),
        measured=job.quanta.count,
        density=job.quanta.density(crowding),
        completed=job.completed,
        earned=job.earned,
    )


def _slot(sandbox: Sandbox, general: str) -> Slot:
    """`general` is the reason of places that have no reason of their own."""
    job = sandbox.job
    head = next(iter(sandbox.queue.values()), None)
    state, why, since = "idle", general, sandbox.idle_since
    if head is not None:
        state, why, since = "retiring" if sandbox.retiring else "working", "", sandbox.head_since
    elif not sandbox.open:
        state, why = "opening", "EOPENING"
    elif job.fetching:
        why = "EDATA"
    return Slot(
        state,
        sandbox=sandbox.id,
        job=job.id,
        job_name=job.offer.name,
        slice=None if head is None else head.number,
        queued=len(sandbox.queue),
        done=sandbox.wear.slices,
        since=since,
        why=why,
    )


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise BooksWrong(what)
