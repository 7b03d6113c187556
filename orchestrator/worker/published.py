"""Pure: what a Scheduler publishes for workers, as times and rules to keep.

Two sources, both read with patience for junk: what makes no sense was not said, and what was said is taken into a sane
range, so that no Scheduler can make a worker hang for days or run in circles.

* The configuration (`supervisor.sandbox`, `supervisor.tuning`). The names of its fields, their units and their usual
  values were read in dcp-client 5.6.1: `sliceTimeoutMs`, `progressTimeoutMs`, `generalTimeoutMs` (three times of it for
  a sandbox to describe itself), `reservedSliceLifetimeMs` (from the choice of a sandbox to the start of the slice),
  `artifactResolutionTimeoutMs`; `watchdogInterval` and `prefetchInterval` in seconds; `sendStatusBeginMessage`.
* `schedulerConfig` of every answer to `requestTask@3`: after what time a running slice is to be reported as overdue.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

from orchestrator.jobs import piles
from orchestrator.settings import WorkerSettings
from orchestrator.worker.limits import SliceLimits, StartLimits

_DAY_S: Final = 86_400.0
_NONE: Final[Mapping[str, Any]] = {}
_DESCRIBE_PART: Final = 3  # of generalTimeoutMs
_MOST_COTASKS: Final = 1000


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def bounded(value: Any, usual: float, least: float, most: float) -> float:
    """A number above zero, taken into the range; `usual` when it is none."""
    found = number(value)
    return usual if found is None or found <= 0 else min(max(found, least), most)


# -- the configuration -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """Times in seconds: the owner's where they were set, else the Scheduler's, else ours."""

    start: StartLimits
    slices: SliceLimits
    artifacts_s: float  # for code, arguments and modules of a job together
    prefetch_s: float  # cores must have work for so long ahead
    idle_poll_s: float  # longest pause between requests when there is no work
    send_begin: bool


def for_sandboxes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The Scheduler's settings for sandboxes (`supervisor.sandbox` of its configuration), as a sandbox gets them."""
    return dict(_node(config, "supervisor", "sandbox"))


def rules(settings: WorkerSettings, config: Mapping[str, Any]) -> Rules:
    """What holds under these settings at a Scheduler with this configuration; {} is one that is not known yet."""
    sandbox, tuning = _node(config, "supervisor", "sandbox"), _node(config, "supervisor", "tuning")

    def seconds(node: Mapping[str, Any], name: str, usual: float, least: float, most: float) -> float:
        milliseconds = number(node.get(name))
        return bounded(None if milliseconds is None else milliseconds / 1000, usual, least, most)

    describe_s = seconds(sandbox, "generalTimeoutMs", 10.0, 1.0, 200.0) * _DESCRIBE_PART
    # A slice is reserved while its sandbox takes the job on; there is no other limit of that in the protocol.
    assign_s = seconds(tuning, "reservedSliceLifetimeMs", 60.0, 1.0, 600.0)
    slice_s = seconds(sandbox, "sliceTimeoutMs", _DAY_S, 0.1, 30 * _DAY_S)
    progress_s = seconds(sandbox, "progressTimeoutMs", 300.0, 0.1, _DAY_S)
    prefetch_s = bounded(tuning.get("prefetchInterval"), 5.0, 0.2, 300.0)
    idle_s = bounded(tuning.get("watchdogInterval"), 1.0, 0.1, 60.0)
    return Rules(
        StartLimits(_own(settings.start_timeout_s, describe_s), _own(settings.assign_timeout_s, assign_s)),
        SliceLimits(_own(settings.slice_timeout_s, slice_s), _own(settings.progress_timeout_s, progress_s)),
        artifacts_s=seconds(tuning, "artifactResolutionTimeoutMs", 2700.0, 10.0, _DAY_S),
        prefetch_s=_own(settings.prefetch_s, prefetch_s),
        idle_poll_s=_own(settings.idle_poll_s, idle_s),
        send_begin=settings.send_begin and tuning.get("sendStatusBeginMessage") is not False,
    )


def results_in_pile(config: Mapping[str, Any]) -> int:
    """How many results the Scheduler takes in one request (see `jobs.piles`); 1 when it knows nothing of that."""
    told = number(_node(config, "scheduler", "services", "resultSubmitter", "tuning").get("resultsInPile"))
    return 1 if told is None else int(min(max(told, 1), piles.MOST))


def _own(own: float | None, published: float) -> float:
    return published if own is None else own


def _node(config: Any, *path: str) -> Mapping[str, Any]:
    for name in path:
        config = config.get(name) if isinstance(config, Mapping) else None
    return config if isinstance(config, Mapping) else _NONE


# -- answers ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Lifetimes:
    """When a running slice is overdue, and how often the Scheduler wants to hear of what is held.

    The defaults are those of a Scheduler that says nothing. Overdue slices are reported and go on.
    """

    reported: bool = True
    factor: float = 1.0
    multiplier: float = 1.5
    sigmas: float = 2.0
    bias_s: float = 120.0
    target_s: float = 180.0
    beacon_s: float | None = None

    def threshold_s(self, elapsed_s: float, deviation_s: float, cotasks: int = 0) -> float:
        """Age at which a slice is overdue: `elapsed_s` is what slices of its job take, `cotasks` are others beside it.

        Short histories are smoother than the truth: the deviation counts for an eighth of the time at least.
        """
        usual_s = elapsed_s + self.sigmas * max(deviation_s, elapsed_s / 8)
        alone_s = max((self.bias_s + self.multiplier * usual_s) * self.factor, self.target_s)
        return alone_s * (min(max(cotasks, 0), _MOST_COTASKS) + 1)


def lifetimes(scheduler_config: Any) -> Lifetimes | None:
    """Of `schedulerConfig`; None when it says nothing of them."""
    shared = scheduler_config.get("shared") if isinstance(scheduler_config, Mapping) else None
    if not isinstance(shared, Mapping):
        return None
    slices = _node(shared, "slice")
    usual = Lifetimes()
    pace = bounded(shared.get("debuggingFactor"), 1.0, 0.001, 1000.0)
    frequency_ms = number(shared.get("frequencyMs"))
    return Lifetimes(
        reported=shared.get("useLifetimeAnalysis") is True,
        factor=bounded(shared.get("lifetimeFactor"), usual.factor, 0.01, 100.0),
        multiplier=bounded(slices.get("multiplier"), usual.multiplier, 0.01, 100.0),
        sigmas=bounded(slices.get("sigmas"), usual.sigmas, 0.01, 100.0),
        bias_s=pace * bounded(slices.get("biasMs"), usual.bias_s * 1000, 1.0, 7 * _DAY_S * 1000) / 1000,
        target_s=pace * bounded(scheduler_config.get("targetTaskDuration"), usual.target_s, 0.001, 7 * _DAY_S),
        beacon_s=None if frequency_ms is None else min(max(pace * frequency_ms / 1000, 1.0), 3600.0),
    )
