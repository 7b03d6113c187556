"""Pure: the settings as what the worker offers, and what it wants in return."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.errors import InvalidInput
from orchestrator.settings import WorkerSettings
from orchestrator.worker import groups, job_filter, wages
from orchestrator.worker.job_filter import JobFilter


@dataclasses.dataclass(frozen=True)
class Offer:
    """What the worker tells the Scheduler about itself with every request. `groups` are (join key, join hash).

    With `public_fallback`, work of the public group is asked for only after these groups had none.
    """

    cores: int = 1
    job_ids: tuple[str, ...] = ()
    groups: tuple[tuple[str, str], ...] = ()
    public_group: bool = True
    public_fallback: bool = False
    minimum_wage: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"CPU": 0.0, "GPU": 0.0, "in": 0.0, "out": 0.0}
    )
    send_begin: bool = True
    isolation: Mapping[str, str] | None = None
    """How strong the walls of its sandboxes are: level, OCI runtime, digest of the image."""


def offer(settings: WorkerSettings, cores: int, isolation: Mapping[str, Any]) -> Offer:
    """Raises `InvalidInput`."""
    return Offer(
        cores=cores,
        job_ids=settings.job_ids,
        groups=tuple(groups.parse(entry) for entry in settings.compute_groups),
        public_group=settings.public_group,
        public_fallback=settings.public_group_fallback,
        minimum_wage={
            "CPU": settings.minimum_wage_cpu,
            "GPU": settings.minimum_wage_gpu,
            "in": settings.minimum_wage_in,
            "out": settings.minimum_wage_out,
        },
        send_begin=settings.send_begin,
        isolation=dict(isolation),
    )


def job_filter_of(settings: WorkerSettings) -> JobFilter:
    """Raises `InvalidInput`."""
    return JobFilter(
        job_ids=frozenset(settings.job_ids),
        names=job_filter.expressions("job_name", settings.job_name),
        blocked_ids=frozenset(settings.block_job_ids),
        blocked_names=job_filter.expressions("block_job_name", settings.block_job_name),
        blocked_groups=frozenset(settings.block_groups),
    )


def wage_rules(settings: WorkerSettings) -> wages.Rules:
    wage = wages.Wage.of_dcc(
        settings.minimum_wage_cpu, settings.minimum_wage_gpu, settings.minimum_wage_in, settings.minimum_wage_out
    )
    return wages.Rules(wage, settings.wage_slices, settings.wage_retry_s)


def worktimes(settings: WorkerSettings, described: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Those of the sandboxes that are to be offered. Raises `InvalidInput` when none is left."""
    offered = [one for one in described if not settings.worktimes or one["name"] in settings.worktimes]
    if described and not offered:
        have = ", ".join(sorted({one["name"] for one in described}))
        raise InvalidInput(f"worktimes: the image has none of {', '.join(settings.worktimes)}; it has {have}")
    return offered
