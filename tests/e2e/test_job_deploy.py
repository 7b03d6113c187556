"""`dcp-orchestrator job deploy` as a process: against a Scheduler with a Worker, as somebody at a shell would use it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e import harness

pytestmark = pytest.mark.docker

WORK = (
    "(x, k) => { progress(); console.log('sees', x); if (x === 3) throw new RangeError('no threes'); return x * k; };"
)
SLOW = "(x) => { const end = Date.now() + 400; while (Date.now() < end) progress(); return -x; }"


@dataclasses.dataclass
class Said:
    status: int
    out: list[Any]
    err: str


@dataclasses.dataclass
class Shell:
    url: str
    wallet: harness.Wallet

    @contextlib.asynccontextmanager
    async def started(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            # Whoever started the tests may have had this signal ignored.
            "env", "--default-signal=INT", str(harness.COMMAND), "job", *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "DCP_SCHEDULER_LOCATION": self.url, "DCP_RESOURCE_DIR": str(self.wallet.folder)},
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def job(self, *arguments: str, stdin: str = "") -> Said:
        async with self.started(*arguments) as process, asyncio.timeout(60):
            out, err = await process.communicate(stdin.encode())
            lines = [json.loads(line) for line in out.decode().splitlines() if line.startswith(("{", "["))]
            return Said(process.returncode or 0, lines, err.decode())


@pytest.fixture
def shell(computer: str, wallet: harness.Wallet) -> Shell:
    return Shell(computer, wallet)


async def test_a_job_from_a_shell(shell: Shell, tmp_path: pathlib.Path) -> None:
    """Its price, results, console and errors, and the exit status when a slice failed."""
    offer = ("--payment", "0.5", "--arguments", "[10]", "--name", "tens")
    quote = await shell.job("deploy", "-", "--range", "1:4", *offer, "--dry-run", "--output", "json", stdin=WORK)
    assert quote.out[0]["total"]["most"] == "2" and quote.out[0]["event"] == "price"
    said = await shell.job("deploy", "-", "--range", "1:4", *offer, "--yes", stdin=WORK)
    assert said.status == 1, said.err
    assert sorted(said.out, key=lambda one: one["slice"]) == [
        {"slice": number, "result": 10 * number} for number in (1, 2, 4)
    ]
    for text in (
        "cost         2 DCC", "slice 2: log: sees 2", "slice 3: RangeError: no threes",
        "is finished: 3 of 4 slices have a result; why not: dcp-orchestrator job explain",
    ):  # fmt: skip
        assert text in said.err, text
    file = tmp_path / "results.jsonl"
    said = await shell.job(
        "deploy", "--code", "(x) => (progress(), x.a)", "--inputs", "-", "--yes", "--results", str(file),
        "--output", "json", stdin='{"a": 1}\n{"a": "é"}\n',
    )  # fmt: skip
    assert said.status == 0, said.err
    assert sorted(file.read_text(encoding="utf-8").splitlines()) == [
        '{"slice": 1, "result": 1}', '{"slice": 2, "result": "\\u00e9"}'
    ]  # fmt: skip
    assert [one["event"] for one in said.out if one["event"] != "progress"] == ["price", "deploying", "finished"]
    assert said.out[-1]["results"] == 2


async def test_a_job_is_left_and_come_back_to(shell: Shell) -> None:
    async with shell.started("deploy", "--code", SLOW, "--values", *"123456789", "--yes") as process:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            await process.stdout.readline()  # a result: it is deployed
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
    assert process.returncode == 130
    text = err.decode().splitlines()[-1]
    job = text.split()[1]
    assert text == (
        f"job {job} goes on without you; come back: dcp-orchestrator job wait {job}; "
        f"stop it: dcp-orchestrator job cancel {job}"
    )
    waited = await shell.job("wait", job)
    assert waited.status == 0, waited.err
    found = await shell.job("results", job)
    assert found.out == [{"slice": number, "result": -number} for number in range(1, 10)]
    assert sorted(waited.out, key=lambda one: one["slice"]) == found.out, "those that came before as well"
