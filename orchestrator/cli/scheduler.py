"""`dcp-orchestrator scheduler`: run the Scheduler and its Bank."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import signal
from typing import Any

import click

from orchestrator.cli import logs
from orchestrator.cli.lazy import LazyGroup
from orchestrator.cli.options import SettingsCommand, config_options, given, settings_options, show
from orchestrator.collecting import collect_seldom
from orchestrator.settings import SchedulerSettings, load
from orchestrator.task_groups import TaskGroup


@click.group(
    cls=LazyGroup, later={"bans": ("orchestrator.cli.bans", "Which addresses and identities are banned; lift bans.")}
)
def command() -> None:
    """Run the Scheduler and its Bank, and see whom it has banned."""


@command.command(cls=SettingsCommand)
@settings_options(SchedulerSettings)
@config_options
@click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of what is printed."
)
@click.option("--verbose", is_flag=True, help="Log more to stderr.")
def run(*, verbose: bool, output: str, config: pathlib.Path | None, show_config: bool, **flags: Any) -> None:
    """Serve until SIGINT or SIGTERM. Prints `ready URL` on stdout once clients may connect.

    Every setting can also be given in the environment, as DCP_ORCHESTRATOR_SCHEDULER_<NAME>, and in the table
    [scheduler] of a settings file. Flags win over the environment, and the environment over the file.
    """
    loaded = load(SchedulerSettings, given(flags), config)
    if show_config:
        show(loaded, output)
        return
    logs.configure("info" if verbose else "warning", output)
    asyncio.run(serve(loaded.settings, output))


async def serve(settings: SchedulerSettings, output: str = "text") -> None:
    """Run the Scheduler until a signal asks it to stop."""
    from orchestrator.scheduler.app import SchedulerApp  # noqa: PLC0415 — slow to import, not needed for --help

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with SchedulerApp(settings) as app:
        collect_seldom()
        click.echo(json.dumps({"event": "ready", "url": app.url}) if output == "json" else f"ready {app.url}")
        async with TaskGroup() as group:
            running = group.create_task(app.run())
            stopped = group.create_task(stop.wait())
            await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
            for task in (running, stopped):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
