"""What `dcp-orchestrator local` shows: a picture that fills in the terminal, plain lines in a pipe, or JSON lines."""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import click
from rich.color import Color
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.style import Style
from rich.text import Text

from orchestrator.local import DemoSummary
from orchestrator.mandelbrot import Picture

# A frame costs 40 ms of a core that work functions could use.
_FRAMES_PER_S = 4

EXAMPLE = (
    "require('dcp-client').init().then(async () => console.log(Array.from("
    "await require('dcp/compute').for(1, 10, (i) => { progress(); return i * i; }).exec())))"
)


def three_lines(url: str, keys: pathlib.Path) -> list[str]:
    """The three shell lines after which a dcp-client user has a result."""
    return [
        "npm install dcp-client@5.6.1",
        f"export DCP_SCHEDULER_LOCATION={url} DCP_RESOURCE_DIR={shlex.quote(str(keys))}",
        f'node -e "{EXAMPLE}"',
    ]


class TextView:
    """Lines on stdout; on a terminal the picture and a progress bar above them."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stdout, highlight=False)
        self._live: Live | None = None
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("slices"),
            TimeElapsedColumn(),
        )
        self._task = self._progress.add_task("painting", total=None)

    def ready(self, url: str) -> None:
        # Scripts wait for this line, so it must not sit in a buffer.
        click.echo(f"ready {url}")
        sys.stdout.flush()

    @contextlib.contextmanager
    def painting(self, picture: Picture) -> Iterator[None]:
        self._progress.update(self._task, total=picture.plan.tiles)
        if not self._console.is_terminal:
            yield
            return
        with Live(
            console=self._console, refresh_per_second=_FRAMES_PER_S, get_renderable=lambda: self._canvas(picture)
        ) as self._live:
            yield

    def tile(self, picture: Picture) -> None:
        self._progress.update(self._task, completed=picture.filled)

    def finished(self, summary: DemoSummary) -> None:
        click.echo(
            f"  {summary.slices} slices in {summary.seconds:.1f} s ({summary.slices_per_second:.1f} slices/s), "
            f"{summary.cpu_seconds:.1f} CPU seconds in containers; picture: {summary.picture}"
        )

    def serving(self, url: str, keys: pathlib.Path, credit: str) -> None:
        click.echo(f"Deploy a job of your own (any keystore may: accounts start with {credit} DCC; Ctrl-C stops):")
        for line in three_lines(url, keys):
            click.echo(f"  {line}")
        sys.stdout.flush()

    def stopping(self) -> None:
        click.echo("Finishing the slices in work, then stopping; a second Ctrl-C gives them back at once.", err=True)

    def _canvas(self, picture: Picture) -> RenderableType:
        """Two rows of colours in each line of text: the upper half block has one, its background the other."""
        columns = min(96, self._console.width - 2)
        rows = max(2, min(columns * picture.plan.height // picture.plan.width, 2 * (self._console.height - 4)) // 2 * 2)
        lines = list(picture.sample(columns, rows))
        text = Text()
        for upper, lower in zip(lines[::2], lines[1::2], strict=True):
            text.append(" ")
            for (top, bottom), run in itertools.groupby(zip(upper, lower, strict=True)):
                text.append("▀" * len(list(run)), Style(color=Color.from_rgb(*top), bgcolor=Color.from_rgb(*bottom)))
            text.append("\n")
        return Group(text, self._progress)


class JsonView:
    """One JSON object per line on stdout, each with an `event`: ready, progress, finished, serving, stopping.

    There is a `progress` for the first result, and then one for every tenth of the job.
    """

    def ready(self, url: str) -> None:
        self._say("ready", url=url)

    @contextlib.contextmanager
    def painting(self, picture: Picture) -> Iterator[None]:
        yield

    def tile(self, picture: Picture) -> None:
        done, of = picture.filled, picture.plan.tiles
        if done == 1 or done * 10 // of > (done - 1) * 10 // of:
            self._say("progress", done=done, of=of)

    def finished(self, summary: DemoSummary) -> None:
        self._say("finished", **summary.to_json())

    def serving(self, url: str, keys: pathlib.Path, credit: str) -> None:
        self._say("serving", url=url, keys=str(keys), credit=credit, try_this=three_lines(url, keys))

    def stopping(self) -> None:
        self._say("stopping")

    def _say(self, event: str, **fields: Any) -> None:
        click.echo(json.dumps({"event": event, **fields}))
        sys.stdout.flush()
