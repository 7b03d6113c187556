"""`dcp-orchestrator scheduler`: run the Scheduler and its Bank."""

from __future__ import annotations

import asyncio
import contextlib
import decimal
import pathlib
import signal
from typing import Any

import click

from orchestrator.cli import logs
from orchestrator.errors import InvalidInput
from orchestrator.settings import SchedulerSettings, settings_from


@click.group()
def command() -> None:
    """Run the Scheduler and its Bank."""


@command.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="TCP port; 0 takes a free one.  [default: 9001]")
@click.option("--public-url", help="URL under which clients reach this Scheduler.")
@click.option(
    "--state", "state_dir", type=click.Path(file_okay=False, path_type=pathlib.Path),
    help="Folder of the database and the service keystore.  [default: .local/scheduler]",
)  # fmt: skip
@click.option("--database", "database_url", help="Database URL instead of SQLite in the state folder.")
@click.option("--initial-credit", help="DCC that an account starts with when it is first used; for local computers.")
@click.option(
    "--lease", "lease_s", type=click.FloatRange(1), help="Seconds of silence after which slices go to others."
)
@click.option("--verbose", is_flag=True, help="Log more to stderr.")
def run(initial_credit: str | None, verbose: bool, **flags: Any) -> None:
    """Serve until SIGINT or SIGTERM. Prints `ready URL` on stdout once clients may connect."""
    logs.configure("info" if verbose else "warning")
    given = {name: value for name, value in flags.items() if value is not None}
    if initial_credit is not None:
        given["initial_credit"] = _units(initial_credit)
    asyncio.run(serve(settings_from(SchedulerSettings, given)))


async def serve(settings: SchedulerSettings) -> None:
    """Run the Scheduler until a signal asks it to stop."""
    from orchestrator.scheduler.app import SchedulerApp  # noqa: PLC0415 — slow to import, not needed for --help

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with SchedulerApp(settings) as app:
        click.echo(f"ready {app.url}")
        async with asyncio.TaskGroup() as group:
            running = group.create_task(app.run())
            stopped = group.create_task(stop.wait())
            await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
            for task in (running, stopped):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


def _units(text: str) -> int:
    try:
        amount = decimal.Decimal(text) * 10**18
    except decimal.InvalidOperation:
        amount = decimal.Decimal(-1)
    if not amount.is_finite() or amount < 0:
        raise InvalidInput(f"--initial-credit is {text!r}; it must be an amount of DCC, such as 1000")
    return int(amount)
