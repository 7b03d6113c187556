"""Pure: may this worker have slices of this job? Every refusal says why."""

from __future__ import annotations

import dataclasses
import enum
import re


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerProfile:
    """What a worker says of itself in `requestTask@3`."""

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


@dataclasses.dataclass(frozen=True, slots=True)
class JobProfile:
    job_id: str
    needs: int
    """capability bit mask"""
    groups: frozenset[str]
    local_exec: bool
    worktime: tuple[str, str]
    """(name, version or semver range)"""


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
    ESTIMATING = "EESTIMATING"
    """enough slices are out to measure the job; the others wait for that"""
    FAILED_HERE = "EFAILEDHERE"
    """what is left has failed at this worker, and waits for another one"""


def refusal(job: JobProfile, worker: WorkerProfile) -> str | None:
    """None when the worker may have the job, else the reason in words."""
    found = why_not(job, worker)
    return None if found is None else found[1]


def why_not(job: JobProfile, worker: WorkerProfile) -> tuple[WhyNot, str] | None:
    """None when the worker may have the job, else the reason as code and in words."""
    named = job.job_id in worker.job_ids
    if worker.job_ids and not named:
        return WhyNot.OTHER_JOBS, "the worker takes other jobs only"
    if job.local_exec and not named:
        return WhyNot.LOCAL, "the job is for the deployer's own worker"
    if not job.local_exec and not (job.groups & worker.groups):
        return WhyNot.GROUP, "worker and job have no compute group in common"
    if job.job_id in worker.rejected:
        return WhyNot.REJECTED, "the worker has rejected the job"
    if job.job_id in worker.unresolved:
        return WhyNot.UNRESOLVED, "the worker is still fetching the job"
    missing = job.needs & ~worker.capabilities
    if missing:
        return WhyNot.CAPABILITY, f"the worker lacks capabilities {missing:#x}"
    name, wanted = job.worktime
    if worker.worktimes and not any(n == name and satisfies(version, wanted) for n, version in worker.worktimes):
        return WhyNot.WORKTIME, f"the worker has no worktime {name} {wanted}"
    return None


_VERSION = re.compile(r"^\s*[v=]*\s*(\d+)(?:\.(\d+|x|X|\*))?(?:\.(\d+|x|X|\*))?(?:[-+].*)?\s*$", re.ASCII)
_COMPARATOR = re.compile(r"\s*(\^|~|>=|<=|>|<|=)?\s*([^\s]+)", re.ASCII)


def satisfies(version: str, wanted: str) -> bool:
    """Semantic-version ranges as far as worktimes use them: `1.2.3`, `1.2`, `1.x`, `*`, `^`, `~`, comparators, `||`."""
    have = _parse(version)
    if have is None:
        return False
    return any(_all_hold(have, part) for part in wanted[:200].split("||"))


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
    match = _VERSION.match(version[:50])
    if match is None:
        return None
    known = [int(group) if group is not None and group.isdigit() else 0 for group in match.groups()]
    return known[0], known[1], known[2]
