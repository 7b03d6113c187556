"""All rows, and how a transaction takes back what it has changed."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from orchestrator.bank.chain import Lane, Posting
from orchestrator.scheduler.bans import Record
from orchestrator.scheduler.groups import Group
from orchestrator.scheduler.lifecycle import Slice, SliceState
from orchestrator.scheduler.redundancy import Opinion
from orchestrator.scheduler.store.events import Event
from orchestrator.scheduler.store.jobs import JobRecord, JobState
from orchestrator.scheduler.store.leases import Lease
from orchestrator.scheduler.trust import Trust
from tests.simulation.rows import Place, Touched

Key = TypeVar("Key")
Value = TypeVar("Value")
_NOTHING: Any = object()


@dataclasses.dataclass(frozen=True, slots=True)
class SliceEntry:
    piece: Slice
    ready_at: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Out:
    """Slices of one job that are out, by lease. Leases are given in growing order: it is sorted only after one came
    back to an older lease."""

    by_lease: dict[int, dict[int, None]] = dataclasses.field(default_factory=dict)

    def add(self, lease: int, number: int) -> None:
        self.by_lease.setdefault(lease, {})[number] = None

    def remove(self, lease: int, number: int) -> None:
        del self.by_lease[lease][number]
        if not self.by_lease[lease]:
            del self.by_lease[lease]

    def sort(self) -> None:
        leases = list(self.by_lease)
        if any(one > other for one, other in itertools.pairwise(leases)):
            ordered = sorted(self.by_lease.items())
            self.by_lease.clear()
            self.by_lease.update(ordered)


class Memory:
    """Everything that is stored. `put` and `drop` change a table within a transaction."""

    def __init__(self) -> None:
        self.jobs: dict[int, JobState] = {}
        self.records: dict[int, JobRecord] = {}
        self.job_ids: dict[str, int] = {}
        self.input_characters: dict[int, int] = {}
        self.in_groups: dict[int, frozenset[str]] = {}
        self.groups: dict[str, Group] = {}
        self.inputs: dict[Place, str] = {}
        self.slices: dict[Place, SliceEntry] = {}
        self.results: dict[Place, tuple[str, int]] = {}
        self.failures: dict[Place, dict[str, str]] = {}
        """reasons by worker"""
        self.opinions: dict[Place, tuple[Opinion, ...]] = {}
        self.trust: dict[tuple[str, str], tuple[Trust, float]] = {}
        self.leases: dict[int, Lease] = {}
        self.bans: dict[tuple[int, str], Record] = {}
        self.owner_accounts: dict[tuple[str, str], tuple[float, float]] = {}
        self.market: dict[int, tuple[float, float]] = {}
        self.events: dict[int, Event] = {}
        self.counters: dict[str, int] = {}
        self.accounts: dict[str, tuple[int, str]] = {}
        self.holds: dict[str, tuple[str, bool]] = {}
        """owner, and whether it is open"""
        self.postings: dict[str, Posting] = {}
        self.lane = Lane(1)
        # What is looked for in other ways than by key.
        self.ready: dict[int, dict[int, None]] = {}
        self.out: dict[int, Out] = collections.defaultdict(Out)
        self.rivals: dict[int, dict[Place, None]] = {}
        """slices by the lease that is their rival"""
        self.held: dict[tuple[str, str], dict[int, None]] = {}
        """leases that have not ended, by worker and peer"""
        self.expiries: list[tuple[float, int]] = []
        """a heap; what is not so any more is passed over"""
        self.queues: dict[tuple[int, str], dict[int, None]] = {}
        self.results_of: dict[int, dict[int, None]] = {}
        self.pending_opinions: dict[int, dict[int, None]] = {}
        """slices of a job on which somebody waits to be agreed with"""
        self.touched = Touched()
        self._undo: list[Callable[[], None]] = []

    # --- transactions

    def commit(self) -> None:
        self._undo.clear()

    def roll_back(self) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()
        self.touched = Touched()

    def afterwards(self, undo: Callable[[], None]) -> None:
        """To be done when the transaction is taken back."""
        self._undo.append(undo)

    def put(self, table: dict[Key, Value], key: Key, value: Value) -> None:
        before = table.get(key, _NOTHING)
        table[key] = value
        self._undo.append(lambda: _restore(table, key, before))

    def drop(self, table: dict[Key, Value], key: Key) -> None:
        before = table.pop(key)
        self._undo.append(lambda: _restore(table, key, before))

    # --- rows that are found in several ways

    def put_job(self, state: JobState) -> None:
        self.put(self.jobs, state.key, state)
        self.touched.jobs.add(state.key)

    def put_slice(self, job: int, piece: Slice, ready_at: float | None) -> None:
        place, after = (job, piece.number), SliceEntry(piece, ready_at)
        before = self.slices.get(place)
        self._place(place, before, after)
        self._undo.append(lambda: self._place(place, after, before))
        self.touched.places.add(place)

    def _place(self, place: Place, before: SliceEntry | None, after: SliceEntry | None) -> None:
        job, number = place
        for entry, is_there in ((before, False), (after, True)):
            if entry is None:
                continue
            piece = entry.piece
            if piece.state is SliceState.READY:
                _mark(self.ready, job, number, is_there)
            elif piece.state is SliceState.LEASED:
                (self.out[job].add if is_there else self.out[job].remove)(piece.lease, number)
            if piece.rival:
                _mark(self.rivals, piece.rival, place, is_there)
        if after is None:
            del self.slices[place]
        else:
            self.slices[place] = after

    def put_result(self, place: Place, uri: str, lease: int) -> None:
        job, number = place
        assert place not in self.results, "a second result of a slice"
        self.put(self.results, place, (uri, lease))
        self.mark(self.results_of, job, number, True)
        self.touched.places.add(place)

    def put_opinions(self, place: Place, opinions: tuple[Opinion, ...]) -> None:
        job, number = place
        self.put(self.opinions, place, opinions)
        waits = any(one.state.value == "pending" for one in opinions)
        if waits is not (number in self.pending_opinions.get(job, ())):
            self.mark(self.pending_opinions, job, number, waits)
        self.touched.places.add(place)

    def mark(self, index: dict[Key, dict[Value, None]], key: Key, value: Value, is_there: bool) -> None:
        """Note something in an index, or strike it."""
        _mark(index, key, value, is_there)
        self._undo.append(lambda: _mark(index, key, value, not is_there))


def _mark(index: dict[Key, dict[Value, None]], key: Key, value: Value, is_there: bool) -> None:
    if is_there:
        index.setdefault(key, {})[value] = None
    else:
        del index[key][value]
        if not index[key]:
            del index[key]


def _restore(table: dict[Key, Value], key: Key, before: Value) -> None:
    if before is _NOTHING:
        del table[key]
    else:
        table[key] = before


def ordered(index: Mapping[Key, Mapping[int, None]], key: Key) -> list[int]:
    return sorted(index.get(key, ()))
