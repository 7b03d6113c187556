"""Who gets which jobs, with the unmodified client and two Workers in containers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
from collections.abc import AsyncIterator

import pytest

from orchestrator.protocol.client import DcpClient
from orchestrator.wallet import files
from tests.e2e import harness
from tests.e2e.tools import Tools

pytestmark = [pytest.mark.npm, pytest.mark.docker]

PROGRAM = """
    const work = (x) => { progress(); return -x; };
    const discrete = compute.for(1, 6, work);
    discrete.requirements.discrete = true;
    const named = compute.for(1, 5, work);
    named.public.name = 'Secret plans';
    const gpu = compute.for(1, 2, work);
    gpu.requirements.environment = { webgpu: true };
    gpu.on('accepted', () => say('gpu', gpu.id));
    const [first, second] = [discrete.exec(1), named.exec(100)];
    const never = gpu.exec(1);
    say('discrete', Array.from(await first));
    say('named', Array.from(await second));
    await never;
"""


@contextlib.asynccontextmanager
async def worker(tools: Tools, folder: pathlib.Path, payee: str, *options: str) -> AsyncIterator[None]:
    files.load_or_create(tools.wallet.folder / f"{payee}.keystore", payee)
    command = await harness.Command.start(
        "worker", "run", "--scheduler", tools.url, "--state", str(folder / payee), "--sandboxes", "1",
        "--payment-address", tools.address(payee), *options, log=folder / f"{payee}.log",
    )  # fmt: skip
    try:
        await command.wait_for_line("ready ")
        yield
    finally:
        await command.stop()


async def earned(tools: Tools, name: str) -> float:
    key = files.load(tools.wallet.folder / f"{name}.keystore").unlock_blocking("")
    async with DcpClient(key) as own:
        teller = own.connect(f"{tools.url}bankTeller/")
        answer = await teller.request("viewAccount", {"address": key.address}, authorize=[key])
    return float(answer["balance"]) - 1000


async def test_discrete_jobs_filters_and_gpus(tools: Tools, tmp_path: pathlib.Path) -> None:
    """Every worker gets a slice of a discrete job before one gets a second; a job that its owner does not want goes to
    the other worker; a job for a GPU waits and says why."""
    async with (
        worker(tools, tmp_path, "one", "--block-job-name", "^secret"),
        worker(tools, tmp_path, "two"),
        harness.client(
            PROGRAM, scheduler=tools.url, wallet=tools.wallet, node=tools.node, npm_modules=tools.modules
        ) as client,
    ):
        gpu = await client.wait_for("gpu")
        named = await client.wait_for("named")
        discrete = await client.wait_for("discrete")
        explained = json.loads((await tools.ours("job", "explain", gpu, "--output", "json"))[1])
        one, two = await asyncio.gather(earned(tools, "one"), earned(tools, "two"))
    assert (discrete, named) == ([-1, -2, -3, -4, -5, -6], [-1, -2, -3, -4, -5])
    assert one + two == 6 + 500
    assert 1 <= one <= 5
    assert two >= 501
    finding = explained["findings"][0]
    assert finding["code"] == "ECAPABILITY"
    assert "webgpu" in finding["what"]
