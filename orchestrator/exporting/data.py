"""The totals of `telemetry` as OpenTelemetry's data, from which its exporters make their formats."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from orchestrator import __version__, telemetry

SCOPE: Final = InstrumentationScope("dcp-orchestrator", __version__)


def resource(service: str, instance: str | None = None) -> Resource:
    """Who reports. `OTEL_SERVICE_NAME` gives another name, `OTEL_RESOURCE_ATTRIBUTES` adds to it."""
    own = {"service.version": __version__}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        own["service.name"] = service
    if instance is not None:
        own["service.instance.id"] = instance
    return Resource.create(own)


def collected(who: Resource, meters: Iterable[telemetry.Meter] | None = None) -> MetricsData:
    """Everything counted until now, since `telemetry.STARTED_NS`."""
    now = time.time_ns()
    metrics = [_metric(meter, now) for meter in (telemetry.METERS if meters is None else meters)]
    scope = ScopeMetrics(SCOPE, [metric for metric in metrics if metric.data.data_points], "")
    return MetricsData([ResourceMetrics(who, [scope], "")])


def _metric(meter: telemetry.Meter, now: int) -> Metric:
    started = telemetry.STARTED_NS
    data: Sum | Gauge | Histogram
    match meter:
        case telemetry.Counter():
            points = [NumberDataPoint(labels, started, now, total) for labels, total in meter.series()]
            data = Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
        case telemetry.Gauge():
            data = Gauge([NumberDataPoint(labels, started, now, value) for labels, value in meter.series()])
        case telemetry.Histogram():
            data = Histogram(
                [
                    HistogramDataPoint(
                        labels,
                        started,
                        now,
                        sum(counts),
                        total,
                        counts,
                        meter.bounds,
                        min=None,  # type: ignore[arg-type]  # not kept, and optional in the protocol
                        max=None,  # type: ignore[arg-type]
                    )
                    for labels, counts, total in meter.series()
                ],
                AggregationTemporality.CUMULATIVE,
            )
        case _:
            raise TypeError(f"{meter.name} is of no known kind")
    return Metric(meter.name, meter.description, meter.unit, data)
