"""Who works for us at the moment: what each live worker said last. Kept in memory; workers repeat themselves.

Whatever is asked on the way of a request is answered from sums that are kept as workers come and go: its cost does not
grow with their number.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Container, Iterator, Mapping

from orchestrator.scheduler.groups import Use
from orchestrator.scheduler.matching import JobProfile, WorkerProfile, refusal

MOST_WORKERS = 100_000
_NOTHING = Use()
MOST_KINDS = 256
"""kinds of workers looked at for one job"""
MOST_OF_A_KIND = 16
"""workers looked at of each kind, to find one that has not rejected the job"""


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
        self._kinds: dict[tuple[object, ...], dict[str, None]] = {}
        """workers that offer the same"""
        self._load = 0.0
        self._here: set[str] = set()
        self.absent: Container[str] = ()
        """workers that asked here and cannot be reached; they may come back, and nobody waits for it"""
        self.on_gone: Callable[[str], None] = lambda _worker: None
        """told of each worker that has left, whether or not it was known here"""

    def saw(self, profile: WorkerProfile, load: float, now: float, size: Use = _NOTHING) -> None:
        self._saw(profile, load, now, size)
        self._here.add(profile.worker)
        self._drop_dead(now)

    def _saw(self, profile: WorkerProfile, load: float, now: float, size: Use) -> None:
        worker, offers = profile.worker, profile.offers
        before = self._seen.get(worker)
        if before is not None and before.profile.offers == offers:  # it only asks again
            del self._seen[worker]
            self._load = self._load - before.load if self._seen else 0.0
            self._here.discard(worker)
            kind = self._kinds[offers]
            del kind[worker]
        else:
            before = self._remove(worker)
            kind = self._kinds.setdefault(offers, {})
        if before is not None and now - before.at < self._alive_s:
            load = max(load, before.load)
        if size.cpus != load:
            size = dataclasses.replace(size, cpus=load)
        self._seen[worker] = Seen(profile, load, now, size)
        kind[worker] = None
        self._load += load

    def saw_elsewhere(self, seen: Seen, now: float) -> None:
        """Another process has heard the worker, later than anybody here."""
        if now - seen.at < self._alive_s:
            self._saw(seen.profile, seen.load, seen.at, seen.size)

    def asks_here(self, worker: str) -> bool:
        """It asked this process last, and not another one."""
        return worker in self._here

    def entries(self) -> Mapping[str, Seen]:
        """What every present worker said last, by worker."""
        return self._seen

    def heard(self, worker: str, now: float) -> None:
        """A worker reported something; it is alive though it asks for nothing."""
        seen = self._seen.pop(worker, None)
        if seen is not None:
            self._seen[worker] = dataclasses.replace(seen, at=now)

    def gone(self, worker: str) -> None:
        """It says that it has left, or that it starts anew."""
        self._remove(worker)
        self.on_gone(worker)

    def hung_up(self, worker: str) -> None:
        """Its session here is over. A worker that asks another process now is there."""
        if worker in self._here:
            self.gone(worker)

    def gone_elsewhere(self, worker: str) -> None:
        """Another process knows that the worker has left."""
        if worker not in self._here:
            self._remove(worker)

    def _remove(self, worker: str) -> Seen | None:
        self._here.discard(worker)
        seen = self._seen.pop(worker, None)
        if seen is not None:
            kind = self._kinds[seen.profile.offers]
            del kind[worker]
            if not kind:
                del self._kinds[seen.profile.offers]
            # Sums of floats drift; an empty roster starts anew.
            self._load = self._load - seen.load if self._seen else 0.0
        return seen

    def _drop_dead(self, now: float) -> None:
        # Oldest first: `saw` and `heard` move a worker to the end.
        while self._seen:
            worker, seen = next(iter(self._seen.items()))
            if now - seen.at < self._alive_s and len(self._seen) <= MOST_WORKERS:
                return
            self._remove(worker)

    def load(self, now: float) -> float:
        """Cores of all live workers."""
        self._drop_dead(now)
        return self._load

    def alone(self, worker: str, now: float) -> bool:
        """No other worker is alive."""
        self._drop_dead(now)
        return len(self._seen) == (worker in self._seen)

    def others_could(self, job: JobProfile, worker: str, now: float, excluded: Container[str] = ()) -> bool:
        """A live worker that can be reached, besides this one and those excluded, may have slices of the job, and has
        not had one if the job is discrete."""
        self._drop_dead(now)
        for members in itertools.islice(self._kinds.values(), MOST_KINDS):
            for name in itertools.islice(members, MOST_OF_A_KIND):
                if name == worker or name in excluded or name in self.absent:
                    continue
                profile = self._seen[name].profile
                had_it = job.discrete and job.job_id in profile.worked_discrete
                if not had_it and refusal(job, profile) is None:
                    return True
        return False

    def profiles(self, now: float) -> Iterator[WorkerProfile]:
        """What every live worker said last. For whoever asks why a job waits, not for requests."""
        self._drop_dead(now)
        return iter([seen.profile for seen in self._seen.values()])

    def use_of(self, group: str, now: float, *, besides: str) -> Use:
        """What the live workers of a group take of its limits, without one of them."""
        self._drop_dead(now)
        use = _NOTHING
        for name, seen in self._seen.items():
            if name != besides and group in seen.profile.groups:
                use = use.plus(seen.size)
        return use

    def statistics(self) -> dict[str, float]:
        return {"workers": len(self._seen), "cores": self._load}
