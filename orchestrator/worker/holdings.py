"""Pure: what the supervisor has in its hands: slices, the jobs they belong to, the sandboxes they lie in."""

from __future__ import annotations

import collections
import dataclasses
import enum
import math
from collections.abc import Callable
from typing import Final

from orchestrator.jobs.words import SliceMetrics
from orchestrator.worker.quanta import Quanta
from orchestrator.worker.recycling import Wear
from orchestrator.worker.task import Authorization, JobOffer, SliceOffer
from orchestrator.worker.wages import Cost

# Lines of a slice's story by which `traces` knows its stages.
RECEIVED: Final = "received"
FETCHING: Final = "fetching its datum"
FETCHED: Final = "datum fetched"
QUEUED: Final = "queued in a sandbox"
COMPLETED: Final = "completed"
ACCEPTED: Final = "result accepted"


class Place(enum.Enum):
    """The one place where a held slice is."""

    WAITING = "waiting"  # the job, or the datum, is not fetched yet and nobody fetches the datum
    FETCHING = "fetching"  # its datum is on the way
    READY = "ready"  # can go into a sandbox
    QUEUED = "queued"  # in a sandbox; the first of its queue is the one that runs
    REPORTED = "reported"  # its result is sent, not acknowledged yet
    GONE = "gone"  # delivered, returned or lost: not held any more


@dataclasses.dataclass(slots=True, eq=False)
class Held:
    """A leased slice. `key` is ours and never reused."""

    key: int
    job: Job
    offer: SliceOffer
    authorization: Authorization
    uri: str | None = None
    place: Place = Place.WAITING
    sandbox: Sandbox | None = None
    began: bool = False
    progressed: bool = False
    threw: bool = False  # and that was reported
    rejections: int = 0
    deaths: int = 0
    size: int = 0
    weight: int = 0  # characters of its datum, when that was fetched
    spent: SliceMetrics | None = None  # of earlier tries that ended in work.reject
    asked_at: float | None = None  # when the request was made that brought it
    sandbox_id: int | None = None  # the last that had it
    metrics: SliceMetrics | None = None  # of its last run
    cost: Cost | None = None  # all of its runs, once it is reported and if wages are asked
    story: list[tuple[float, str]] = dataclasses.field(default_factory=list)

    @property
    def number(self) -> int:
        return self.offer.number


@dataclasses.dataclass(slots=True, eq=False)
class Sandbox:
    """A sandbox bound to one job for life. `queue` is in order; its first slice is running since `head_since`.

    One that is `retiring` gets no more slices; `worn` says which limit it has reached, if that is why.
    """

    id: int
    job: Job
    open: bool = False
    retiring: bool = False
    queue: dict[int, Held] = dataclasses.field(default_factory=dict)
    head_since: float = 0.0
    idle_since: float = 0.0
    opened_at: float = 0.0
    worn: str | None = None
    wear: Wear = dataclasses.field(default_factory=Wear)


@dataclasses.dataclass(slots=True, eq=False)
class Job:
    """A job of which something is held, or was a moment ago."""

    offer: JobOffer
    fetched: bool = False
    datum_of: Callable[[int], str] | None = None
    quanta: Quanta = dataclasses.field(default_factory=Quanta)
    held: dict[int, Held] = dataclasses.field(default_factory=dict)  # by slice number
    waiting: collections.deque[Held] = dataclasses.field(default_factory=collections.deque)
    fetching: int = 0
    fetched_size: int = 0  # characters of fetched data that are held
    heaviest: int = 0  # characters of the largest datum fetched so far
    ready: collections.deque[Held] = dataclasses.field(default_factory=collections.deque)
    reported: int = 0
    completed: int = 0
    earned: int = 0  # units of 10^-18 DCC
    sandboxes: dict[int, Sandbox] = dataclasses.field(default_factory=dict)
    assign_failures: int = 0
    estimating: bool = True  # until a slice came that is there for more than to measure the job
    alone: bool = False  # its sandboxes get one slice at a time
    active_at: float = 0.0
    began_at: float = math.inf  # when its first sandbox was there

    @property
    def id(self) -> str:
        return self.offer.job_id

    @property
    def modern(self) -> bool:
        """Whether values of this job may be KVIN v9 (capability bit 64)."""
        return bool(self.offer.need_capabilities & 64)

    def unstarted(self) -> int:
        return len(self.waiting) + self.fetching + len(self.ready)


class Ring:
    """The last `size` different texts, oldest first: rejected jobs, jobs worked before."""

    def __init__(self, size: int = 200) -> None:
        self._size = size
        self._items: dict[str, None] = {}

    def add(self, item: str) -> None:
        self._items.pop(item, None)
        self._items[item] = None
        if len(self._items) > self._size:
            del self._items[next(iter(self._items))]

    def discard(self, item: str) -> None:
        self._items.pop(item, None)

    def __contains__(self, item: str) -> bool:
        return item in self._items

    def items(self) -> tuple[str, ...]:
        return tuple(self._items)
