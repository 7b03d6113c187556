"""Faults on real parts. How long they last is scaled by `--fault-scale`."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tests.e2e import harness
from tests.faults.parts import Engine, Parts, running_parts
from tests.parts.containers import containers_of


@pytest.fixture
def lasting(request: pytest.FixtureRequest) -> Callable[..., float]:
    """`lasting(600, least=5)`: the seconds that a fault of ten minutes lasts in this run."""
    scale: float = request.config.getoption("--fault-scale")
    return lambda full, least=1.0: max(full * scale, least)


@pytest.fixture
async def wallet(tmp_path: pathlib.Path) -> harness.Wallet:
    folder = tmp_path / "dcp"
    folder.mkdir()
    return await harness.Wallet.create(folder)


@pytest.fixture
async def parts(tmp_path: pathlib.Path) -> AsyncIterator[Parts]:
    """A Scheduler and a Worker on the machine's Docker Engine; nothing of the Worker's may be left there at the end."""
    async with running_parts(tmp_path) as running:
        yield running
    assert containers_of(running.worker_id()) == []


@pytest.fixture(scope="session")
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A Docker Engine of the tests' own, with the Evaluator image, so that what is done to it disturbs nobody."""
    if os.geteuid() != 0:
        pytest.skip("a Docker Engine of the test's own needs root")
    own = Engine.make()
    try:
        own.start()
        own.load_image()
        yield own
    finally:
        own.dispose()


@pytest.fixture
def engine(shared_engine: Engine) -> Iterator[Engine]:
    """The shared Engine, up and running before and after."""
    shared_engine.ensure_running()
    yield shared_engine
    shared_engine.ensure_running()


@pytest.fixture(scope="session")
def root_tools() -> None:
    """What the network and clock faults need beside root; `make test` installs it."""
    missing = [name for name in ("ip", "iptables", "faketime") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing else'}")
