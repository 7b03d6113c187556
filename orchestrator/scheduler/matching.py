"""Pure: may this worker have slices of this job? Every refusal says why."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import re
from collections.abc import Iterable

from orchestrator.jobs.words import Isolation
from orchestrator.scheduler.estimates import Estimate, Speed
from orchestrator.scheduler.pricing import NO_WAGE, MinimumWage
from orchestrator.scheduler.redundancy import Rule


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerProfile:
    """What a worker says of itself in a request for work."""

    worker: str
    capabilities: int
    groups: frozenset[str]
    job_ids: frozenset[str]
    """jobs to which the worker is restricted; empty = any"""
    worktimes: tuple[tuple[str, str], ...]
    """(name, version); empty = not said, taken as able"""
    rejected: frozenset[str] = frozenset()
    unresolved: frozenset[str] = frozenset()
    worked_discrete: frozenset[str] = frozenset()
    isolation: Isolation | None = None
    """None: not said, as official workers do; weaker than any level"""
    minimum_wage: MinimumWage = NO_WAGE
    speed: Speed = dataclasses.field(default_factory=Speed, compare=False)

    @property
    def offers(self) -> tuple[object, ...]:
        """What decides about whole kinds of jobs; most workers share it with many others."""
        return (self.capabilities, self.groups, self.job_ids, self.worktimes, self.isolation, self.minimum_wage)


@dataclasses.dataclass(frozen=True, slots=True)
class Requirement:
    """What the worker's machine must have. Many jobs share one."""

    needs: int
    """capability bit mask"""
    worktime: tuple[str, str]
    """(name, version or semver range)"""
    isolation: Isolation | None = None
    """the weakest level that will do; None: any"""


@dataclasses.dataclass(frozen=True, slots=True)
class JobProfile:
    job_id: str
    needs: int
    groups: frozenset[str]
    local_exec: bool
    worktime: tuple[str, str]
    discrete: bool = False
    isolation: Isolation | None = None
    slice_price: int = 0
    rule: Rule | None = None
    """how many workers must agree on a slice; None: one is enough"""

    @property
    def most_payment(self) -> int:
        """units that a slice may cost"""
        return self.slice_price * (1 if self.rule is None else self.rule.of)

    @property
    def requirement(self) -> Requirement:
        return Requirement(self.needs, self.worktime, self.isolation)


class WhyNot(enum.StrEnum):
    """Why a worker gets no slices of a job that waits; told in `noWork` of an answer without slices."""

    OTHER_JOBS = "EJOBNOTWANTED"
    LOCAL = "ELOCALEXEC"
    GROUP = "ECOMPUTEGROUP"
    GROUP_FULL = "EGROUPLIMIT"
    """a limit of the group keeps the worker out of it"""
    REJECTED = "EREJECTED"
    UNRESOLVED = "EUNRESOLVED"
    CAPABILITY = "ECAPABILITY"
    WORKTIME = "EWORKTIME"
    ISOLATION = "EISOLATION"
    WAGE = "EWAGE"
    """the job pays less than the worker's minimum wage"""
    ESTIMATING = "EESTIMATING"
    """enough slices are out to measure the job; the others wait for that"""
    DISCRETE = "EDISCRETE"
    """the worker has had a slice of this discrete job; the next one is another worker's while there is one"""
    BANNED = "EBANNED"
    """the worker failed several slices of the job; they go to others while there are some"""
    GPU = "EGPUBUSY"
    """the job needs a GPU, and the worker has none free"""
    FAILED_HERE = "EFAILEDHERE"
    """what is left has failed at this worker, and waits for another one"""
    HEARD = "EOPINION"
    """what is left waits for somebody else's opinion: this worker, or one in the same hands, has given its own"""
    UNREADABLE = "EBLOB"
    """its code cannot be fetched from where big values are kept"""


def refusal(job: JobProfile, worker: WorkerProfile) -> str | None:
    """None when the worker may have the job, else the reason in words."""
    found = why_not(job, worker)
    return None if found is None else found[1]


