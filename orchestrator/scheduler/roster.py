"""Who works for us at the moment: what each live worker said last. Kept in memory; workers repeat themselves."""

from __future__ import annotations

import dataclasses

from orchestrator.scheduler.groups import Use
from orchestrator.scheduler.matching import JobProfile, WorkerProfile, refusal

MOST_WORKERS = 100_000
_NOTHING = Use()


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    profile: WorkerProfile
    load: float
    """the most cores that it asked for lately"""
    at: float
    size: Use = _NOTHING


class Roster:
    """A worker counts as live for `alive_s` seconds after its last request."""

    def __init__(self, alive_s: float) -> None:
        self._alive_s = alive_s
        self._seen: dict[str, Seen] = {}

    def saw(self, profile: WorkerProfile, load: float, now: float, size: Use = _NOTHING) -> None:
        before = self._seen.pop(profile.worker, None)
        if before is not None and now - before.at < self._alive_s:
            load = max(load, before.load)
        self._seen[profile.worker] = Seen(profile, load, now, dataclasses.replace(size, cpus=load))
        self._drop_dead(now)

    def heard(self, worker: str, now: float) -> None:
        """A worker reported something; it is alive though it asks for nothing."""
        seen = self._seen.pop(worker, None)
        if seen is not None:
            self._seen[worker] = dataclasses.replace(seen, at=now)

    def gone(self, worker: str) -> None:
        self._seen.pop(worker, None)

    def _drop_dead(self, now: float) -> None:
        # Oldest first: `saw` and `heard` move a worker to the end.
        while self._seen:
            worker, seen = next(iter(self._seen.items()))
            if now - seen.at < self._alive_s and len(self._seen) <= MOST_WORKERS:
                return
            del self._seen[worker]

    def load(self, now: float) -> float:
        """Cores of all live workers."""
        self._drop_dead(now)
        return sum(seen.load for seen in self._seen.values())

    def others_could(self, job: JobProfile, worker: str, now: float) -> bool:
        """A live worker besides this one may have slices of the job."""
        self._drop_dead(now)
        return any(name != worker and refusal(job, seen.profile) is None for name, seen in self._seen.items())

    def use_of(self, group: str, now: float, *, besides: str) -> Use:
        """What the live workers of a group take of its limits, without one of them."""
        self._drop_dead(now)
        use = _NOTHING
        for name, seen in self._seen.items():
            if name != besides and group in seen.profile.groups:
                use = use.plus(seen.size)
        return use

    def statistics(self) -> dict[str, float]:
        return {"workers": len(self._seen), "cores": sum(seen.load for seen in self._seen.values())}
