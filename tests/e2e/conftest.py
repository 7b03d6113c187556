"""One local computer for the tests that only use it; tests that break things start their own."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from orchestrator.wallet import files
from tests.e2e import harness
from tests.e2e.tools import Tools

RunClient = Callable[..., Awaitable[harness.ClientRun]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def computer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of a whole local computer with two sandboxes, shared by the session."""
    folder = tmp_path_factory.mktemp("computer")
    command = await harness.Command.start(
        "local", "--no-demo", "--port", "0", "--sandboxes", "2", "--state", str(folder / "state"), log=folder / "log"
    )
    try:
        ready = await command.wait_for_line("ready ")
        yield ready.removeprefix("ready ").strip()
    finally:
        status = await command.stop()
    assert status == 0, command.log.read_text()[-4000:]


@pytest.fixture
async def wallet(tmp_path: pathlib.Path) -> harness.Wallet:
    folder = tmp_path / "dcp"
    folder.mkdir()
    return await harness.Wallet.create(folder)


@pytest.fixture
def run(computer: str, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path) -> RunClient:
    """Run a program of the official client to its end against the shared computer."""

    async def run_client(program: str, *, scheduler: str = computer, within: float = 90.0) -> harness.ClientRun:
        async with harness.client(
            program, scheduler=scheduler, wallet=wallet, node=node, npm_modules=npm_modules
        ) as client:
            return await client.finish(within=within)

    return run_client


@pytest.fixture
async def tools(
    wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path, tmp_path: pathlib.Path
) -> AsyncIterator[Tools]:
    """Command-line tools, and a Scheduler of their own."""
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
