"""Pure: which jobs were refused to which workers lately, and why. For whoever asks why a job waits.

Bounded: the jobs that were refused last, and of each its reasons. What is forgotten comes again with the next request.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.scheduler.matching import WhyNot

MOST_JOBS = 2000
MOST_TOLD = 24
"""workers of a reason that another process is told of by name"""
MOST_WORKERS = 64
"""workers remembered per job and reason, to tell how many there are"""


@dataclasses.dataclass(slots=True)
class Refusal:
    """Of one job, for one reason. `workers` holds the last of those to whom it was refused, and when."""

    code: WhyNot
    count: int
    last: float
    workers: collections.OrderedDict[str, float]

    def since(self, moment: float) -> int:
        """How many workers met it since then, as far as they are remembered."""
        return sum(at >= moment for at in self.workers.values())


@dataclasses.dataclass(slots=True)
class Lately:
    """Workers that met one reason, as processes have seen them: some by name (a digest of it), others only counted."""

    named: set[str] = dataclasses.field(default_factory=set)
    others: int = 0

    @property
    def count(self) -> int:
        return len(self.named) + self.others


class RefusalBook:
    def __init__(self) -> None:
        self._jobs: collections.OrderedDict[int, dict[WhyNot, Refusal]] = collections.OrderedDict()

    def note(self, job: int, code: WhyNot, worker: str, now: float) -> None:
        reasons = self._jobs.setdefault(job, {})
        self._jobs.move_to_end(job)
        refusal = reasons.setdefault(code, Refusal(code, 0, now, collections.OrderedDict()))
        refusal.count += 1
        refusal.last = now
        refusal.workers[worker] = now
        refusal.workers.move_to_end(worker)
        if len(refusal.workers) > MOST_WORKERS:
            refusal.workers.popitem(last=False)
        if len(self._jobs) > MOST_JOBS:
            self._jobs.popitem(last=False)

    def of(self, job: int) -> list[Refusal]:
        """Newest first."""
        return sorted(self._jobs.get(job, {}).values(), key=lambda one: (-one.last, one.code))

    def since(self, job: int, moment: float) -> dict[str, tuple[int, list[str]]]:
        """By reason: how many workers met it since then, and digests of the names of some. Short enough to be told."""
        found = {}
        for refusal in self._jobs.get(job, {}).values():
            workers = [worker for worker, at in refusal.workers.items() if at >= moment]
            if workers:
                found[str(refusal.code)] = (len(workers), [_digest(worker) for worker in workers[-MOST_TOLD:]])
        return found

    def statistics(self) -> dict[str, int]:
        return {"jobs": len(self._jobs), "reasons": sum(len(reasons) for reasons in self._jobs.values())}


def together(told: Iterable[Mapping[str, tuple[int, Sequence[str]]]]) -> dict[WhyNot, int]:
    """Workers by reason, from what several processes have seen: one that went from one to the other counts once."""
    found: dict[WhyNot, Lately] = {}
    for one in told:
        for code, (count, named) in one.items():
            if code in list(WhyNot):
                lately = found.setdefault(WhyNot(code), Lately())
                lately.named.update(named)
                lately.others += count - len(named)
    return {code: lately.count for code, lately in found.items()}


def _digest(worker: str) -> str:
    return hashlib.sha256(worker.encode()).hexdigest()[:10]
