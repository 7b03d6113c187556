"""A worker with a minimum wage and a job filter, against the real Scheduler and the official client."""

from __future__ import annotations

import asyncio
import pathlib
import signal
from typing import Any

import pytest

from orchestrator.worker.control_client import ControlClient
from tests.e2e import harness

pytestmark = pytest.mark.docker

#: At 3600 DCC per CPU hour a slice of 50 ms has to bring 0.05 DCC.
PROGRAM = """
    const work = (x) => { progress(); const end = Date.now() + 50; while (Date.now() < end); return x; };
    const poor = compute.for(1, 40, work);
    poor.public.name = 'poor';
    let computed = 0;
    poor.on('result', () => { computed++; });
    const ended = poor.exec(0.001).catch((error) => say('cancelled', error.code));
    const unwanted = compute.for(1, 4, work);
    unwanted.public.name = 'miner';
    const ended2 = unwanted.exec(1).catch((error) => say('cancelled', error.code));
    const good = compute.for(1, 12, work);
    good.public.name = 'good';
    say('good', Array.from(await good.exec(1)).length);
    say('poor', computed);
    const asked = new Promise((resolve) => process.once('SIGUSR2', resolve));
    say('ids', { poor: poor.id, unwanted: unwanted.id });
    await asked;
    await poor.cancel('enough');
    await unwanted.cancel('enough');
    await ended; await ended2;
"""


async def test_sighup_reads_the_file_again(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[worker]\n")
    file.chmod(0o600)
    async with harness.couple(tmp_path, "--config", str(file)) as couple:
        worker = couple.worker

        async def after(text: str, line: str, state: str) -> None:
            file.write_text(text)
            worker.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(20), ControlClient(tmp_path / "worker") as asked:
                while line not in worker.log.read_text() or (await asked.status())["state"] != state:
                    await asyncio.sleep(0.05)

        await worker.wait_for_line("ready ")
        await after('[worker]\nquiet_hours = ["00:00-24:00"]\n', "worker_paused", "paused")
        await after('[worker]\nquiet_hours = ["late"]\n', "settings_not_read_again", "paused")
        await after('[worker]\nimage = "other:1"\n', "settings_need_a_restart", "idle")
        assert await worker.stop() == 0


@pytest.mark.npm
async def test_jobs_that_pay_too_little_and_jobs_that_are_not_wanted_are_left_to_others(
    wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    wishes = ("--minimum-wage-cpu", "3600", "--wage-slices", "2", "--block-job-name", "^miner$")
    async with harness.couple(tmp_path, *wishes) as couple:
        async with harness.client(
            PROGRAM, scheduler=couple.url, wallet=wallet, node=node, npm_modules=npm_modules
        ) as client:
            ids = await client.wait_for("ids")
            async with ControlClient(tmp_path / "worker") as asked, asyncio.timeout(60):
                # Our Scheduler knows what the worker wants to earn, and does not offer what pays less, once it is
                # measured. It says so with its next answer.
                while not _are_left((told := await asked.explain()), ids):
                    await asyncio.sleep(0.1)
            client.process.send_signal(signal.SIGUSR2)
            outcome = (await client.finish()).ok()
        assert outcome.one("good") == 12 and outcome.one("poor") < 40
        assert "EJOBFILTER" in {one["code"] for one in told["findings"]}
        assert await couple.worker.stop() == 0


def _are_left(told: dict[str, Any], ids: dict[str, str]) -> bool:
    reasons = {(one["job"], one["code"]) for one in told["refusals"] if one["count"]}
    poor = any("pay less than its minimum wage" in one["what"] for one in told["findings"])
    return (ids["unwanted"], "EJOBFILTER") in reasons and (poor or (ids["poor"], "EWAGE") in reasons)
