"""Pure: what a worker says of itself when it is asked: one snapshot, from the statistics of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.worker.audit import Statistics
from orchestrator.worker.refusals import Record


def state_of(statistics: Statistics, *, connected: bool, ready: bool) -> str:
    """One word: what the worker is at.

    "connecting" (no Scheduler yet), "starting" (no sandbox yet), "no docker", "draining", "stopping", "paused",
    "working", "idle".
    """
    if statistics.stopping is not None:
        return "stopping"
    if statistics.draining:
        return "draining"
    if not connected:
        return "connecting"
    if not ready:
        return "starting"
    if statistics.runtime:
        return "no docker"
    if statistics.pauses:
        return "paused"
    return "working" if statistics.sandboxes_busy else "idle"


def drain_progress(statistics: Statistics, outstanding: int) -> dict[str, Any]:
    """What is still to be done before the worker ends. `outstanding` are reports that are not acknowledged."""
    return {
        "held": statistics.held,
        "running": statistics.queued,
        "unstarted": statistics.held - statistics.queued - statistics.reported,
        "unacknowledged": max(statistics.reported, outstanding),
        **_totals(statistics.counts),
    }


def outcome(statistics: Statistics, outstanding: int, *, delivered: bool) -> dict[str, Any]:
    """How it ended. `delivered`: every report was acknowledged; what was not is `unacknowledged`."""
    left = max(statistics.reported, outstanding)
    return {"delivered": delivered, "unacknowledged": left, **_totals(statistics.counts)}


def refusal_of(record: Record, now: float) -> dict[str, Any]:
    """A record with its times as seconds ago."""
    return {
        "kind": record.kind.value,
        "code": record.code,
        "job": record.job,
        "count": record.count,
        "seconds": round(record.seconds, 3),
        "since_s": now - record.first_at,
        "last_s": now - record.last_at,
        "detail": record.detail,
    }


def _totals(counts: Mapping[str, int]) -> dict[str, int]:
    return {"accepted": counts.get("results accepted", 0), "returned": counts.get("slices returned", 0)}
