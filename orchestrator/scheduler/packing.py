"""Pure: how many slices of which job a worker gets for the load that it asks for.

A task should last about `target_task_s` per core: long enough that asking for it does not matter, short enough that
a lost worker loses little and that the end of a job is shared. Empty slices therefore go out by the hundreds and
slices of minutes one per core. What remains of a job is shared among the workers that are around (guided
self-scheduling: each takes a part of what is left, so parts shrink towards the end); a worker that is alone shares with
nobody.

Among very many workers the Scheduler itself is what the end waits for: to hand out R core-seconds in tasks of t takes
R / t answers, of `answer_s` each, and the last task takes t. Both together are least at t = √(R × answer_s), and
shorter than that no task becomes for the sake of sharing.
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
    answer_s: float = 0.002
    """what a task costs the Scheduler, from the request for it to its results"""
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
    """time that a slice runs, None before anything was measured"""
    estimation_left: int | None = None
    """slices that the estimation still wants handed out; None when the job is not in estimation"""
    greedy_estimation: bool = False
    discrete: bool = False
    served_at: float = 0.0
    """when the job last gave slices; among equals the one that waited longest goes first"""
    work_s: float | None = None
    """core-seconds of a slice at the asking worker; None: its time"""
    owner: str = ""
    """whose job it is; jobs without one are owners of their own"""
    owner_account: float | None = None
    """weighted work that the owner got; None: what is leased of the job"""
    account: float | None = None
    """weighted work that the job got; None: what is leased of it"""
    weight: float = 1.0
    """of its price: twice as much for twice the part of the work"""
    first: bool = False
    """it has waited longest: the first core is for it"""
    gpu: bool = False
    """its slices take a GPU"""


@dataclasses.dataclass(frozen=True, slots=True)
class Portion:
    key: int
    slices: int


@dataclasses.dataclass(slots=True)
class _Shares:
    """Who got how much, with what is being given out."""

    rules: PackingRules
    taken: dict[int, int]
    owners: dict[str, float]
    jobs: dict[int, float]

    def order(self, job: Candidate) -> tuple[bool, float, float, float, int]:
        comes_first = job.first and job.key not in self.taken
        return (not comes_first, self.owners[_owner(job)], self.jobs[job.key], job.served_at, job.key)

    def give(self, job: Candidate, number: int) -> None:
        self.taken[job.key] = self.taken.get(job.key, 0) + number
        charge = number * _work(job, self.rules) / job.weight
        self.owners[_owner(job)] += charge
        self.jobs[job.key] += charge


def pack(
    candidates: Sequence[Candidate],
    load: float,
    cluster_load: float,
    rules: PackingRules,
    *,
    long_slices: int | None = None,
    gpu_load: float = 0.0,
    alone: bool = False,
) -> list[Portion]:
    """Divide `load` (free cores of the worker) among jobs; `cluster_load` is what all live workers ask for together.
    `alone` tells that there is no other.

    Fair: one core after the other goes to the owner who got the least work for the weight of its price, and of that
    owner's jobs to the one that got the least. At most `long_slices` slices that fill a task on their own are given,
    but one always may be; jobs that need a GPU get as many portions as `gpu_load` has whole GPUs.
    """
    if load <= 0:
        return []
    cores = max(1, math.floor(load))
    share = load / cores
    shares = _Shares(rules, {}, {}, {})
    for job in candidates:
        leased = job.leased * _work(job, rules) / job.weight
        shares.jobs[job.key] = leased if job.account is None else job.account
        account = shares.jobs[job.key] if job.owner_account is None else job.owner_account
        shares.owners[_owner(job)] = min(account, shares.owners.get(_owner(job), math.inf))
    room = rules.max_slices
    long_left = math.inf if long_slices is None else max(1, long_slices)
    gpus_left = math.floor(gpu_load)
    for _ in range(cores):
        open_jobs = [
            job
            for job in candidates
            if _left(job, shares.taken) > 0
            and (long_left > 0 or not is_long(job.slice_s, rules))
            and (gpus_left > 0 or not job.gpu)
        ]
        if room <= 0 or not open_jobs:
            break
        job = min(open_jobs, key=shares.order)
        number = min(room, _portion(job, shares.taken, share, 0.0 if alone else max(cluster_load, load), rules))
        if number <= 0:
            break
        shares.give(job, number)
        room -= number
        long_left -= number if is_long(job.slice_s, rules) else 0
        gpus_left -= 1 if job.gpu else 0
    return [Portion(key, number) for key, number in shares.taken.items()]


def _owner(job: Candidate) -> str:
    return job.owner or f"job {job.key}"


def _seconds(job: Candidate, rules: PackingRules) -> float:
    return rules.unknown_slice_s if job.slice_s is None else job.slice_s


def _work(job: Candidate, rules: PackingRules) -> float:
    return _seconds(job, rules) if job.work_s is None else job.work_s


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
    seconds = max(_work(job, rules), 1e-6)
    wanted = math.floor(share * rules.target_task_s / seconds)
    # Half of this worker's part of what is left, but not less than is worth a message.
    fair_part = math.ceil(left * share / (2 * cluster_load)) if cluster_load else left
    least_s = max(rules.min_task_s, math.sqrt(left * seconds * rules.answer_s))
    worth_it = math.ceil(share * least_s / seconds)
    return max(1, min(left, wanted, max(fair_part, worth_it)))


def is_long(slice_s: float | None, rules: PackingRules) -> bool:
    """A slice that fills a task on its own."""
    return slice_s is not None and slice_s > rules.target_task_s
