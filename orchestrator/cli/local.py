"""`dcp-orchestrator local`: the whole distributed computer in one process."""

from __future__ import annotations

import asyncio
import pathlib
from typing import Any

import click

from orchestrator import local
from orchestrator.cli import logs
from orchestrator.cli.local_view import JsonView, TextView
from orchestrator.cli.options import SettingsCommand, config_options, given, settings_options, show
from orchestrator.settings import LocalSettings, load


@click.command(cls=SettingsCommand)
@settings_options(LocalSettings)
@config_options
@click.option("--demo/--no-demo", default=True, help="Deploy the demo job first, or only serve.")
@click.option("--once", is_flag=True, help="End after the demo, for scripts.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="Lines for people, or one JSON object per line.")  # fmt: skip
@click.option("--log-level", type=click.Choice(logs.LEVELS), default="warning", show_default=True)
def command(
    *, demo: bool, once: bool, output: str, log_level: str, config: pathlib.Path | None, show_config: bool, **flags: Any
) -> None:
    """Run Scheduler, Bank and Worker here, and deploy a demo job.

    The line `ready http://127.0.0.1:PORT/` on stdout says that clients may connect (with --output json it is
    {"event": "ready", "url": …}). Any keystore may deploy: accounts start with a credit. The settings of its Scheduler
    and Worker come from the environment and from the tables [scheduler] and [worker] of a settings file.

    \b
    The first Ctrl-C (or SIGTERM) finishes the slices in work; the second gives them back at once.
    """
    if once and not demo:
        raise click.UsageError("--once ends after the demo: it cannot be combined with --no-demo")
    loaded = load(LocalSettings, given(flags), config)
    if show_config:
        show(loaded, output)
        return
    logs.configure(log_level, output)
    view = JsonView() if output == "json" else TextView()
    asyncio.run(local.run(loaded.settings, view, demo=demo, once=once, config=config))
