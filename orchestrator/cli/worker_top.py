"""`dcp-orchestrator worker top`: a live view of a running worker in the terminal."""

from __future__ import annotations

import asyncio
import pathlib
import shutil
from typing import Any

import click

from orchestrator.cli import top_view
from orchestrator.cli.worker_control import state_option
from orchestrator.worker.control_client import ControlClient

_NARROWEST = 80


@click.command()
@state_option
@click.option(
    "--interval", "interval_s", type=click.FloatRange(0.1, 60), default=1.0, show_default=True,
    help="Seconds between two looks.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Print one frame as plain text, after one interval, and end.")
def command(*, state_dir: pathlib.Path, interval_s: float, once: bool) -> None:
    """Watch a running worker: places for sandboxes, jobs, slices a second, CPU, memory, pool, earnings, log.

    It attaches to the worker's socket, and again when the worker was restarted. Made for 80×24 and up.

    \b
    Keys: q quit, p pause or resume, d drain (asks first), l log, tab next part, ? help.
    """
    if once:
        width = max(shutil.get_terminal_size((_NARROWEST, 24)).columns, _NARROWEST)
        click.echo("\n".join(asyncio.run(_one_frame(state_dir, interval_s, width))))
        return
    from orchestrator.cli.top_app import TopApp  # noqa: PLC0415  (textual takes its time to load)

    TopApp(state_dir, interval_s).run()


async def _one_frame(state_dir: pathlib.Path, interval_s: float, width: int) -> list[str]:
    history = top_view.History()
    async with ControlClient(state_dir) as worker:
        history.add(await worker.status())
        await asyncio.sleep(interval_s)
        history.add(await worker.status(), await worker.explain())
        log: list[dict[str, Any]] = [line async for line in worker.log(recent=10, follow=False)]
    return [line.plain.rstrip() for line in top_view.frame(history, log, width)]
