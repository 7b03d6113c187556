"""The chain of postings: each carries the hash of its own content and of its predecessor's hash.

So a posting cannot be changed, removed, inserted or moved without every later hash being wrong. Where money is held
without a posting, since it is none yet, the opening of the hold has a place in the chain instead. There are several
*lanes*, each a chain of its own: a transaction appends to one that no other transaction is using, so that none waits
for another's commit. Usually there are as many as transactions have ever run at once.

Whoever can write to the database can also compute a whole lane anew; what they cannot do is to make it end in a hash
that somebody has noted before. `Verifier` compares with such notes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping

from orchestrator.bank.kinds import PostingKind

ORIGIN = bytes(32)
"""What the first posting of a lane follows."""


@dataclasses.dataclass(frozen=True, slots=True)
class Posting:
    """`amount` (positive) goes from account `source` to account `target`. The id is unique in the whole ledger.

    `detail` is what else it decides (see `pending.Pending.terms`); most decide nothing else.
    """

    id: str
    kind: PostingKind
    source: str
    target: str
    amount: int
    detail: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Opening:
    """An empty hold, its account and whose it is: no posting says so."""

    hold: str
    account: str
    owner: str


@dataclasses.dataclass(slots=True)
class Lane:
    """The end of a lane: how many entries it has, and the hash of the last."""

    id: int
    number: int = 0
    digest: bytes = ORIGIN

    def append(self, entry: Posting | Opening, posted_at: float = 0.0) -> tuple[int, bytes]:
        """The entry's number in the lane (from 1) and its hash. An opening has no time."""
        self.number += 1
        self.digest = digest(self.digest, self.id, self.number, entry, posted_at)
        return self.number, self.digest


def digest(previous: bytes, lane: int, number: int, entry: Posting | Opening, posted_at: float) -> bytes:
    """SHA-256 of the predecessor's hash and of everything that the entry says, as JSON without blanks.

    Accounts are named, not numbered: a row that gets another name breaks the chain too. What a posting decides besides
    is one item more: postings without it, all elder ones among them, are hashed as they always were. An opening is a
    list of six items, and no list of one length is one of another. The migrations that chained what was there before
    have copies of this.
    """
    if isinstance(entry, Opening):
        content = [lane, number, "hold", entry.hold, entry.account, entry.owner]
    else:
        moved = (entry.kind.value, entry.source, entry.target, str(entry.amount))
        content = [lane, number, entry.id, *moved, repr(posted_at)]
        if entry.detail is not None:
            content.append(entry.detail)
    return hashlib.sha256(previous + json.dumps(content, separators=(",", ":")).encode()).digest()


@dataclasses.dataclass(frozen=True, slots=True)
class Chained:
    """A posting or an opening as it is stored, with its place in the chain. `lane` is None when it has none."""

    entry: Posting | Opening
    posted_at: float
    lane: int | None
    number: int | None
    digest: bytes | None


class Verifier:
    """Takes stored entries in the order of lane and number, and says what is wrong with them.

    `noted` are ends of lanes of an earlier time. After a fault the lane goes on from the hash that is stored, so that
    one change is one problem.
    """

    def __init__(self, noted: Iterable[Lane] = ()) -> None:
        self._lanes: dict[int, Lane] = {}
        self._noted: dict[tuple[int, int], bytes] = {(lane.id, lane.number): lane.digest for lane in noted}

    def check(self, row: Chained) -> list[str]:
        """The problems of one entry."""
        entry = row.entry
        what = f"the opening of hold {entry.hold!r}" if isinstance(entry, Opening) else f"posting {entry.id!r}"
        if row.lane is None or row.number is None or row.digest is None:
            return [f"{what} is in no chain: it was not made by this Bank, or by an elder version"]
        lane = self._lanes.setdefault(row.lane, Lane(row.lane))
        problems = []
        place = f"{what} (number {row.number} of lane {row.lane})"
        if row.number != lane.number + 1:
            problems.append(f"{place} follows number {lane.number}: what was between them is gone")
        elif digest(lane.digest, row.lane, row.number, entry, row.posted_at) != row.digest:
            problems.append(f"{place} is not what was chained: it was changed, inserted or moved")
        lane.number, lane.digest = row.number, row.digest
        noted = self._noted.pop((row.lane, row.number), row.digest)
        if noted != row.digest:
            problems.append(f"{place} has another hash than was noted before: the lane was written anew")
        return problems

    def finish(self, ends: Mapping[int, Lane]) -> list[str]:
        """The problems of what should be there and was not. `ends` is what is stored about the lanes."""
        problems = []
        for number in sorted(set(ends) | set(self._lanes)):
            end, last = ends.get(number), self._lanes.get(number) or Lane(number)
            if end is None:
                problems.append(f"lane {number} is not known, but has {last.number} entries")
            elif (end.number, end.digest) != (last.number, last.digest):
                problems.append(f"lane {number} should end with number {end.number}, but ends with {last.number}")
        problems += [
            f"number {number} of lane {lane}, noted before, is gone"
            for (lane, number), _ in self._noted.items()
            if number > 0
        ]
        return problems
