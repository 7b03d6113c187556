"""A backup that is taken while a Scheduler works, and restored: the books are in order and jobs go on."""

from __future__ import annotations

import asyncio
import json
import pathlib
import shutil

import pytest
from click.testing import CliRunner

from orchestrator.cli.bank import command as bank
from orchestrator.cli.db import command
from orchestrator.errors import InvalidInput
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet.keys import PrivateKey
from tests.integration.scheduler.actors import deployer, serving
from tests.postgres import PostgresServer


def db(*arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def settings_in(folder: pathlib.Path) -> SchedulerSettings:
    return SchedulerSettings(
        port=0, state_dir=folder, initial_credit=1000 * 10**18, stop_settle_s=0.05, long_poll_s=1.0, estimation_slices=0
    )


async def test_a_restored_database_is_in_order_and_its_jobs_go_on(tmp_path: pathlib.Path) -> None:
    old, new, copy = tmp_path / "old", tmp_path / "new", tmp_path / "copy.sqlite"
    async with SchedulerApp(settings_in(old)) as app, deployer(app.url) as owner:
        job = await owner.listed([1, 2, 3])
        said = json.loads(await asyncio.to_thread(db, "backup", str(copy), "--state", str(old), "--output", "json"))
        assert said == {"file": str(copy), "bytes": copy.stat().st_size}
        assert copy.stat().st_mode & 0o077 == 0
        identity, account = owner.client.identity, owner.account
        await owner.submit_service.request("cancelJob", {"job": job})  # after the copy: not in it
    new.mkdir()
    shutil.copy(old / "scheduler.keystore", new)
    await asyncio.to_thread(db, "restore", str(copy), "--state", str(new))
    report = json.loads(await asyncio.to_thread(db, "check", "--state", str(new), "--output", "json"))
    assert report["ledger"]["problems"] == []
    assert report["ledger"]["postings"] > 0
    async with SchedulerApp(settings_in(new)) as app, deployer(app.url, account, identity) as owner:
        await owner.subscribe(job, "result", "status")
        async with serving(app.url, lambda datum, _: datum * 10):
            await owner.wait_for("result", 3)
        assert owner.decoded() == {1: 10, 2: 20, 3: 30}


def test_what_cannot_be_done(tmp_path: pathlib.Path) -> None:
    def problem(*arguments: str) -> str:
        with pytest.raises(InvalidInput) as caught:
            db(*arguments)
        return caught.value.message

    copy = str(tmp_path / "copy")
    assert "there is no database" in problem("backup", copy, "--state", str(tmp_path))
    db("migrate", "--state", str(tmp_path))
    db("backup", copy, "--state", str(tmp_path))
    assert "is there already" in problem("backup", copy, "--state", str(tmp_path))
    assert "move the file away" in problem("restore", copy, "--state", str(tmp_path))
    (tmp_path / "rubbish").write_text("this is no database" * 100)
    assert "cannot be copied" in problem("restore", str(tmp_path / "rubbish"), "--state", str(tmp_path / "x"))
    assert not (tmp_path / "x" / "scheduler.sqlite").exists()
    assert "is there already" in problem("backup", copy, "--database", "postgresql://nobody@localhost/none")
    gone = "postgresql://nobody@localhost:1/none"
    assert "pg_dump failed with status 1: " in problem("backup", str(tmp_path / "other"), "--database", gone)
    assert not (tmp_path / "other").exists()
    assert "pg_restore failed" in problem("restore", copy, "--database", gone)
    assert "options that pg_dump cannot be given: x" in problem("restore", copy, "--database", f"{gone}?x=1")
    assert "must name a database" in problem("restore", copy, "--database", "postgresql://nobody@localhost")


async def test_a_postgresql_is_backed_up_while_schedulers_work_and_restored(
    tmp_path: pathlib.Path, postgres_server: PostgresServer, postgres_url: str
) -> None:
    state, copy = tmp_path / "state", tmp_path / "copy"
    settings = settings_in(state).model_copy(update={"database_url": postgres_url})
    async with SchedulerApp(settings) as app, deployer(app.url) as owner:
        waiting = await owner.listed([1, 2, 3])
        async with serving(app.url, lambda datum, _: datum * 10), asyncio.TaskGroup() as group:
            # Money moves and slices are settled all the while.
            done = asyncio.Event()
            busy = [group.create_task(_keep_deploying(app.url, owner.account, done)) for _ in range(3)]
            await owner.wait_for("result", 3)
            report = await asyncio.to_thread(db, "backup", str(copy), "--database", postgres_url, "--output", "json")
            done.set()
        assert sum(task.result() for task in busy) > 0
        assert json.loads(report)["bytes"] == copy.stat().st_size
        assert copy.stat().st_mode & 0o077 == 0
        identity, account = owner.client.identity, owner.account
    new_url = postgres_server.create(migrated=False)
    try:
        await asyncio.to_thread(db, "restore", str(copy), "--database", new_url)
        with pytest.raises(InvalidInput, match="is not empty; make a new one"):
            await asyncio.to_thread(db, "restore", str(copy), "--database", new_url)
        checked = json.loads(await asyncio.to_thread(db, "check", "--database", new_url, "--output", "json"))
        assert checked["ledger"]["problems"] == []
        assert checked["ledger"]["postings"] > 0
        assert checked["schema"]["pending"] == []
        audit = ["audit", "--database", new_url, "--state", str(state), "--output", "json"]
        audited = await asyncio.to_thread(CliRunner().invoke, bank, audit)
        assert audited.exit_code == 0, audited.output
        again = settings.model_copy(update={"database_url": new_url})
        async with SchedulerApp(again) as app, deployer(app.url, account, identity) as owner:
            # The restored Scheduler knows the old job, and takes new ones.
            assert [one["id"] for one in await owner.pheme.request("listJobs", {"job": waiting})] == [waiting]
            async with serving(app.url, lambda datum, _: datum + 1):
                job = await owner.listed([1])
                await owner.wait_for("result", 1)
            assert owner.decoded() == {1: 2}
            assert job != waiting
    finally:
        postgres_server.drop(new_url)


async def _keep_deploying(url: str, account: PrivateKey, done: asyncio.Event) -> int:
    """How many jobs were computed meanwhile."""
    count = 0
    async with deployer(url, account) as owner:
        while not done.is_set():
            await owner.listed([1, 2, 3, 4])
            count += 1
            await owner.wait_for("result", 4 * count)
    return count
