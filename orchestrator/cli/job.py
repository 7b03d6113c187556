"""`dcp-orchestrator job`: an owner deploys jobs, looks at them, asks why one waits, pays for more, and cancels."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.bank.amounts import format_amount, parse_amount
from orchestrator.cli import connection, job_deploy, phrases
from orchestrator.cli.connection import identity_option, once_option, output_option, scheduler_option
from orchestrator.jobs.words import RunStatus, parse_job_id
from orchestrator.wallet import files

_MOST_WIDE: Final = 200
_STATES: Final = {"estimation": "in its estimation", "new": "not admitted yet"}
_MOMENTS: Final = ("deployTime", "endTime")


@click.group()
def command() -> None:
    """Deploy a job, look at yours, ask why one waits, put money into one, and cancel it."""


for _command in (job_deploy.deploy, job_deploy.wait, job_deploy.results):
    command.add_command(_command)


@command.command()
@click.argument("job", metavar="ID")
@scheduler_option
@identity_option
@output_option
def explain(*, job: str, scheduler_url: str, identity: str, output: str) -> None:
    """Why a job waits, and the one change that would help. The first reason decides.

    The Scheduler knows of workers what they told it in the last minute and a half; a worker that is not there is not
    counted. Only the job's owner and its payment account may ask.
    """
    request = {"job": parse_job_id(job, "ID")}
    answer = connection.ask(scheduler_url, connection.unlock(identity), "pheme", "explainJob", request)
    if output == "json":
        click.echo(json.dumps(answer))
        return
    console = Console(highlight=False, soft_wrap=False)
    counts, workers = answer["slices"], answer["workers"]
    state = _STATES.get(answer["status"], answer["status"])
    line = (
        f"The job is {state}: {counts['computed']} of {counts['total']} slices computed, "
        f"{counts['leased']} with workers, {counts['waiting']} waiting, {counts['failed']} given up."
    )
    _print_wrapped(console, line, "", style="bold")
    for number, finding in enumerate(answer["findings"]):
        console.print()
        _print_wrapped(console, f"{_capital(finding['what'])}.", "", style="bold" if number == 0 else "")
        _print_wrapped(console, f"change: {finding['remedy']}", "    ")
        _print_wrapped(console, finding["code"], "    ", style="dim")
    console.print()
    _print_wrapped(
        console,
        f"Workers present: {workers['present']}, of which {workers['able']} may have it. "
        f"Compute groups: {', '.join(answer['computeGroups']) or 'none'}.",
        "",
        style="dim",
    )


@command.command("list")
@click.option(
    "--status", "statuses", multiple=True, type=click.Choice([str(status) for status in RunStatus]),
    help="Only jobs in this state; may be repeated.",
)  # fmt: skip
@scheduler_option
@identity_option
@output_option
def list_command(*, statuses: Sequence[str], scheduler_url: str, identity: str, output: str) -> None:
    """Your jobs, the newest first."""
    request = {"statuses": list(statuses)} if statuses else {}
    answer = connection.ask(scheduler_url, connection.unlock(identity), "pheme", "listJobs", request)
    if output == "json":
        click.echo(json.dumps(answer))
        return
    if not answer:
        click.echo("no jobs")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("job", "status", "computed", "failed", "deployed", "name"):
        table.add_column(title, no_wrap=title != "name", justify="right" if title in ("computed", "failed") else "left")
    for one in answer:
        table.add_row(
            one["job"], one["status"], f"{one['computed']}/{one['total']}", str(one["failed"]),
            _moment(one["deployTime"]), Text(phrases.plain(one["name"], 60)),
        )  # fmt: skip
    Console(highlight=False, width=None if Console().is_terminal else _MOST_WIDE).print(table)


@command.command()
@click.argument("job", metavar="ID")
@click.option("--slice", "number", type=click.IntRange(1), metavar="N", help="What happened to this slice of it.")
@scheduler_option
@identity_option
@output_option
def show(*, job: str, number: int | None, scheduler_url: str, identity: str, output: str) -> None:
    """Everything about one job, or about one of its slices."""
    request: dict[str, Any] = {"job": parse_job_id(job, "ID")}
    operation = "fetchJobReport"
    if number is not None:
        operation, request["slice"] = "fetchSliceReport", number
    answer = connection.ask(scheduler_url, connection.unlock(identity), "pheme", operation, request)
    if output == "json":
        click.echo(json.dumps(answer))
        return
    for line in _lines(answer):
        click.echo(line)


@command.command()
@click.argument("jobs", metavar="ID...", nargs=-1, required=True)
@click.option("--reason", default="", help="Told to whoever waits for the results.")
@scheduler_option
@identity_option
@output_option
def cancel(*, jobs: Sequence[str], reason: str, scheduler_url: str, identity: str, output: str) -> None:
    """Stop jobs for good. What is not spent of their money goes back; results that are there can still be fetched."""
    ids = [parse_job_id(one, "ID") for one in jobs]
    key = connection.unlock(identity)
    answers = []
    for one in ids:
        answer = connection.ask(scheduler_url, key, "jobSubmit", "cancelJob", {"job": one, "reason": reason})
        answers.append({"job": one, "status": answer["status"], "computed": answer["computed"]})
        if output == "text":
            click.echo(f"job {one} is {answer['status']}; {answer['computed']} slices were computed")
    if output == "json":
        click.echo(json.dumps(answers))


@command.command()
@click.argument("job", metavar="ID")
@click.argument("amount", required=False)
@click.option("--from", "keystore", default=files.DEFAULT, show_default=True, metavar="KEYSTORE", help="Who pays.")
@scheduler_option
@once_option
@output_option
def fund(
    *, job: str, amount: str | None, keystore: str, scheduler_url: str, transfer_id: str | None, output: str
) -> None:
    """Put AMOUNT DCC into a job, of which whole slices are taken, or what it lacks when no AMOUNT is given.

    A job that waits for funds (`nofunds`, status paused) goes on. Anybody may pay, with the keystore of a bank account;
    what is not used goes back to the job's own payment account. When the answer is lost, give the printed id again:
    nothing is paid twice.
    """
    data: dict[str, Any] = {"job": parse_job_id(job, "ID")}
    if amount is not None:
        data["amount"] = format_amount(parse_amount(amount))
    key = connection.unlock_file(files.find(keystore))
    data["account"] = key.address
    answer = connection.ask_once(scheduler_url, key, "jobSubmit", "addFunds", data, transfer_id=transfer_id)
    if output == "json":
        click.echo(json.dumps(answer))
        return
    short, state = answer["fundsRequired"], f"is {answer['status']} and holds {answer['escrow']} DCC"
    click.echo(
        f"{answer['added']} DCC added to job {answer['job']}: it {state},"
        f" {'nothing' if short == '0' else f'{short} DCC'} lacking: {answer['transferId']}"
    )


def _print_wrapped(console: Console, text: str, indent: str, *, style: str = "") -> None:
    text = phrases.plain(text, 4000)
    width = max(console.width - len(indent), 20)
    for line in textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False):
        console.print(Text(indent + line, style=style), soft_wrap=True)


def _lines(report: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """An answer as lines for people; times are milliseconds since 1970."""
    for name, value in report.items():
        if value is None or value in ([], {}):
            continue
        if isinstance(value, Mapping):
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list):
            yield f"{indent}{name}"
            for one in value:
                text = ", ".join(f"{key} {item}" for key, item in one.items()) if isinstance(one, Mapping) else str(one)
                yield f"{indent}  {phrases.plain(text, _MOST_WIDE)}"
        else:
            shown = _moment(value) if name in _MOMENTS else str(value)
            yield f"{indent}{name:<16} {phrases.plain(shown, 4000)}"


def _moment(time_ms: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ms / 1000))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
