"""The network between Worker and Scheduler is cut, cut one way, and lossy: nothing accepted is lost, nothing is left.

Stated: results flow again within 45 s of the network's return, whatever was cut (a dead connection is noticed by its
missing pings), and jobs complete under a loss of 20 %.
"""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator, Callable

import pytest

from tests.e2e import harness
from tests.faults.network import Cable
from tests.faults.parts import Parts, assert_complete, deployed, free_port, stop
from tests.parts.containers import containers_of

pytestmark = [pytest.mark.docker, pytest.mark.npm, pytest.mark.timeout(600), pytest.mark.usefixtures("root_tools")]

BACK_S = 45.0


@pytest.fixture
async def cable() -> AsyncIterator[Cable]:
    with Cable().laid() as laid:
        yield laid


@pytest.fixture
async def apart(cable: Cable, tmp_path: pathlib.Path) -> AsyncIterator[Parts]:
    """A Scheduler on this side of a cable, a Worker on the other; both on the machine's Docker Engine."""
    parts = Parts(tmp_path, free_port(cable.host), host=cable.host)
    parts.worker_prefix = cable.prefix
    try:
        await parts.start_scheduler()
        await parts.start_worker()
        yield parts
    finally:
        cable.mend()
        await stop(parts)
    assert containers_of(parts.worker_id()) == []


@pytest.mark.parametrize("chains", [("INPUT", "OUTPUT"), ("OUTPUT",), ("INPUT",)], ids=["both ways", "out", "in"])
async def test_cut(
    apart: Parts, cable: Cable, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path,
    lasting: Callable[..., float], chains: tuple[str, ...],
) -> None:  # fmt: skip
    async with deployed(apart, wallet, node, npm_modules) as client:
        await client.wait_for("result", count=20)
        cable.drop(*chains)
        await asyncio.sleep(lasting(120, least=8))
        cable.mend()
        seen = sum(name == "result" for name, _ in client.said)
        await client.wait_for("result", count=min(seen + 1, 200), within=BACK_S)
        await assert_complete(client, apart)


async def test_a_fifth_of_all_packets_is_lost(
    apart: Parts, cable: Cable, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    cable.drop("INPUT", "OUTPUT", part=0.2)
    async with deployed(apart, wallet, node, npm_modules) as client:
        await assert_complete(client, apart, within=240)


async def test_the_worker_starts_before_its_network(
    cable: Cable, tmp_path: pathlib.Path, wallet: harness.Wallet, node: pathlib.Path, npm_modules: pathlib.Path
) -> None:
    parts = Parts(tmp_path, free_port(cable.host), host=cable.host)
    parts.worker_prefix = cable.prefix
    cable.drop("INPUT", "OUTPUT")
    try:
        await parts.start_scheduler()
        await parts.start_worker()
        await parts.wait_for_log("scheduler_unreachable", within=harness.PATIENCE_S)
        cable.mend()
        async with deployed(parts, wallet, node, npm_modules) as client:
            await assert_complete(client, parts)
    finally:
        cable.mend()
        await stop(parts)
    assert containers_of(parts.worker_id()) == []
