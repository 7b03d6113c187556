"""What a worker's statistics say, put into the metrics: counts and sizes that the parts keep anyway."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from typing import Any, Final

from orchestrator import __version__, telemetry
from orchestrator.worker.audit import Statistics
from orchestrator.worker.refusals import Kind

_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{1,39}")
_UNITS_PER_DCC: Final = 10**18


def tell(statistics: Mapping[str, Any], usage: Mapping[str, Any], *, ready: bool, now: float) -> None:
    """Set what can be read. `statistics` and `usage` are those of `Answers`, `now` is on the supervisor's clock."""
    _tell_books(statistics["supervisor"], now)
    _tell_link(statistics.get("link") or {})
    _tell_pool(statistics.get("pool") or {})
    _tell_fetcher(statistics.get("fetcher") or {})
    telemetry.containers_reaped.set_total((statistics.get("runtime") or {}).get("reaped", 0))
    telemetry.ready.set(float(ready))
    _tell_usage(usage)


def _tell_books(books: Statistics, now: float) -> None:
    counts = books.counts
    telemetry.slices_received.set_total(counts.get("slices received", 0))
    telemetry.requests.set_total(books.requests)
    telemetry.requests_empty.set_total(books.empty_answers)
    telemetry.requests_failed.set_total(counts.get("requests failed", 0))
    telemetry.docker_losses.set_total(counts.get("runtime lost", 0))
    telemetry.docker_available.set(0.0 if books.runtime else 1.0)
    telemetry.earnings.set_total(books.earned / _UNITS_PER_DCC)
    telemetry.results.set_total(counts.get("results accepted", 0), {"verdict": "accepted", "code": ""})
    for code, count in _by_code(counts, "results refused "):
        telemetry.results.set_total(count, {"verdict": "refused", "code": code})
    for code, count in _by_code(counts, "returned "):
        telemetry.slices_returned.set_total(count, {"code": code})
    telemetry.slices_held.set(books.held - books.queued - books.reported, {"place": "to be started"})
    telemetry.slices_held.set(books.queued, {"place": "in sandboxes"})
    telemetry.slices_held.set(books.reported, {"place": "reported"})
    telemetry.outbox_size.set(books.unacknowledged)
    telemetry.jobs.set(len(books.jobs))
    _set_all(telemetry.jobs_rejected, "code", _tally(books.rejected_jobs.values()))
    states = dict.fromkeys(("working", "idle", "opening", "retiring", "empty"), 0)
    _set_all(telemetry.slots, "state", states | _tally(slot.state for slot in books.slots))
    _set_all(telemetry.paused, "source", dict.fromkeys((pause.source for pause in books.pauses), 1))
    for record in books.refusals:
        if record.kind is Kind.IDLE:
            telemetry.idle_time.set_total(record.seconds, {"code": code_of(record.code)})
    if books.heard_at is not None:
        telemetry.answer_age.set(max(now - books.heard_at, 0.0))


def _tell_link(link: Mapping[str, Any]) -> None:
    telemetry.outbox.set(link.get("outstanding", 0))
    outbox = link.get("outbox", {})
    telemetry.outbox_degraded.set(1.0 if outbox.get("degraded") else 0.0)
    telemetry.outbox_unsafe.set(outbox.get("only_in_memory", 0))
    telemetry.resent.set_total(link.get("counts", {}).get("sent again", 0))
    telemetry.dropped_events.set_total(link.get("counts", {}).get("events dropped", 0))


def _tell_pool(pool: Mapping[str, Any]) -> None:
    telemetry.pool_starts_failed.set_total(pool.get("failed", 0))
    for state, name in (("ready", "ready"), ("in use", "in_use"), ("starting", "starting")):
        telemetry.pool_sandboxes.set(pool.get(name, 0), {"state": state})


def _tell_fetcher(fetcher: Mapping[str, Any]) -> None:
    telemetry.cache_hits.set_total(fetcher.get("counts", {}).get("cache hits", 0))
    telemetry.cache_entries.set(fetcher.get("cached", 0))
    telemetry.cache_size.set(fetcher.get("cached_size", 0))


def _tell_usage(usage: Mapping[str, Any]) -> None:
    telemetry.sandboxes_cpu_time.set_total(usage["sandboxes_cpu_s"])
    telemetry.sandboxes_memory.set(usage["sandboxes_memory_bytes"])
    telemetry.process_cpu_time.set_total(usage["worker_cpu_s"])
    if usage["worker_memory_bytes"] is not None:
        telemetry.process_memory.set(usage["worker_memory_bytes"])
    telemetry.build_info.set(1, {"version": __version__, "python": platform.python_version()})


def _by_code(counts: Mapping[str, int], prefix: str) -> list[tuple[str, int]]:
    """(code, count) of the counts that begin with `prefix`. What is no code counts as `other`."""
    found: dict[str, int] = {}
    for name, count in counts.items():
        if name.startswith(prefix):
            code = code_of(name[len(prefix) :])
            found[code] = found.get(code, 0) + count
    return list(found.items())


def code_of(text: str) -> str:
    """The text when it is a code, else `other`: labels come from a list, never from a message."""
    return text if _CODE.fullmatch(text) else telemetry.OTHER


def _tally(texts: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        found[code_of(text)] = found.get(code_of(text), 0) + 1
    return found


def _set_all(gauge: telemetry.Gauge, label: str, values: Mapping[str, float]) -> None:
    """These values and no others."""
    gauge.clear()
    for name, value in values.items():
        gauge.set(value, {label: name})
