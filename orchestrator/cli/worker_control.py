"""`dcp-orchestrator worker status | drain | pause | resume`: short words to a running worker."""

from __future__ import annotations

import asyncio
import json
import pathlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import click
from rich.console import Console
from rich.status import Status

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.settings import WorkerSettings, load
from orchestrator.worker.control_client import ControlClient, NoWorker

_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

state_option = click.option(
    "--state", "state_dir", type=click.Path(path_type=pathlib.Path, file_okay=False), metavar="DIR",
    default=lambda: load(WorkerSettings, {}).settings.state_dir,
    help="The worker's state folder.  [default: as the settings file or $DCP_ORCHESTRATOR_WORKER_STATE_DIR say]",
)  # fmt: skip
output_option = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print the answer."
)


@click.command()
@state_option
@output_option
def status(*, state_dir: pathlib.Path, output: str) -> None:
    """What a running worker is at: its state, work, sandboxes and totals.

    Exit status 1 when no worker answers.
    """

    async def ask() -> dict[str, Any]:
        async with ControlClient(state_dir) as worker:
            return await worker.status()

    answer = asyncio.run(ask())
    click.echo(json.dumps(answer) if output == "json" else "\n".join(_status_lines(answer)))


@click.command()
@state_option
@click.option("--wait", is_flag=True, help="Wait until the worker has ended, and show what is left.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), metavar="S",
    help="Stop waiting after so many seconds; the worker goes on draining.  [default: none]",
)  # fmt: skip
@output_option
def drain(*, state_dir: pathlib.Path, wait: bool, timeout_s: float | None, output: str) -> None:
    """Let the worker finish and submit all that it holds, take nothing new, then end with status 0.

    It has no time limit of its own: a signal (SIGTERM) ends a draining worker sooner. With --wait the exit status is 0
    when every result was delivered, 1 when some were not, or when the waiting took too long.
    """
    if timeout_s is not None and not wait:
        raise click.UsageError("--timeout limits the waiting: give --wait too")
    if wait:
        sys.exit(asyncio.run(_drain_and_wait(state_dir, timeout_s, output)))

    async def ask() -> dict[str, Any]:
        async with ControlClient(state_dir) as worker:
            return await worker.drain()

    answer = asyncio.run(ask())
    click.echo(json.dumps(answer) if output == "json" else f"draining: {_left(answer)}")


async def _drain_and_wait(state_dir: pathlib.Path, timeout_s: float | None, output: str) -> int:
    last: dict[str, Any] = {}
    show = _printer(output)
    try:
        async with asyncio.timeout(timeout_s), ControlClient(state_dir) as worker:
            async for line in worker.drain_and_wait():
                last = line
                show(line)
    except TimeoutError:
        raise OrchestratorError(
            f"the worker still drains after {timeout_s:g} s: {_left(last) if last else 'it said nothing yet'}. "
            "It goes on; ask again, or end it with SIGTERM",
            code="ETIMEDOUT",
        ) from None
    finally:
        show(None)
    if last.get("event") != "ended":
        raise NoWorker(f"the worker was killed before it had finished: {_left(last)}")
    if output == "text":
        end = (
            "everything was delivered" if last["delivered"] else f"{last['unacknowledged']} reports were not delivered"
        )
        click.echo(
            f"the worker has ended: {end} ({last['accepted']} results accepted, {last['returned']} slices returned)"
        )
    return 0 if last["delivered"] else 1


def _printer(output: str) -> Callable[[Mapping[str, Any] | None], None]:
    """Shows each line of a drain's progress; None says that it is over."""
    if output == "json":
        return lambda line: None if line is None else click.echo(json.dumps(line))
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        return lambda _line: None
    spinner = Status("draining", console=console)
    spinner.start()

    def show(line: Mapping[str, Any] | None) -> None:
        if line is None:
            spinner.stop()
        elif line["event"] == "draining":
            spinner.update(f"draining: {_left(line)}")

    return show


@click.command()
@state_option
@click.option("--reason", metavar="TEXT", help="Told to whoever asks why the worker is paused.")
@click.option("--give-back", is_flag=True, help="Return what no sandbox has begun, instead of finishing it.")
@click.option("--for", "duration", metavar="TIME", help="Go on by itself after this: 90s, 15m, 2h, 1d.")
@output_option
def pause(*, state_dir: pathlib.Path, reason: str | None, give_back: bool, duration: str | None, output: str) -> None:
    """Let the worker take no new work until `worker resume`. What it holds is finished and submitted."""
    for_s = None if duration is None else seconds(duration)

    async def ask() -> dict[str, Any]:
        async with ControlClient(state_dir) as worker:
            return await worker.pause(reason=reason, give_back=give_back, for_s=for_s)

    answer = asyncio.run(ask())
    until = "until `worker resume`" if duration is None else f"for {duration}"
    click.echo(json.dumps(answer) if output == "json" else f"paused {until}")


@click.command()
@state_option
@output_option
def resume(*, state_dir: pathlib.Path, output: str) -> None:
    """Let a worker that was paused by `worker pause` go on."""

    async def ask() -> dict[str, Any]:
        async with ControlClient(state_dir) as worker:
            return await worker.resume()

    answer = asyncio.run(ask())
    click.echo(json.dumps(answer) if output == "json" else "resumed")


def seconds(text: str) -> float:
    """`90s`, `15m`, `2h`, `1d` or plain seconds. Raises `InvalidInput`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None or float(match[1]) == 0:
        raise InvalidInput(f"--for is {text!r}: write a time such as 90s, 15m, 2h or 1d")
    return float(match[1]) * _UNITS[match[2]]


def _left(progress: Mapping[str, Any]) -> str:
    held, running = progress.get("held", 0), progress.get("running", 0)
    return f"{held} slices held, {running} in sandboxes, {progress.get('unacknowledged', 0)} reports not acknowledged"


def _status_lines(answer: Mapping[str, Any]) -> list[str]:
    books, pool = answer["supervisor"], answer["pool"]
    counts = books["counts"]
    age_s = max(answer["now"] - answer["started_at"], 0.0)
    sandboxes = f"{books['sandboxes_busy']} busy of {books['capacity']}"
    if pool:
        sandboxes += f", {pool['ready']} ready in the pool"
    rows = [
        ("worker", f"{answer['worker'] or '(no id yet)'}, process {answer['pid']}, up {age_s:.0f} s"),
        ("state", answer["state"]),
        ("scheduler", answer["scheduler"]),
        ("sandboxes", sandboxes),
        ("slices", f"{books['held']} held, {books['queued']} in sandboxes, {books['reported']} not acknowledged"),
        ("results", f"{counts.get('results accepted', 0)} accepted, {counts.get('slices returned', 0)} returned"),
        *(("job", f"{job_id} {one['name']}: {one['unstarted']} to start, {one['queued']} in sandboxes")
          for job_id, one in books["jobs"].items()),
    ]  # fmt: skip
    return [f"{name:<10} {text}" for name, text in rows]
