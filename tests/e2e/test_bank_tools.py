"""The command-line tools of the official packages, unmodified, against a Scheduler's Bank."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import pathlib
from collections.abc import AsyncIterator

import pytest

from orchestrator.wallet import files
from tests.e2e import harness

pytestmark = pytest.mark.npm

BANK_UTILITY = pathlib.Path("dcp-util/bin/bank-utility")
DCP_BANK = pathlib.Path("dcp-client/bin/dcp-bank")


@dataclasses.dataclass(frozen=True)
class Tools:
    """A Scheduler, the modules, and a wallet whose `default` account starts with 1000 DCC."""

    node: pathlib.Path
    modules: pathlib.Path
    wallet: harness.Wallet
    url: str

    def address(self, name: str) -> str:
        address = files.load(self.wallet.folder / f"{name}.keystore").address
        assert address is not None
        return address

    async def run(self, tool: pathlib.Path, *arguments: str) -> tuple[int, str]:
        """Exit status, and everything that was printed."""
        process = await asyncio.create_subprocess_exec(
            str(self.node), str(self.modules / tool), *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.wallet.folder),
                "DCP_RESOURCE_DIR": str(self.wallet.folder),
                "DCP_SCHEDULER_LOCATION": self.url,
                "DCP_CLIENT_ALLOW_INSECURE_CONFIGURATION": "1",
            },
        )  # fmt: skip
        try:
            async with asyncio.timeout(60):
                said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def balance(self) -> str:
        status, said = await self.run(BANK_UTILITY, "balance", "--json")
        assert status == 0, said
        account = json.loads(said)
        assert account["address"] == self.address("default")
        assert account["escrow"] == {"num": 0, "total": "0"}
        balance: str = account["balance"]
        return balance


@pytest.fixture
async def tools(
    wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path, tmp_path: pathlib.Path
) -> AsyncIterator[Tools]:
    files.load_or_create(wallet.folder / "other.keystore", "other")
    scheduler = await harness.Command.start(
        "scheduler", "run", "--port", "0", "--state", str(tmp_path / "scheduler"), "--initial-credit", "1000",
        log=tmp_path / "scheduler.log",
    )  # fmt: skip
    try:
        url = (await scheduler.wait_for_line("ready ")).removeprefix("ready ").strip()
        yield Tools(node, npm_modules, wallet, url)
    finally:
        await scheduler.stop()


async def test_bank_utility(tools: Tools) -> None:
    assert await tools.balance() == "1000"
    other = tools.address("other")
    status, said = await tools.run(BANK_UTILITY, "transfer", "1.25", other)
    assert (status, "Transfer successful!" in said) == (0, True), said
    assert await tools.balance() == "998.75"
    _, said = await tools.run(BANK_UTILITY, "transfer", "5000", other)
    assert "Not enough credits in source account" in said
    _, said = await tools.run(BANK_UTILITY, "transfer", "1", other, f"--source={other}", "--signingSource=default")
    assert f"may not move the money of fromAccount {other}" in said
    assert await tools.balance() == "998.75"


async def test_dcp_bank(tools: Tools) -> None:
    status, said = await tools.run(DCP_BANK, "transfer", "2.5", "--to=other")
    assert (status, said.endswith("success\n")) == (0, True), said
    assert await tools.balance() == "997.5"
    status, said = await tools.run(DCP_BANK, "transfer", "25000", "--to=other")
    assert (status, "has 997.5 DCC but 25000 DCC are needed (ENOFUNDS)" in said) == (4, True), said
    status, said = await tools.run(DCP_BANK, "transfer", "0.5", "--from=other", "--to=default")
    assert status == 0, said
    assert await tools.balance() == "998"
