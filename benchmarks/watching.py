"""What watching costs: counting a slice, by ours and by OpenTelemetry's own instruments; a page of metrics; a trace.

A slice is counted as the Worker does it, one at a time (slices that end together share a part of it). The instruments
of OpenTelemetry record the same things for one reader. All take turns in rounds; ratios are medians over the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from benchmarks import common
from orchestrator import telemetry
from orchestrator.exporting import data, text
from orchestrator.jobs.words import SliceMetrics
from orchestrator.settings import WorkerSettings
from orchestrator.worker import holdings, seats
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker import supervisor_events as ev
from orchestrator.worker.observing import Observing

GOAL = 3.0
METRICS = SliceMetrics(0.5, 2.0, 10, 20, 3000)
STORY = tuple(
    (float(at), line)
    for at, line in enumerate((holdings.RECEIVED, holdings.QUEUED, holdings.COMPLETED, holdings.ACCEPTED))
)


def per_call_us(call: Callable[[], Any], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times * 1e6


def theirs() -> Callable[[], None]:
    """One slice, counted with OpenTelemetry's instruments."""
    meter = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False).get_meter("theirs")
    slices, cpu, io = (meter.create_counter(name) for name in ("slices", "cpu", "io"))
    wall, peak = (meter.create_histogram(name) for name in ("wall", "peak"))

    def count() -> None:
        wall.record(METRICS.wall_time_s)
        peak.record(METRICS.peak_memory_bytes)
        slices.add(1, {"outcome": "completed"})
        cpu.add(METRICS.cpu_time_s)
        io.add(METRICS.bytes_in, {"direction": "in"})
        io.add(METRICS.bytes_out, {"direction": "out"})

    return count


def fill() -> None:
    """As many series as a worker has after a day."""
    for meter in telemetry.METERS:
        for number in range(8 if meter.labels else 1):
            labels = {name: f"{name} {number}" for name in meter.labels}
            match meter:
                case telemetry.Counter():
                    meter.add(1, labels)
                case telemetry.Gauge():
                    meter.set(1, labels)
                case telemetry.Histogram():
                    meter.record(1, labels)


def main() -> None:
    options = common.parse_options(__doc__)
    machine = common.machine()
    rounds, times = (3, 2_000) if options.quick else (9, 20_000)
    one = [ev.SliceCompleted(1, 1, None, 3, METRICS, True)]
    many = one * 16
    fill()
    page = text.Page(data.resource("benchmark"))
    provider = TracerProvider(shutdown_on_exit=False)
    watched = Observing(None, WorkerSettings(), "benchmark", time.monotonic, provider)
    watched._tracer = provider.get_tracer("benchmark")
    trace = act.Trace("job", "name", 1, 1, 0.0, STORY, METRICS)
    their_count = theirs()
    taken: dict[str, list[float]] = {"ours": [], "ours, 16 together": [], "theirs": [], "page": [], "trace": []}
    for _ in range(rounds):
        taken["ours"].append(per_call_us(lambda: seats._count(one), times))
        taken["ours, 16 together"].append(per_call_us(lambda: seats._count(many), times // 16) / 16)
        taken["theirs"].append(per_call_us(their_count, times // 4))
        taken["page"].append(per_call_us(page.text, 20))
        taken["trace"].append(per_call_us(lambda: watched.trace(trace), 200))
    figures = {name: round(common.median(each), 3) for name, each in taken.items()}
    ratio = common.median([their / our for their, our in zip(taken["theirs"], taken["ours"], strict=True)])
    size = len(page.text()[0])
    common.report(
        options.output,
        {"machine": machine, "microseconds": figures, "page_bytes": size},
        [common.Goal("counting a slice: OpenTelemetry's instruments / ours", ratio, GOAL)],
        [
            f"counting a slice: {figures['ours']:.1f} µs, {figures['ours, 16 together']:.1f} µs when 16 end together; "
            f"OpenTelemetry's instruments {figures['theirs']:.1f} µs",
            f"a page of metrics: {figures['page'] / 1000:.2f} ms, {size} bytes",
            f"the spans of a sampled slice: {figures['trace']:.0f} µs (without a processor that sends them)",
        ],
    )


if __name__ == "__main__":
    main()