def why_not(job: JobProfile, worker: WorkerProfile, estimate: Estimate | None = None) -> tuple[WhyNot, str] | None:
    """None when the worker may have the job, else the reason as code and in words. `estimate` is what the job's slices
    cost, as far as they were measured; without it wages are not looked at."""
    named = job.job_id in worker.job_ids
    if worker.job_ids and not named:
        return WhyNot.OTHER_JOBS, "the worker takes other jobs only"
    if job.local_exec and not named:
        return WhyNot.LOCAL, "the job is for the deployer's own worker"
    if not job.local_exec and not (job.groups & worker.groups):
        return WhyNot.GROUP, "worker and job have no compute group in common"
    return lacks(job.requirement, worker) or personal(job, worker, estimate)


def personal(job: JobProfile, worker: WorkerProfile, estimate: Estimate | None) -> tuple[WhyNot, str] | None:
    """What stands between this worker and this job, beyond groups and machine."""
    if job.job_id in worker.rejected:
        return WhyNot.REJECTED, "the worker has rejected the job"
    if job.job_id in worker.unresolved:
        return WhyNot.UNRESOLVED, "the worker is still fetching the job"
    if estimate is not None and not worker.minimum_wage.accepts(job.slice_price, estimate):
        return WhyNot.WAGE, "the job pays less than the worker's minimum wage"
    return None


def lacks(requirement: Requirement, worker: WorkerProfile) -> tuple[WhyNot, str] | None:
    """What the worker's machine has not."""
    missing = requirement.needs & ~worker.capabilities
    if missing:
        return WhyNot.CAPABILITY, f"the worker lacks capabilities {missing:#x}"
    name, wanted = requirement.worktime
    if worker.worktimes and not any(n == name and satisfies(version, wanted) for n, version in worker.worktimes):
        return WhyNot.WORKTIME, f"the worker has no worktime {name} {wanted}"
    level = requirement.isolation
    if level is not None and (worker.isolation is None or worker.isolation.rank < level.rank):
        return WhyNot.ISOLATION, f"the worker isolates less than {level}"
    return None


def census(
    job: JobProfile, workers: Iterable[WorkerProfile], estimate: Estimate | None = None
) -> tuple[int, collections.Counter[WhyNot]]:
    """How many of these workers may have the job, and how many may not, by reason."""
    could = 0
    reasons: collections.Counter[WhyNot] = collections.Counter()
    for worker in workers:
        found = why_not(job, worker, estimate)
        if found is None:
            could += 1
        else:
            reasons[found[0]] += 1
    return could, reasons


_VERSION = re.compile(r"^\s*[v=]*\s*(\d+)(?:\.(\d+|x|X|\*))?(?:\.(\d+|x|X|\*))?(?:[-+].*)?\s*$", re.ASCII)
_COMPARATOR = re.compile(r"\s*(\^|~|>=|<=|>|<|=)?\s*([^\s]+)", re.ASCII)


def satisfies(version: str, wanted: str) -> bool:
    """Semantic-version ranges as far as worktimes use them: `1.2.3`, `1.2`, `1.x`, `*`, `^`, `~`, comparators, `||`."""
    return _satisfies(version[:50], wanted[:200])


@functools.lru_cache(maxsize=4096)
def _satisfies(version: str, wanted: str) -> bool:
    have = _parse(version)
    if have is None:
        return False
    return any(_all_hold(have, part) for part in wanted.split("||"))


def _all_hold(have: tuple[int, int, int], part: str) -> bool:
    if part.strip() in ("", "*", "x", "X", "latest"):
        return True
    return all(_holds(have, operator, text) for operator, text in _COMPARATOR.findall(part))


def _holds(have: tuple[int, int, int], operator: str, text: str) -> bool:
    match = _VERSION.match(text)
    if match is None:
        return False
    known = [int(group) for group in match.groups() if group is not None and group.isdigit()]
    low = (*known, 0, 0, 0)[:3]
    if operator in (">=", "<=", ">", "<"):
        return {">=": have >= low, "<=": have <= low, ">": have > low, "<": have < low}[operator]
    if operator == "^":
        # The left-most digit that is not zero must not change.
        fixed = next((i for i, digit in enumerate(known) if digit), len(known) - 1) + 1
    elif operator == "~":
        fixed = min(2, len(known))
    else:
        fixed = len(known)
    return have >= low and have[:fixed] == low[:fixed]


def _parse(version: str) -> tuple[int, int, int] | None:
    match = _VERSION.match(version)
    if match is None:
        return None
    known = [int(group) if group is not None and group.isdigit() else 0 for group in match.groups()]
    return known[0], known[1], known[2]
