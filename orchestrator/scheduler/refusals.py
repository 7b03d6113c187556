"""Pure: which jobs were refused to which workers lately, and why. For whoever asks why a job waits.

Bounded: the jobs that were refused last, and of each its reasons. What is forgotten comes again with the next request.
"""

from __future__ import annotations

import collections
import dataclasses

from orchestrator.scheduler.matching import WhyNot

MOST_JOBS = 2000
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

    def statistics(self) -> dict[str, int]:
        return {"jobs": len(self._jobs), "reasons": sum(len(reasons) for reasons in self._jobs.values())}
