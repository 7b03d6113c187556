"""Pure: what may happen to a slice and to a job, and what follows.

A slice goes ready → leased → accepted | failed, and back to ready when its lease ends without a result. A lease has
a number that only grows: the fencing token. A report counts only when it carries the token of the slice's newest
lease, so a worker that was thought dead can never overwrite what its successor did.

A slice that is late may be leased a second time while the first lease lives: that one is its rival then. Either may
bring the result; the first takes the slice, and with it both leases end. What else comes under the other is late.

Functions take values and return new values; no I/O, no clock, no randomness. The store keeps the same fields in rows.
"""

from __future__ import annotations

import dataclasses
import enum

from orchestrator.errors import Fault, OrchestratorError
from orchestrator.jobs.words import RunStatus


class IllegalTransition(OrchestratorError):
    """A bug of ours: a change that the tables below do not allow."""

    code = "EINTERNAL"
    fault = Fault.SCHEDULER


class SliceState(enum.StrEnum):
    READY = "ready"
    LEASED = "leased"
    ACCEPTED = "accepted"
    FAILED = "failed"


class Ending(enum.StrEnum):
    """How a worker's hold on a slice ended."""

    COMPLETED = "completed"
    """a result came"""
    FAILED = "failed"
    """the job's own fault: exception, no progress, rejection, over a limit; counted against `Budget.failures`"""
    LOST = "lost"
    """the worker's or the network's fault, or the lease expired; counted against `Budget.losses`"""
    RETURNED = "returned"
    """nobody's fault (worker shuts down, fetched too much); costs nothing"""


class Verdict(enum.StrEnum):
    """What became of a report."""

    ACCEPTED = "accepted"
    RETRY = "retry"
    """the slice is ready for another attempt"""
    CARRIED = "carried"
    """the attempt is over, and the slice's other lease goes on"""
    EXHAUSTED = "exhausted"
    """the budget is spent: the slice has failed for good"""
    DUPLICATE = "duplicate"
    """the same report was already settled"""
    LATE = "late"
    """the lease is not the slice's newest one any more, or its job has ended"""
    OPINION = "opinion"
    """a result that waits until others agree with it; see `redundancy`"""
    WRONG = "wrong"
    """enough others agree on another result"""
    UNDECIDED = "undecided"
    """the last opinion that could be asked for, and they do not agree: the slice has failed for good"""
    UNASKED = "unasked"
    """somebody in the same hands was heard on the slice already"""


SLICE_TRANSITIONS: frozenset[tuple[SliceState, SliceState]] = frozenset(
    {
        (SliceState.READY, SliceState.LEASED),
        (SliceState.LEASED, SliceState.READY),
        (SliceState.LEASED, SliceState.ACCEPTED),
        (SliceState.LEASED, SliceState.FAILED),
        # A lease expired, nobody else has taken the slice, and then its result came: the work is not thrown away.
        (SliceState.READY, SliceState.ACCEPTED),
        # The same, where the result was the last opinion that could be asked for; or nobody else was found to ask.
        (SliceState.READY, SliceState.FAILED),
    }
)

JOB_TRANSITIONS: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.NEW: frozenset(
        {RunStatus.ESTIMATION, RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.FINISHED, RunStatus.CANCELLED}
    ),
    RunStatus.ESTIMATION: frozenset(
        {RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.FINISHED, RunStatus.CANCELLED, RunStatus.CORRUPTED}
    ),
    RunStatus.RUNNING: frozenset({RunStatus.PAUSED, RunStatus.FINISHED, RunStatus.CANCELLED, RunStatus.CORRUPTED}),
    RunStatus.PAUSED: frozenset(
        {RunStatus.ESTIMATION, RunStatus.RUNNING, RunStatus.FINISHED, RunStatus.CANCELLED, RunStatus.CORRUPTED}
    ),
    RunStatus.FINISHED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
    RunStatus.CORRUPTED: frozenset({RunStatus.CANCELLED}),
}

ENDED = frozenset({RunStatus.FINISHED, RunStatus.CANCELLED})
"""A client gets `stop` for these and for nothing else (any other status in a `stop` makes its exec reject)."""

DISTRIBUTABLE = frozenset({RunStatus.ESTIMATION, RunStatus.RUNNING})


