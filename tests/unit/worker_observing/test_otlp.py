"""OTLP against a real HTTP collector, whose protobuf is decoded; a collector that fails disturbs nobody."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from orchestrator import telemetry
from orchestrator.errors import InvalidInput
from orchestrator.exporting import data, destination, otlp
from orchestrator.settings import WorkerSettings
from orchestrator.worker.observing import Observing
from tests.unit.worker_observing.test_metrics_server import Watched
from tests.unit.worker_observing.test_traces import trace


class Collector:
    def __init__(self):
        self.status = 200
        self.metrics, self.traces, self.headers = [], [], []
        self.heard = asyncio.Event()

    async def take(self, request):
        body = await request.read()  # unpacked
        self.headers.append(request.headers)
        if self.status == 200:
            kind, into = {
                "/v1/metrics": (ExportMetricsServiceRequest, self.metrics),
                "/v1/traces": (ExportTraceServiceRequest, self.traces),
            }[request.path]
            into.append(kind.FromString(body))
        self.heard.set()
        return web.Response(status=self.status, body=ExportMetricsServiceResponse().SerializeToString())


@contextlib.asynccontextmanager
async def collecting():
    collector = Collector()
    app = web.Application()
    app.router.add_post("/{tail:.*}", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield collector, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    import os

    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def points_of(request):
    [resource] = request.resource_metrics
    [scope] = resource.scope_metrics
    return {metric.name: metric for metric in scope.metrics}, resource.resource


async def test_metrics_arrive_with_their_types():
    telemetry.slices_ended.add(2, {"outcome": "completed"})
    telemetry.slice_wall_time.record(0.02)
    async with collecting() as (collector, url):
        refreshed = []
        sender = otlp.MetricsSender(data.resource("dcp-worker", "w1"), url, lambda: refreshed.append(1))
        assert await sender.send()
        await sender.last()
    assert len(refreshed) == 2 == len(collector.metrics)
    metrics, resource = points_of(collector.metrics[0])
    assert {a.key: a.value.string_value for a in resource.attributes}.items() >= {
        "service.name": "dcp-worker", "service.instance.id": "w1",
    }.items()  # fmt: skip
    slices = metrics["dcp.worker.slices"]
    assert slices.unit == "{slice}" and slices.sum.is_monotonic and slices.sum.aggregation_temporality == 2
    completed = next(p for p in slices.sum.data_points if p.attributes[0].value.string_value == "completed")
    assert completed.as_double + completed.as_int >= 2 and completed.start_time_unix_nano == telemetry.STARTED_NS
    [wall] = metrics["dcp.worker.slice.wall_time"].histogram.data_points
    assert wall.count == sum(wall.bucket_counts) >= 1 and len(wall.bucket_counts) == len(wall.explicit_bounds) + 1


async def test_a_worker_sends_metrics_and_traces_and_the_last_ones_when_it_ends(tmp_path):
    async with collecting() as (collector, url):
        settings = WorkerSettings(state_dir=tmp_path, otlp_endpoint=url + "/", trace_sample_ratio=1)
        async with Observing(Watched(), settings, "w1", lambda: 100.0) as watched:
            watched.trace(trace())
    metrics, _resource = points_of(collector.metrics[-1])
    assert metrics["dcp.worker.outbox"].gauge.data_points[0].as_int == 7
    [spans] = [scope.spans for request in collector.traces for rs in request.resource_spans for scope in rs.scope_spans]
    by_name = {span.name: span for span in spans}
    assert set(by_name) == {"slice", "request", "fetch datum", "queued", "run", "submit"}
    assert (
        by_name["run"].parent_span_id == by_name["slice"].span_id
        and by_name["run"].trace_id == by_name["slice"].trace_id
    )


async def test_the_standard_variables_do_too(tmp_path, monkeypatch):
    async with collecting() as (collector, url):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
        async with Observing(Watched(), WorkerSettings(state_dir=tmp_path), "w1", lambda: 100.0):
            await collector.heard.wait()
    assert collector.headers[0]["Authorization"] == "Bearer x"
    assert collector.headers[0]["Content-Encoding"] == "gzip"
    _metrics, resource = points_of(collector.metrics[0])
    assert "mine" in [a.value.string_value for a in resource.attributes if a.key == "service.name"]


@pytest.mark.parametrize(
    ("endpoint", "environment", "wanted"),
    [
        (None, {}, False),
        ("http://x", {}, True),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        (None, {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x"}, True),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, False),
        ("http://x", {"OTEL_SDK_DISABLED": "true"}, False),
        ("http://x", {"OTEL_METRICS_EXPORTER": "none"}, False),
    ],
)
def test_whether_it_is_wanted(monkeypatch, endpoint, environment, wanted):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert destination.wanted(endpoint, "metrics") is wanted


async def test_failures_are_told_once_and_so_is_their_end(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "orchestrator")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    async with collecting() as (collector, url):
        sender = otlp.MetricsSender(data.resource("x"), url, lambda: None)
        collector.status = 400
        assert not await sender.send() and not await sender.send()
        collector.status = 200
        assert await sender.send()
    assert not await sender.send()  # nobody listens any more
    await sender.last()
    assert [record.getMessage() for record in caplog.records] == [
        "export_failed", "export_works_again", "export_failed",
    ]  # fmt: skip
    assert caplog.records[1].failures == 2


async def test_traces_without_a_collector_are_told(tmp_path, caplog):
    settings = WorkerSettings(state_dir=tmp_path, trace_sample_ratio=0.5)
    async with Observing(Watched(), settings, "w1", lambda: 100.0) as watched:
        watched.trace(trace())
    assert "traces_go_nowhere" in caplog.messages


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "grpc://x:4317", "http://", "http://a b", "http://x/?a"])
async def test_an_endpoint_that_is_none(tmp_path, endpoint):
    settings = WorkerSettings(state_dir=tmp_path, otlp_endpoint=endpoint)
    with pytest.raises(InvalidInput, match="otlp_endpoint is"):
        async with Observing(Watched(), settings, "w1", lambda: 100.0):
            pass
