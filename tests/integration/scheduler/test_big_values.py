"""Values beyond a size lie outside the rows, and go when their job's rows go."""

from __future__ import annotations

import pathlib

import pytest
import sqlalchemy as sa

from orchestrator.scheduler import retention
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.scheduler.blobs import MARK, BlobAway, Blobs, DiskBlobs
from orchestrator.scheduler.store import schema
from orchestrator.settings import SchedulerSettings
from tests.integration.scheduler.actors import deployer, serving

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
