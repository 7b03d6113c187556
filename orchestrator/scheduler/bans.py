"""Pure: pairs of worker and job that do not get on: the worker fails slices of the job again and again.

Such a worker gets the job again only after a while, or when nobody else could have it. The records are rows; `Bans` is
this process's copy of those that matter to jobs on its board.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

MOST = 100_000

Pair = tuple[int, str]
"""job, worker"""


@dataclasses.dataclass(frozen=True, slots=True)
class BanRules:
    failures: int = 3
    """so many, and more than it computed meanwhile"""
    lasts_s: float = 600.0


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """Of one pair: since its trouble began. `until`: they are kept apart; 0 when they never were."""

    since: float
    failures: int = 0
    successes: int = 0
    until: float = 0.0


def failed(record: Record | None, now: float, rules: BanRules) -> Record:
    """A slice came back as failed, or with a trouble of the worker's."""
    if record is None or now - record.since > rules.lasts_s:
        record = Record(now)
    record = dataclasses.replace(record, failures=record.failures + 1)
    if record.failures >= rules.failures and record.failures > record.successes:
        record = dataclasses.replace(record, until=now + rules.lasts_s)
    return record


def succeeded(record: Record) -> Record | None:
    """None when the trouble is over."""
    record = dataclasses.replace(record, successes=record.successes + 1)
    return None if record.successes >= record.failures else record


def judged(
    known: Mapping[Pair, Record], troubles: Sequence[Pair], successes: Sequence[Pair], now: float, rules: BanRules
) -> dict[Pair, Record | None]:
    """The records that change with what came of slices."""
    changed: dict[Pair, Record | None] = {}
    for pair in troubles:
        changed[pair] = failed(changed.get(pair, known.get(pair)), now, rules)
    for pair in successes:
        record = changed.get(pair, known.get(pair))
        if record is not None:
            changed[pair] = succeeded(record)
    return changed


class Bans:
    """What this process knows, bounded: the jobs that had trouble last."""

    def __init__(self, rules: BanRules) -> None:
        self.rules = rules
        self._records: dict[int, dict[str, Record]] = {}
        """by job and worker"""

    def change(self, changed: Mapping[Pair, Record | None]) -> None:
        """Records that were just written."""
        for (job, worker), record in changed.items():
            workers = self._records.setdefault(job, {})
            workers.pop(worker, None)
            if record is not None:
                workers[worker] = record
                if len(workers) > MOST:
                    del workers[next(iter(workers))]
            if not workers:
                del self._records[job]
        while len(self._records) > MOST:
            del self._records[next(iter(self._records))]

    def load(self, jobs: Iterable[int], known: Mapping[Pair, Record]) -> None:
        """All records of these jobs, as they are now."""
        for job in jobs:
            self._records.pop(job, None)
        self.change(known)

    def record(self, pair: Pair) -> Record | None:
        return self._records.get(pair[0], {}).get(pair[1])

    def watches(self, job: int) -> bool:
        """Whether it matters who computes slices of the job: always a quick no where nothing fails."""
        return job in self._records

    def of(self, job: int, now: float) -> frozenset[str]:
        """Workers that should not get slices of the job."""
        workers = self._records.get(job)
        if not workers:
            return frozenset()
        return frozenset(worker for worker, record in workers.items() if record.until > now)

    def forget(self, job: int) -> None:
        """The job has ended."""
        self._records.pop(job, None)
