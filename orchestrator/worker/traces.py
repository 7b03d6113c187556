"""Pure: the spans of a slice, from request to acknowledgement, read off its story once it has left.

    slice                       from the request that brought it to the end of its story
      request                   the Scheduler was asked, and answered with it
      fetch datum               if its datum had to be fetched
      queued                    it could run, and waited for its turn in a sandbox
      run                       inside the sandbox
      submit                    its result was sent until it was acknowledged, refused or given up

Times are those of the supervisor's clock, in seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from orchestrator.worker import holdings
from orchestrator.worker import supervisor_actions as act

_SPREAD: Final = 2654435761  # Knuth's: consecutive keys are spread evenly over 32 bits
_SPAN: Final = 2**32


def sampled(key: int, ratio: float) -> bool:
    """Whether the slice with this key belongs to the traced part of all slices."""
    return key * _SPREAD % _SPAN < ratio * _SPAN


@dataclasses.dataclass(frozen=True)
class Span:
    """One piece of a slice's way. `failed` says why it did not end well."""

    name: str
    start: float
    end: float
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    failed: str = ""


def spans_of(trace: act.Trace) -> tuple[Span, list[Span]]:
    """The span of the whole slice, and its parts in order."""
    story = trace.story
    received, (ended, outcome) = story[0][0], story[-1]
    failed = "" if outcome == holdings.ACCEPTED else outcome
    begun = received if trace.asked_at is None else min(trace.asked_at, received)
    attributes = {
        "dcp.job.id": trace.job_id,
        "dcp.job.name": trace.job_name,
        "dcp.slice.number": trace.number,
        "dcp.slice.outcome": outcome,
    }
    if trace.sandbox is not None:
        attributes["dcp.sandbox"] = trace.sandbox
    parts: list[Span] = []
    if trace.asked_at is not None:
        parts.append(Span("request", begun, received))
    fetching, fetched = _at(story, holdings.FETCHING), _at(story, holdings.FETCHED)
    if fetching is not None:
        unfetched = _failure(story, "datum not fetched")
        parts.append(Span("fetch datum", fetching, ended if fetched is None else fetched, failed=unfetched))
    queued, done = _at(story, holdings.QUEUED), _done(story)
    if queued is not None:
        until = ended if done is None else done
        wall_s = trace.metrics.wall_time_s if trace.metrics is not None and done is not None else until - queued
        started = min(max(queued, until - wall_s), until)
        ready = max(at for at in (received, fetched) if at is not None)
        place = {"dcp.sandbox": trace.sandbox} if trace.sandbox is not None else {}
        parts.append(Span("queued", min(ready, started), started, place))
        threw = _failure(story, "threw ")
        parts.append(Span("run", started, until, place | _measured(trace), threw or (failed if done is None else "")))
    if done is not None:
        parts.append(Span("submit", done, ended, failed=failed))
    return Span("slice", begun, ended, attributes, failed), parts


def _at(story: Sequence[tuple[float, str]], what: str) -> float | None:
    """When it happened last."""
    return next((at for at, line in reversed(story) if line == what), None)


def _done(story: Sequence[tuple[float, str]]) -> float | None:
    """When the sandbox was done with it."""
    return next((at for at, line in reversed(story) if line == holdings.COMPLETED or line.startswith("threw ")), None)


def _failure(story: Sequence[tuple[float, str]], prefix: str) -> str:
    return next((line for _at, line in reversed(story) if line.startswith(prefix)), "")


def _measured(trace: act.Trace) -> dict[str, Any]:
    metrics = trace.metrics
    if metrics is None:
        return {}
    return {
        "dcp.cpu_time_s": metrics.cpu_time_s,
        "dcp.wall_time_s": metrics.wall_time_s,
        "dcp.bytes_in": metrics.bytes_in,
        "dcp.bytes_out": metrics.bytes_out,
        "dcp.peak_memory_bytes": metrics.peak_memory_bytes,
    }
