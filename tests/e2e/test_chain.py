"""Credits come from an Ethereum chain and go back to it, with our commands; the Scheduler is killed on the way."""

from __future__ import annotations

import asyncio
import json
import pathlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.bank.amounts import UNITS
from orchestrator.cli.main import cli
from orchestrator.wallet import files
from orchestrator.wallet.keys import PrivateKey
from orchestrator.wallet.keystores import Keystore
from tests.e2e import harness
from tests.ethereum import Chain

THERE = PrivateKey(b"\x23" * 32).address
CONFIRMATIONS = 2


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def told(*arguments: str) -> Any:
    """What a command of ours answers."""
    result = await asyncio.to_thread(CliRunner().invoke, cli, [*arguments, "--output", "json"])
    if result.exception is not None:
        raise result.exception
    return json.loads(result.output)


async def shown(port: int) -> dict[tuple[str, ...], float]:
    """The Scheduler's metrics, by name and labels."""
    url = f"http://127.0.0.1:{port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        page = await answer.text()
    families = text_string_to_metric_families(page)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await true():
            await asyncio.sleep(0.05)


async def test_from_the_chain_and_back(
    tmp_path: pathlib.Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCP_RESOURCE_DIR", str(tmp_path / "wallet"))
    for name in ("user", "bank"):
        files.save(tmp_path / f"{name}.keystore", Keystore.encrypt(PrivateKey.generate(), ""))
    user, bank = [await files.load(tmp_path / f"{name}.keystore").unlock("") for name in ("user", "bank")]
    metrics = free_port()
    async with Chain() as chain:
        for key in (user, bank):
            chain.give_gas(key.address)
        chain.mint(user.address, 100 * UNITS)
        chain.mine()
        settings = tmp_path / "settings.toml"
        settings.write_text(f"""
            [scheduler]
            state_dir = "{tmp_path}/state"
            database_url = "{database_url}"
            port = 0
            chain_url = "{chain.rpc_url}"
            chain_contract = "{chain.contract}"
            chain_keystore = "{tmp_path}/bank.keystore"
            chain_confirmations = {CONFIRMATIONS}
            chain_poll_s = 0.05
            chain_withdrawals = true
            metrics_listen = "127.0.0.1:{metrics}"
            """)
        settings.chmod(0o600)
        books = ["--config", str(settings)]

        async def scheduler() -> tuple[harness.Command, str]:
            started = await harness.Command.start("scheduler", "run", *books, log=tmp_path / "scheduler.log")
            return started, (await started.wait_for_line("ready ")).removeprefix("ready ").strip()

        running, url = await scheduler()
        try:
            chain.transfer(user, bank.address, 10 * UNITS)
            chain.mine(CONFIRMATIONS)

            async def credited() -> bool:
                return (await shown(metrics)).get(("dcp_bank_chain_deposits_total",)) == 1

            await until(credited)
            withdraw = [
                "bank", "withdraw", "4", "--to", THERE, "--from", str(tmp_path / "user.keystore"), "--id", "w",
            ]  # fmt: skip
            asked = await told(*withdraw, "--scheduler", url)
            assert (asked["amount"], asked["toAddress"], asked["balance"]) == ("4", THERE, "6")

            async def sent() -> bool:
                return len(chain.pool) == 1

            await until(sent)
            await running.kill()
            running, url = await scheduler()
            again = asyncio.ensure_future(told(*withdraw, "--wait", "--scheduler", url))
            chain.mine(CONFIRMATIONS)
            done = await again
            assert (done["state"], done["attempts"]) == ("done", 1)
            assert chain.balance(THERE) == 4 * UNITS
            audit = await told("bank", "audit", *books)
            assert (audit["problems"], audit["reserve"], audit["withdrawing"]) == ([], "6", "0")
            (listed,) = await told("bank", "withdrawals", *books)
            assert listed["transaction"] == done["transaction"]
            assert listed["story"][1]["what"].startswith(f"signed as {done['transaction']}, nonce 0")
            seen = await shown(metrics)
            assert seen["dcp_bank_chain_withdrawals_total", "done"] == 1
            assert seen["dcp_bank_chain_carried",] == seen["dcp_bank_chain_height",] - CONFIRMATIONS + 1
            assert seen["dcp_bank_transfers_total", "pending"] == 1
        finally:
            await running.stop()