@dataclasses.dataclass(frozen=True, slots=True)
class Budget:
    """How often a slice may go wrong before it has failed for good."""

    failures: int = 3
    losses: int = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Slice:
    """One slice. `lease` is its newest lease, 0 when it has none (never leased, or handed back); `rival` an older one
    that lives beside it, else 0."""

    number: int
    state: SliceState = SliceState.READY
    lease: int = 0
    failures: int = 0
    losses: int = 0
    rival: int = 0
    opinions: int = 0
    """results that were heard, where several must agree (see `redundancy`); else 0"""

    def validate(self, budget: Budget) -> None:
        """Raise `IllegalTransition` unless every invariant holds."""
        spent = self.failures >= budget.failures or self.losses >= budget.losses
        disputed = self.state is SliceState.FAILED and self.opinions > 0
        rules = {
            "slices are numbered from 1": self.number >= 1,
            "a leased slice names its lease": self.state is not SliceState.LEASED or self.lease > 0,
            "an accepted slice names its lease": self.state is not SliceState.ACCEPTED or self.lease > 0,
            "a rival is an older lease of a leased slice": self.rival == 0
            or (self.state is SliceState.LEASED and 0 < self.rival < self.lease),
            "a failed slice has spent its budget": self.state is not SliceState.FAILED or spent or disputed,
            "a slice that spent its budget is not tried again": not spent
            or self.state in (SliceState.FAILED, SliceState.ACCEPTED),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise IllegalTransition(f"slice {self}: {'; '.join(broken)}")

    def story(self) -> str:
        """One sentence: where the slice is and what it went through."""
        past = f"{self.failures} failed and {self.losses} lost attempts"
        if self.rival:
            return f"slice {self.number} is with two workers, under leases {self.rival} and {self.lease}, after {past}"
        return {
            SliceState.READY: f"slice {self.number} waits for a worker after {past}",
            SliceState.LEASED: f"slice {self.number} is with a worker under lease {self.lease} after {past}",
            SliceState.ACCEPTED: f"slice {self.number} has its result from lease {self.lease} after {past}",
            SliceState.FAILED: f"slice {self.number} is given up after {past}",
        }[self.state]


def lease(piece: Slice, lease_id: int) -> Slice:
    """Hand a ready slice out under a lease newer than any that it had. Raises `IllegalTransition`."""
    if piece.state is not SliceState.READY or lease_id <= piece.lease:
        raise IllegalTransition(f"slice {piece} cannot be leased as {lease_id}")
    return dataclasses.replace(piece, state=SliceState.LEASED, lease=lease_id)


def may_have_rival(piece: Slice) -> bool:
    """Whether the slice can be leased to a second worker beside the first."""
    return piece.state is SliceState.LEASED and not piece.rival


def lease_beside(piece: Slice, lease_id: int) -> Slice:
    """Hand a late slice out a second time, to another worker; the first lease becomes its rival.

    Raises `IllegalTransition`.
    """
    if not may_have_rival(piece) or lease_id <= piece.lease:
        raise IllegalTransition(f"slice {piece} cannot be leased as {lease_id} beside its lease")
    return dataclasses.replace(piece, lease=lease_id, rival=piece.lease)


def settle(piece: Slice, lease_id: int, ending: Ending, budget: Budget) -> tuple[Slice, Verdict]:
    """Apply the end of a lease. Total: any report, however late or repeated, has a verdict."""
    if lease_id <= 0 or lease_id not in (piece.lease, piece.rival):
        return piece, Verdict.LATE
    if piece.state in (SliceState.ACCEPTED, SliceState.FAILED):
        repeated = ending is Ending.COMPLETED and piece.state is SliceState.ACCEPTED
        return piece, Verdict.DUPLICATE if repeated else Verdict.LATE
    if ending is Ending.COMPLETED:
        # Spelt out, as it is done for every result.
        after = Slice(piece.number, SliceState.ACCEPTED, lease_id, piece.failures, piece.losses, 0, piece.opinions)
        return after, Verdict.ACCEPTED
    if piece.state is SliceState.READY:
        return piece, Verdict.LATE
    return _give_back(piece, lease_id, ending, budget)


def expire(piece: Slice, lease_id: int, budget: Budget) -> tuple[Slice, Verdict]:
    """The lease ran out. The slice keeps its lease number: the result is still welcome while nobody else has it."""
    if piece.state is not SliceState.LEASED or lease_id <= 0 or lease_id not in (piece.lease, piece.rival):
        return piece, Verdict.LATE
    after, verdict = _give_back(piece, lease_id, Ending.LOST, budget)
    return after if verdict is Verdict.CARRIED else dataclasses.replace(after, lease=lease_id), verdict


def hear(piece: Slice, lease_id: int) -> Slice:
    """The lease brought an opinion, and somebody else must be asked. Only for one that `settle` would accept."""
    other = 0
    if piece.state is SliceState.LEASED and piece.rival:
        other = piece.rival if lease_id == piece.lease else piece.lease
    return dataclasses.replace(
        piece,
        state=SliceState.LEASED if other else SliceState.READY,
        lease=other,
        rival=0,
        opinions=piece.opinions + 1,
    )


def decided(piece: Slice, lease_id: int, *, agreed: bool) -> Slice:
    """The last opinion was heard: the slice has its result under `lease_id`, or will never have one."""
    state = SliceState.ACCEPTED if agreed else SliceState.FAILED
    return dataclasses.replace(piece, state=state, lease=lease_id, rival=0, opinions=piece.opinions + 1)


def give_up(piece: Slice) -> Slice:
    """Nobody else was found who could be asked. Only for a slice in doubt that waits. Raises `IllegalTransition`."""
    if not is_doubted(piece):
        raise IllegalTransition(f"slice {piece} is not in doubt, or is out")
    return dataclasses.replace(piece, state=SliceState.FAILED)


def is_doubted(piece: Slice) -> bool:
    """Somebody was heard on the slice, and it waits for somebody else."""
    return piece.state is SliceState.READY and piece.opinions > 0


def _give_back(piece: Slice, lease_id: int, ending: Ending, budget: Budget) -> tuple[Slice, Verdict]:
    failures = piece.failures + (ending is Ending.FAILED)
    losses = piece.losses + (ending is Ending.LOST)
    spent = failures >= budget.failures or losses >= budget.losses
    if piece.rival and not spent:
        other = piece.rival if lease_id == piece.lease else piece.lease
        return Slice(
            piece.number, SliceState.LEASED, other, failures, losses, opinions=piece.opinions
        ), Verdict.CARRIED  # fmt: skip
    state = SliceState.FAILED if spent else SliceState.READY
    after = Slice(piece.number, state, piece.lease if spent else 0, failures, losses, opinions=piece.opinions)
    return after, Verdict.EXHAUSTED if spent else Verdict.RETRY


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """The slices of a job by where they are. Slices behind `cursor` were leased at least once and have rows;
    those beyond it exist only as numbers, so a range of 10^7 slices costs nothing until it is touched."""

    total: int = 0
    cursor: int = 0
    ready: int = 0
    """slices with a row that wait again"""
    leased: int = 0
    accepted: int = 0
    failed: int = 0
    copies: int = 1
    """results that may be paid for each slice; more than one where workers must agree"""
    paid: int = 0
    """results that were paid, where that is not one per accepted slice"""
    doubted: int = 0
    """slices that wait again and on which somebody was heard"""

    @property
    def waiting(self) -> int:
        return self.total - self.cursor + self.ready

    @property
    def distributed(self) -> int:
        """What a client's `status` calls distributed: with a worker, or done."""
        return self.leased + self.accepted + self.failed

    @property
    def settled(self) -> int:
        return self.accepted + self.failed

    @property
    def earning(self) -> int:
        """Results that were, or will be, paid."""
        return self.accepted if self.copies == 1 else self.paid

    def moved(self, before: SliceState, after: SliceState, times: int = 1) -> Counts:
        if before is after:
            return self
        if (before, after) not in SLICE_TRANSITIONS:
            raise IllegalTransition(f"a slice cannot go from {before} to {after}")
        change = {_FIELD[before]: getattr(self, _FIELD[before]) - times}
        change[_FIELD[after]] = getattr(self, _FIELD[after]) + times
        return dataclasses.replace(self, **change)

    def leased_fresh(self, number: int) -> Counts:
        """`number` slices were leased for the first time."""
        return dataclasses.replace(self, cursor=self.cursor + number, leased=self.leased + number)

    def validate(self) -> None:
        rules = {
            "no count is negative": min(dataclasses.astuple(self)) >= 0,
            "the cursor is not beyond the total": self.cursor <= self.total,
            "every touched slice is somewhere": self.cursor == self.ready + self.leased + self.settled,
            "slices in doubt wait": self.doubted <= self.ready,
            "no slice is paid more often than it may": self.paid <= self.copies * self.cursor or self.copies == 1,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise IllegalTransition(f"{self}: {'; '.join(broken)}")


_FIELD = {
    SliceState.READY: "ready",
    SliceState.LEASED: "leased",
    SliceState.ACCEPTED: "accepted",
    SliceState.FAILED: "failed",
}


@dataclasses.dataclass(frozen=True, slots=True)
class ErrorLimit:
    """When a job is stopped because its slices fail: all of them did, or at least `failed` did and more failed than
    succeeded."""

    failed: int = 10


def too_many_errors(counts: Counts, *, closed: bool, limit: ErrorLimit) -> bool:
    if closed and counts.total > 0 and counts.failed == counts.total:
        return True
    return counts.failed >= limit.failed and counts.failed > counts.accepted


@dataclasses.dataclass(frozen=True, slots=True)
class JobFacts:
    """All that decides a job's status."""

    status: RunStatus
    counts: Counts
    closed: bool
    """no more slices will come"""
    admitted: bool
    """in at least one compute group, or bound to the deployer's own worker"""
    measured: int
    """slices that were tried to an end"""
    estimation_slices: int | None
    """None: every slice belongs to the estimation"""
    starved: bool = False
    """slices wait, and what is held for the job covers none of them"""


def next_status(facts: JobFacts, limit: ErrorLimit) -> RunStatus:
    """The status that a job should have now. `cancelled` here means: stopped with ETOOMANYERRORS."""
    if facts.status in ENDED or facts.status is RunStatus.CORRUPTED:
        return facts.status
    if too_many_errors(facts.counts, closed=facts.closed, limit=limit):
        return RunStatus.CANCELLED
    if facts.closed and facts.counts.settled == facts.counts.total:
        return RunStatus.FINISHED
    if not facts.admitted:
        return facts.status
    if facts.starved:
        return RunStatus.PAUSED
    estimating = facts.estimation_slices is None or facts.measured < facts.estimation_slices
    # A job never goes back from running into the estimation.
    return RunStatus.ESTIMATION if estimating and facts.status is not RunStatus.RUNNING else RunStatus.RUNNING


def check_transition(before: RunStatus, after: RunStatus) -> None:
    if before is not after and after not in JOB_TRANSITIONS[before]:
        raise IllegalTransition(f"a job cannot go from {before} to {after}")


def job_story(facts: JobFacts) -> str:
    """Where a job stands and, when it waits, for what."""
    counts = facts.counts
    where = f"{facts.status}: {counts.accepted} of {counts.total} slices computed, {counts.failed} given up"
    if facts.status in ENDED:
        return where
    if not facts.admitted:
        return f"{where}; waits until it joins a compute group"
    if counts.settled == counts.total and not facts.closed:
        return f"{where}; waits for more slices or to be closed"
    if facts.status is RunStatus.PAUSED:
        return f"{where}; paused until it has funds"
    return f"{where}; {counts.leased} with workers, {counts.waiting} waiting for one"


# Reasons as workers send them in `status` return messages: error codes or free text.
_LOSSES = frozenset(
    {
        "EPERM_ORIGIN",
        "EFETCH",
        "ESLICEFETCH",
        "EJOBFETCH",
        "ENOMODULE",
        "EMODULETOOBIG",
        "EMODULEFECTCH",
        "EMODULEFETCH",
        "ESANDBOXKILLED",
        "ENODOCKER",
        "ENOCONTAINER",
        "ECONTAINER",
        "ELOCKDOWN",
        "ENODATUM",
        "EBADTASK",
        "EWORKTIME",
        "ECAPABILITY",
        "ENETWORK",
        "EINTERNAL",
        "sandboxErrorfired",
    }
)
# As plain text EWORKREJECT comes with the siblings of a rejected slice: their job was put down, they did nothing.
_NOBODYS_FAULT = frozenset(
    {"EWORKERSTOPPING", "EJOBNOTWANTED", "EJOBFILTER", "EWAGE", "EPAUSED", "ENOSANDBOX", "EWORKREJECT"}
)


def ending_of_return(code: str) -> Ending:
    """Whose fault a returned slice is: network and worker trouble are losses, other error codes (ENOPROGRESS,
    ESLICETOOSLOW, EUNCAUGHT, a limit that the sandbox hit) are the job's, free text is nobody's."""
    if code in _LOSSES:
        return Ending.LOST
    if code in _NOBODYS_FAULT:
        return Ending.RETURNED
    looks_like_code = len(code) > 1 and code[0] == "E" and code.replace("_", "").isalnum() and code.upper() == code
    return Ending.FAILED if looks_like_code else Ending.RETURNED
