"""What the rows of a database say, read as they change: a copy of all that the rules speak of.

Triggers note which rows a transaction has touched; only these are read again after its commit, so that a step costs
what it changed and not what there is. `everything()` reads all rows, for finding out whether the copy is true.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from orchestrator.bank.store import LIMB
from orchestrator.scheduler.lifecycle import Counts

Place = tuple[int, int]
"""job, number"""

_SLICE, _JOB, _ACCOUNT, _POSTING, _LEASE = range(5)
_WATCHED = {
    "slices": (_SLICE, "job", "number"),
    "slice_results": (_SLICE, "job", "number"),
    "slice_opinions": (_SLICE, "job", "number"),
    "jobs": (_JOB, "key", "0"),
    "bank_accounts": (_ACCOUNT, "id", "0"),
    "bank_postings": (_POSTING, "id", "0"),
    "leases": (_LEASE, "id", "0"),
}


def watch(raw: sqlite3.Connection) -> None:
    """Note from now on what is touched in this database."""
    raw.execute("CREATE TABLE touched (kind INTEGER, one INTEGER, two INTEGER)")
    for table, (kind, one, two) in _WATCHED.items():
        for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            values = ", ".join(part if part == "0" else f"{row}.{part}" for part in (one, two))
            raw.execute(
                f"CREATE TRIGGER touched_{table}_{event.lower()} AFTER {event} ON {table}"
                f" BEGIN INSERT INTO touched VALUES ({kind}, {values}); END"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class SliceRow:
    state: str
    lease: int
    rival: int
    opinions: int

    @property
    def under(self) -> tuple[int, ...]:
        """The leases under which it is out."""
        return tuple(one for one in (self.lease, self.rival) if one) if self.state == "leased" else ()

    @property
    def is_doubted(self) -> bool:
        return self.state == "ready" and self.opinions > 0


@dataclasses.dataclass(frozen=True, slots=True)
class OpinionRow:
    lease: int
    identity: str
    state: str


@dataclasses.dataclass(frozen=True, slots=True)
class LeaseRow:
    worker: str
    peer: str
    token: str
    ended: bool
    opened_at: float
    expires_at: float


@dataclasses.dataclass(frozen=True, slots=True)
class JobRow:
    key: int
    id: str
    status: str
    price: int
    total: int
    cursor: int
    ready: int
    leased: int
    accepted: int
    failed: int
    copies: int
    paid: int
    doubted: int
    funded: int | None
    ended: bool
    agree: int | None
    """workers that must agree, whoever they are; None: one is enough"""

    @property
    def counts(self) -> Counts:
        return Counts(
            self.total, self.cursor, self.ready, self.leased, self.accepted, self.failed,
            copies=self.copies, paid=self.paid, doubted=self.doubted,
        )  # fmt: skip

    @property
    def account(self) -> str:
        """Where its hold is."""
        return f"escrow:job:{self.id}"


def must_agree(spec: Mapping[str, Any]) -> int | None:
    """See `JobRow.agree`."""
    rule = spec.get("redundancy")
    return None if rule is None or rule["trusting"] else int(rule["agree"])


@dataclasses.dataclass
class Touched:
    """Keys of rows; accounts and postings by their names."""

    places: set[Place] = dataclasses.field(default_factory=set)
    jobs: set[int] = dataclasses.field(default_factory=set)
    accounts: set[str] = dataclasses.field(default_factory=set)
    postings: set[str] = dataclasses.field(default_factory=set)
    leases: set[int] = dataclasses.field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.places or self.jobs or self.accounts or self.postings or self.leases)


@dataclasses.dataclass
class Postings:
    """All of them."""

    units: dict[str, int] = dataclasses.field(default_factory=dict)
    """by id"""
    sums: dict[str, int] = dataclasses.field(default_factory=dict)
    """what they come to, by account"""
    earned: dict[str, int] = dataclasses.field(default_factory=dict)
    """what payments brought, by account"""

    def add(self, name: str, kind: str, source: str, target: str, units: int) -> None:
        self.units[name] = units
        self.sums[source] = self.sums.get(source, 0) - units
        self.sums[target] = self.sums.get(target, 0) + units
        if kind == "payment":
            self.earned[target] = self.earned.get(target, 0) + units


@dataclasses.dataclass
class Changes:
    """Rows as they are now; a touched place without a row here has none."""

    places: set[Place] = dataclasses.field(default_factory=set)
    slices: dict[Place, SliceRow] = dataclasses.field(default_factory=dict)
    results: dict[Place, tuple[str, int]] = dataclasses.field(default_factory=dict)
    """URI and lease"""
    opinions: dict[Place, list[OpinionRow]] = dataclasses.field(default_factory=dict)
    jobs: dict[int, JobRow] = dataclasses.field(default_factory=dict)
    accounts: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)
    """units and kind, by name"""
    paid: dict[str, int] = dataclasses.field(default_factory=dict)
    """units that payments moved out of an account, by its name"""
    leases: dict[int, LeaseRow | None] = dataclasses.field(default_factory=dict)


class Rows(Protocol):
    """Where the copy is read from."""

    def changed(self) -> Changes | None:
        """What was touched since the last time; None when nothing was."""
        ...

    def everything(self) -> Changes:
        """All rows. What was touched before stays noted."""
        ...

    def postings(self) -> Postings: ...


class SqlRows:
    """Reads what `watch` noted."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self._raw = raw
        self._agree: dict[int, int | None] = {}

    def changed(self) -> Changes | None:
        touched = self._raw.execute("SELECT DISTINCT kind, one, two FROM touched").fetchall()
        if not touched:
            return None
        changes = self._read(touched)
        self._raw.execute("DELETE FROM touched")
        return changes

    def everything(self) -> Changes:
        self._raw.execute("SAVEPOINT everything")
        self._raw.execute("DELETE FROM touched")
        for table, (kind, one, two) in _WATCHED.items():
            self._raw.execute(f"INSERT INTO touched SELECT DISTINCT {kind}, {one}, {two} FROM {table}")
        changes = self._read(self._raw.execute("SELECT DISTINCT kind, one, two FROM touched").fetchall())
        self._raw.execute("ROLLBACK TO everything")
        self._raw.execute("RELEASE everything")
        return changes

    def postings(self) -> Postings:
        found = Postings()
        for name, kind, source, target, high, low in self._raw.execute(
            "SELECT p.posting_id, p.kind, s.name, t.name, p.high, p.low FROM bank_postings p"
            " JOIN bank_accounts s ON s.id = p.source JOIN bank_accounts t ON t.id = p.target"
        ):
            found.add(name, kind, source, target, high * LIMB + low)
        return found

    def _read(self, touched: Iterable[tuple[int, int, int]]) -> Changes:
        keys: dict[int, set[int]] = {kind: set() for kind in (_JOB, _ACCOUNT, _POSTING, _LEASE)}
        changes = Changes()
        for kind, one, two in touched:
            if kind == _SLICE:
                changes.places.add((one, two))
            else:
                keys[kind].add(one)
        if changes.places:
            self._read_slices(changes)
        if keys[_JOB]:
            changes.jobs = {job.key: job for job in map(self._job, self._raw.execute(_SELECT_JOBS))}
        if keys[_ACCOUNT]:
            for name, kind, high, low in self._raw.execute(_SELECT_ACCOUNTS):
                changes.accounts[name] = (high * LIMB + low, kind)
        if keys[_POSTING]:
            for name, high, low in self._raw.execute(_SELECT_PAYMENTS):
                changes.paid[name] = changes.paid.get(name, 0) + high * LIMB + low
        if keys[_LEASE]:
            changes.leases = dict.fromkeys(keys[_LEASE])
            for key, worker, peer, token, ended, opened_at, expires_at in self._raw.execute(_SELECT_LEASES):
                changes.leases[key] = LeaseRow(worker, peer, token, bool(ended), opened_at, expires_at)
        return changes

    def _read_slices(self, changes: Changes) -> None:
        for job, number, *row in self._raw.execute(_SELECT_SLICES):
            changes.slices[job, number] = SliceRow(*row)
        for job, number, uri, lease in self._raw.execute(_SELECT_RESULTS):
            changes.results[job, number] = (uri, lease)
        for job, number, lease, identity, state in self._raw.execute(_SELECT_OPINIONS):
            changes.opinions.setdefault((job, number), []).append(OpinionRow(lease, identity, state))

    def _job(self, row: tuple[Any, ...]) -> JobRow:
        key, spec = row[0], row[15]
        if key not in self._agree:
            self._agree[key] = must_agree(json.loads(spec))
        return JobRow(*row[:3], int(row[3]), *row[4:14], row[14] is not None, self._agree[key])


