"""A slice's story becomes spans with the right times; slices that are not sampled leave no trace."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from orchestrator.jobs.words import SliceMetrics
from orchestrator.settings import WorkerSettings
from orchestrator.worker import holdings, traces
from orchestrator.worker import supervisor_actions as act
from orchestrator.worker.observing import Observing

METRICS = SliceMetrics(0.5, 2.0, 10, 20, 3000)
STORY = (
    (11.0, holdings.RECEIVED),
    (11.0, holdings.FETCHING),
    (12.0, holdings.FETCHED),
    (12.5, holdings.QUEUED),
    (16.0, holdings.COMPLETED),
    (17.0, holdings.ACCEPTED),
)


def trace(story=STORY, asked_at=10.0, sandbox=7, metrics=METRICS):
    return act.Trace("job", "name", 3, sandbox, asked_at, tuple(story), metrics)


def times(parts):
    return {part.name: (part.start, part.end) for part in parts}


def test_a_good_slice():
    whole, parts = traces.spans_of(trace())
    assert (whole.name, whole.start, whole.end, whole.failed) == ("slice", 10, 17, "")
    assert whole.attributes == {
        "dcp.job.id": "job", "dcp.job.name": "name", "dcp.slice.number": 3,
        "dcp.slice.outcome": "result accepted", "dcp.sandbox": 7,
    }  # fmt: skip
    assert times(parts) == {
        "request": (10, 11), "fetch datum": (11, 12), "queued": (12, 14), "run": (14, 16), "submit": (16, 17),
    }  # fmt: skip
    run = next(part for part in parts if part.name == "run")
    assert run.attributes["dcp.cpu_time_s"] == 0.5 and run.attributes["dcp.sandbox"] == 7
    assert not any(part.failed for part in parts)


def test_a_slice_that_threw_ran_well_for_the_worker():
    story = [*STORY[:4], (16.0, "threw Error: no"), STORY[-1]]
    whole, parts = traces.spans_of(trace(story))
    assert {part.name: part.failed for part in parts if part.failed} == {"run": "threw Error: no"}
    assert whole.failed == ""


def test_a_slice_whose_sandbox_died():
    story = [*STORY[:4], (20.0, "returned: ENOMEMORY")]
    whole, parts = traces.spans_of(trace(story, metrics=None))
    assert whole.failed == "returned: ENOMEMORY"
    assert times(parts)["run"] == (12.5, 20) and "submit" not in times(parts)
    assert parts[-1].failed == "returned: ENOMEMORY"


def test_a_datum_that_could_not_be_fetched():
    story = [*STORY[:2], (15.0, "datum not fetched: 404"), (15.0, "returned: ESLICEFETCH")]
    whole, parts = traces.spans_of(trace(story, sandbox=None, metrics=None))
    assert times(parts) == {"request": (10, 11), "fetch datum": (11, 15)}
    assert parts[-1].failed == "datum not fetched: 404"
    assert "dcp.sandbox" not in whole.attributes


def test_a_result_that_was_refused():
    story = [*STORY[:5], (18.0, "result refused: ELATE: late")]
    whole, parts = traces.spans_of(trace(story))
    assert whole.failed and parts[-1].name == "submit" and parts[-1].failed == whole.failed


def test_a_slice_that_never_started_and_was_not_asked_for():
    whole, parts = traces.spans_of(trace([(11.0, holdings.RECEIVED), (12.0, "returned: X")], None, None, None))
    assert (whole.start, whole.end, parts) == (11, 12, [])


def test_no_part_leaves_the_whole():
    for story in (STORY, STORY[:1], STORY[:2], STORY[:4], [STORY[0], *STORY[3:]], [*STORY[:4], STORY[3], *STORY[4:]]):
        for wall_s in (0.0, 1.0, 1e9):
            whole, parts = traces.spans_of(trace(story, metrics=SliceMetrics(0, wall_s, 0, 0, 0)))
            for part in parts:
                assert whole.start <= part.start <= part.end <= whole.end, (story, part)


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.25, 1.0])
def test_the_sampled_part_is_as_large_as_asked(ratio):
    hits = sum(traces.sampled(key, ratio) for key in range(1, 10_001))
    assert abs(hits - ratio * 10_000) <= 20


def observing(tmp_path, ratio):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    settings = WorkerSettings(state_dir=tmp_path, trace_sample_ratio=ratio)
    return Observing(None, settings, "w", lambda: 100.0, provider), exporter


async def test_spans_belong_together_and_have_wall_clock_times(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1_000_100.0)
    watched, exporter = observing(tmp_path, 1.0)
    async with watched:
        watched.trace(trace([*STORY[:5], (18.0, "result refused: ELATE: late")]))
    spans = {span.name: span for span in exporter.get_finished_spans()}
    root = spans["slice"]
    assert set(spans) == {"slice", "request", "fetch datum", "queued", "run", "submit"}
    assert (root.start_time, root.end_time) == (1_000_010 * 10**9, 1_000_018 * 10**9)
    assert all(span.parent.span_id == root.context.span_id for name, span in spans.items() if name != "slice")
    assert root.status.status_code is StatusCode.ERROR
    assert [event.name for event in root.events][:2] == ["received", "fetching its datum"]
    assert spans["run"].start_time == 1_000_014 * 10**9


async def test_without_sampling_nothing_is_sent(tmp_path):
    watched, exporter = observing(tmp_path, 0.0)
    async with watched:
        watched.trace(trace())
    assert exporter.get_finished_spans() == ()
