"""Pure: the supervisor's desk: what lies on it, and the few moves by which a slice or a sandbox changes its place.

Every move keeps the books straight (a held slice is in exactly one place) and notes what is to be looked at before the
supervisor answers. Decisions are made in `dealing`, events are understood in `supervisor` and what it is made of.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from orchestrator.jobs.words import SliceMetrics
from orchestrator.worker import demand, wages
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker.holdings import FETCHING, Held, Job, Place, Ring, Sandbox
from orchestrator.worker.job_filter import JobFilter
from orchestrator.worker.pausing import Pauses
from orchestrator.worker.published import Lifetimes
from orchestrator.worker.recycling import Limits
from orchestrator.worker.refusals import Kind, Refusals
from orchestrator.worker.task import Authorization, JobOffer
from orchestrator.worker.traces import sampled
from orchestrator.worker.wages import Cost, WageBook

STORIES_KEPT = 1000
ANSWERED_KEPT: Final = 2000
DUPLICATE: Final = "return duplicate slice"
"""The reason with which a slice goes back whose result was accepted under the same lease."""


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """The supervisor's settings. Times are seconds, sizes characters."""

    sandboxes: int = 1  # cores that sandboxes may keep busy
    max_sandboxes: int = 0  # at once, when jobs wait more than they compute; never less than `sandboxes`
    queue_s: float = 0.25  # work kept in a sandbox, so that it never waits for the next slice
    max_depth: int = 256
    prefetch_s: float = 5.0  # horizon over which cores must have work
    patience: demand.Patience = dataclasses.field(default_factory=demand.Patience)
    sandbox_linger_s: float = 15.0  # an idle sandbox is kept so long for more slices of its job
    job_linger_s: float = 60.0
    rotation_s: float = 10.0  # a job without any sandbox gets its turn after so long
    beacon_s: float = 60.0
    assign_tries: int = 3
    death_tries: int = 3  # how often a slice may lose its sandbox without fault before it is returned
    max_held: int = 20_000
    max_unacknowledged: int = 20_000
    max_unacknowledged_size: int = 256 * 1024 * 1024
    recycling: Limits = dataclasses.field(default_factory=Limits)
    data_ahead: int = 64  # datums fetched or being fetched per job beyond what sandboxes hold
    data_ahead_size: int = 256 * 1024 * 1024  # and what they and those in sandboxes may come to, per job
    jobs: JobFilter = dataclasses.field(default_factory=JobFilter)
    wages: wages.Rules = dataclasses.field(default_factory=wages.Rules)
    unwanted_s: float = 600.0  # a job that the owner does not want is not looked at again for so long
    trace_ratio: float = 0.0  # of slices, whose way is told with `Trace` when they leave

    @property
    def most(self) -> int:
        """How many sandboxes may be open at once."""
        return max(self.sandboxes, self.max_sandboxes)


