"""The books of a Scheduler, for commands that read its database."""

from __future__ import annotations

import asyncio
import pathlib
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from orchestrator.cli import connection
from orchestrator.cli.options import given
from orchestrator.database import Database, Transaction, check_url, sqlite_url
from orchestrator.errors import InvalidInput, NotFound
from orchestrator.migrations import running
from orchestrator.settings import SchedulerSettings, load

_Result = TypeVar("_Result")


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where the books are: what the Scheduler's settings say."""
    state = click.option(
        "--state", "state_dir", type=click.Path(path_type=pathlib.Path), metavar="PATH",
        help="State folder of the Scheduler.  [default: its settings]",
    )  # fmt: skip
    url = click.option("--database", "database_url", metavar="URL", help="Its database, when not in the state folder.")
    named = click.option(
        "--config", type=click.Path(path_type=pathlib.Path), metavar="FILE", help="Settings file of the Scheduler."
    )
    return state(url(named(connection.output_option(function))))


def with_database(place: dict[str, Any], work: Callable[[Database], Coroutine[Any, Any, _Result]]) -> _Result:
    """Do `work` on the database that `options` name, or the settings.

    Raises `NotFound` when there is none, `InvalidInput` when it is of an elder version.
    """
    config = place.pop("config")
    settings = load(SchedulerSettings, given(place), config).settings
    url = settings.database_url
    if url is None:
        path = settings.state_dir / "scheduler.sqlite"
        if not path.is_file():
            raise NotFound(f"no books: there is no {path}; give --state or --database")
        url = sqlite_url(path)

    behind = running.look(check_url(url)).pending
    if behind:
        raise InvalidInput(
            f"the books are of an elder version (without {behind[0]}): start this version's Scheduler once, or run"
            " `dcp-orchestrator db migrate`"
        )

    async def run() -> _Result:
        database = await Database.open(url, migrate=False)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


def read(place: dict[str, Any], looking: Callable[[Transaction], Coroutine[Any, Any, _Result]]) -> _Result:
    """What `looking` finds in a snapshot. Raises what `with_database` raises."""

    async def work(database: Database) -> _Result:
        async with database.snapshot() as tx:
            return await looking(tx)

    return with_database(place, work)


def print_table(names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Columns whose names end with DCC are numbers."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name.endswith("DCC") else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    width = max((len(line) for row in rows for line in row), default=0) * len(names) + 40
    Console(highlight=False, soft_wrap=True, width=max(width, 80)).print(table)


def moment(seconds: float) -> str:
    """A time, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
