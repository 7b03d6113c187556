"""`dcp-orchestrator db check` looks at every big value, in a folder and in an S3-compatible store."""

from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from orchestrator import kvin
from orchestrator.cli.db import DAMAGED, command
from orchestrator.scheduler import value_check
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.scheduler.programs import without_program
from orchestrator.scheduler.store import jobs, schema
from orchestrator.settings import SchedulerSettings
from tests.integration.scheduler.actors import deployer, serving
from tests.integration.scheduler.test_s3_store import Store

BIG = "x" * 3000
CODE = f"data:,(x)=>x/*{BIG}*/"
ARGUMENTS = [{"string": json.dumps("y" * 3000), "method": "json", "MIMEType": "application/json"}]


async def check(settings: SchedulerSettings, *more: str) -> Result:
    place = ["--database", str(settings.database_url), "--blob-store", str(settings.blob_store)]
    return await asyncio.to_thread(CliRunner().invoke, command, ["check", *place, *more], catch_exceptions=False)


async def said(settings: SchedulerSettings, *more: str) -> tuple[int, Any]:
    result = await check(settings, *more, "--output", "json")
    return result.exit_code, json.loads(result.stdout)["values"]


@pytest.fixture
def settings(tmp_path: pathlib.Path, database_url: str) -> SchedulerSettings:
    return SchedulerSettings(
        port=0, state_dir=tmp_path / "state", database_url=database_url, initial_credit=1000 * 10**18,
        blob_store=str(tmp_path / "values"), blob_threshold=2000, long_poll_s=0.1, stop_settle_s=0.05,
    )  # fmt: skip


async def a_job(settings: SchedulerSettings) -> str:
    """With big code, big arguments, two slices with the same big input, one with another, and their results."""
    async with SchedulerApp(settings) as app, deployer(app.url) as client:
        program = {"workFunctionURI": CODE, "marshaledArguments": kvin.marshal(ARGUMENTS)}
        job = await client.listed([BIG, BIG, BIG + "2"], **program)
        async with serving(app.url, lambda x, n: f"{n}{x}"):
            await client.wait_for("stop")
    return job


async def test_what_is_missing_or_changed_is_named(settings: SchedulerSettings, tmp_path: pathlib.Path) -> None:
    job = await a_job(settings)
    status, values = await said(settings)
    assert status == 0
    assert values == {
        "place": str(tmp_path / "values"), "references": 8, "values": 7, "checked": 7, "problems": [],
        "bytes": sum(one.stat().st_size for one in (tmp_path / "values" / job).iterdir()),
    }  # fmt: skip
    assert "values     all 7 are there; 7 read, 0.0 MB in" in (await check(settings)).stdout
    kept = list((tmp_path / "values" / job).iterdir())
    [shared] = [one for one in kept if one.read_text() == f"data:application/json,%22{BIG}%22"]
    [code] = [one for one in kept if one.read_text() == CODE]
    shared.unlink()
    code.write_text(CODE + " ")
    for skip in (False, True):
        status, values = await said(settings, *["--skip-values"] * skip)
        assert (status, values is None) == ((0, True) if skip else (DAMAGED, False))
    _, values = await said(settings)
    assert {(one["value"], one["what"], one["references"], one["problem"]) for one in values["problems"]} == {
        (shared.name, "the input of slice 1", 2, "is not in the store"),
        (code.name, "the code", 1, "was changed in the store"),
    }
    text = (await check(settings)).stdout
    assert f"job {job}: the input of slice 1, and 1 more (SHA-256 {shared.name}) is not in the store" in text
    assert "values     2 problems" in text


async def test_a_row_whose_mark_was_cut_and_a_store_that_is_off(settings: SchedulerSettings) -> None:
    job = await a_job(settings)
    async with SchedulerApp(settings) as app, app.core.database.transaction() as tx:
        await tx.execute(schema.slice_results.update().values(uri="dcp-blob:../../x:3"))
    status, values = await said(settings)
    assert status == DAMAGED
    assert [(one["job"], one["value"], one["references"]) for one in values["problems"]] == [(job, "", 3)]
    assert values["problems"][0]["problem"] == "is not named: the row has no whole mark"
    off = settings.model_copy(update={"blob_store": "off"})
    status, values = await said(off)
    assert (status, values["references"], values["checked"]) == (0, 8, 0)
    assert "are referred to, not looked at: --blob-store does not say where they are" in (await check(off)).stdout


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_store_that_is_away_is_not_asked_for_ever(
    settings: SchedulerSettings, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(value_check, "MOST_SILENT", 2)
    monkeypatch.setattr(value_check, "AT_ONCE", 1)
    await a_job(settings)
    folder = tmp_path / "values"
    folder.rename(tmp_path / "away")
    folder.touch()
    status, values = await said(settings)
    assert (status, values["checked"]) == (DAMAGED, 2)
    assert values["problems"][0]["problem"].startswith("cannot be read: ")
    assert values["problems"][-1]["problem"] == "5 more values were not looked at: the store does not answer"
    assert "           5 more values were not looked at" in (await check(settings)).stdout


async def test_what_retention_drops_meanwhile_is_not_missing(
    settings: SchedulerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values are gone, and the row is about to say so: whoever looks again waits for that."""
    job = await a_job(settings)
    look = value_check._Looking.all
    gone = asyncio.Event()
    async with SchedulerApp(settings) as app, asyncio.TaskGroup() as group:
        core = app.core

        async def drop() -> None:
            async with core.database.transaction() as tx:
                await tx.execute(schema.slice_inputs.delete())
                await tx.execute(schema.slice_results.delete())
                await jobs.change_spec(tx, 1, without_program)
                await core.blobs.drop(job)
                gone.set()
                await asyncio.sleep(0.2)

        async def after_it_began(looking: Any) -> None:
            group.create_task(drop())
            await gone.wait()
            await look(looking)

        monkeypatch.setattr(value_check._Looking, "all", after_it_began)
        report = await value_check.check_values(core.database, "there", core.blobs._store)
    assert (report["checked"], report["problems"]) == (7, [])


@pytest.fixture
async def bucket() -> AsyncIterator[tuple[str, Store]]:
    store = Store()
    app = web.Application()
    app.router.add_route("*", "/values/{key:.*}", store.handle)
    async with TestServer(app) as server:
        yield str(server.make_url("/")), store


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_in_an_s3_store(
    settings: SchedulerSettings, bucket: tuple[str, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, store = bucket
    there = {
        "blob_store": "s3://values/dcp/here", "s3_endpoint": url, "s3_region": "eu-1", "s3_access_key": "key",
        "s3_secret_key": "secret",
    }  # fmt: skip
    await a_job(settings.model_copy(update=there))
    for name in ("endpoint", "region", "access_key", "secret_key"):
        monkeypatch.setenv(f"DCP_ORCHESTRATOR_SCHEDULER_S3_{name.upper()}", there[f"s3_{name}"])
    settings = settings.model_copy(update=there)
    status, values = await said(settings)
    assert (status, values["values"], values["problems"], values["place"]) == (0, 7, [], there["blob_store"])
    lost, changed = sorted(store.objects)[:2]
    del store.objects[lost]
    store.objects[changed] += b" "
    status, values = await said(settings)
    assert status == DAMAGED
    assert [(one["value"], one["problem"]) for one in values["problems"]] == [
        (lost.rpartition("/")[2], "is not in the store"),
        (changed.rpartition("/")[2], "was changed in the store"),
    ]
