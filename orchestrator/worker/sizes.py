"""What the settings mean for the numbers and the lives of sandboxes on this machine."""

from __future__ import annotations

import logging
from typing import Final

from orchestrator.errors import InvalidInput
from orchestrator.settings import WorkerSettings
from orchestrator.worker import limit_settings, machine, recycling
from orchestrator.worker.limits import MIB
from orchestrator.worker.pool import PoolSettings
from orchestrator.worker.pool_sizing import default_sizes

log = logging.getLogger(__name__)

_WARM_AT_REST: Final = 4


def sandboxes(settings: WorkerSettings) -> tuple[int, int]:
    """How many sandboxes may keep cores busy, and how many there may be at once.

    Raises `InvalidInput` for settings that contradict each other.
    """
    memory = machine.memory()
    sandbox_bytes, reserve = settings.memory_mib * MIB, settings.memory_reserve_mib * MIB
    capacity, most = default_sizes(limit_settings.places(settings), memory, sandbox_bytes, reserve)
    if settings.sandboxes is not None:
        if memory is not None and settings.sandboxes * sandbox_bytes + reserve > memory.total:
            log.warning(
                "memory_is_short",
                extra={
                    "sandboxes": settings.sandboxes,
                    "sandbox_mib": settings.memory_mib,
                    "machine_mib": memory.total // MIB,
                },
            )
        capacity = settings.sandboxes
    elif settings.max_sandboxes is not None:
        capacity = min(capacity, settings.max_sandboxes)
    most = max(most, capacity) if settings.max_sandboxes is None else settings.max_sandboxes
    if most < capacity:
        raise InvalidInput(
            f"max_sandboxes is {most}, less than sandboxes, {capacity}: raise the one or lower the other"
        )
    return capacity, most


def recycling_limits(settings: WorkerSettings) -> recycling.Limits:
    growth = settings.memory_mib / 2 if settings.sandbox_max_growth_mib is None else settings.sandbox_max_growth_mib
    return recycling.Limits(settings.sandbox_max_slices, settings.sandbox_max_age_s, int(growth * MIB))


def pool_settings(settings: WorkerSettings, capacity: int, most: int) -> PoolSettings:
    """Raises `InvalidInput` for settings that contradict each other."""
    least = min(capacity, _WARM_AT_REST) if settings.warm_min is None else settings.warm_min
    warm_most = max(2 * capacity, _WARM_AT_REST, least) if settings.warm_max is None else settings.warm_max
    if settings.warm_min is None:
        least = min(least, warm_most)
    if least > warm_most:
        raise InvalidInput(f"warm_min is {least}, more than warm_max, {warm_most}: lower the one or raise the other")
    return PoolSettings(
        capacity=most,
        warm=settings.warm,
        sandbox=limit_settings.sandbox_settings(settings),
        creates_at_once=settings.creates_at_once,
        warm_least=least,
        warm_most=warm_most,
        refill_cpu_share=settings.refill_cpu_share,
        warm_max_age_s=settings.warm_max_age_s,
        reserve_bytes=settings.memory_reserve_mib * MIB,
    )
