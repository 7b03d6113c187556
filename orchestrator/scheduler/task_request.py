"""Pure: reading a `requestTask@3`. What a worker leaves out or spells oddly costs it slices, never an error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import InvalidInput
from orchestrator.jobs.words import GroupDescriptor, Isolation, parse_group
from orchestrator.scheduler.estimates import read_quanta
from orchestrator.scheduler.groups import PUBLIC_GROUP_ID, Use
from orchestrator.scheduler.matching import WorkerProfile
from orchestrator.scheduler.pricing import read_minimum_wage

FETCH_NORMAL = 1
FETCH_RETURN_ALL = 16
_MOST_IDS = 1000
_LONGEST_ID = 100
_NO_IDS: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class TaskRequest:
    profile: WorkerProfile
    """in the public group only: whether others are proved is not known yet"""
    groups: tuple[GroupDescriptor, ...]
    """the other groups that it says to be in"""
    size: Use
    """what it takes of the limits of groups"""
    load: float
    payment_address: str | None
    wants_slices: bool
    returns_all: bool
    return_all_message: Any
    """signed statement that the worker holds nothing of what was leased to it"""
    held: Mapping[str, Any]
    """{jobId: [slice number…]} of unfinished slices, as a sign of life"""
    deferred: frozenset[str] = frozenset()
    """those of the unresolved jobs that the worker does not want for long; a field of ours"""
    holds_nothing: bool = False
    """the worker has just started, in a dialect without a signed statement of it"""
    gpu_load: float = 0.0
    """GPU cores that are free"""
    long_slices: int | None = None
    """the most long slices that it wants; None when it does not say"""
    overdue: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """{jobId: [slice number…]} of slices that run longer than the worker thinks right"""
    request_id: str | None = None
    """the worker's own name for this request; a field of ours"""
    lost: frozenset[str] = frozenset()
    """names of its earlier requests whose answers it will never read; a field of ours"""

    @property
    def resolving(self) -> bool:
        """Whether it fetches jobs right now, so that what it says of them will not be true for long."""
        return bool(self.profile.unresolved - self.deferred)


def parse_task_request(data: Mapping[str, Any]) -> TaskRequest:
    """Raises `InvalidInput` only when the worker does not say who it is."""
    core_stats = data.get("coreStats")
    worker = core_stats.get("worker") if isinstance(core_stats, Mapping) else None
    state = data.get("fetchState")
    state = state if isinstance(state, int) and not isinstance(state, bool) else FETCH_NORMAL
    returns_all = bool(state & FETCH_RETURN_ALL)
    if not isinstance(worker, str) or not 0 < len(worker) <= 200:
        if not returns_all:
            raise InvalidInput("coreStats.worker must be the worker's id")
        worker = ""
    groups = _groups(data.get("workerComputeGroups"))
    target = data.get("targetLoad")
    load, gpu_load = _load(target, "cpu", 1.0), _load(target, "gpu", 0.0)
    request_id = data.get("requestId")
    return TaskRequest(
        profile=_profile(data, worker, groups),
        groups=tuple(one for one in groups if not one.is_public),
        size=Use(
            workers=1,
            sandboxes=_sandboxes(core_stats),
            cpus=load,
            gpus=gpu_load,
        ),
        load=load,
        payment_address=data.get("paymentAddress") if isinstance(data.get("paymentAddress"), str) else None,
        wants_slices=bool(state & FETCH_NORMAL) and not returns_all,
        returns_all=returns_all,
        return_all_message=data.get("returnAllSlices"),
        held=data["soteriaJobs"] if isinstance(data.get("soteriaJobs"), Mapping) else {},
        deferred=_ids(data.get("deferredJobs")),
        holds_nothing=data.get("holdsNothing") is True,
        gpu_load=gpu_load,
        long_slices=_long_slices(target),
        overdue=data["overdueSlices"] if isinstance(data.get("overdueSlices"), Mapping) else {},
        request_id=request_id if isinstance(request_id, str) and 0 < len(request_id) <= _LONGEST_ID else None,
        lost=_ids(data.get("lostRequests")),
    )


def _profile(data: Mapping[str, Any], worker: str, groups: list[GroupDescriptor]) -> WorkerProfile:
    capabilities = data.get("capabilities")
    worktimes = data.get("worktimes")
    return WorkerProfile(
        worker=worker,
        capabilities=capabilities if isinstance(capabilities, int) else 0,
        groups=frozenset({PUBLIC_GROUP_ID} if any(one.is_public for one in groups) else ()),
        job_ids=_ids(data.get("jobIds")),
        worktimes=tuple(
            (str(one.get("name")), str(one.get("version")))
            for one in (worktimes if isinstance(worktimes, list) else [])[:100]
            if isinstance(one, Mapping)
        ),
        rejected=_ids(data.get("rejectedJobs")),
        unresolved=_ids(data.get("unresolvedJobs")),
        worked_discrete=_ids(data.get("previouslyWorkedJobs")),
        isolation=_isolation(data.get("isolation")),
        minimum_wage=read_minimum_wage(data.get("minimumWage")),
        speed=read_quanta(data.get("jobQuanta")),
    )


def _groups(descriptors: Any) -> list[GroupDescriptor]:
    found = []
    for index, descriptor in enumerate((descriptors if isinstance(descriptors, list) else [])[:_MOST_IDS]):
        try:
            found.append(parse_group(descriptor, f"workerComputeGroups[{index}]"))
        except InvalidInput:
            continue
    return found


def _sandboxes(core_stats: Any) -> int:
    number = core_stats.get("sandbox") if isinstance(core_stats, Mapping) else None
    return number if isinstance(number, int) and 0 <= number < 2**31 else 0


def _ids(value: Any) -> frozenset[str]:
    if not value or not isinstance(value, list):
        return _NO_IDS
    return frozenset(item for item in value[:_MOST_IDS] if isinstance(item, str))


def _isolation(told: Any) -> Isolation | None:
    """The level of a worker of ours: `isolation: {level, runtime, image}`."""
    level = told.get("level") if isinstance(told, Mapping) else None
    return Isolation(level) if isinstance(level, str) and level in list(Isolation) else None


def _load(target: Any, part: str, otherwise: float) -> float:
    load = target.get(part, otherwise) if isinstance(target, Mapping) else otherwise
    if isinstance(load, bool) or not isinstance(load, int | float) or not math.isfinite(load):
        return 0.0
    return min(max(float(load), 0.0), 4096.0)


def _long_slices(target: Any) -> int | None:
    told = target.get("longSlices") if isinstance(target, Mapping) else None
    return None if told is None else math.floor(_load(target, "longSlices", 0.0))
