"""Pure: pairs of worker and job that do not get on: the worker fails slices of the job again and again.

Such a worker gets the job again only after a while, or when nobody else could have it. Kept in memory: a worker that is
not banned any more after a restart costs a few attempts.
"""

from __future__ import annotations

import dataclasses

MOST = 100_000


@dataclasses.dataclass(frozen=True, slots=True)
class BanRules:
    failures: int = 3
    """so many, and more than it computed meanwhile"""
    lasts_s: float = 600.0


@dataclasses.dataclass(slots=True)
class _Record:
    since: float
    failures: int = 0
    successes: int = 0
    until: float = 0.0


class Bans:
    def __init__(self, rules: BanRules) -> None:
        self._rules = rules
        self._records: dict[int, dict[str, _Record]] = {}
        """by job and worker"""

    def failed(self, job: int, worker: str, now: float) -> None:
        """A slice came back as failed, or with a trouble of the worker's."""
        if job not in self._records and len(self._records) >= MOST:
            del self._records[next(iter(self._records))]
        workers = self._records.setdefault(job, {})
        record = workers.get(worker)
        if record is None or now - record.since > self._rules.lasts_s:
            record = workers[worker] = _Record(now)
        record.failures += 1
        if record.failures >= self._rules.failures and record.failures > record.successes:
            record.until = now + self._rules.lasts_s
        if len(workers) > MOST:
            del workers[next(iter(workers))]

    def succeeded(self, job: int, worker: str) -> None:
        workers = self._records.get(job, {})
        record = workers.get(worker)
        if record is not None:
            record.successes += 1
            if record.successes >= record.failures:
                del workers[worker]

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
