"""Pure: how many slices of which job a worker gets for the load that it asks for.

A task should last about `target_task_s` per core: long enough that asking for it does not matter, short enough that
a lost worker loses little and that the end of a job is shared. Empty slices therefore go out by the hundreds and
slices of minutes one per core. What remains of a job is shared among the workers that are around (guided
self-scheduling: each takes a part of what is left, so parts shrink towards the end); a worker that is alone shares with
nobody.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class PackingRules:
    target_task_s: float = 10.0
    min_task_s: float = 0.5
    """a task is not split below this much work just to share the end of a job"""
    max_slices: int = 500
    """per task, over all jobs: bounds one signed message"""
    unknown_slice_s: float = 1.0
    """taken as slice time before anything was measured"""


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A job that may give slices to the asking worker."""

    key: int
    waiting: int
    leased: int
    slice_s: float | None
    """average wall time of a slice, None before anything was measured"""
    estimation_left: int | None = None
    """slices that the estimation still wants handed out; None when the job is not in estimation"""
    greedy_estimation: bool = False
    discrete: bool = False
    served_at: float = 0.0
    """when the job last gave slices; among equals the one that waited longest goes first"""


@dataclasses.dataclass(frozen=True, slots=True)
class Portion:
    key: int
    slices: int


def pack(
    candidates: Sequence[Candidate], load: float, cluster_load: float, rules: PackingRules, *, alone: bool = False
) -> list[Portion]:
    """Divide `load` (free cores of the worker) among jobs; `cluster_load` is what all live workers ask for together.
    `alone` tells that there is no other.

    Fair: one core after the other goes to the job that has the least work (slice seconds) in workers' hands.
    """
    if load <= 0:
        return []
    cores = max(1, math.floor(load))
    share = load / cores
    taken: dict[int, int] = {}
    outstanding = {job.key: job.leased * _seconds(job, rules) for job in candidates}
    room = rules.max_slices
    open_jobs = list(candidates)
    for _ in range(cores):
        open_jobs = [job for job in open_jobs if _left(job, taken) > 0]
        if room <= 0 or not open_jobs:
            break
        job = min(open_jobs, key=lambda one: (outstanding[one.key], one.served_at, one.key))
        number = min(room, _portion(job, taken, share, 0.0 if alone else max(cluster_load, load), rules))
        if number <= 0:
            break
        taken[job.key] = taken.get(job.key, 0) + number
        outstanding[job.key] += number * _seconds(job, rules)
        room -= number
    return [Portion(key, number) for key, number in taken.items()]


def _seconds(job: Candidate, rules: PackingRules) -> float:
    return rules.unknown_slice_s if job.slice_s is None else job.slice_s


def _left(job: Candidate, taken: dict[int, int]) -> int:
    given = taken.get(job.key, 0)
    if job.discrete and given:
        return 0
    left = job.waiting - given
    return left if job.estimation_left is None else min(left, job.estimation_left - given)


def _portion(job: Candidate, taken: dict[int, int], share: float, cluster_load: float, rules: PackingRules) -> int:
    left = _left(job, taken)
    if job.discrete or (job.estimation_left is not None and not job.greedy_estimation):
        return min(left, 1)
    if job.slice_s is None:
        return min(left, max(1, math.ceil(share * rules.target_task_s / rules.unknown_slice_s)))
    seconds = max(job.slice_s, 1e-6)
    wanted = math.floor(share * rules.target_task_s / seconds)
    # Half of this worker's part of what is left, but not less than is worth a message.
    fair_part = math.ceil(left * share / (2 * cluster_load)) if cluster_load else left
    worth_it = math.ceil(share * rules.min_task_s / seconds)
    return max(1, min(left, wanted, max(fair_part, worth_it)))


def is_long(slice_s: float | None, rules: PackingRules) -> bool:
    """A slice that fills a task on its own."""
    return slice_s is not None and slice_s > rules.target_task_s
