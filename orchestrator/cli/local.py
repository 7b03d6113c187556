"""`dcp-orchestrator local`: the whole distributed computer in one process."""

from __future__ import annotations

import asyncio
import pathlib

import click

from orchestrator import local
from orchestrator.cli import logs
from orchestrator.cli.local_view import JsonView, TextView
from orchestrator.settings import LocalSettings, settings_from


@click.command()
@click.option("--host", default=None, help="Address to listen on.  [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=None, help="TCP port; 0 takes a free one.  [default: 9001]"
)
@click.option("--state", "state_dir", type=click.Path(path_type=pathlib.Path, file_okay=False), default=None,
              help="Database, keystores and the demo's picture.  [default: .local]")  # fmt: skip
@click.option(
    "--sandboxes",
    type=click.IntRange(1, 1024),
    default=None,
    help="Sandboxes at work at once.  [default: one per core]",
)
@click.option("--demo/--no-demo", default=True, help="Deploy the demo job first, or only serve.")
@click.option("--once", is_flag=True, help="End after the demo, for scripts.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="Lines for people, or one JSON object per line.")  # fmt: skip
@click.option("--log-level", type=click.Choice(logs.LEVELS), default="warning", show_default=True)
def command(
    *,
    host: str | None, port: int | None, state_dir: pathlib.Path | None, sandboxes: int | None,
    demo: bool, once: bool, output: str, log_level: str,
) -> None:  # fmt: skip
    """Run Scheduler, Bank and Worker here, and deploy a demo job.

    The line `ready http://127.0.0.1:PORT/` on stdout says that clients may connect (with --output json it is
    {"event": "ready", "url": …}). Any keystore may deploy: accounts start with a credit.

    \b
    The first Ctrl-C (or SIGTERM) finishes the slices in work; the second gives them back at once.
    """
    if once and not demo:
        raise click.UsageError("--once ends after the demo: it cannot be combined with --no-demo")
    logs.configure(log_level, output)
    given = {"host": host, "port": port, "state_dir": state_dir, "sandboxes": sandboxes}
    settings = settings_from(LocalSettings, {name: value for name, value in given.items() if value is not None})
    view = JsonView() if output == "json" else TextView()
    asyncio.run(local.run(settings, view, demo=demo, once=once))
