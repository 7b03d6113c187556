"""Values beyond a size lie outside the rows, and go when their job's rows go."""

from __future__ import annotations

import json
import pathlib
import time
from typing import Any

import pytest
import sqlalchemy as sa

from orchestrator import kvin
from orchestrator.jobs.values import value_of_uri
from orchestrator.protocol.errors import RemoteError
from orchestrator.scheduler import retention
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.scheduler.blobs import MARK, BlobAway, Blobs, DiskBlobs
from orchestrator.scheduler.store import blob_intents, cluster, schema
from orchestrator.settings import SchedulerSettings
from tests.integration.scheduler.actors import deployer, fake_worker, serving

BIG = "x" * 3000


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_inputs_and_results_travel_through_the_store(settings: SchedulerSettings, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "values"
    settings = settings.model_copy(
        update={"blob_store": str(folder), "blob_threshold": 2000, "keep_events_s": 0.0, "keep_results_s": 0.0}
    )
    async with SchedulerApp(settings) as app, deployer(app.url) as client:
        async with serving(app.url, lambda x, n: f"{x}{n % 2}" if len(x) > 10 else x):
            job = await client.listed([BIG, "small", BIG, BIG])
            await client.wait_for("stop")
        results = {1: BIG + "1", 2: "small", 3: BIG + "1", 4: BIG + "0"}
        assert client.decoded() == results
        fetched = await client.results.request("fetchResult", {"job": job, "range": None})
        assert [len(one["value"]) > 2000 for one in fetched] == [True, False, True, True]
        async with app.core.database.snapshot() as tx:
            for table in (schema.slice_inputs, schema.slice_results):
                uris = list((await tx.execute(sa.select(table.c.uri).order_by(table.c.number))).scalars())
                assert [uri.startswith(MARK) for uri in uris] == [True, False, True, True]
        assert len(_files(folder)) == 3  # one input, two different results
        await retention.Retention(app.core).sweep()
        assert _files(folder) == []


async def test_marks_from_outside_read_nothing(tmp_path: pathlib.Path) -> None:
    blobs = Blobs(DiskBlobs(tmp_path), 2000)
    [mark] = await blobs.stash("job1", [BIG])
    assert mark.startswith(MARK)
    [forged] = await blobs.stash("job2", [mark])
    assert forged != mark
    assert await blobs.resolve("job2", forged) == mark
    with pytest.raises(BlobAway):
        await blobs.resolve("job2", mark)
    assert await blobs.resolve("job1", mark) == BIG


async def test_a_store_that_cannot_write(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BlobAway):
        await Blobs(DiskBlobs(tmp_path / "file"), 2000).stash("job", [BIG])


CODE = f"data:,(x)=>x/*{BIG}*/"
ARGUMENTS = [
    {"string": json.dumps(f"{n}{'y' * 900}"), "method": "json", "MIMEType": "application/json"} for n in range(3)
]


@pytest.fixture
def outside(settings: SchedulerSettings, tmp_path: pathlib.Path) -> SchedulerSettings:
    """Values of 2000 characters and more lie in a folder."""
    return settings.model_copy(update={"blob_store": str(tmp_path / "values"), "blob_threshold": 2000})


async def _spec(app: SchedulerApp, job: str) -> dict[str, Any]:
    async with app.core.database.snapshot() as tx:
        text = (await tx.execute(sa.select(schema.jobs.c.spec).where(schema.jobs.c.id == job))).scalar_one()
    spec: dict[str, Any] = json.loads(text)
    return spec


async def test_code_and_arguments_travel_through_the_store(outside: SchedulerSettings, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "values"
    settings = outside.model_copy(update={"keep_events_s": 0.0, "keep_results_s": 0.0})
    async with SchedulerApp(settings) as app, deployer(app.url) as client, fake_worker(app.url) as worker:
        program = {"workFunctionURI": CODE, "marshaledArguments": kvin.marshal(ARGUMENTS)}
        job = await client.deploy(**program, dataRange={"start": 1, "end": 1, "step": 1})
        spec = await _spec(app, job)
        assert [str(spec[name]).startswith(MARK) for name in ("codeLocation", "argumentUris")] == [True, True]
        assert len(_files(folder)) == 2
        answer = await worker.take()
        told = answer["body"]["newJobs"][job]
        assert told["codeLocation"] == CODE
        assert [value_of_uri(one["value"])[:2] for one in told["argumentsLocation"]] == ["0y", "1y", "2y"]
        await worker.compute(answer)
        await client.wait_for("stop")
        small = await client.deploy(dataRange={"start": 1, "end": 1, "step": 1})
        assert (await _spec(app, small))["codeLocation"] == "data:,(x)=>x"
        await retention.Retention(app.core).sweep()
        assert _files(folder) == []
        assert (await _spec(app, job))["codeLocation"] == ""


async def test_a_scheduler_that_lost_its_store_goes_on_with_what_is_in_rows(
    settings: SchedulerSettings, outside: SchedulerSettings
) -> None:
    """It was started without --blob-store, once."""
    one = {"start": 1, "end": 1, "step": 1}
    async with SchedulerApp(outside) as app, deployer(app.url) as client:
        await client.deploy(marshaledArguments=kvin.marshal(ARGUMENTS), dataRange=one)
        lost = await client.deploy(workFunctionURI=CODE, dataRange=one)
    without = settings.model_copy(update={"blob_store": "off", "long_poll_s": 0.1})
    async with SchedulerApp(without) as app, deployer(app.url) as client, fake_worker(app.url) as worker:
        assert (await worker.take())["body"]["noWork"]["EBLOB"] == 2
        small = await client.deploy(dataRange=one)
        assert list((await worker.take())["body"]["newJobs"]) == [small]
    async with SchedulerApp(outside) as app, fake_worker(app.url) as worker:
        assert (await worker.take())["body"]["newJobs"][lost]["codeLocation"] == CODE


async def test_code_that_is_in_its_row_stays_readable(settings: SchedulerSettings, outside: SchedulerSettings) -> None:
    """As the version before wrote it."""
    async with SchedulerApp(settings.model_copy(update={"blob_store": "off"})) as app, deployer(app.url) as client:
        job = await client.deploy(workFunctionURI=CODE, dataRange={"start": 1, "end": 1, "step": 1})
        assert (await _spec(app, job))["codeLocation"] == CODE
    async with SchedulerApp(outside) as app, fake_worker(app.url) as worker:
        assert (await worker.take())["body"]["newJobs"][job]["codeLocation"] == CODE


async def test_nothing_is_left_of_a_job_that_is_refused(outside: SchedulerSettings, tmp_path: pathlib.Path) -> None:
    settings = outside.model_copy(update={"initial_credit": 0, "keep_events_s": 0.0})
    clock = _Clock()
    async with SchedulerApp(settings, clock=clock) as app, deployer(app.url) as client:
        with pytest.raises(RemoteError, match="ENOFUNDS"):
            await client.submit(workFunctionURI=CODE, dataRange={"start": 1, "end": 1, "step": 1})
        assert _files(tmp_path / "values") == []
        # One whose process died in between.
        async with app.core.database.transaction() as tx:
            await blob_intents.begin(tx, "lost", "t", clock())
        await app.core.blobs.stash("lost", [BIG])
        sweeper = retention.Retention(app.core)
        await sweeper.sweep()
        assert len(_files(tmp_path / "values")) == 1
        clock.ahead = retention.REFUSED_S + 1
        await sweeper.sweep()
        assert _files(tmp_path / "values") == []
        async with app.core.database.snapshot() as tx:
            assert await blob_intents.count(tx) == 0


async def test_a_job_whose_code_is_gone_ends_and_says_so(outside: SchedulerSettings, tmp_path: pathlib.Path) -> None:
    async with SchedulerApp(outside) as app, deployer(app.url) as client:
        job = await client.deploy(workFunctionURI=CODE, dataRange={"start": 1, "end": 1, "step": 1})
        [file] = _files(tmp_path / "values")
        file.unlink()
        async with fake_worker(app.url) as worker:
            assert "newJobs" not in (await worker.take())["body"]
        [stop, *_] = await client.wait_for("stop")
        assert f"the code of job {job} (SHA-256 {file.name}) is not in the store any more" in str(stop)


async def test_a_slice_whose_input_is_gone_fails_and_the_others_do_not(
    outside: SchedulerSettings, tmp_path: pathlib.Path
) -> None:
    settings = outside.model_copy(update={"other_worker_s": 0.0})
    async with SchedulerApp(settings) as app, deployer(app.url) as client:
        job = await client.listed([BIG, "small", BIG + "other"])
        lost = next(file for file in _files(tmp_path / "values") if b"other" in file.read_bytes())
        lost.unlink()
        async with serving(app.url, lambda x, _: len(x)):
            [error, *_] = await client.wait_for("error")
            await client.wait_for("stop")
        assert f"the input of slice 3 of job {job} (SHA-256 {lost.name}) is not in the store any more" in str(error)
        assert client.decoded() == {1: len(BIG), 2: 5}


async def test_a_job_waits_while_the_store_is_away(outside: SchedulerSettings, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "values"
    settings = outside.model_copy(update={"long_poll_s": 0.1})
    async with SchedulerApp(settings) as app, deployer(app.url) as client, fake_worker(app.url) as worker:
        job = await client.deploy(workFunctionURI=CODE, dataRange={"start": 1, "end": 1, "step": 1})
        folder.rename(tmp_path / "away")
        folder.touch()  # neither there nor gone
        assert (await worker.take())["body"]["noWork"]["EBLOB"] == 1
        answer = await client.pheme.request("explainJob", {"job": job})
        assert "EBLOB" in [one["code"] for one in answer["findings"]]
        folder.unlink()
        (tmp_path / "away").rename(folder)
        assert (await worker.take())["body"]["newJobs"][job]["codeLocation"] == CODE


async def test_code_stays_in_its_row_while_an_older_process_is_there(
    outside: SchedulerSettings,
) -> None:
    async with SchedulerApp(outside) as app, deployer(app.url) as client:
        if app.core.cluster is None:
            return
        older = {"id": "older", "place": "there", "version": "0", "started_at": 0.0, "seen_at": time.time()}
        async with app.core.database.transaction() as tx:
            await cluster.register(tx, older)
        await app.core.cluster.beat()
        job = await client.deploy(workFunctionURI=CODE, dataRange={"start": 1, "end": 1, "step": 1})
        assert (await _spec(app, job))["codeLocation"] == CODE


class _Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead
