"""`dcp-orchestrator self-check`: does this machine contain what it is given to run?"""

from __future__ import annotations

import asyncio
import json
import pathlib
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from orchestrator.errors import InvalidInput
from orchestrator.settings import WorkerSettings, settings_from
from orchestrator.wallet import files, passphrases
from orchestrator.wallet.keys import PrivateKey
from orchestrator.worker import self_check
from orchestrator.worker.battery import Area, Case
from orchestrator.worker.docker_runtime import RuntimeSettings

_PATH = click.Path(path_type=pathlib.Path, dir_okay=False)


@click.command(name="self-check")
@click.option("--area", "areas", multiple=True, type=click.Choice([str(area) for area in Area]), help="Only these.")
@click.option("--case", "names", multiple=True, metavar="TEXT", help="Only cases whose name contains this.")
@click.option("--list", "list_only", is_flag=True, help="Name the cases and run none.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1, 64), help="Cases run at the same time.")
@click.option("--image", metavar="NAME", help="Evaluator image.  [default: the Worker's]")
@click.option("--docker-host", metavar="URL", help="Docker Engine.  [default: $DOCKER_HOST, or its usual socket]")
@click.option("--oci-runtime", metavar="NAME", help="runc, crun, runsc…  [default: the Engine's]")
@click.option("--report", type=_PATH, help="Write the report here: .md for people, anything else is JSON.")
@click.option("--sign", "keystore", metavar="KEYSTORE", help="Sign the report with this identity (a path or a name).")
@click.option("--verify", type=_PATH, help="Say who signed this report, and that nobody changed it. Runs nothing.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(
    *,
    areas: tuple[str, ...],
    names: tuple[str, ...],
    list_only: bool,
    jobs: int,
    report: pathlib.Path | None,
    keystore: str | None,
    verify: pathlib.Path | None,
    output: str,
    **flags: Any,
) -> None:
    """Run the conformance and escape battery against this machine's sandboxes.

    Programs that try to get out, to take more than their share, to forge answers and figures: each is run for real, in
    sandboxes made as the Worker makes them, and judged by what is seen from outside. Takes one to three minutes.

    Exit status: 0 when everything was contained, 1 when something was not or could not be shown.
    """
    if verify is not None:
        _verify(verify, output)
        return
    cases = self_check.select(areas, names)
    if list_only:
        _list(cases, output)
        return
    key = None if keystore is None else _unlock(keystore)
    settings = settings_from(WorkerSettings, {name: value for name, value in flags.items() if value is not None})
    runtime = RuntimeSettings(
        image=settings.image, docker_host=settings.docker_host, runtime=settings.oci_runtime, reap_period_s=3600
    )
    found = asyncio.run(_run(cases, runtime, jobs, quiet=output == "json"))
    document = found.to_json()
    if key is not None:
        document = self_check.sign(document, key)
    if report is not None:
        _write(report, document)
    if output == "json":
        click.echo(json.dumps(document))
    else:
        _summary(found, report)
    if not found.good:
        raise SystemExit(1)


def _unlock(name: str) -> PrivateKey:
    """Before anything runs: a passphrase asked for after minutes would find nobody."""
    return passphrases.unlock(files.load(files.find(name)), prompt=passphrases.terminal_prompt())


async def _run(cases: list[Case], runtime: RuntimeSettings, jobs: int, *, quiet: bool) -> self_check.Report:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet, transient=True) as progress:
        bar = progress.add_task("self-check", total=len(cases))

        def on_finding(finding: self_check.Finding) -> None:
            progress.update(bar, advance=1, description=finding.case.id[:40].ljust(40))
            if not finding.good:
                text = escape(f"{finding.case.id}: {finding.seen}")
                progress.console.print(f"[red]{finding.verdict}[/red] {text}", highlight=False, soft_wrap=True)

        return await self_check.check(cases, runtime, at_once=jobs, on_finding=on_finding)


def _summary(report: self_check.Report, written: pathlib.Path | None) -> None:
    console = Console()
    machine = report.machine
    console.print(
        f"Docker Engine {machine['engine']}, {machine['runtime']}, kernel {machine['kernel']}; "
        f"image {machine['image']} {machine['image_id'][:19]}",
        highlight=False,
    )
    for area in Area:
        findings = [finding for finding in report.findings if finding.case.area is area]
        if findings:
            good = sum(finding.verdict is self_check.Verdict.CONTAINED for finding in findings)
            away = sum(finding.verdict is self_check.Verdict.NOT_APPLICABLE for finding in findings)
            mark = "[green]✓[/green]" if all(finding.good for finding in findings) else "[red]✗[/red]"
            note = f", {away} not applicable here" if away else ""
            console.print(f"{mark} {area!s:<12} {good} of {len(findings)} contained{note}", highlight=False)
    verdict = "[green]contained[/green]" if report.good else "[red]NOT all contained[/red]"
    console.print(f"{len(report.findings)} cases: {verdict}", highlight=False)
    if written is not None:
        console.print(f"report: {written}", highlight=False, soft_wrap=True)


def _list(cases: list[Case], output: str) -> None:
    if output == "json":
        listed = [{"area": str(one.area), "case": one.name, "tries": one.tries, "wall": one.wall} for one in cases]
        click.echo(json.dumps(listed))
        return
    for case in cases:
        click.echo(case.id)


def _write(path: pathlib.Path, document: dict[str, Any]) -> None:
    text = self_check.markdown(document) if path.suffix == ".md" else json.dumps(document, indent=1) + "\n"
    try:
        path.write_text(text)
    except OSError as error:
        raise InvalidInput(f"the report cannot be written to {path}: {error.strerror}") from None


def _verify(path: pathlib.Path, output: str) -> None:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} is not a JSON report: {error}") from None
    if not isinstance(document, dict):
        raise InvalidInput(f"{path} is not a JSON report")
    address = self_check.signer(document)
    if output == "json":
        click.echo(json.dumps({"signer": address, "good": document["good"], "started": document["started"]}))
    else:
        click.echo(f"signed by {address}, unchanged; started {document['started']}, good: {document['good']}")
