"""A copy of the rows that the rules speak of, with the sums over them: kept up by what each commit has changed."""

from __future__ import annotations

import collections
from typing import TypeVar

from tests.simulation.rows import Changes, JobRow, LeaseRow, OpinionRow, Place, SliceRow

Key = TypeVar("Key")
Value = TypeVar("Value")


class Mirror:
    def __init__(self) -> None:
        self.slices: dict[Place, SliceRow] = {}
        self.results: dict[Place, tuple[str, int]] = {}
        self.opinions: dict[Place, list[OpinionRow]] = {}
        self.jobs: dict[int, JobRow] = {}
        self.accounts: dict[str, tuple[int, str]] = {}
        self.paid: dict[str, int] = {}
        """units that payments moved out of an account"""
        self.leases: dict[int, LeaseRow] = {}
        self.job_of: dict[str, int] = {}
        """by the account of its hold"""
        # Sums.
        self.states: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        """how many slices of a job are in which state"""
        self.accepted: collections.Counter[int] = collections.Counter()
        """results of a job"""
        self.doubted: collections.Counter[int] = collections.Counter()
        self.heard: collections.Counter[int] = collections.Counter()
        """opinions of a job that are to be paid"""
        self.out: dict[int, dict[Place, None]] = {}
        """slices that are out under a lease"""
        self.units = 0
        """of all accounts"""

    def apply(self, changes: Changes) -> None:
        for place in changes.places:
            self._apply_slice(place, changes)
        for key, job in changes.jobs.items():
            self.jobs[key] = job
            self.job_of[job.account] = key
        for name, (units, kind) in changes.accounts.items():
            self.units += units - self.accounts.get(name, (0, ""))[0]
            self.accounts[name] = (units, kind)
        for name, units in changes.paid.items():
            self.paid[name] = self.paid.get(name, 0) + units
        for lease, row in changes.leases.items():
            if row is None:
                self.leases.pop(lease, None)
            else:
                self.leases[lease] = row

    def _apply_slice(self, place: Place, changes: Changes) -> None:
        job = place[0]
        before, after = self.slices.get(place), changes.slices.get(place)
        for row, sign in ((before, -1), (after, 1)):
            if row is not None:
                self.states[job][row.state] += sign
                self.doubted[job] += sign * row.is_doubted
        for lease in before.under if before else ():
            del self.out[lease][place]
            if not self.out[lease]:
                del self.out[lease]
        for lease in after.under if after else ():
            self.out.setdefault(lease, {})[place] = None
        self.accepted[job] += (place in changes.results) - (place in self.results)
        self.heard[job] += _paid(changes.opinions.get(place, [])) - _paid(self.opinions.get(place, []))
        _set(self.slices, place, after)
        _set(self.results, place, changes.results.get(place))
        _set(self.opinions, place, changes.opinions.get(place))

    def concerned(self, changes: Changes) -> set[int]:
        """Jobs of which something has changed."""
        accounts = {self.job_of[name] for name in (*changes.accounts, *changes.paid) if name in self.job_of}
        return {job for job, _ in changes.places} | changes.jobs.keys() | accounts

    def difference(self, other: Mirror) -> str | None:
        """The first thing in which another copy differs."""
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            if name == "states":
                mine, theirs = ({key: +one for key, one in states.items() if +one} for states in (mine, theirs))
            if mine != theirs:
                if not isinstance(mine, dict):
                    return f"{name}: {mine!r} and {theirs!r}"
                keys = [key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)]
                key = min(keys, key=repr)
                return f"{name} of {key!r}: {mine.get(key)!r} and {theirs.get(key)!r}"
        return None


def _paid(opinions: list[OpinionRow]) -> int:
    return sum(one.state in ("agreed", "undecided") for one in opinions)


def _set(rows: dict[Key, Value], key: Key, value: Value | None) -> None:
    if value is None:
        rows.pop(key, None)
    else:
        rows[key] = value
