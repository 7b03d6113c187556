"""Pure: which settings a running worker can take, and which wait for its next start."""

from __future__ import annotations

import dataclasses
from typing import Final

from orchestrator.settings import WorkerSettings

#: Everything else has shaped parts that are running: containers, connections, folders, the fetcher.
AT_ONCE: Final = frozenset(
    {
        "job_ids", "job_name", "block_job_ids", "block_job_name", "block_groups", "compute_groups", "public_group",
        "public_group_fallback", "minimum_wage_cpu", "minimum_wage_gpu", "minimum_wage_in", "minimum_wage_out",
        "wage_slices", "wage_retry_s", "pause_give_back", "quiet_hours", "quiet_zone", "busy_cpu", "busy_memory_mib",
        "busy_memory_pressure", "busy_after_s", "calm_after_s", "paused_keep_warm_s", "prefetch_s", "queue_s",
        "idle_poll_s", "send_begin", "slice_timeout_s", "progress_timeout_s", "start_timeout_s", "assign_timeout_s",
        "stop_timeout_s", "goodbye_timeout_s", "sandbox_max_slices", "sandbox_max_age_s",
        "sandbox_max_growth_mib", "log_level", "log_format", "allow_origin",
        "accept_scheduler_key",
    }
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Changes:
    """`settings` is what holds now: the new values of `at_once`, the old ones of `need_restart`."""

    settings: WorkerSettings
    at_once: tuple[str, ...]
    need_restart: tuple[str, ...]


def compare(old: WorkerSettings, new: WorkerSettings) -> Changes:
    changed = [name for name in WorkerSettings.model_fields if getattr(old, name) != getattr(new, name)]
    at_once = tuple(name for name in changed if name in AT_ONCE)
    merged = old.model_copy(update={name: getattr(new, name) for name in at_once})
    return Changes(merged, at_once, tuple(name for name in changed if name not in AT_ONCE))
