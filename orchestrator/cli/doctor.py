"""`dcp-orchestrator doctor`: can this machine be a Worker, and what is to be done?"""

from __future__ import annotations

import asyncio
import json
import logging
import pathlib
from typing import Any, Final

import click
from rich.console import Console
from rich.markup import escape

from orchestrator.cli.options import SettingsCommand, config_options, given, settings_options, show
from orchestrator.settings import WorkerSettings, load

#: What no check looks at.
_BESIDE_THE_POINT: Final = frozenset(
    name
    for name in WorkerSettings.model_fields
    if name.startswith(("minimum_wage", "fetch", "prefetch", "queue", "idle", "send_", "slice_", "progress_", "stop_"))
    or name
    in {"allow_origin", "trust_scheduler", "result_store_patience_s", "job_ids", "compute_groups", "public_group"}
)
_MARKS: Final = {"ok": "[green]✓[/green]", "warn": "[yellow]![/yellow]", "fail": "[red]✗[/red]", "skip": "[dim]–[/dim]"}


@click.command(cls=SettingsCommand)
@settings_options(WorkerSettings, without=_BESIDE_THE_POINT)
@config_options
@click.option("--quick", is_flag=True, help="Start no sandbox.")
@click.option("--strict", is_flag=True, help="Exit status 1 for warnings, too.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(
    *, quick: bool, strict: bool, output: str, config: pathlib.Path | None, show_config: bool, **flags: Any
) -> None:
    """Check every prerequisite of a Worker with these settings, and say what to do about what is wrong.

    Looks at the Docker Engine and what it runs on, the image, this machine, the state folder and the Scheduler, and
    lets one sandbox compute. Changes nothing, and may run beside a Worker.

    Exit status: 0 when a Worker can run here, 1 when something fails.
    """
    loaded = load(WorkerSettings, given(flags), config)
    if show_config:
        show(loaded, output)
        return
    # Imported late: a second of imports that --help does without.
    from orchestrator.worker.doctor import examine  # noqa: PLC0415

    logging.disable(logging.CRITICAL)  # the checks tell it
    found = asyncio.run(examine(loaded.settings, quick=quick))
    if output == "json":
        click.echo(json.dumps(found.to_json(strict=strict)))
    else:
        _show(found.to_json(strict=strict))
    if not found.good(strict=strict):
        raise SystemExit(1)


def _show(report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    for check in report["checks"]:
        style = "dim" if check["status"] == "skip" else ""
        line = f"{check['name']:<16} {escape(check['found'])}"
        console.print(f"{_MARKS[check['status']]} {f'[{style}]{line}[/{style}]' if style else line}", soft_wrap=True)
        if check["status"] in ("warn", "fail"):
            if check["wanted"]:
                console.print(f"    [dim]wanted:[/dim] {escape(check['wanted'])}", soft_wrap=True)
            console.print(f"    [bold]→[/bold] {escape(check['remedy'])}", soft_wrap=True)
    counts = ", ".join(f"{number} {name}" for name, number in report["counts"].items() if number)
    verdict = "[green]a Worker can run here[/green]" if report["good"] else "[red]not good enough yet[/red]"
    console.print(f"{verdict} ({counts})")
