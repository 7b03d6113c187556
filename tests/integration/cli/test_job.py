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
