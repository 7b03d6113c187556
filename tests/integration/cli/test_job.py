"""`dcp-orchestrator job` against a Scheduler that runs."""

from __future__ import annotations

import asyncio
import json
import pathlib
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.bank import Bank
from orchestrator.cli.main import cli
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.scheduler.app import SchedulerApp
from orchestrator.settings import SchedulerSettings
from orchestrator.wallet import files
from tests.integration.scheduler.actors import deployer


async def job_command(*arguments: str) -> str:
    """What `job …` prints. Raises what it raises."""
    result = await asyncio.to_thread(CliRunner().invoke, cli, ["job", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


async def test_a_job_without_funds_is_topped_up_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCP_RESOURCE_DIR", str(tmp_path / "wallet"))
    giver = files.load_or_create(tmp_path / "wallet" / "default.keystore", "default")
    settings = SchedulerSettings(port=0, state_dir=tmp_path / "state", initial_credit=1000 * 10**18)
    async with SchedulerApp(settings) as app, deployer(app.url) as client:
        job = await client.deploy("nofunds", mvMultSlicePayment=0, absoluteSlicePayment=300)
        await client.add(job, [1, 2, 3, 4, 5])  # of which the account can pay three
        fund = ["fund", job, "--scheduler", app.url]

        async def told(*arguments: str) -> Any:
            return json.loads(await job_command(*fund, *arguments, "--output", "json"))

        for _ in range(2):
            answer = await told("310", "--id", "gift")
            assert (answer["escrow"], answer["fundsRequired"], answer["transferId"]) == ("1200", "300", "gift")
        assert answer["added"] == "0"
        with pytest.raises(OrchestratorError, match="less than one slice") as caught:
            await told("299")
        assert caught.value.code == "EINVAL"
        with pytest.raises(InvalidInput, match="amount 'much' is not a decimal number"):
            await told("much")
        with pytest.raises(InvalidInput, match="ID"):
            await job_command("fund", "x", "--scheduler", app.url)
        assert "300 DCC added" in (text := await job_command(*fund))
        assert "holds 1500 DCC, nothing lacking" in text
        async with app.core.database.snapshot() as tx:
            assert await Bank().balance(tx, giver.address) == 400 * 10**18


async def test_a_job_is_priced_deployed_left_alone_and_found_stopped(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCP_RESOURCE_DIR", str(tmp_path / "wallet"))
    files.load_or_create(tmp_path / "wallet" / "default.keystore", "default")
    files.load_or_create(tmp_path / "wallet" / "id.keystore", "id")
    settings = SchedulerSettings(port=0, state_dir=tmp_path / "state", initial_credit=10 * 10**18)
    async with SchedulerApp(settings) as app:
        monkeypatch.setenv("DCP_SCHEDULER_LOCATION", app.url)
        deploy = ["deploy", "--code", "(x) => x", "--payment", "0.5", "--redundancy"]
        priced = await job_command(*deploy, "--range", "1:6", "--dry-run")
        assert "cost         about 6.057 DCC, 6 at least, 12 at most\n" in priced
        assert "held         12 DCC; what is not spent goes back\n" in priced
        assert "has 10 DCC: not enough\n" in priced
        with pytest.raises(OrchestratorError, match="6 slices cost 12 DCC") as caught:
            await job_command(*deploy, "--range", "1:6", "--yes")
        assert caught.value.code == "ENOFUNDS"
        with pytest.raises(OrchestratorError, match="there is no compute group lab that takes jobs from you"):
            await job_command(*deploy, "--range", "1:2", "--yes", "--group", "lab,secret")
        output = await job_command(*deploy, "--values", "--yes", "--detach", "--name", "left alone", "a", "-1")
        job = output.splitlines()[-1]
        [kept] = json.loads(await job_command("list", "--output", "json"))
        assert (kept["job"], kept["name"], kept["total"], kept["escrow"]) == (job, "left alone", 2, "4")
        assert kept["redundancy"] == {"agree": 2, "of": 4, "trusting": False, "inDoubt": 0}
        assert await job_command("results", job) == ""
        await job_command("cancel", job, "--reason", "enough")
        waited = await asyncio.to_thread(CliRunner().invoke, cli, ["job", "wait", job, "--output", "json"])
        assert waited.exit_code == 1
        assert json.loads(waited.output.splitlines()[-1]) == {
            "event": "failed", "job": job, "code": "ECANCELLED", "message": f"job {job} was stopped: enough",
        }  # fmt: skip
        with pytest.raises(OrchestratorError, match="there is no job"):
            await job_command("wait", "x" * 22)
