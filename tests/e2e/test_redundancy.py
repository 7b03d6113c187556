"""A job whose workers must agree: our Worker and the unmodified dcp-worker do, though they write results differently; one
that lies is outvoted, and not paid."""

from __future__ import annotations

import asyncio
import json
import pathlib

import pytest

from orchestrator.compute.job import Job, JobEvent, Range, Redundancy
from orchestrator.protocol.client import DcpClient
from orchestrator.protocol.config import fetch_config
from orchestrator.wallet import files
from orchestrator.wallet.keys import PrivateKey
from tests.e2e import harness, official
from tests.e2e.test_official_workers import CREDIT, own_worker, scheduler
from tests.integration.scheduler.actors import serving

pytestmark = [pytest.mark.docker, pytest.mark.npm]

SLICES = 6
WORK = "(x, k) => { progress(); return { square: x * x, list: [x, k, null, 0.1], text: 'é %20' }; }"


@pytest.mark.usefixtures("on_postgres")
async def test_different_workers_agree_and_a_liar_is_outvoted(
    tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    owner = await files.load(wallet.folder / "id.keystore").unlock("")
    account = await files.load(wallet.folder / "default.keystore").unlock("")
    own, theirs = PrivateKey.generate(), PrivateKey.generate()
    events: list[JobEvent] = []
    job = Job(WORK, Range(1, SLICES), [7], slice_payment=2, redundancy=Redundancy(agree=2, of=3))
    async with scheduler(tmp_path / "scheduler") as url, DcpClient(owner) as client:
        config = await fetch_config(url)
        async with asyncio.timeout(90), asyncio.TaskGroup() as group:
            running = group.create_task(job.exec(client, config, account, events.append))
            # The liar is heard first, on every slice.
            async with serving(url, lambda _datum, _number: {"square": -1}, load=8.0) as liar:
                while len(liar.answers) < SLICES:
                    await asyncio.sleep(0.05)
            packages = official.Packages(node, npm_modules)
            async with (
                own_worker(url, tmp_path / "worker", own),
                official.official_worker(packages, 4, scheduler=url, payee=theirs.address),
            ):
                results = await running
        teller, pheme = client.connect(f"{url}bankTeller/"), client.connect(f"{url}pheme/")

        async def balance(key: PrivateKey) -> float:
            answer = await teller.request("viewAccount", {"address": key.address}, authorize=[key])
            return float(answer["balance"])

        assert [one["square"] for one in results] == [n * n for n in range(1, SLICES + 1)]
        assert results[2] == {"square": 9, "list": [3, 7, None, 0.1], "text": "é %20"}
        assert len([one for one in events if one.label == "result"]) == SLICES
        assert job.confidence == events[0].data
        assert events[0].label == "confidence"
        assert events[0].data["total"] == {"least": "24", "expected": events[0].data["total"]["expected"], "most": "36"}
        assert {one["verdict"] for one in liar.answers} == {"opinion"}
        assert await balance(account) == CREDIT - 2 * 2 * SLICES
        assert [await balance(key) for key in (own, theirs)] == [CREDIT + 2 * SLICES] * 2
        assert await balance(liar.payment) == CREDIT, "only its first credit"
        told = await pheme.request("explainJob", {"job": job.id})
        assert told["redundancy"]["opinions"] == {"agreed": 2 * SLICES, "wrong": SLICES}
        shown = await asyncio.create_subprocess_exec(
            str(harness.COMMAND), "job", "show", job.id, "--slice", "1", "--scheduler", url,
            "--identity", str(wallet.folder / "id.keystore"), "--output", "json", stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(30):
            report = json.loads((await shown.communicate())[0])
        assert [one["state"] for one in report["opinions"]] == ["wrong", "agreed", "agreed"]
        assert report["opinions"][0]["trust"].startswith(f"suspect: 0 opinions agreed with, {SLICES} shown wrong")
