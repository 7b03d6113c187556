"""The HTTP endpoint, over real HTTP, its metrics read by Prometheus' own parser."""

from __future__ import annotations

import contextlib
import dataclasses
import socket

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from orchestrator import telemetry
from orchestrator.errors import InvalidInput
from orchestrator.exporting.metrics_server import AddressInUse, MetricsServer, parse_listen
from orchestrator.exporting.text import prometheus_name
from orchestrator.settings import WorkerSettings
from orchestrator.worker.desk import Policy
from orchestrator.worker.health import Health
from orchestrator.worker.observing import Observing
from orchestrator.worker.pausing import GiveBack, Pause
from orchestrator.worker.refusals import Kind, Record
from orchestrator.worker.supervisor import Supervisor

USAGE = {"sandboxes_cpu_s": 5.0, "sandboxes_memory_bytes": 100, "worker_cpu_s": 1.5, "worker_memory_bytes": 2**20}


class Watched:
    """A worker as `Answers` shows it."""

    def __init__(self):
        self.health = Health(True, "", {"state": "working"})
        books = Supervisor(Policy(sandboxes=2)).statistics()
        counts = {"results accepted": 4, "results refused ELATE": 2, "returned ENOMEMORY": 1, "returned oh, a text": 3}
        idle = Record(Kind.IDLE, "ENOWORK", "", 0, 0, seconds=12.5)
        self.books = dataclasses.replace(
            books,
            counts=counts,
            pauses=(Pause("load", "busy", GiveBack.NOTHING, 50.0),),
            earned=25 * 10**17,
            heard_at=90.0,
            refusals=(idle,),
            rejected_jobs={"j": "EASSIGN"},
        )

    def statistics(self):
        return {
            "supervisor": self.books, "pool": {"ready": 3, "in_use": 1, "starting": 0, "failed": 2},
            "link": {"outstanding": 7, "counts": {"sent again": 1}},
            "fetcher": {"cached": 2, "cached_size": 10, "counts": {"cache hits": 6}}, "runtime": {"reaped": 5},
        }  # fmt: skip

    def usage(self):
        return USAGE

    def readiness(self):
        return self.health

    def liveness(self):
        return self.health


@contextlib.asynccontextmanager
async def serving(tmp_path, worker=None):
    settings = WorkerSettings(state_dir=tmp_path, metrics_listen="127.0.0.1:0")
    async with Observing(worker or Watched(), settings, "w1", lambda: 100.0) as watched:
        base = f"http://127.0.0.1:{watched.server.port}"
        async with aiohttp.ClientSession(base) as session:
            yield session


def samples(text, parse=prometheus):
    return {(sample.name, *sample.labels.values()): sample.value for family in parse(text) for sample in family.samples}


async def test_metrics_as_prometheus_reads_them(tmp_path):
    telemetry.slice_wall_time.record(0.3)
    async with serving(tmp_path) as session, session.get("/metrics") as response:
        text = await response.text()
        assert response.status == 200 and response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found = samples(text)
    for name, value in {
        ("dcp_worker_results_total", "", "accepted"): 4,
        ("dcp_worker_results_total", "ELATE", "refused"): 2,
        ("dcp_worker_slices_returned_total", "ENOMEMORY"): 1,
        ("dcp_worker_slices_returned_total", "other"): 3,
        ("dcp_worker_earnings_total",): 2.5,
        ("dcp_worker_pool_sandboxes", "ready"): 3,
        ("dcp_worker_slots", "empty"): 2,
        ("dcp_worker_slots", "working"): 0,
        ("dcp_worker_outbox",): 7,
        ("dcp_worker_containers_reaped_total",): 5,
        ("dcp_worker_scheduler_answer_age_seconds",): 10,
        ("dcp_worker_idle_time_seconds_total", "ENOWORK"): 12.5,
        ("dcp_worker_jobs_rejected", "EASSIGN"): 1,
        ("dcp_worker_ready",): 1,
        ("dcp_worker_paused", "load"): 1,
        ("dcp_worker_docker_available",): 0,
        ("dcp_worker_sandboxes_cpu_time_seconds_total",): 5,
    }.items():
        assert found.get(name) == value, name
    assert found["dcp_worker_slice_wall_time_seconds_bucket", "0.5"] >= 1
    assert any(name[0] == "target_info" and "w1" in name for name in found)


async def test_metrics_as_openmetrics(tmp_path):
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with serving(tmp_path) as session, session.get("/metrics", headers=accept) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert samples(await response.text(), openmetrics)["dcp_worker_outbox",] == 7


async def test_every_metric_has_the_name_that_we_say(tmp_path):
    for meter in telemetry.METERS:
        labels = dict.fromkeys(meter.labels, "x")
        if isinstance(meter, telemetry.Counter):
            meter.add(0, labels)
        elif isinstance(meter, telemetry.Gauge):
            meter.set(0, labels)
        else:
            meter.record(0, labels)
    async with serving(tmp_path) as session, session.get("/metrics") as response:
        names = {name[0] for name in samples(await response.text())}
    for meter in telemetry.METERS:
        expected = prometheus_name(meter) + ("_bucket" if isinstance(meter, telemetry.Histogram) else "")
        if meter.name not in (
            "dcp.worker.slots",
            "dcp.worker.jobs.rejected",
            "dcp.worker.paused",
        ):  # set anew at each reading
            assert expected in names


@pytest.mark.parametrize(("path", "word"), [("/healthz", "live"), ("/readyz", "ready")])
async def test_health(tmp_path, path, word):
    worker = Watched()
    async with serving(tmp_path, worker) as session:
        async with session.get(path) as response:
            assert (response.status, await response.json()) == (200, {word: True, "reason": None, "state": "working"})
            assert response.headers["Cache-Control"] == "no-store"
        worker.health = Health(False, "why", {"state": "draining"})
        async with session.get(path) as response:
            assert (response.status, await response.json()) == (
                503,
                {word: False, "reason": "why", "state": "draining"},
            )
        async with session.get("/") as response:
            assert "/readyz" in await response.text()


async def test_a_busy_port_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(AddressInUse, match=f"metrics_listen {listen}: another process"):
            async with MetricsServer(listen, page=None, live=None, ready=None):
                pass
    with pytest.raises(InvalidInput, match="metrics_listen"):
        async with MetricsServer("203.0.113.1:9", page=None, live=None, ready=None):
            pass


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        (":80", ("127.0.0.1", 80)),
        ("[::1]:1", ("::1", 1)),
        ("h-1.x:2", ("h-1.x", 2)),
    ],
)  # fmt: skip
def test_addresses(text, place):
    assert parse_listen(text) == place


@pytest.mark.parametrize("text", ["9464", "host", "host:", "host:x", "host:70000", "::1:80", "http://x:80", ""])
def test_addresses_that_are_none(text):
    with pytest.raises(InvalidInput, match="write HOST:PORT"):
        parse_listen(text)
