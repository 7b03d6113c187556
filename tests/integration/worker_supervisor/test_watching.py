"""A real Worker as others see it: /metrics read by Prometheus' parser, /readyz, and traces at a real OTLP collector."""

from __future__ import annotations

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.worker_supervisor.conftest import free_port
from tests.unit.worker_observing.test_otlp import collecting

pytestmark = pytest.mark.docker

JOB = "w" * 22
SLICES = 8


def samples(text: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


async def test_what_a_watcher_sees_of_a_worker(scheduler, worker):
    listen = f"127.0.0.1:{free_port()}"
    numbers = [f"data:application/json,{n}" for n in range(1, SLICES + 1)]
    async with aiohttp.ClientSession(f"http://{listen}") as watcher, collecting() as (collector, url):

        async def metrics() -> dict[tuple[str, ...], float]:
            async with watcher.get("/metrics") as response:
                return samples(await response.text())

        settings = {"metrics_listen": listen, "otlp_endpoint": url, "trace_sample_ratio": 1.0}
        async with worker(scheduler, sandboxes=2, **settings) as w:
            await w.ready.wait()
            before = await metrics()
            scheduler.add(JOB, "n => { progress(); if (n === 3) throw new Error('no'); return n }", numbers)
            await scheduler.done(SLICES)
            async with watcher.get("/readyz") as response:
                assert (response.status, (await response.json())["ready"]) == (200, True)
            async with watcher.get("/healthz") as response:
                assert (response.status, (await response.json())["live"]) == (200, True)
            after = await metrics()

    def grown(*name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown("dcp_worker_slices_total", "completed") == SLICES - 1
    assert grown("dcp_worker_slices_total", "threw") == 1
    assert grown("dcp_worker_slice_wall_time_seconds_count") == SLICES
    assert grown("dcp_worker_slice_cpu_time_seconds_total") > 0
    assert grown("dcp_worker_slice_io_bytes_total", "in") > 0
    assert after["dcp_worker_slices_received_total",] == SLICES
    assert after["dcp_worker_sandboxes_cpu_time_seconds_total",] > after["dcp_worker_slice_cpu_time_seconds_total",] - (
        before.get(("dcp_worker_slice_cpu_time_seconds_total",), 0)
    )
    assert after["dcp_worker_docker_available",] == after["dcp_worker_ready",] == 1
    assert sum(value for name, value in after.items() if name[0] == "dcp_worker_slots") >= 2
    assert not any(JOB in label for name in after for label in name), "no label names a job"

    assert collector.metrics, "the last metrics are sent when the worker ends"
    spans = [
        span for request in collector.traces for rs in request.resource_spans for scope in rs.scope_spans
        for span in scope.spans
    ]  # fmt: skip
    by_name: dict[str, list] = {}
    for span in spans:
        by_name.setdefault(span.name, []).append(span)
    assert {name: len(each) for name, each in by_name.items()} == dict.fromkeys(
        ("slice", "request", "queued", "run", "submit"), SLICES
    )
    slices = {
        next(a.value.int_value for a in span.attributes if a.key == "dcp.slice.number"): span
        for span in by_name["slice"]
    }
    assert set(slices) == set(range(1, SLICES + 1))
    for span in by_name["slice"]:
        assert {"dcp.job.id", "dcp.sandbox", "dcp.slice.outcome"} <= {one.key for one in span.attributes}
    roots = {span.span_id: span for span in by_name["slice"]}
    for span in spans:
        if span.name != "slice":
            root = roots[span.parent_span_id]
            assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.end_time_unix_nano <= root.end_time_unix_nano
