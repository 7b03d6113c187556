"""`dcp-orchestrator worker explain`: why a running worker has no work, and what would change it."""

from __future__ import annotations

import asyncio
import json
import pathlib
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from orchestrator.cli import phrases
from orchestrator.cli.worker_control import output_option, state_option
from orchestrator.worker.control_client import ControlClient


@click.command()
@state_option
@click.option("--job", metavar="ID", help="What happened to this job here.")
@click.option("--slice", "slice_number", type=click.IntRange(1), metavar="N", help="What happened to this slice of it.")
@click.option("--sandbox", type=click.IntRange(1), metavar="N", help="What happened to this sandbox.")
@output_option
def command(
    *, state_dir: pathlib.Path, job: str | None, slice_number: int | None, sandbox: int | None, output: str
) -> None:
    """Why a running worker has no work, or why a place for a sandbox is empty, and the one change that would help.

    The reasons come from what the worker recorded: slices that it sent back, requests that brought nothing, places
    that stood empty. The first one decides.
    """
    if slice_number is not None and job is None:
        raise click.UsageError(f"slice {slice_number} of which job? Give --job too")

    async def ask() -> dict[str, Any]:
        async with ControlClient(state_dir) as worker:
            return await worker.explain(job=job, slice_number=slice_number, sandbox=sandbox)

    answer = asyncio.run(ask())
    if output == "json":
        click.echo(json.dumps(answer))
        return
    console = Console(highlight=False, soft_wrap=False)
    console.print(Text(f"The worker is {answer['state']}.", style="bold"))
    for number, finding in enumerate(answer["findings"]):
        _print_finding(console, finding, first=number == 0)
    idle = _idle_line(answer["refusals"])
    if idle:
        console.print()
        console.print(Text(idle, style="dim"))
    subjects = {"job": f"job {job}", "slice": f"slice {slice_number} of job {job}", "sandbox": f"sandbox {sandbox}"}
    for name, story in answer["stories"].items():
        console.print()
        for line in _story_lines(subjects[name], story):
            console.print(Text(line))


def _print_finding(console: Console, finding: Mapping[str, Any], *, first: bool) -> None:
    console.print()
    console.print(Text(finding["what"], style="bold" if first else ""))
    for text, style in ((f"change: {finding['remedy']}", ""), (_seen(finding), "dim")):
        for line in textwrap.wrap(text, max(console.width - 4, 20), break_on_hyphens=False, break_long_words=False):
            console.print(Text(f"    {line}", style=style), soft_wrap=True)


def _seen(finding: Mapping[str, Any]) -> str:
    text = f"{finding['code']}, {finding['count']} times" if finding["count"] != 1 else finding["code"]
    if finding["since_s"] is not None and finding["last_s"] is not None:
        text += f", first {phrases.span(finding['since_s'])} ago, last {phrases.span(finding['last_s'])} ago"
    return text


def _idle_line(refusals: list[dict[str, Any]]) -> str:
    """How long places stood empty, by reason, the longest first."""
    idle = sorted((one for one in refusals if one["kind"] == "idle"), key=lambda one: -one["seconds"])
    waits = [
        f"{one['seconds']:.0f} s for {phrases.WAITS.get(one['code'], one['code'])}"
        for one in idle
        if one["seconds"] >= 1
    ]
    return f"Places waited in all: {', '.join(waits)}." if waits else ""


def _story_lines(subject: str, story: list[dict[str, Any]]) -> Iterator[str]:
    if not story:
        yield f"Nothing is remembered of {subject}."
        return
    yield f"{subject}:"
    for line in story:
        yield f"  {phrases.span(line['ago_s']):>8} ago  {line['what']}"
