"""`dcp-orchestrator receipts`: read and verify what a Worker signed about the slices that it computed."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from orchestrator.errors import InvalidInput, NotFound
from orchestrator.settings import WorkerSettings, settings_from
from orchestrator.wallet import addresses
from orchestrator.worker import receipts
from orchestrator.worker.receipt_audit import Audit
from orchestrator.worker.receipt_files import FOLDER, list_files

_PATH = click.Path(path_type=pathlib.Path)
_LONG_FILE = 4 * 1024 * 1024
_SHOWN_FINDINGS = 20

_state = click.option(
    "--state", "state_dir", type=_PATH, metavar="PATH", help="State folder of a Worker.  [default: the Worker's]"
)
_output = click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)


@click.group()
def command() -> None:
    """Signed receipts of slices: list, show and verify them."""


@command.command()
@click.argument("paths", nargs=-1, type=_PATH, metavar="[FILE]...")
@_state
@click.option("--signer", metavar="ADDRESS", help="Only this address may have signed.")
@_output
def verify(paths: Sequence[pathlib.Path], state_dir: pathlib.Path | None, signer: str | None, output: str) -> None:
    """Check every receipt of FILE... (or of a Worker's state folder): form, signature, and that none is there twice.

    \b
    Exit status: 0 when all are valid, 1 when one is not or is there twice.
    """
    audit = Audit(None if signer is None else addresses.checksum(signer))
    files = _files(paths, state_dir)
    _read(files, audit.take, quiet=output == "json")
    if output == "json":
        click.echo(json.dumps({"files": [str(path) for path in files], **audit.to_json()}))
    else:
        _summary(files, audit)
    if not audit.good:
        raise SystemExit(1)


@command.command(name="list")
@click.argument("paths", nargs=-1, type=_PATH, metavar="[FILE]...")
@_state
@click.option("--job", metavar="ID", help="Only of this job.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the last N.")
@_output
def list_command(
    paths: Sequence[pathlib.Path], state_dir: pathlib.Path | None, job: str | None, limit: int | None, output: str
) -> None:
    """List receipts, oldest first. They are read, not verified."""
    found = list(_matching(_files(paths, state_dir), lambda one: job is None or one.get("job") == job))
    for receipt in found[-limit:] if limit else found:
        click.echo(json.dumps(receipt) if output == "json" else _line(receipt))


@command.command()
@click.argument("job")
@click.argument("slice_number", type=int, metavar="SLICE")
@_state
def show(job: str, slice_number: int, state_dir: pathlib.Path | None) -> None:
    """Print the receipts of a slice as JSON, each with `verified`: the address that signed, or what is wrong."""
    files = _files((), state_dir)
    found = list(_matching(files, lambda one: one.get("job") == job and one.get("slice") == slice_number))
    if not found:
        raise NotFound(f"there is no receipt of slice {slice_number} of job {job} in {files[0].parent}")
    click.echo(json.dumps([{**receipt, "verified": _verdict(receipt)} for receipt in found], indent=1))


def _files(paths: Sequence[pathlib.Path], state_dir: pathlib.Path | None) -> list[pathlib.Path]:
    """What to read: the files that were named, or all of a state folder. Raises `InvalidInput`, `NotFound`."""
    if paths and state_dir is not None:
        raise InvalidInput("give either files or --state, not both")
    if paths:
        for path in paths:
            if not path.is_file():
                raise NotFound(f"{path} is not a file")
        return list(paths)
    folder = (state_dir or settings_from(WorkerSettings, {}).state_dir) / FOLDER
    try:
        files = list_files(folder)
    except OSError as error:
        raise NotFound(
            f"{folder} cannot be read ({error.strerror}): give --state, the state folder of a Worker that ran with "
            "receipts on"
        ) from None
    if not files:
        raise NotFound(f"there are no receipts in {folder}")
    return files


def _lines(path: pathlib.Path) -> Iterator[tuple[str, bytes, int, bool]]:
    """Place, line, bytes read, and whether it had a line feed."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield f"{path.name}:{number}", line.rstrip(b"\n"), len(line), line.endswith(b"\n")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None


def _read(files: Sequence[pathlib.Path], take: Callable[..., Any], *, quiet: bool) -> None:
    """Every line to `take`, with a progress bar on stderr when it takes long enough to want one."""
    total = sum(path.stat().st_size for path in files)
    columns = (TextColumn("verifying"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet or total < _LONG_FILE, transient=True) as bar:
        task = bar.add_task("verifying", total=total)
        for path in files:
            for place, line, size, complete in _lines(path):
                take(place, line, complete=complete)
                bar.advance(task, size)


def _matching(files: Sequence[pathlib.Path], wanted: Callable[[dict[str, Any]], bool]) -> Iterator[dict[str, Any]]:
    for path in files:
        for _place, line, _size, _complete in _lines(path):
            try:
                receipt = receipts.parse(line.decode("utf-8", "replace"))
            except InvalidInput:  # `verify` tells of it
                continue
            if wanted(receipt):
                yield receipt


def _verdict(receipt: dict[str, Any]) -> dict[str, str]:
    try:
        return {"signer": receipts.signer(receipt)}
    except InvalidInput as error:
        return {"problem": error.message}


def _line(receipt: dict[str, Any]) -> str:
    metrics, isolation = receipt.get("metrics") or {}, receipt.get("isolation")
    return (
        f"{_moment(receipt.get('time'))}  job {receipt.get('job')}  slice {receipt.get('slice')}  "
        f"cpu {metrics.get('cpuNs', 0) / 1e6:.1f} ms  wall {metrics.get('wallNs', 0) / 1e6:.1f} ms"
        f"{f'  {isolation}' if isinstance(isolation, str) else ''}{'  threw' if receipt.get('threw') else ''}"
    )


def _moment(time_ms: Any) -> str:
    if not isinstance(time_ms, int | float):
        return "?"
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_ms / 1000))


def _summary(files: Sequence[pathlib.Path], audit: Audit) -> None:
    for finding in audit.findings[:_SHOWN_FINDINGS]:
        click.echo(f"{finding.kind}: {finding.place}: {finding.problem}")
    if len(audit.findings) > _SHOWN_FINDINGS:
        click.echo(f"… and more (--output json has {len(audit.findings)} of them)")
    counts = audit.counts
    for address, count in audit.signers.most_common():
        click.echo(f"signed by {address}: {count}")
    if audit.first_ms is not None:
        click.echo(
            f"{_moment(audit.first_ms)} to {_moment(audit.last_ms)}, {audit.cpu_ns / 1e9:.3f} s of CPU time in all"
        )
    click.echo(
        f"{counts['valid']} valid, {counts['invalid']} invalid, {counts['duplicate']} twice, "
        f"{counts['repeated']} of slices that have another, {counts['torn']} torn; {len(files)} files"
    )
