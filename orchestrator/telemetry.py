"""Every metric of the system, in one place: name, unit, meaning. Parts import the instruments they feed.

Without a configured provider recording costs next to nothing. `collect_in_memory` installs one that a command can
read back, as `local` does for its closing line.
"""

from __future__ import annotations

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric, MetricsData, NumberDataPoint
from opentelemetry.sdk.resources import Resource

_meter = metrics.get_meter("dcp-orchestrator")

slices_ended = _meter.create_counter(
    "dcp.worker.slices", unit="{slice}", description="slices that left a sandbox, by outcome"
)
slice_cpu_time = _meter.create_counter(
    "dcp.worker.slice.cpu_time", unit="s", description="CPU time that the kernel charged to slices"
)
slice_wall_time = _meter.create_histogram(
    "dcp.worker.slice.wall_time", unit="s", description="wall time of a slice inside its sandbox"
)
sandboxes_ended = _meter.create_counter(
    "dcp.worker.sandboxes", unit="{sandbox}", description="sandboxes that ended, by cause of death"
)
fetches = _meter.create_counter(
    "dcp.worker.fetches", unit="{fetch}", description="requests made for jobs, by purpose and outcome"
)
fetched_bytes = _meter.create_counter(
    "dcp.worker.fetched", unit="By", description="bytes fetched for jobs after decompression, by purpose"
)
# the pool of sandboxes
sandbox_hand_out_time = _meter.create_histogram(
    "dcp.worker.pool.hand_out_time",
    unit="s",
    description="time from the wish for a sandbox until it was handed out; `hit` when one was ready",
    explicit_bucket_boundaries_advisory=[0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
)
sandbox_start_time = _meter.create_histogram(
    "dcp.worker.pool.start_time",
    unit="s",
    description="time from the creation of a container until its sandbox had described itself",
    explicit_bucket_boundaries_advisory=[0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30],
)
pool_sandboxes = _meter.create_gauge(
    "dcp.worker.pool.sandboxes", unit="{sandbox}", description="sandboxes now: ready, in use, starting"
)
sandboxes_recycled = _meter.create_counter(
    "dcp.worker.sandboxes.recycled", unit="{sandbox}", description="sandboxes replaced at a limit, by the limit"
)

results_received = _meter.create_counter(
    "dcp.scheduler.results", unit="{slice}", description="results that workers submitted, by verdict"
)
slices_leased = _meter.create_counter(
    "dcp.scheduler.leases", unit="{slice}", description="slices handed out to workers"
)


class Readings:
    """The totals of this process since `collect_in_memory`."""

    def __init__(self, reader: InMemoryMetricReader) -> None:
        self._reader = reader

    def total(self, name: str) -> float:
        """Sum of a counter over all its attributes; 0 when nothing was recorded yet."""
        data = self._reader.get_metrics_data()
        return sum(
            point.value
            for metric in _metrics_of(data)
            if metric.name == name
            for point in metric.data.data_points
            if isinstance(point, NumberDataPoint)
        )


def _metrics_of(data: MetricsData | None) -> list[Metric]:
    if data is None:
        return []
    scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
    return [metric for scope in scopes for metric in scope.metrics]


def collect_in_memory(service: str) -> Readings:
    """Install a provider for this process that keeps totals in memory. Call once, at start-up."""
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader], resource=Resource.create({"service.name": service})))
    return Readings(reader)
