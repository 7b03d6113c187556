"""`worker explain`, `worker drain` and `worker status` as processes, against a worker and a Scheduler as processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e import harness

pytestmark = [pytest.mark.docker, pytest.mark.npm, pytest.mark.timeout(400)]

FORBIDDEN = """
    const same = (x) => { progress(); return x; };
    await compute.for(new compute.RemoteDataPattern('http://127.0.0.1:9/{slice}', 2), same).exec().catch((e) => say('code', e.code));
"""
# The first slice is so much work that two commands can ask about it meanwhile, however busy the machine is.
SLOW = """
    const work = (i) => {
        console.log('begun');
        let sum = 0;
        for (let part = i > 1 ? 200 : 6000; part; part--) { progress(); for (let k = 0; k < 1e6; k++) sum = (sum * 31 + k) | 0; }
        return sum ? i * i : 0;
    };
    const job = compute.for(1, 6, work);
    job.on('console', () => say('begun'));
    say('results', Array.from(await job.exec()));
"""


@contextlib.asynccontextmanager
async def computer(folder: pathlib.Path) -> AsyncIterator[tuple[harness.Command, harness.Command, str]]:
    """A Scheduler, a worker with one sandbox, and the Scheduler's URL."""
    async with harness.couple(folder) as couple:
        await couple.worker.wait_for_line("ready ")
        yield couple.scheduler, couple.worker, couple.url


async def ask(folder: pathlib.Path, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        str(harness.COMMAND), "worker", *arguments, "--state", str(folder / "worker"),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(300):  # `drain --wait` lasts as long as the work
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def explained(folder: pathlib.Path, code: str) -> dict[str, Any]:
    """The finding, once it is the first of all."""
    async with asyncio.timeout(harness.PATIENCE_S):
        while True:
            status, out, err = await ask(folder, "explain", "--output", "json")
            assert status == 0, err
            finding = json.loads(out)["findings"][0]
            if finding["code"] == code:
                return finding


async def test_explain_follows_what_happens(
    tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    status, _out, err = await ask(tmp_path, "explain")
    assert status == 1 and f"no worker runs on the state folder {tmp_path / 'worker'}" in err
    async with computer(tmp_path) as (served, _worker, url):
        finding = await explained(tmp_path, "ENOWORK")
        assert url in finding["what"] and "deployed" in finding["remedy"]

        async with harness.client(
            FORBIDDEN, scheduler=url, wallet=wallet, node=node, npm_modules=npm_modules
        ) as client:
            finding = await explained(tmp_path, "EPERM_ORIGIN")
            assert "may not fetch from http://127.0.0.1:9" in finding["what"] and finding["count"] >= 1
            assert finding["remedy"].endswith("--allow-origin fetchData=http://127.0.0.1:9")
            await client.finish()
        status, out, _err = await ask(tmp_path, "explain")
        assert status == 0 and "change: if you trust it: --allow-origin fetchData=http://127.0.0.1:9" in out

        await served.kill()
        finding = await explained(tmp_path, "ENOSCHEDULER")
        assert finding["blocking"] and url in finding["what"] and finding["count"] >= 1


async def test_a_drained_worker_has_delivered_all_that_it_held(
    tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    async with computer(tmp_path) as (served, worker, url):
        async with harness.client(SLOW, scheduler=url, wallet=wallet, node=node, npm_modules=npm_modules) as client:
            await client.wait_for("begun")
            status, out, _err = await ask(tmp_path, "status")
            assert status == 0 and "working" in out and "1 busy of 1" in out
            status, out, err = await ask(tmp_path, "drain", "--wait")
            assert status == 0, err
            assert "everything was delivered" in out and "results accepted, 0 slices returned)" in out
            assert await worker.process.wait() == 0
            # What it did not hold is for another worker.
            async with harness.running(
                tmp_path, "worker", "run", "--scheduler", url, "--state", str(tmp_path / "worker")
            ) as second:
                # Before it is ready, a signal just ends it: the first may have left nothing for it to do.
                await second.wait_for_line("ready ")
                await client.wait_for("results")
                assert await second.stop() == 0
            assert (await client.finish()).ok().one("results") == [i * i for i in range(1, 7)]
        assert await served.stop() == 0


async def test_two_workers_on_one_state_folder(tmp_path: pathlib.Path) -> None:
    async with computer(tmp_path) as (_served, worker, url):
        state = str(tmp_path / "worker")
        async with harness.running(tmp_path, "worker", "run", "--scheduler", url, "--state", state) as second:
            assert await second.process.wait() == 1
        assert f"process {worker.process.pid}" in worker.log.read_text()
        assert (await ask(tmp_path, "status"))[0] == 0
