"""`dcp-orchestrator scheduler`: run the Scheduler and its Bank."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any

import click

from orchestrator.cli import logs
from orchestrator.cli.options import SettingsCommand, given, settings_options
from orchestrator.settings import SchedulerSettings, settings_from


@click.group()
def command() -> None:
    """Run the Scheduler and its Bank."""


@command.command(cls=SettingsCommand)
@settings_options(SchedulerSettings)
@click.option("--verbose", is_flag=True, help="Log more to stderr.")
def run(verbose: bool, **flags: Any) -> None:
    """Serve until SIGINT or SIGTERM. Prints `ready URL` on stdout once clients may connect.

    Every setting can also be given in the environment, as DCP_ORCHESTRATOR_SCHEDULER_<NAME>.
    """
    logs.configure("info" if verbose else "warning")
    asyncio.run(serve(settings_from(SchedulerSettings, given(flags))))


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