class Desk:
    """State and moves; see the module."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._actions: list[act.Action] = []
        self._jobs: dict[str, Job] = {}
        self._held: dict[int, Held] = {}
        self._sandboxes: dict[int, Sandbox] = {}
        self._order: list[str] = []  # whose turn it is when sandboxes are dealt out
        self._keys = itertools.count(1)
        self._sandbox_ids = itertools.count(1)
        self._demand = demand.Demand(policy.patience)
        self._runtime = False
        self._runtime_reason = "sandboxes are not ready yet"
        self._capabilities = 0
        self._worktimes: frozenset[str] = frozenset()
        self._pipeline_depth = 1
        self._first_request = True
        self._asking = False  # whether the request under way asks for work, rather than being a sign of life
        self._asked_at: float | None = None  # when the request for work that is under way was made
        self._heard_at: float | None = None  # when the Scheduler last answered any request
        self._answered_at: float | None = None  # when the Scheduler last answered a request for work
        self._worked_at: float | None = None  # when it last brought slices that we kept
        self._no_work: Mapping[str, int] = {}  # what the Scheduler said of it, in its last answer without slices
        self._earned = 0  # units of 10^-18 DCC that accepted results were paid with
        self._stopping: str | None = None  # None | "soft" | "hard"
        self._draining = False
        self._finished = False
        self._rejected = Ring()
        self._answered: dict[tuple[str, int], Authorization] = {}  # (job, slice) → lease of the last results
        self._reasons: dict[str, str] = {}  # why a job was rejected
        self._previous = Ring()
        self._paused: dict[str, float] = {}  # job → not wanted before this time
        self._wages = WageBook(policy.wages)
        self._first = Ring(100)  # jobs that the Scheduler wants computed before others
        self._pauses = Pauses()
        self._pause_lives: collections.deque[tuple[float, str]] = collections.deque(maxlen=100)
        self._unacknowledged_size = 0
        self._room = policy.max_unacknowledged_size  # for it
        self._beacon_s = policy.beacon_s
        self._beacon_at = math.inf
        self._owes_word = False  # the Scheduler is to hear of us, though nothing may be wanted or held
        self._lifetimes = Lifetimes()
        self._rotated_at = 0.0
        self._touched: dict[int, Sandbox] = {}  # sandboxes to top up
        self._deal = False
        self._look_at_space = True
        self._space_at = -math.inf
        self._crowding: float | None = None  # tasks that want a core, per core of the machine, if it can be known
        self._crowding_from = self._crowding_to = -math.inf  # the time that the last reading is about
        self._queues_seen = False  # the kernel told how long the last slice stood in a run queue
        self._satisfied = False  # enough work is held: only events and the regular tick look again
        self._now = 0.0  # of the events that are being handled
        self._ticked_at: float | None = None
        self._refusals = Refusals()
        self._counts: collections.Counter[str] = collections.Counter()
        self._stories: collections.deque[tuple[str, int, list[tuple[float, str]]]] = collections.deque(
            maxlen=STORIES_KEPT
        )
        self._lives: dict[str, collections.deque[tuple[float, str]]] = {}  # of jobs
        self._sandbox_lives: dict[int, list[tuple[float, str]]] = {}

    def offer_of(self, job_id: str) -> JobOffer | None:
        job = self._jobs.get(job_id)
        return None if job is None else job.offer

    @property
    def paused_since(self) -> float | None:
        """When the oldest of the holds on this worker began; None when there is none."""
        return next((pause.since for pause in self._pauses.all()), None)

    @property
    def finished(self) -> bool:
        return self._finished

    def _place(self, held: Held, now: float, *, front: bool = False) -> None:
        """Put a slice that is in no sandbox where it belongs: among the waiting or the ready ones."""
        job = held.job
        if held.uri is None and job.fetched:
            if held.offer.datum_uri is None:
                if job.datum_of is None:
                    self._return([held], "ENODATUM", now)
                    return
                try:
                    uri = job.datum_of(held.number)
                except (ValueError, IndexError, ArithmeticError, LookupError):
                    self._return([held], "ENODATUM", now)
                    return
                if uri.startswith("data:"):
                    held.uri = uri
                else:  # the element lies elsewhere
                    held.offer = dataclasses.replace(held.offer, datum_uri=uri)
            elif held.offer.datum_uri.startswith("data:"):
                held.uri = held.offer.datum_uri
        held.place = Place.READY if held.uri is not None else Place.WAITING
        line = job.ready if held.uri is not None else job.waiting
        if front:
            line.appendleft(held)
        else:
            line.append(held)

    def _fetch_data(self, job: Job) -> None:
        """Keep enough datums on the way, but not the whole backlog in memory."""
        while job.fetched and job.waiting and self._may_fetch_one(job):
            held = job.waiting.popleft()
            held.place = Place.FETCHING
            held.story.append((self._now, FETCHING))
            job.fetching += 1
            assert held.offer.datum_uri is not None  # slices with a range are ready at once
            self._actions.append(act.FetchDatum(held.key, job.id, held.offer.datum_uri))

    def _drop_datum(self, held: Held) -> None:
        """It is not needed any more, and its place is another's."""
        job, weight = held.job, held.weight
        held.uri, held.weight = None, 0
        job.fetched_size -= weight
        if weight and job.waiting:
            self._fetch_data(job)

    def _may_fetch_one(self, job: Job) -> bool:
        ahead = job.fetching + len(job.ready)
        # How large the next ones are, nobody knows: as large as the largest before them.
        size = job.fetched_size + (job.fetching + 1) * job.heaviest
        fits = ahead < self.policy.data_ahead and size <= self.policy.data_ahead_size
        return fits or not (ahead or job.fetched_size)

    def _drop_sandbox(
        self,
        sandbox: Sandbox,
        now: float,
        why: str,
        *,
        tell_shell: bool = True,
    ) -> None:
        """The sandbox is no more; what it held goes to the front of the ready line, in order."""
        del self._sandboxes[sandbox.id]
        del sandbox.job.sandboxes[sandbox.id]
        self._touched.pop(sandbox.id, None)
        for held in reversed(sandbox.queue.values()):
            held.sandbox, held.place, held.progressed = None, Place.READY, False
            held.job.ready.appendleft(held)
        sandbox.queue.clear()
        self._tell(sandbox, now, why)
        if tell_shell:
            if sandbox.worn is not None:
                self._counts[f"sandboxes recycled: {sandbox.worn}"] += 1
            self._actions.append(act.CloseSandbox(sandbox.id, why, sandbox.worn))
        self._deal = True
        self._stir(sandbox.job)

    def _report(
        self, held: Held, result: Any, error: Mapping[str, Any] | None, size: int, metrics: SliceMetrics
    ) -> None:
        job = held.job
        held.place, held.size, held.threw = Place.REPORTED, size, error is not None
        job.reported += 1
        self._unacknowledged_size += size
        if self.policy.wages.wage:
            held.cost = Cost.of_slice(metrics)
            self._wages.measured(job.id, held.cost)
        if job.offer.discrete:
            self._previous.add(job.id)
        self._actions.append(
            act.SendResult(
                held.key,
                job.id,
                held.number,
                held.authorization,
                result,
                error,
                metrics,
                held.offer.storage,
                job.modern,
                held.uri or "",
                awaited=len(job.held) == job.reported,
                estimation=held.offer.estimation,
            )
        )
        self._drop_datum(held)

    def _let_go(self, held: Held, now: float, why: str) -> None:
        """The one exit: after it the slice is not ours."""
        job = held.job
        if held.place is Place.REPORTED:
            job.reported -= 1
            full = self._backlogged
            self._unacknowledged_size -= held.size
            if full and not self._backlogged:
                self._touched.update(self._sandboxes)
        held.place = Place.GONE
        self._drop_datum(held)
        held.story.append((now, why))
        del self._held[held.key]
        del job.held[held.number]
        job.active_at = now
        self._stories.append((job.id, held.number, held.story))
        if self.policy.trace_ratio and sampled(held.key, self.policy.trace_ratio):
            story = tuple(held.story)
            self._actions.append(
                act.Trace(job.id, job.offer.name, held.number, held.sandbox_id, held.asked_at, story, held.metrics)
            )

    def _give_back(
        self, job_id: str, numbers: tuple[int, ...], authorization: Authorization, reason: str | Mapping[str, Any]
    ) -> None:
        if numbers:
            self._counts["slices returned"] += len(numbers)
            text = reason if isinstance(reason, str) else str(reason.get("errorCode"))
            self._counts[f"returned {text}"] += len(numbers)
            detail = None if isinstance(reason, str) else str(reason.get("message"))
            self._refusals.note(Kind.SLICE, text, self._now, job=job_id, count=len(numbers), detail=detail)
            self._actions.append(act.ReturnSlices(job_id, numbers, authorization, reason))

    def _return(self, slices: Sequence[Held], reason: str | Mapping[str, Any], now: float) -> None:
        """Return slices that are in no line and no sandbox; equal job and authorization go in one message."""
        groups: dict[tuple[str, int], list[Held]] = {}
        for held in slices:
            groups.setdefault((held.job.id, id(held.authorization)), []).append(held)
        text = reason if isinstance(reason, str) else "EWORKREJECT"
        for (job_id, _auth), members in groups.items():
            self._give_back(job_id, tuple(held.number for held in members), members[0].authorization, reason)
            for held in members:
                self._let_go(held, now, f"returned: {text}")

    def _purge(self, job: Job, reason: str, now: float) -> None:
        """Return every slice of the job whose result is not under way, close its sandboxes."""
        for sandbox in list(job.sandboxes.values()):
            self._drop_sandbox(sandbox, now, f"the job is given up: {reason}")
        job.waiting.clear()
        job.ready.clear()
        job.fetching = 0
        self._return([held for held in job.held.values() if held.place is not Place.REPORTED], reason, now)
        self._forget_if_done(job)

    def _return_unstarted(self, job: Job, reason: str, now: float) -> None:
        """Return what lies in no sandbox and is not reported yet."""
        job.waiting.clear()
        job.ready.clear()
        job.fetching = 0
        idle = [held for held in job.held.values() if held.place not in {Place.REPORTED, Place.QUEUED}]
        self._return(idle, reason, now)

    def _forget_if_done(self, job: Job) -> None:
        if not job.held and not job.sandboxes and self._jobs.get(job.id) is job:
            del self._jobs[job.id]
            self._order.remove(job.id)
            self._actions.append(act.ForgetJob(job.id))
            while len(self._lives) > STORIES_KEPT:
                del self._lives[next(iter(self._lives))]

    def _reject_job(self, job_id: str, reason: str) -> None:
        self._rejected.add(job_id)
        self._reasons[job_id] = reason
        for stale in [known for known in self._reasons if known not in self._rejected]:
            del self._reasons[stale]

    @property
    def _backlogged(self) -> bool:
        """Results pile up unacknowledged: no new slices are started until the Scheduler takes some."""
        return self._unacknowledged_size > self._room

    def _stir(self, job: Job) -> None:
        """Something of this job became ready, or may be fetched."""
        if job.waiting:
            self._fetch_data(job)
        for sandbox in job.sandboxes.values():
            self._touched[sandbox.id] = sandbox
        self._deal = True

    def _emit(self, held: Held, name: str, payload: Mapping[str, Any]) -> None:
        job = held.job
        self._actions.append(
            act.Emit(
                held.key,
                job.id,
                held.number,
                held.authorization,
                name,
                {**payload, "jobName": job.offer.name},
                job.modern,
            )
        )

    def _emit_error(self, held: Held, error: Mapping[str, Any], code: str) -> None:
        self._emit(
            held,
            "error",
            {
                "name": error.get("name") or "Error",
                "message": error.get("message") or "",
                "code": error.get("code") or code,
                "errorCode": code,
                "stack": error.get("stack") or "",
                "info": error.get("info"),
            },
        )

    def _emit_no_progress(self, held: Held, metrics: SliceMetrics | None, message: str) -> None:
        elapsed_ms = 0.0 if metrics is None else metrics.wall_time_s * 1000
        self._emit(
            held,
            "noProgress",
            {"message": message, "code": "ENOPROGRESS", "timestamp": elapsed_ms, "progressReports": None},
        )

    def _note_why(self, job_id: str, code: str, detail: str) -> None:
        """In people's words why slices of the job go back; they are counted when they do."""
        self._refusals.note(Kind.SLICE, code, self._now, job=job_id, count=0, detail=detail)

    def _tell(self, sandbox: Sandbox, now: float, what: str) -> None:
        self._sandbox_lives.setdefault(sandbox.id, []).append((now, what))

    def _tell_job(self, job: Job, now: float, what: str) -> None:
        self._lives.setdefault(job.id, collections.deque(maxlen=50)).append((now, what))

    def _ignore(self, event: Any) -> None:
        """Late news about something that is gone: normal after a kill or a purge, so only counted."""
        self._counts[f"ignored {type(event).__name__}"] += 1