def _select(columns: str, table: str, kind: int, on: str) -> str:
    # CROSS: what was touched first, whatever the planner thinks of its size.
    touched = f"(SELECT DISTINCT one, two FROM touched WHERE kind = {kind}) t"
    return f"SELECT {columns} FROM {touched} CROSS JOIN {table} ON {on}"


_OF_SLICE = "r.job = t.one AND r.number = t.two"
_SELECT_SLICES = _select("r.job, r.number, r.state, r.lease, r.rival, r.opinions", "slices r", _SLICE, _OF_SLICE)
_SELECT_RESULTS = _select("r.job, r.number, r.uri, r.lease", "slice_results r", _SLICE, _OF_SLICE)
_SELECT_OPINIONS = _select("r.job, r.number, r.lease, r.identity, r.state", "slice_opinions r", _SLICE, _OF_SLICE)
_SELECT_JOBS = _select(
    "r.key, r.id, r.status, r.slice_price, r.total, r.cursor, r.ready, r.leased, r.accepted, r.failed, r.copies,"
    " r.paid, r.doubted, r.funded, r.ended_at, r.spec",
    "jobs r", _JOB, "r.key = t.one",
)  # fmt: skip
_SELECT_ACCOUNTS = _select("r.name, r.kind, r.high, r.low", "bank_accounts r", _ACCOUNT, "r.id = t.one")
_SELECT_PAYMENTS = _select(
    "a.name, r.high, r.low",
    "bank_postings r ON r.id = t.one AND r.kind = 'payment' JOIN bank_accounts a", _POSTING, "a.id = r.source",
)  # fmt: skip
_SELECT_LEASES = _select(
    "r.id, r.worker, r.peer, r.token, r.ended, r.opened_at, r.expires_at", "leases r", _LEASE, "r.id = t.one"
)
